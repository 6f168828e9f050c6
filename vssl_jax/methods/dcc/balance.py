"""Balances DCC's contrast with BaS-Net's losses by the gradients that reach the trunk of both.

The scale of the two losses says little: at equal weights, the gradient of the contrast can be a
hundred times that of the classification, and differs by temperature, width and progress. So with
`config.dcc.balance = "gradients"`, β is a ratio of gradients, and the weight of L_dcc follows:

  n_cls, n_dcc   running means of |∇ L_BaS-Net| and |∇ L_dcc| over the weights of the trunk
  weight         β n_cls / n_dcc

The means include the present step, so the part of the contrast is at most β / (1 − MEMORY) times
n_cls in any single step, also where L_dcc is nearly solved. GradNorm (Chen et al. 2018) has the
same aim; it learns its weights from how fast each loss falls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vssl_jax.methods.base import Loss, Metrics, Params

CHOICES = ("none", "log", "gradients")
MEMORY = 0.9  # of the running means; both start at 0, which cancels in their ratio
TRUNK = ("conv1", "conv2")  # the weights that both losses have gradients for, in any setting
# ((L_BaS-Net, L_dcc), (state, metrics))
Terms = tuple[tuple[jax.Array, jax.Array], tuple[Any, Metrics]]


def value_and_grad(
  terms: Callable[[Params], Terms], params: Params, beta: jax.Array
) -> tuple[Loss, Params]:
  """Loss and gradient of L_BaS-Net + weight · L_dcc; the weight has no gradient.

  Args:
    terms: computes the two losses; its state may have `norms`, float32 `[2]`, n_cls and n_dcc.
    params: parameters of the network.
    beta: β, the ratio of the gradients; the weight itself if the state has no `norms`.

  Returns:
    ((loss, (state, metrics)), gradients). Added to the metrics are `weight`, and `gradient_ratio`:
    the ratio of the two norms in this step, with the weight; 0 if both are 0.
  """
  (base, value), pull, (state, metrics) = jax.vjp(terms, params, has_aux=True)
  one, zero = jnp.ones_like(base), jnp.zeros_like(base)
  (of_base,), (of_value,) = pull((one, zero)), pull((zero, one))
  now = jnp.stack([_norm(of_base), _norm(of_value)])
  weight = beta
  if hasattr(state, "norms"):
    norms = follow(state.norms, now)
    state, weight = state.replace(norms=norms), beta * _ratio(norms[0], norms[1])
  grads = jax.tree.map(lambda a, b: a + weight * b, of_base, of_value)
  metrics |= {"weight": weight, "gradient_ratio": _ratio(weight * now[1], now[0])}
  return (base + weight * value, (state, metrics)), grads


def follow(norms: jax.Array, now: jax.Array) -> jax.Array:
  """Running means of norms, with the norms of this step."""
  return MEMORY * norms + (1 - MEMORY) * now


def _norm(grads: Params) -> jax.Array:
  return optax.tree_utils.tree_norm({k: grads[k] for k in TRUNK}).astype(jnp.float32)


def _ratio(a: jax.Array, b: jax.Array) -> jax.Array:
  """A / b, 0 where b is 0: a loss without gradient needs no weight."""
  return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0.0)
