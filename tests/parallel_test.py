"""The mesh."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from vssl_jax import parallel


@pytest.fixture
def cached():
  """The persistent compilation cache as a user has it, and afterwards as the tests do."""
  jax.config.update("jax_enable_compilation_cache", True)
  yield
  jax.config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()


@pytest.mark.parametrize(("devices", "kept"), [(1, True), (2, False), (8, False)])
def test_several_cpu_devices_run_no_program_from_the_cache(cached, devices, kept):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  assert mesh.size == devices
  assert jax.config.jax_enable_compilation_cache == kept


def test_the_default_mesh_has_every_device():
  assert parallel.make_mesh().size == len(jax.devices()) == 8
