"""Machines by name; those whose compiler is installed are found."""

import importlib.util
import os
import re
import subprocess
import sys

import jax
import pytest

from data_pipelines import optional
from vssl_jax.errors import UserError
from vssl_jax.planning import machines


@pytest.mark.parametrize(
  ("topology", "name", "chips"),
  [("v5e:8x8", "v5e", 64), ("v5p:4x4x4", "v5p", 64), ("h100:8", "h100", 8), ("cpu:16", "cpu", 16)],
)
def test_names(topology, name, chips):
  chip, count = machines.parse(topology)
  assert (chip.name, count) == (name, chips)


@pytest.mark.parametrize("topology", ["v5e", "v5e:", "v5e:8x", "v5e:0x8", "v5e:axb", "m1:8", ""])
def test_unknown_names_are_refused_with_examples(topology):
  with pytest.raises(UserError, match=r"--topology: .* is unknown; examples: v4:2x2x4, v5e:8x8"):
    machines.parse(topology)


def test_every_example_is_a_name():
  for chip in machines.CHIPS.values():
    assert machines.parse(chip.example)[0] is chip


def test_virtual_devices():
  machine = machines.find("cpu:8")
  assert machine.devices == machine.chips == 8
  assert list(machine.mesh.devices.flat) == jax.devices()[:8]
  assert machine.hosts == 1
  with pytest.raises(UserError, match="has only 8 CPU devices"):
    machines.find("cpu:4096")


@pytest.mark.parametrize(
  ("topology", "hosts"), [("h100:4", 1), ("h100:8", 1), ("h100:12", 2), ("v5e:8x8", 16)]
)
def test_hosts_are_rounded_up(topology, hosts):
  chip, chips = machines.parse(topology)
  assert machines.Machine(topology, chip, machines.find("cpu:1").mesh, chips).hosts == hosts


def test_the_environment_gives_virtual_devices():
  environment = machines.environment("cpu:24")
  count = "import jax; print(jax.device_count())"
  run = subprocess.run(
    [sys.executable, "-c", count], env=os.environ | environment, capture_output=True, check=True
  )
  assert int(run.stdout) == 24


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_a_missing_tpu_compiler_is_named():
  message = f"v5e:8x8 needs the TPU compiler, the package libtpu: {optional.install('plan')}."
  with pytest.raises(UserError, match=re.escape(message)):
    machines.find("v5e:8x8")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_pod_has_its_devices_in_the_order_of_its_hosts():
  machine = machines.find("v5e:4x4")
  owners = [d.process_index for d in machine.mesh.devices.flat]
  assert owners == sorted(owners)
  assert (machine.devices, machine.hosts, machine.per_device) == (16, 4, 1.0)
  halves = machines.find("v4:2x2x4")
  assert (halves.devices, halves.chips, halves.per_device) == (32, 16, 0.5)


@pytest.mark.skipif(
  importlib.util.find_spec("jax_cuda12_plugin") is not None, reason="the CUDA plugin is installed"
)
def test_a_missing_cuda_plugin_is_named():
  with pytest.raises(UserError, match=r"h100:8 needs JAX's CUDA plugin"):
    machines.find("h100:8")
