"""Encoders and heads, as Flax modules."""

from vssl_jax.models.build import DTYPES, ENCODERS, build_encoder

__all__ = ["DTYPES", "ENCODERS", "build_encoder"]
