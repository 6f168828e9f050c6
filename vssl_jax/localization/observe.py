"""What a network makes of each step of a split's videos, beside what is true of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vssl_jax.localization import annotations as annotations_lib
from vssl_jax.localization.scores import gather
from vssl_jax.localization.source import SequenceSource

# Batch of `features`, `mask`, `labels` and `video` -> `attention` [N, T], `cas` [N, T, C],
# `classes` [N, L] (−1: none), `pseudo` and, where there is denoising, `trust` [N, T, L], and
# `spaces`, [N, T, F] by name.
Look = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]


class Observed(NamedTuple):
  """One video of T steps.

  Attributes:
    video: its number in the split.
    name: its name.
    seconds: length of a step.
    truth: bool `[T, C]`, the actions annotated at the step's middle.
    classes: int `[L]`, the video's own, without gaps.
    attention: `[T]` in (0, 1).
    cas: `[T, C]`, logits.
    pseudo: bool `[T, L]`, Â of the video's classes.
    trust: `[T, L]`, S, what each is believed; None without denoising.
    spaces: snippets' features `[T, F]`, by the name of the space.
  """

  video: int
  name: str
  seconds: float
  truth: np.ndarray
  classes: np.ndarray
  attention: np.ndarray
  cas: np.ndarray
  pseudo: np.ndarray
  trust: np.ndarray | None
  spaces: Mapping[str, np.ndarray]


def observe(look: Look, source: SequenceSource, *, batch_size: int) -> Iterator[Observed]:
  """Every video of a split, in order.

  Args:
    look: the network.
    source: the split.
    batch_size: videos at a time, a multiple of the processes.
  """
  for batch in source.eval_batches(batch_size):
    given = {k: batch[k] for k in ("features", "mask", "labels", "video")}
    kept = ("mask", "seconds", "video", "valid")
    rows = gather({**jax.device_get(look(given)), **{k: batch[k] for k in kept}})
    for i in np.flatnonzero(rows["valid"]):
      inside, video = rows["mask"][i], int(rows["video"][i])
      own, seconds = rows["classes"][i] >= 0, float(rows["seconds"][i])
      yield Observed(
        video,
        source.names[video],
        seconds,
        annotations_lib.truth(source.videos[video], source.label_names, int(inside.sum()), seconds),
        rows["classes"][i][own],
        rows["attention"][i][inside],
        rows["cas"][i][inside],
        rows["pseudo"][i][inside][:, own],
        rows["trust"][i][inside][:, own] if "trust" in rows else None,
        {name: x[i][inside] for name, x in rows["spaces"].items()},
      )
