"""Nodes of a Ray cluster on this machine, for tests; what needs them is skipped without Ray."""

import collections
import contextlib
import fcntl
import os
import pathlib
import signal
import sys
import tempfile

import jax
import pytest

from data_pipelines.videos import workers
from tests import small

_STORE = 80 << 20  # bytes of Ray's object store, the least that it takes

_NOTICED_SOON = {"health_check_period_ms": 1000, "health_check_failure_threshold": 4}


@contextlib.contextmanager
def alone():
  """Waits until no other test of this user has a cluster: Ray finds all clusters of a machine."""
  path = pathlib.Path(tempfile.gettempdir()) / f"vssl_jax_tests_ray_{os.getuid()}.lock"
  with path.open("a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def cluster(count, *folders, cpus=1):
  """A cluster of `count` nodes whose workers import from `folders` too; yields it.

  `cluster.nodes` are those that may be removed; the head stays.
  """
  pytest.importorskip("ray", reason="needs Ray, of the extra 'ray'")
  from ray import cluster_utils

  path = os.pathsep.join([*map(str, folders), str(small.ROOT), os.environ.get("PYTHONPATH", "")])
  with alone(), pytest.MonkeyPatch.context() as patch:
    patch.setenv("PYTHONPATH", path)
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Else Ray ends workers when other programs of the machine fill its memory.
    patch.setenv("RAY_memory_monitor_refresh_ms", "0")
    patch.setenv("JAX_PLATFORMS", "cpu")
    patch.setenv("XLA_FLAGS", small.xla_flags(1))
    # The last bits depend on XLA's number of threads: here one per device or core, so there too.
    patch.setenv("NPROC", str(max(jax.local_device_count(), workers.cores())))
    patch.delenv("RAY_ADDRESS", raising=False)
    for folder in folders:
      patch.syspath_prepend(str(folder))
    made = cluster_utils.Cluster(
      initialize_head=True,
      head_node_args={
        "num_cpus": cpus,
        "object_store_memory": _STORE,
        "_system_config": _NOTICED_SOON,
      },
    )
    try:
      made.nodes = [
        made.add_node(num_cpus=cpus, object_store_memory=_STORE) for _ in range(count - 1)
      ]
      yield made
    finally:
      made.shutdown()
      for name in [m for m in sys.modules if m == "ray_tasks"]:
        del sys.modules[name]


def lose(made):
  """Ends all nodes but the head, with all their processes at once, as if they were switched off."""
  while made.nodes:
    node = made.nodes.pop()
    raylet = node.all_processes["raylet"][0].process.pid
    for pid in [raylet, *_descendants(raylet)]:
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    made.remove_node(node, allow_graceful=False)


def _descendants(pid):
  children = collections.defaultdict(list)
  for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(OSError):
      children[int(stat.read_text().rpartition(")")[2].split()[1])].append(int(stat.parent.name))
  found, queue = [], [pid]
  while queue:
    below = children[queue.pop()]
    found += below
    queue += below
  return found
