"""Clips of a source with their frames in another order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.source import Batches, Source, Wrapped

NORMAL = "normal"
ORDERS = {
  "reversed": "last frame first",
  "shuffled": "a permutation per clip, by seed, number of the video and number of the clip; the "
  "same for all crops of a clip; never the order of time",
  "frozen": "each frame is the middle one (number T // 2 of T, from 0)",
}
_SALT = 0x0FDE5  # keeps the draws apart from others of the same seed


def places(order: str, frames: int, *, seed: int = 0, video: int = 0, clip: int = 0) -> np.ndarray:
  """The frame that is shown in the place of each frame of a clip.

  Args:
    order: one of `ORDERS`.
    frames: T, 2 or more.
    seed: of the permutations of "shuffled".
    video: number of the video in its split.
    clip: number of the clip in its video.

  Returns:
    int64 `[T]`, indices of frames.
  """
  own = np.arange(frames)
  if order == "reversed":
    return own[::-1].copy()
  if order == "frozen":
    return np.full(frames, frames // 2)
  rng = np.random.default_rng([seed, _SALT, video, clip])
  while (found := rng.permutation(frames)).tolist() == own.tolist():
    pass
  return found


class Reordered(Wrapped):
  """A source whose evaluation clips have their frames in another order; all else stays.

  Args:
    source: the other source.
    order: one of `ORDERS`.
    seed: of the permutations of "shuffled".
    numbers: int `[V]`, number of each video in its split; by default, the source is the split.
  """

  def __init__(
    self,
    source: Source,
    order: str,
    seed: int,
    numbers: np.ndarray | None = None,
  ):
    super().__init__(source)
    self._order, self._seed = order, seed
    self._numbers = np.arange(source.num_videos) if numbers is None else numbers

  @property
  def fingerprint(self) -> str:
    """Another one than that of the source, because features of its clips are kept by it."""
    facts = [self._source.fingerprint, self._order]
    facts += [str(self._seed)] if self._order == "shuffled" else []
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()

  def only(self, videos: Sequence[int] | np.ndarray) -> Reordered:
    """See `Source`; each video keeps its permutations."""
    chosen = self._numbers[np.asarray(videos, np.int64)]
    return Reordered(self._source.only(videos), self._order, self._seed, chosen)

  def eval_batches(self, *args: Any, **views: Any) -> Batches:
    """The batches of the source, with new arrays of clips."""
    for batch in self._source.eval_batches(*args, **views):
      clips = np.empty_like(batch["clips"])
      for row, video in enumerate(batch["video"]):
        for view, clip in enumerate(batch["clips"][row]):
          number = view // views["crops"]
          chosen = places(
            self._order,
            len(clip),
            seed=self._seed,
            video=int(self._numbers[video]),
            clip=number,
          )
          clips[row, view] = clip[chosen]
      yield batch | {"clips": clips}
