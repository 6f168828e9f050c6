"""Shared recipe pieces: fit for any method, and nothing of a method's own in them."""

import pytest

from vssl_jax import config as config_lib
from vssl_jax import recipes


@pytest.mark.parametrize("piece", [recipes.small, recipes.mild_colour, recipes.demo, recipes.ucf6])
@pytest.mark.parametrize("method", ["cvrl", "classify"])
def test_pieces_leave_the_method_alone(piece, method):
  c, base = config_lib.base(method), config_lib.base(method)
  piece(c)
  assert c.method == method
  assert c[method] == base[method]
  assert c.to_json() != base.to_json()


@pytest.mark.parametrize("recipe", [recipes.demo, recipes.ucf6])
def test_probes_read_clips_of_the_size_trained_on(recipe):
  c = config_lib.base("cvrl")
  recipe(c)
  d, p = c.data, c.probe
  assert (d.frames, d.stride, d.size) == (p.frames, p.stride, p.size)
  assert (d.frames, d.stride, d.size) == (d.eval.frames, d.eval.stride, d.eval.size)
