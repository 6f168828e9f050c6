"""In which dtype 16 virtual devices add up gradients, as XLA's partitioner decides it.

Later passes for CPUs turn exchanges of bfloat16 into float32, so the program is read before them.
"""

import os
import subprocess
import sys

import pytest

from tests import small
from tests.planning import recipes_test
from vssl_jax.planning import hlo, machines
from vssl_jax.planning import plan as plan_lib

PASS = "after_spmd-partitioning"


def dump(method, dtype, folder):
  """Compiles the step of a shrunk recipe in this process, which has 16 devices."""
  c = recipes_test.shrunk(method)
  with c.unlocked():
    c.encoder.dtype, c.encoder.reduce_dtype = "bfloat16", dtype
    c.encoder.width, c.batch_size = 0.0625, 32
    for part in (c.encoder, c.head):
      part.bn_groups = min(part.bn_groups, 2)
  machine = machines.find("cpu:16")
  _, _, program, state, batch = plan_lib._program(c, machine, 2400)
  options = {"xla_dump_to": folder, "xla_dump_hlo_pass_re": "spmd-partitioning"}
  lowered = program.advance.lower(state, batch)
  lowered.compile({**options, "xla_backend_optimization_level": 0})
  shapes = [x.size for x in plan_lib._arrays(state.params) if x.ndim > 1]
  print("weights", sum(shapes))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cvrl", "rho_byol"])
def test_the_field_decides_for_every_method(method, tmp_path):
  found = {}
  for dtype in ("float32", "bfloat16"):
    folder = tmp_path / dtype
    call = f"from tests.planning import reduce_dtype_test as t; t.dump({method!r}, {dtype!r}, "
    done = subprocess.run(
      [sys.executable, "-c", f"{call}{str(folder)!r})"],
      cwd=small.ROOT,
      env={**os.environ, "XLA_FLAGS": small.xla_flags(16), "JAX_PLATFORMS": "cpu"},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    weights = int(done.stdout.split("weights ")[1])
    (file,) = folder.glob(f"*jit_advance*{PASS}*.txt")
    found[dtype] = [
      c for c in hlo.Program(file.read_text()).collectives() if c.kind == "all-reduce"
    ]
  small_one = lambda c: c.dtype == "bf16"
  assert not any(map(small_one, found["float32"]))
  narrow = [c for c in found["bfloat16"] if small_one(c)]
  # All weights, at least once (methods that send one clip at a time through the network: once for
  # each clip), and no weight in float32.
  moved = sum(c.bytes * c.times for c in narrow)
  assert moved >= 2 * weights
  rest = sum(c.bytes * c.times for c in found["bfloat16"] if not small_one(c))
  whole = sum(c.bytes * c.times for c in found["float32"])
  assert whole - rest == 2 * moved
