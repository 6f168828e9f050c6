"""BaS-Net's losses in NumPy float64, as its released code computes them."""

import jax
import jax.numpy as jnp
import numpy as np

from vssl_jax.losses import bas_net

LABELS = np.float32([[1, 0, 0], [1, 0, 1], [0, 0, 0]])


def test_targets_are_normalized_and_end_in_the_background():
  want = [[1 / 2, 0, 0, 1 / 2], [1 / 3, 0, 1 / 3, 1 / 3], [0, 0, 0, 1]]
  np.testing.assert_allclose(bas_net.targets(LABELS, background=True), want, rtol=1e-6)
  want = [[1, 0, 0, 0], [1 / 2, 0, 1 / 2, 0], [0, 0, 0, 0]]
  np.testing.assert_allclose(bas_net.targets(LABELS, background=False), want, rtol=1e-6)


def test_cross_entropy_is_that_of_a_softmax():
  scores = np.random.default_rng(0).normal(size=(3, 4)) * 3
  target = np.float64(bas_net.targets(LABELS, background=True))
  p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
  total = 0.0
  for n in range(3):
    for c in range(4):
      total -= target[n, c] * np.log(p[n, c]) + (1 - target[n, c]) * np.log(1 - p[n, c])
  got = bas_net.binary_cross_entropy(np.float32(scores), np.float32(target))
  np.testing.assert_allclose(got, total / 12, rtol=1e-5)


def test_both_branches_by_their_own_labels():
  scores = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
  base, suppressed = bas_net.classification(jnp.asarray(scores), jnp.asarray(LABELS))
  want = [
    bas_net.binary_cross_entropy(scores[i], bas_net.targets(LABELS, background=i == 0))
    for i in range(2)
  ]
  np.testing.assert_allclose([base, suppressed], want)
  assert base != suppressed


def test_finite_where_the_softmax_is_certain():
  scores = jnp.float32([[200.0, -200.0, 0.0, 0.0]])
  target = bas_net.targets(jnp.float32([[0.0, 1.0, 0.0]]), background=False)
  value, grad = jax.value_and_grad(bas_net.binary_cross_entropy)(scores, target)
  np.testing.assert_allclose(value, (400 + 200 - np.log(2)) / 4, rtol=1e-5)
  assert np.isfinite(grad).all()


def test_sparsity_is_a_sum_over_time_and_a_mean_over_videos():
  attention = jnp.float32([[0.5, 0.25, 0.0], [1.0, 1.0, 1.0]])
  np.testing.assert_allclose(bas_net.sparsity(attention), (0.75 + 3) / 2)
