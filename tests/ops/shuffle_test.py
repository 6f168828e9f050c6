"""The shuffle of batch norm groups: against NumPy, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.ops import shuffle

CASES = [(64, 8, 8), (64, 8, 4), (64, 8, 2), (64, 16, 4), (64, 4, 2), (64, 32, 2), (64, 2, 2)]


def _meshes():
  yield None
  for size in (1, 2, 4, 8):
    yield parallel.make_mesh(jax.devices()[:size])


@pytest.mark.parametrize(("rows", "groups", "block"), CASES)
def test_equals_the_exchange_in_numpy_on_any_number_of_devices(rows, groups, block):
  size, part = rows // groups, rows // groups // block
  how = shuffle.draw(jax.random.key(3), rows, groups, block)
  x = np.arange(rows * 3).reshape(rows, 3)
  within = np.concatenate([x[g * size :][order] for g, order in enumerate(np.asarray(how.order))])
  want = np.empty_like(x)
  for g in range(groups):
    first = g // block * block
    for j in range(block):  # part j of group g becomes part g of group j, counted in the block
      to = (first + j) * size + (g - first) * part
      want[to : to + part] = within[g * size + j * part :][:part]
  for mesh in _meshes():
    given = x if mesh is None else jax.device_put(x, parallel.split(mesh))
    mixed = jax.jit(lambda a, mesh=mesh: shuffle.apply(how, {"a": a}, mesh)["a"])(given)
    np.testing.assert_array_equal(mixed, want)
    back = jax.jit(lambda a, mesh=mesh: shuffle.undo(how, a, mesh))(mixed)
    np.testing.assert_array_equal(back, x)


def test_every_group_gets_as_many_rows_from_each_group_of_its_block():
  how = shuffle.draw(jax.random.key(0), 64, 8, 4)
  mixed = np.asarray(shuffle.apply(how, jnp.arange(64) // 8)).reshape(8, 8)
  for g, members in enumerate(mixed):
    first = g // 4 * 4
    np.testing.assert_array_equal(np.bincount(members, minlength=8)[first : first + 4], 2)


def test_draws_differ_and_whole_permutes_all_rows():
  first, second = (shuffle.draw(jax.random.key(s), 32, 4, 4).order for s in (0, 1))
  assert np.any(first != second)
  how = shuffle.whole(jax.random.key(5), 24)
  mixed = shuffle.apply(how, jnp.arange(24))
  np.testing.assert_array_equal(mixed, jax.random.permutation(jax.random.key(5), 24))
  np.testing.assert_array_equal(shuffle.undo(how, mixed), np.arange(24))


def test_rows_move_between_neighbors_only_and_once():
  """The compiled program exchanges clips by one all-to-all among the devices of a block."""
  mesh = parallel.make_mesh(jax.devices()[:8])
  how = shuffle.draw(jax.random.key(3), 64, 8, 4)
  x = jax.ShapeDtypeStruct((64, 100), jnp.uint8, sharding=parallel.split(mesh))
  text = jax.jit(lambda a: shuffle.apply(how, a, mesh)).lower(x).compile().as_text()
  assert text.count(" all-to-all(") == 1
  assert "all-gather" not in text
  assert "all-reduce" not in text


@pytest.mark.parametrize(("rows", "groups", "block"), [(65, 8, 8), (64, 8, 3), (64, 16, 8)])
def test_sizes_that_do_not_divide_are_refused(rows, groups, block):
  with pytest.raises(UserError, match="do not split into blocks"):
    shuffle.draw(jax.random.key(0), rows, groups, block)
