"""How far apart two float32 programs for one function may be, measured on the function itself.

One device or eight, one pass or micro-batches, AVX2 or AVX-512: each adds up the same terms in
another order, and each order rounds differently. How much that moves a result depends on the
example: a batch norm over few values or a small temperature magnifies a rounding of the weights a
thousandfold on its way to the gradient, and a bias before a batch norm, whose gradient is zero, is
given nothing but rounding. No fixed number fits both, and one that was read off a run fits that
run's processor alone.

So the tests measure. `value_and_rounding` moves every weight to a neighboring float32, which no
program can promise to tell apart from the weight itself, and sees how far each array of the result
goes: its condition number times float32's precision. A second program is right if it lies no more
than `FACTOR` such distances away. The same numbers then hold on any processor, and a real mistake
(statistics per device, a loss without the other devices' rows) is some thousand distances off.
"""

import jax
import numpy as np

ULP = 2.0**-23  # the distance of float32 neighbors, relative to their size
# Neighbors of the weights stand for one rounding, a program makes one at each of its layers. On
# every instruction set tried, other orders of summation came within 4 distances.
FACTOR = 8
# A comparison that allows more than this share of an array's largest entry shows nothing.
USEFUL = 0.01


def summed(terms):
  """How far a float32 sum of numbers of one sign may be off, relative to it, in any order.

  Roundings go up as often as down, so that n of them add up as √n does: four standard deviations
  (Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019).
  """
  return 4 * terms**0.5 * ULP / 2


# Of an array's largest entry: a mean over a test's batch, which no weight may move (a bias' own).
FLOOR = summed(256)


def neighbor(tree, seed):
  """The tree with each float32 moved up or down by about one unit of its last place.

  Args:
    tree: arrays, or JAX's tracers; other dtypes stay as they are, and so do zeros.
    seed: of the signs.
  """
  rng = np.random.default_rng(seed)

  def move(x):
    if x.dtype != np.float32:
      return x
    return x * np.float32(1 + ULP * rng.choice([-1, 1], x.shape))

  return jax.tree.map(move, tree)


def value_and_rounding(fn, *args, draws=4):
  """fn(*args), and how far it goes when its arguments move to neighboring floats.

  Args:
    fn: from trees of arrays to a tree of arrays; compiled, as it runs `draws` + 1 times.
    *args: whatever rounding should reach: parameters and state, not keys or labels.
    draws: of neighbors; the largest distance counts.

  Returns:
    The value, on the host, and for each of its arrays the largest distance of any entry.
  """
  args = jax.device_get(args)
  value = jax.device_get(fn(*args))
  moved = [jax.device_get(fn(*neighbor(args, seed))) for seed in range(draws)]
  return value, spread(value, moved)


def spread(value, moved):
  """For each array of a tree, the largest distance of an entry to that of other trees."""
  return jax.tree.map(lambda x, *others: max(_distance(x, y) for y in others), value, *moved)


def close(got, want, rounding=None):
  """Checks that two programs computed one function.

  Args:
    got, want: trees of host arrays; integers and booleans must be equal.
    rounding: of `want`, from `value_and_rounding`; None for a few exactly rounded operations.

  Raises:
    AssertionError: an array is further off than rounding explains; or rounding alone moves it by
      so much that the comparison shows nothing, and it is not zero up to rounding either.
  """
  if rounding is None:
    rounding = jax.tree.map(lambda _: 0.0, want)
  assert jax.tree.structure(got) == jax.tree.structure(want) == jax.tree.structure(rounding)
  leaves = zip(
    jax.tree_util.tree_leaves_with_path(want), jax.tree.leaves(got), jax.tree.leaves(rounding),
    strict=True,
  )  # fmt: skip
  for (path, x), y, moved in leaves:
    name = jax.tree_util.keystr(path)
    assert np.shape(x) == np.shape(y), name
    if not np.issubdtype(np.asarray(x).dtype, np.floating):
      np.testing.assert_array_equal(y, x, err_msg=name)
      continue
    size = np.abs(x).max(initial=0)
    allowed = FACTOR * moved + FLOOR * size
    zero = size <= allowed
    assert zero or allowed <= USEFUL * size, (
      f"{name}: rounding alone moves it by {moved:.2g}, and its largest entry is {size:.2g}"
    )
    off = _distance(x, y)
    assert off <= allowed, (
      f"{name}: {off:.2g} apart, where rounding explains {allowed:.2g} "
      f"(neighboring weights move it by {moved:.2g}; its largest entry is {size:.2g})"
    )


def _distance(x, y):
  return np.abs(np.float64(x) - np.float64(y)).max(initial=0)
