"""InfoNCE with positives summed inside the log, by hand in float64."""

import jax
import numpy as np
import pytest

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import info_nce, multi_nce

_multi = jax.jit(multi_nce, static_argnums=1)
_grad = jax.jit(jax.grad(lambda z, t: multi_nce(z, t)[0]), static_argnums=1)


def _oracle(z, temperature):
  n, clips, _ = z.shape
  z = np.float64(z) / np.linalg.norm(z, axis=-1, keepdims=True)
  losses, hits = [], []
  for i in range(n):
    for r in range(clips):
      s = np.einsum("nrd,d->nr", z, z[i, r])
      own = [s[i, j] for j in range(clips) if j != r]
      other = np.delete(s, i, axis=0).ravel()
      pull, push = np.exp(np.array(own) / temperature), np.exp(other / temperature)
      losses.append(-np.log(pull.sum() / (pull.sum() + push.sum())))
      hits.append(max(own) > other.max())
  return np.mean(losses), np.mean(hits)


def _z(n=6, clips=3, dim=5, seed=0):
  rng = np.random.default_rng(seed)
  return np.float32(rng.normal(size=(n, 1, dim)) + rng.normal(size=(n, clips, dim)))


@pytest.mark.parametrize("clips", [2, 3, 5])
def test_against_the_formula(clips):
  z = _z(clips=clips)
  loss, metrics = _multi(z, 0.2)
  want, accuracy = _oracle(z, 0.2)
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  np.testing.assert_allclose(metrics["contrast_accuracy"], accuracy, rtol=1e-6)
  assert -1 <= metrics["negative_similarity"] < metrics["positive_similarity"] <= 1


def test_gradient_against_differences():
  z = _z()
  grad = _grad(z, 0.2)
  for index in ((0, 0, 0), (3, 2, 1), (5, 1, 4)):
    step = np.zeros(z.shape)
    step[index] = 1e-5
    want = (_oracle(z + step, 0.2)[0] - _oracle(z - step, 0.2)[0]) / 2e-5
    np.testing.assert_allclose(grad[index], want, rtol=1e-3, atol=1e-5)


def test_two_clips_are_info_nce():
  z = _z(clips=2)
  np.testing.assert_allclose(_multi(z, 0.1)[0], info_nce(z[:, 0], z[:, 1], 0.1)[0], rtol=1e-6)


def test_equal_embeddings_and_extremes():
  loss, metrics = _multi(np.ones((4, 3, 5), np.float32), 0.1)
  np.testing.assert_allclose(loss, np.log(11 / 2), rtol=1e-6)
  assert metrics["contrast_accuracy"] == 0
  np.testing.assert_allclose(metrics["contrast_entropy"], np.log(11), rtol=1e-5)
  for z in (np.zeros((4, 3, 5), np.float32), 1e4 * _z(n=4), _z(n=1)):
    loss, metrics = _multi(z, 1e-3)
    assert all(np.isfinite(x) for x in (loss, *metrics.values()))
    assert np.isfinite(_grad(z, 1e-3)).all()


def test_one_device_equals_eight():
  z = _z(n=16)
  mesh = parallel.make_mesh(jax.devices()[:8])
  fn = jax.jit(jax.value_and_grad(lambda z: _multi(z, 0.1)[0]))
  loss, grad = fn(parallel.put_batch(mesh, {"z": z})["z"])
  want, want_grad = fn(z)
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  np.testing.assert_allclose(grad, want_grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5), (4, 1, 5), (0, 2, 5)])
def test_shapes_that_cannot_be(shape):
  with pytest.raises(UserError, match="ρ > 1"):
    _multi(np.zeros(shape, np.float32), 0.1)
  with pytest.raises(UserError, match="temperature"):
    _multi(_z(), 0.0)
