"""DCC and BaS-Net: `method` reads like the paper, the rest is what it takes."""

from vssl_jax.methods.dcc.method import UNDECISIVE, build, defaults, evaluator, resolve

__all__ = ["UNDECISIVE", "build", "defaults", "evaluator", "resolve"]
