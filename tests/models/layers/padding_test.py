"""Borders against the definitions of TensorFlow and PyTorch."""

import pytest

from vssl_jax.errors import UserError
from vssl_jax.models.layers.padding import output_size, pads


@pytest.mark.parametrize("size", [1, 2, 5, 8, 15])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2), (2, 3)])
def test_same_gives_the_ceiling_and_the_odd_one_at_the_end(size, kernel, stride):
  (pad,) = pads((size,), (kernel,), (stride,), "SAME")
  assert output_size((size,), (kernel,), (stride,), (pad,)) == (-(-size // stride),)
  assert 0 <= pad[1] - pad[0] <= 1


def test_symmetric_valid_and_given():
  assert pads((8, 9, 9), (5, 7, 3), (2, 2, 1), "symmetric") == ((2, 2), (3, 3), (1, 1))
  assert pads((8, 9, 9), (5, 7, 3), (2, 2, 1), "VALID") == ((0, 0),) * 3
  assert pads((8,), (3,), (1,), [(2, 0)]) == ((2, 0),)
  assert output_size((8,), (3,), (2,), ((1, 1),)) == (4,)


def test_unknown_name():
  with pytest.raises(UserError, match="full"):
    pads((8,), (3,), (1,), "full")
