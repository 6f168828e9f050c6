"""DCC and BaS-Net: `method` reads like the paper, the rest is what it takes."""

from vssl_jax.methods.dcc.method import build, defaults, resolve

__all__ = ["build", "defaults", "resolve"]
