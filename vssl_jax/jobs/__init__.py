"""Runs, from their config to their result; `jobs.run` starts the job that `config.job` names."""

from vssl_jax import former

__getattr__ = former.names(__name__)
