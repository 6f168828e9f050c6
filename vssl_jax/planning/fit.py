"""Looks for the settings with which a recipe fits a machine, the fastest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from vssl_jax.errors import UserError

MOST_MICRO_BATCHES = 64
Compile = Callable[[ConfigDict], dict[str, Any]]  # a config to its plan


def fit(config: ConfigDict, chips: int, compile: Compile) -> Iterator[dict[str, Any]]:
  """Plans with one candidate's settings after another, until one fits.

  Args:
    config: the recipe.
    chips: number of devices, which the videos of a micro-batch must divide among.
    compile: gives the plan of a config.

  Yields:
    The plans that are tried, each with its `settings`; the last one fits, unless none does. Where
    the recipe cannot have the settings, the plan has only an entry `refused`, the reason in one
    line.

  Raises:
    UserError: the first candidate is impossible, so the recipe itself is.
  """
  for number, settings in enumerate(candidates(config, chips)):
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
      changed.update_from_flattened_dict(settings)
    try:
      found = compile(changed)
    except UserError as e:
      if number == 0:
        raise
      found = {"refused": str(e)}
    yield found | {"settings": settings}
    # Without an encoder of clips there are no activations to save.
    if found.get("memory", {}).get("fits") or not found.get("config", {}).get("decodes", True):
      return


def candidates(config: ConfigDict, chips: int) -> Iterator[dict[str, Any]]:
  """Settings by dotted field, the fastest first.

  First nothing is computed twice. Then momentum methods send one clip at a time through the
  network, which costs no arithmetic. Then activations are computed again in the backward pass.
  These compute the same gradients. Last the batch is split into more and more micro-batches, which
  costs as much again and leaves less for a device to do at a time. Batch norm then has statistics
  per micro-batch, so the gradients differ. One clip at a time excludes micro-batches (see
  `methods.base.value_and_grad`), so two of them can need more memory than one clip at a time.
  """
  plain: dict[str, Any] = {"accumulate": 1}
  fields = config.get(config.method, {})
  remat: dict[str, Any] = {}
  if not config.get("checkpoint"):  # else the encoder is as it was trained
    plain["encoder.remat"] = False
    remat["encoder.remat"] = True
  one_by_one = f"{config.method}.sequential"
  if "sequential" in fields:
    plain[one_by_one] = False
  yield plain
  if "sequential" in fields and fields.get("statistics", "clip") == "clip":
    yield plain | {one_by_one: True}
    if remat:
      yield plain | {one_by_one: True} | remat
  elif remat:
    yield plain | remat
  parts = 2
  while parts <= MOST_MICRO_BATCHES and config.batch_size % (parts * chips) == 0:
    yield plain | remat | {"accumulate": parts}
    parts *= 2
