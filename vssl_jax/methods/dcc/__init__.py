"""DCC and BaS-Net: `method` follows the paper, the other modules are its parts."""

from vssl_jax.methods.dcc.method import UNDECISIVE, build, defaults, evaluator, resolve

__all__ = ["UNDECISIVE", "build", "defaults", "evaluator", "resolve"]
