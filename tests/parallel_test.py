"""The mesh."""

import dataclasses
import os
import types

import jax
import jax.numpy as jnp
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


@pytest.mark.parametrize(
  ("kind", "processes", "sizes"), [("cpu", 2, [1] * 8), ("cpu", 1, [8]), ("TPU v4", 2, [8])]
)
def test_one_program_per_device_where_a_part_of_a_pod_is_refused(
  kind, processes, sizes, monkeypatch
):
  monkeypatch.setattr(parallel, "_ALL_OR_ONE", (kind,))
  meshes = parallel.local_meshes(jax.devices()[:8], processes)
  assert [m.size for m in meshes] == sizes
  assert [d for m in meshes for d in m.devices.flat] == jax.devices()[:8]


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


def test_the_platform_is_that_of_the_mesh():
  """Not that of the process: programs are compiled for devices that are elsewhere."""
  assert parallel.platform(None) == parallel.platform(parallel.make_mesh()) == "cpu"
  for name, platform in {"tpu": "tpu", "cuda": "gpu", "rocm": "gpu", "gpu": "gpu"}.items():
    assert parallel.platform(_mesh([Device(name, 0)])) == platform


@dataclasses.dataclass(frozen=True)
class Device:
  """Stands for a device of another machine."""

  platform: str
  process_index: int
  id: int = 0


def _mesh(devices):
  return types.SimpleNamespace(devices=np.array(devices))


@pytest.mark.parametrize("plugin", [None, "jax_plugins", "libtpu"])
def test_only_without_accelerators_xla_is_told_to_exchange_in_order(plugin, monkeypatch):
  monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda name: name == plugin or None)
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2")
  for _ in range(2):
    parallel._exchange_in_order()
  told = "--xla_cpu_max_isa=AVX2 --xla_cpu_enable_concurrency_optimized_scheduler=false"
  assert os.environ["XLA_FLAGS"] == (told if plugin is None else "--xla_cpu_max_isa=AVX2")


def test_rows_keep_their_split():
  mesh = parallel.make_mesh()
  rows = parallel.split(mesh)

  def text(fn):
    x = jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=rows)
    return jax.jit(fn).lower(x).as_text()

  assert "sharding_constraint" in text(lambda x: parallel.keep_rows(mesh, {"a": x})["a"])
  for other in (None, parallel.make_mesh(jax.devices()[:1])):
    assert "sharding_constraint" not in text(lambda x, m=other: parallel.keep_rows(m, x))
  odd = np.ones((15, 4))
  assert parallel.keep_rows(mesh, odd) is odd


def test_the_order_of_devices_that_batches_need():
  parallel._check_order.__wrapped__(_mesh([Device("cpu", i) for i in (0, 0, 1, 1)]))
  with pytest.raises(ValueError, match=r"devices of the processes \[0, 1, 0, 1\]"):
    parallel._check_order.__wrapped__(_mesh([Device("cpu", i) for i in (0, 1, 0, 1)]))


def test_the_default_mesh_has_the_devices_of_each_process_together(monkeypatch):
  """As TPU pods number them, the devices of a host are not neighbors."""
  theirs = [Device("tpu", i // 2 % 2, i) for i in range(8)]
  monkeypatch.setattr(jax, "devices", lambda: theirs)
  monkeypatch.setattr(parallel, "Mesh", lambda devices, axes: devices)
  assert [d.id for d in parallel.make_mesh()] == [0, 1, 4, 5, 2, 3, 6, 7]


def test_a_function_of_rows_runs_on_each_device():
  mesh = parallel.make_mesh()
  x = jax.device_put(np.arange(32.0).reshape(16, 2), parallel.split(mesh))
  got = jax.jit(parallel.by_rows(lambda x: x - x[:1], mesh))(x)
  np.testing.assert_array_equal(got[::2], 0)
  np.testing.assert_array_equal(got[1::2], 2)
  assert got.sharding.is_equivalent_to(parallel.split(mesh), 2)
