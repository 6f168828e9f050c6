"""The mesh."""

import jax
import pytest

from vssl_jax import parallel


@pytest.mark.parametrize(("devices", "kept"), [(1, True), (2, False), (8, False)])
def test_several_cpu_devices_run_no_program_from_the_cache(devices, kept):
  jax.config.update("jax_enable_compilation_cache", True)
  mesh = parallel.make_mesh(jax.devices()[:devices])
  assert mesh.size == devices
  assert jax.config.jax_enable_compilation_cache == kept


def test_the_default_mesh_has_every_device():
  assert parallel.make_mesh().size == len(jax.devices()) == 8
