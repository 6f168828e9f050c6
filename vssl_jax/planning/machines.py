"""Machines that runs are planned for: what a chip can do, and topologies without the chips.

Figures are the vendors': Google Cloud's pages on TPU versions and machine types, NVIDIA's data
sheets (dense bfloat16). A device is what JAX calls one: a chip, or on TPU v4 topologies and
TPU7x one of the two cores of a chip.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from data_pipelines.optional import install
from vssl_jax import parallel
from vssl_jax.errors import UserError, brief

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of chip, with figures per chip.

  Attributes:
    name: as in `--topology`.
    platform: of JAX: `tpu`, `gpu` or `cpu`.
    flops: peak bfloat16 FLOPs per second.
    memory: bytes that programs can use, as the compiler counts them.
    bandwidth: of the memory, bytes per second.
    per_host: chips of one host.
    host_cores: virtual CPUs of one host.
    example: a topology.
    cores: devices of a chip, in topologies without the chips.
    usable: the share of the memory that JAX takes by default.
  """

  name: str
  platform: str
  flops: float
  memory: float
  bandwidth: float
  per_host: int
  host_cores: int
  example: str
  cores: int = 1
  usable: float = 1.0


CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v4", "tpu", 275e12, 32 * GIB, 1.2e12, 4, 240, "v4:2x2x4", cores=2),
    Chip("v5e", "tpu", 197e12, 15.75 * GIB, 0.819e12, 4, 112, "v5e:8x8"),
    Chip("v5p", "tpu", 459e12, 95 * GIB, 2.765e12, 4, 208, "v5p:4x4x4"),
    Chip("v6e", "tpu", 918e12, 31.25 * GIB, 1.64e12, 4, 180, "v6e:8x8"),
    Chip("tpu7x", "tpu", 2307e12, 192 * GIB, 7.37e12, 4, 224, "tpu7x:2x2x4", cores=2),
    Chip("h100", "gpu", 989e12, 84.9e9, 3.35e12, 8, 208, "h100:8", usable=0.75),
    Chip("h200", "gpu", 989e12, 151.4e9, 4.8e12, 8, 224, "h200:8", usable=0.75),
    # Virtual devices of this processor, which show sharding and collectives without any compiler.
    Chip("cpu", "cpu", math.inf, math.inf, math.inf, 8, 0, "cpu:16"),
  )
}

# What the TPU compiler needs to know to work without a TPU, and beside another process.
_TPU_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Machine:
  """Chips in a topology.

  Attributes:
    name: as in `--topology`.
    chip: their kind.
    mesh: their devices, in the order of their processes.
    chips: their number.
  """

  name: str
  chip: Chip
  mesh: Mesh
  chips: int

  @property
  def compiler_options(self) -> dict[str, Any]:
    """Options of the compiler that it needs where there is no such device to tune kernels on."""
    if self.chip.platform != "gpu":
      return {}
    return {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}

  @property
  def devices(self) -> int:
    """The number of devices."""
    return self.mesh.size

  @property
  def per_device(self) -> float:
    """The share of a chip that is one device."""
    return self.chips / self.devices

  @property
  def hosts(self) -> int:
    """The number of hosts; the last one may have fewer chips."""
    return -(-self.chips // self.chip.per_host)


def parse(topology: str) -> tuple[Chip, int]:
  """The kind of chip that `--topology` names, and the number of chips.

  Raises:
    UserError: there is no such chip, or no shape after it.
  """
  name, _, shape = topology.partition(":")
  sizes = shape.split("x")
  if name not in CHIPS or not all(s.isdigit() and int(s) > 0 for s in sizes):
    examples = ", ".join(c.example for c in CHIPS.values())
    raise UserError(f"--topology: {topology!r} is unknown; examples: {examples}.")
  return CHIPS[name], math.prod(int(s) for s in sizes)


def find(topology: str) -> Machine:
  """The machine that `--topology` names, such as `v5e:8x8` or `h100:8`.

  Raises:
    UserError: there is no such machine, or its compiler is not installed.
  """
  chip, chips = parse(topology)
  if chip.platform == "tpu":
    devices = _tpus(topology)
  elif chip.platform == "gpu":
    devices = _gpus(topology, chip, chips)
  else:
    devices = _cpus(chips)
  ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
  return Machine(topology, chip, parallel.make_mesh(ordered), chips)


def environment(topology: str) -> dict[str, str]:
  """What a process needs in its environment, before it imports JAX, to `find` the machine."""
  chip, chips = parse(topology)
  found = {"JAX_PLATFORMS": "cpu"}
  if chip.platform == "cpu":
    found["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={chips}"
  return found


def _cpus(chips: int) -> Sequence[jax.Device]:
  devices = jax.devices("cpu")
  if len(devices) < chips:
    raise UserError(f"--topology: cpu:{chips}: this process has only {len(devices)} CPU devices.")
  return devices[:chips]


def _tpus(topology: str) -> Sequence[jax.Device]:
  for key, value in _TPU_ENVIRONMENT.items():
    os.environ.setdefault(key, value)
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  except Exception as e:  # the compiler has one kind of error for all that is wrong
    if "not installed" in str(e) or "libtpu" in str(e):
      raise UserError(
        f"--topology: {topology} needs the TPU compiler, the package libtpu: {install('plan')}."
      ) from e
    raise UserError(f"--topology: {topology}: {brief(e)}") from e


def _gpus(topology: str, chip: Chip, chips: int) -> Sequence[jax.Device]:
  try:
    return topologies.get_topology_desc(
      platform="cuda", target_config=_target(chip), topology=f"1x1x{chips}"
    ).devices
  except Exception as e:  # the compiler has one kind of error for all that is wrong
    raise UserError(
      f"--topology: {topology} needs JAX's CUDA plugin of the installed version: {brief(e)}"
    ) from e


def _target(chip: Chip) -> str:
  """What XLA needs to know of a card to compile for it (its `GpuTargetConfigProto`)."""
  return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 l2_cache_size: 52428800
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {chip.bandwidth:.0f} device_memory_size: {chip.memory:.0f}
  cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{chip.name}"
"""
