"""Collects a network's outputs for each step of the videos of a split, next to the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vssl_jax import parallel
from vssl_jax.cli import progress
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
    video: number of the video in the split.
    name: name of the video.
    seconds: length of a step.
    truth: bool `[T, C]`, the actions that are annotated at the middle of each step.
    classes: int `[L]`, the classes of the video.
    attention: `[T]` in (0, 1).
    cas: class activations `[T, C]`, logits.
    pseudo: bool `[T, L]`, pseudo-labels Â for the classes of the video.
    trust: `[T, L]`, confidence S of the pseudo-labels; None without denoising.
    spaces: features of the snippets `[T, F]`, by name of the feature space.
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
  """Yields the observations of every video of a split, in order.

  Args:
    look: the network.
    source: the split.
    batch_size: videos at a time; must be a multiple of the number of processes.
  """
  with progress.bar("localizing", len(source.names), shown=parallel.first()) as bar:
    for batch in source.eval_batches(batch_size):
      given = {k: batch[k] for k in ("features", "mask", "labels", "video")}
      kept = ("mask", "seconds", "video", "valid")
      rows = gather({**jax.device_get(look(given)), **{k: batch[k] for k in kept}})
      bar.update(int(np.sum(rows["valid"])))
      yield from _videos(source, rows)


def _videos(source: SequenceSource, rows: Mapping[str, Any]) -> Iterator[Observed]:
  """The videos of one batch."""
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
