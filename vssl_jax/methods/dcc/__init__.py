"""DCC and BaS-Net: `method` follows the paper, the other modules are its parts."""

from vssl_jax.methods.dcc.method import UNDECISIVE, build, defaults, resolve
from vssl_jax.methods.dcc.scoring import evaluator

__all__ = ["UNDECISIVE", "build", "defaults", "evaluator", "resolve"]
