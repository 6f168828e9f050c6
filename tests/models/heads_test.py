"""Heads: sizes as published, and the layers' arithmetic in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax.models.cost import parameters
from vssl_jax.models.heads import Classifier, ProjectionHead


def test_projection_has_the_published_size():
  shapes = jax.eval_shape(ProjectionHead().init, jax.random.key(0), jnp.zeros((2, 2048)))
  assert parameters(shapes["params"]) == 12_863_616
  assert set(shapes["params"]) == {
    "dense_0",
    "dense_1",
    "dense_2",
    "norm_0",
    "norm_1",
    "norm_2",
    "out",
  }


def test_projection_by_hand():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(6, 5)).astype(np.float32)
  head = ProjectionHead(hidden=(4, 3), out=2)
  variables = head.init(jax.random.key(0), x)
  params = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), variables["params"])
  got, state = head.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
  want = x.astype(np.float64)
  for i in range(2):
    dense, norm = params[f"dense_{i}"], params[f"norm_{i}"]
    want = want @ dense["kernel"] + dense["bias"]
    mean, var = want.mean(0), want.var(0)
    np.testing.assert_allclose(
      state["batch_stats"][f"norm_{i}"]["mean"], 0.003 * mean, rtol=1e-4, atol=1e-6
    )
    want = np.maximum((want - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"], 0)
  want = want @ params["out"]["kernel"] + params["out"]["bias"]
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_projection_starts_as_keras_does_and_returns_float32():
  head = ProjectionHead(hidden=(256,), out=8, dtype=jnp.bfloat16)
  x = jnp.ones((4, 128))
  variables = head.init(jax.random.key(0), x)
  kernel = np.asarray(variables["params"]["dense_0"]["kernel"])
  limit = np.sqrt(6 / (128 + 256))
  assert np.abs(kernel).max() <= limit
  assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
  assert not np.any(variables["params"]["out"]["bias"])
  assert {a.dtype.name for a in jax.tree.leaves(variables)} == {"float32"}
  assert head.apply(variables, x).dtype == jnp.float32


def test_embeddings_normalized_by_batch_have_no_parameters_of_their_own():
  x = np.random.default_rng(0).normal(3.0, 2.0, size=(64, 5)).astype(np.float32)
  plain, normed = (ProjectionHead(hidden=(), out=3, out_bn=b, bn_momentum=0.5) for b in (0, 1))
  variables = normed.init(jax.random.key(0), x)
  assert set(variables["params"]) == {"out"}
  z = np.asarray(plain.apply({"params": variables["params"]}, x), np.float64)
  got, moved = normed.apply(variables, x, train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(got, (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5), atol=1e-4)
  mean, var = 0.5 * z.mean(0), 0.5 + 0.5 * z.var(0)
  np.testing.assert_allclose(moved["batch_stats"]["norm_out"]["mean"], mean, rtol=1e-4)
  later = normed.apply({**variables, **moved}, x)
  np.testing.assert_allclose(later, (z - mean) / np.sqrt(var + 1e-5), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_classifier_by_hand(normalize):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 4)).astype(np.float32)
  head = Classifier(5, normalize=normalize)
  variables = head.init(jax.random.key(0), x)
  unit = x / np.linalg.norm(x, axis=1, keepdims=True) if normalize else x
  want = unit @ np.asarray(variables["params"]["out"]["kernel"])
  np.testing.assert_allclose(head.apply(variables, x), want, rtol=1e-5, atol=1e-6)


def test_classifier_gradient_is_finite_at_zero_features():
  head = Classifier(5, normalize=True)
  x = jnp.zeros((2, 4))
  variables = head.init(jax.random.key(0), x)
  grad = jax.grad(lambda x: head.apply(variables, x).sum())(x)
  assert np.isfinite(grad).all()


def test_projection_starts_as_caffe2_does():
  """fvcore's c2_xavier_fill: U(±sqrt(3 / inputs)), whatever the number of outputs; biases 0."""
  head = ProjectionHead(hidden=(64,), out=512, init_kernels="c2_xavier")
  params = head.init(jax.random.key(0), jnp.ones((4, 300)))["params"]
  for name, inputs in (("dense_0", 300), ("out", 64)):
    kernel, limit = np.asarray(params[name]["kernel"]), np.sqrt(3 / inputs)
    assert 0.999 * limit < np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(1 / np.sqrt(inputs), rel=0.02)
    assert not np.any(params[name]["bias"])
