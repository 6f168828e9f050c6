"""Looks for the settings with which a recipe fits a machine, the fastest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

MOST_MICRO_BATCHES = 64
Compile = Callable[[ConfigDict], dict[str, Any]]  # a config to its plan


def fit(config: ConfigDict, chips: int, compile: Compile) -> list[dict[str, Any]]:
  """Plans with settings that need less and less memory, until one fits.

  Args:
    config: the recipe.
    chips: number of devices, which the videos of a micro-batch must divide among.
    compile: gives the plan of a config.

  Returns:
    The plans that were tried, each with its `settings`; the last one fits, unless none does.
  """
  tried = []
  for settings in candidates(config, chips):
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
      changed.update_from_flattened_dict(settings)
    tried.append(compile(changed) | {"settings": settings})
    if tried[-1].get("memory", {}).get("fits"):
      break
  return tried


def candidates(config: ConfigDict, chips: int) -> Iterator[dict[str, Any]]:
  """Settings by dotted field, the fastest first; all compute the same gradients.

  First nothing is computed twice. Then momentum methods send one clip at a time through the
  network, which costs no arithmetic. Then activations are computed again in the backward pass, and
  last the batch is split into more and more micro-batches, which costs as much again and leaves
  less for a device to do at a time.
  """
  plain: dict[str, Any] = {"accumulate": 1}
  fields = config.get(config.method, {})
  saves = "encoder" in config and config.method != "dcc"
  if saves:
    plain["encoder.remat"] = False
  one_by_one = f"{config.method}.sequential"
  if "sequential" in fields:
    plain[one_by_one] = False
  yield plain
  if "sequential" in fields and fields.get("statistics", "clip") == "clip":
    yield plain | {one_by_one: True}
    if saves:
      yield plain | {one_by_one: True, "encoder.remat": True}
  elif saves:
    yield plain | {"encoder.remat": True}
  if not saves:
    return
  parts = 2
  while parts <= MOST_MICRO_BATCHES and config.batch_size % (parts * chips) == 0:
    yield plain | {"encoder.remat": True, "accumulate": parts}
    parts *= 2
