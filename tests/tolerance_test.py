"""The measure of rounding tells another order of summation from another sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerance

N = 4096


def _layer(axis_first):
  """Normalized features' loss and gradient, their sums taken in one of two orders."""

  def total(x):
    x = x.reshape(64, -1)
    return x.sum(0).sum() if axis_first else x.sum(1).sum()

  def loss(params):
    y = params["w"] + params["b"]
    y = y - total(y) / N
    return total(jnp.tanh(3 * y / jnp.sqrt(total(y * y) / N)) * jnp.arange(N)) / N

  return jax.jit(jax.value_and_grad(loss))


def _params(offset=0.0):
  w = np.random.default_rng(0).normal(size=N) + offset
  return {"w": w.astype(np.float32), "b": np.float32(0.5)}


@pytest.mark.parametrize("offset", [0.0, 100.0])  # the second loses two digits more
def test_another_order_is_close_and_a_bias_before_a_norm_is_zero(offset):
  want, rounding = tolerance.value_and_rounding(_layer(True), _params(offset))
  tolerance.close(jax.device_get(_layer(False)(_params(offset))), want, rounding)
  assert abs(want[1]["b"]) < 8 * rounding[1]["b"] < 1e-3 * np.abs(want[1]["w"]).max() * N


def test_one_wrong_weight_in_thousands_is_not_close():
  want, rounding = tolerance.value_and_rounding(_layer(True), _params())
  wrong = _params()
  wrong["w"][-7] *= 1.001
  with pytest.raises(AssertionError, match="apart, where rounding explains"):
    tolerance.close(jax.device_get(_layer(False)(wrong)), want, rounding)


def test_an_example_that_shows_nothing_is_refused():
  x = np.float32([1, 2])
  tolerance.close(x, x, 0.001)
  with pytest.raises(AssertionError, match=r"rounding alone moves it by 0\.01"):
    tolerance.close(x, x, 0.01)


def test_integers_shapes_and_nan_are_exact():
  tree = {"count": np.int32(3), "x": np.float32([1, 2])}
  tolerance.close(tree, tree)
  for wrong in (
    {"count": np.int32(4)},
    {"x": np.float32([1, np.nan])},
    {"x": np.float32([[1, 2]])},
  ):
    with pytest.raises(AssertionError):
      tolerance.close({**tree, **wrong}, tree)
  with pytest.raises(AssertionError):
    tolerance.close({"count": tree["count"]}, tree)


def test_neighbors_are_one_unit_away_and_other_types_stay():
  tree = {"x": np.float32([1.5, -3, 0]), "n": np.int32(2)}
  moved = tolerance.neighbor(tree, 0)
  assert moved["n"] == 2
  assert moved["x"].dtype == np.float32
  np.testing.assert_array_equal(
    np.abs(moved["x"] - tree["x"]) / np.spacing(np.abs(tree["x"])) > 0.5, [1, 1, 0]
  )
