"""What a run does, from its config to its result; `main` starts the one that `config.job` names."""

from vssl_jax import former

__getattr__ = former.names(__name__)
