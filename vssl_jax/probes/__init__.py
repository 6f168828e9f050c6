"""Probes measure a frozen encoder: feature extraction, simple classifiers, and their scores."""
