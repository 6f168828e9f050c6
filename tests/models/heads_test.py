"""Heads: published size, dtype, and finite gradients where features vanish."""

import jax
import jax.numpy as jnp
import numpy as np

from vssl_jax.models import cost
from vssl_jax.models.heads import Classifier, ProjectionHead


def test_cvrl_head_has_its_published_parameters():
  variables = jax.eval_shape(ProjectionHead().init, jax.random.key(0), jnp.zeros((2, 2048)))
  want = 3 * (2048 * 2048 + 2048 + 2 * 2048) + 2048 * 128 + 128
  assert cost.parameters(variables["params"]) == want == 12_863_616


def test_projection_is_float32_and_ends_without_norm():
  head = ProjectionHead((8,), 4, dtype=jnp.bfloat16)
  x = jnp.ones((6, 5))
  variables = head.init(jax.random.key(0), x)
  assert head.apply(variables, x).dtype == jnp.float32
  assert set(variables["params"]) == {"dense_0", "norm_0", "out"}


def test_classifier_normalises_and_is_smooth_at_zero():
  model = Classifier(3, normalise=True)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)
  variables = model.init(jax.random.key(0), x)
  out = variables["params"]["out"]
  unit = np.float64(x) / np.linalg.norm(x, axis=1, keepdims=True)
  np.testing.assert_allclose(
    model.apply(variables, x), unit @ np.float64(out["kernel"]) + out["bias"], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(model.apply(variables, 7 * x), model.apply(variables, x), atol=1e-5)
  grad = jax.grad(lambda x: model.apply(variables, x).sum())(jnp.zeros((1, 5)))
  assert np.isfinite(grad).all()
