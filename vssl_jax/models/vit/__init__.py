"""Vision transformers on tubelets with joint space-time attention."""

from vssl_jax.models.vit.block import Block
from vssl_jax.models.vit.network import ViT
from vssl_jax.models.vit.sine import positions
from vssl_jax.models.vit.sizes import DEPTH, MLPS, SIZES

__all__ = ["DEPTH", "MLPS", "SIZES", "Block", "ViT", "positions"]
