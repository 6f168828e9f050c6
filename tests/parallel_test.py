"""The mesh."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vssl_jax import parallel


@pytest.mark.parametrize(("devices", "kept"), [(1, True), (2, False), (8, False)])
def test_several_cpu_devices_run_no_program_from_the_cache(devices, kept):
  jax.config.update("jax_enable_compilation_cache", True)
  mesh = parallel.make_mesh(jax.devices()[:devices])
  assert mesh.size == devices
  assert jax.config.jax_enable_compilation_cache == kept


def test_the_default_mesh_has_every_device():
  assert parallel.make_mesh().size == len(jax.devices()) == 8


def test_arrays_of_several_processes_stay_where_they_lie(monkeypatch):
  """No process can read all of such an array."""
  mesh, spec = parallel.make_mesh(), PartitionSpec(parallel.AXIS)
  there = jax.device_put(np.arange(16.0), NamedSharding(mesh, spec))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  put = parallel.put(mesh, {"bank": there, "new": np.arange(16.0)}, spec)
  assert put["bank"] is there
  assert put["new"].sharding == there.sharding
  again = parallel.put(mesh, there, PartitionSpec())  # another layout
  assert again.sharding.is_fully_replicated
