"""What an encoder takes of a Ray cluster: an accelerator, or the processors of a node."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.videos import workers
from vssl_jax.errors import UserError

ACCELERATORS = ("GPU", "TPU")  # Ray's names


class Share(NamedTuple):
  """What one encoder takes of a cluster.

  Attributes:
    accelerator: one of this kind; "" for processors alone.
    cpus: number of CPUs.
    encoders: how many the cluster has room for.
  """

  accelerator: str
  cpus: int
  encoders: int

  def options(self) -> dict[str, Any]:
    """Ray's options of the actor."""
    asked: dict[str, dict[str, Any]] = {
      "GPU": {"num_gpus": 1},
      "TPU": {"resources": {"TPU": 1}},
    }
    return {
      "num_cpus": self.cpus,
      "scheduling_strategy": "SPREAD",
      "max_restarts": 0,
      "max_task_retries": 0,
      **asked.get(self.accelerator, {}),
    }


def divide(nodes: Sequence[Mapping[str, float]]) -> Share:
  """Divides a cluster: one encoder per accelerator, or one per node if there are none.

  Nodes without an accelerator are left out if others have one: they would be slow, and their
  features would differ in the last bits. Without any, the largest nodes are taken.

  Args:
    nodes: the resources of each node, by Ray's names.

  Raises:
    UserError: no node has a CPU.
  """
  nodes = [n for n in nodes if n.get("CPU", 0) >= 1]
  for kind in ACCELERATORS:
    having = [n for n in nodes if n.get(kind, 0) >= 1]
    if having:
      cpus = max(1, min(int(n["CPU"] // n[kind]) for n in having))
      return Share(kind, cpus, sum(int(min(n[kind], n["CPU"] // cpus)) for n in having))
  if not nodes:
    raise UserError("the Ray cluster has no CPU: add nodes that have")
  cpus = max(int(n["CPU"]) for n in nodes)
  return Share("", cpus, sum(int(n["CPU"] // cpus) for n in nodes))


def of(ray: Any) -> Share:
  """`divide` for the cluster that the package `ray` has joined."""
  return divide([node["Resources"] for node in ray.nodes() if node["Alive"]])


def device(accelerator: str) -> str:
  """The kind of JAX's default device; of a CPU, the number of its cores.

  Results of CPUs differ in their last bits if XLA divides the work among other numbers of threads.

  Args:
    accelerator: what it must be, one of `ACCELERATORS`; "" for anything.

  Raises:
    UserError: it is something else.
  """
  import jax

  found = jax.local_devices()[0]
  if accelerator and found.platform.upper() != accelerator:
    raise UserError(
      f"JAX finds no {accelerator}, although Ray does: install JAX for it there, as setup.cfg says"
    )
  return f"{workers.cores()} CPU cores" if found.platform == "cpu" else found.device_kind


class Kinds:
  """The kinds of devices that take part; says once that there are several."""

  def __init__(self):
    self._first: tuple[str, str] | None = None
    self._said = False

  def add(self, host: str, kind: str) -> None:
    """Adds a device of a host."""
    self._first = self._first or (host, kind)
    if kind != self._first[1] and not self._said:
      self._said = True
      print(
        f"note: {host} has {kind}, {self._first[0]} has {self._first[1]}: features of different "
        "devices differ in their last bits",
        file=sys.stderr,
      )
