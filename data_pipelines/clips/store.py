"""What a collection of videos must offer, so that `clip_source` can make batches of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import tensorflow as tf

from data_pipelines.clips import steps
from data_pipelines.clips.builders import Features, Graph


class Store(Protocol):
  """A collection of videos that are read by number.

  A store may also have two methods that are used if they are there:

  - `fetch(features)` replaces what `read` gave as `image`, of the frames that were chosen, by the
    frames themselves, for a store that reads only those;
  - `decoded()` returns the number of all frames and the sizes (height, width) that occur, or None
    if only reading all videos would tell.
  """

  @property
  def codec(self) -> steps.Codec:
    """How the frames are stored."""
    ...

  @property
  def reads_ahead(self) -> int:
    """Number of videos to read at once beyond one per thread, to hide the delay of a network."""
    ...

  @property
  def label_names(self) -> tuple[str, ...]:
    """Class names by label index; () if the data has none."""
    ...

  @property
  def classes(self) -> frozenset[int] | None:
    """Class indices that some video has; None if only reading all videos would tell."""
    ...

  @property
  def fingerprint(self) -> str:
    """Digest of the videos; see `source.Source`."""
    ...

  def __len__(self) -> int:
    """Number of videos."""
    ...

  def add_parsing(self, graph: Graph, *, with_frame_rate: bool) -> None:
    """Adds the features that `read` needs to the graph's parser."""
    ...

  def read(self, parse: Callable[[tf.Tensor], Features], i: tf.Tensor) -> Features:
    """Reads and parses video `i` (int64 `[]`): `image`, `label` and, if known, `frame_rate`."""
    ...

  def check(self) -> None:
    """Raises `UserError` if the storage failed, which is no fault of a video."""
    ...

  def name_of(self, i: int) -> str:
    """The name of video `i`, "" if it has none."""
    ...

  def describe(self, i: int) -> str:
    """How a message refers to video `i`."""
    ...
