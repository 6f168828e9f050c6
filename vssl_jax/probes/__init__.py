"""Probes measure a frozen encoder: feature extraction, simple classifiers, and their scores."""

from vssl_jax import former

__getattr__ = former.names(__name__)
