"""The data source that localization needs: feature sequences of untrimmed videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.localization.annotations import Video

Example = dict[str, np.ndarray | np.generic]  # of one video, without batch axis
Batch = dict[str, np.ndarray]


class SequenceSource(Protocol):
  """A split of feature sequences; see `data_pipelines.untrimmed.sequences` for its batches."""

  @property
  def num_videos(self) -> int:
    """Videos in use."""
    ...

  @property
  def label_names(self) -> tuple[str, ...]:
    """The classes."""
    ...

  @property
  def videos(self) -> tuple[Video, ...]:
    """The annotation of each video, indexed by its number in the batches."""
    ...

  @property
  def names(self) -> tuple[str, ...]:
    """The name of each video, in the same order; the same as `video_names`, but never empty."""
    ...

  def sequence(self, video: int) -> np.ndarray:
    """All features of a video, `[L, D]`, as stored.

    Raises:
      UserError: the features cannot be read.
    """
    ...

  def only(self, videos: Sequence[int] | np.ndarray) -> SequenceSource:
    """The same source restricted to some videos, renumbered from 0 in the given order."""
    ...

  def eval_example(self, video: int, **views: int) -> Example:
    """One video's row of the evaluation batches; there are no views, so they are ignored."""
    ...

  def eval_batches(self, batch_size: int, **views: int) -> Iterator[Batch]:
    """One ordered pass over the split; views are ignored here too."""
    ...


def sequences_of(source: object) -> SequenceSource:
  """Checks that a source has feature sequences, and returns it as a `SequenceSource`.

  Raises:
    UserError: the source has no feature sequences.
  """
  if not hasattr(source, "sequence"):
    raise UserError(
      "config.data.source: this needs features of untrimmed videos; choose localization, untrimmed "
      "or stitched."
    )
  return cast(SequenceSource, source)
