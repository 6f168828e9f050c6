"""An encoder as a transformer of scikit-learn: videos in, one row of features per video out."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from data_pipelines import arrays
from data_pipelines.videos import rates
from data_pipelines.videos import workers as workers_lib
from data_pipelines.videos.snippets import SnippetSettings, Task
from vssl_jax import files
from vssl_jax.encoder import slide, snippet_encoder, snippet_features
from vssl_jax.errors import UserError

_ITEM = "give a video, a span (path, start, end) in seconds, or a uint8 array [T, H, W, C]"


class VideoEncoder(TransformerMixin, BaseEstimator):
  """Turns videos into features `[N, D]`, in scikit-learn's `Pipeline` and wherever it takes one.

  The features of a video are the mean of those of its snippets, which `vssl_jax.extract_features`
  writes: to the bit, for the same videos and arguments. The checkpoint is loaded when it is first
  needed, once for each clone. A pickle holds the arguments alone, no weights and no code.

  Args:
    path: folder of a run, of an export or of converted weights: what `vssl_jax.load` takes.
    which: checkpoint of a run: "last", "best" (by its `config.save.best`), or a step.
    frames: frames per snippet.
    step: distance between neighboring frames of a snippet, in frames.
    stride: distance between the starts of neighboring snippets, in frames.
    fps: frame rate at which videos are read; 0 for the frame rate of each video.
    resize: short side, pixels; None for the value that the checkpoint is evaluated with.
    size: side of the central square, pixels; None as for `resize`.
    raw_aspect: keep frames as they are stored if their pixels are not square.
    stream_fps: frames per second of arrays, and of streams without time stamps; 0 for the rate that
      streams state. The frames of arrays in memory are then taken as they are, whatever `fps` is.
    max_gap: longest gap between two frames, seconds; a video with a longer one is an error. 0 sets
      no limit.
    batch_size: snippets per call of the encoder.
    workers: number of decoding processes; 0 for one per core.
    timeout: seconds that decoding a video may take, see `vssl_jax.extract_features`; 0 for no
      limit, in which case a single worker decodes in this process.
  """

  def __init__(
    self,
    path: str | os.PathLike[str] = "",
    *,
    which: str | int = "last",
    frames: int = 16,
    step: int = 1,
    stride: int = 16,
    fps: float = 25.0,
    resize: int | None = None,
    size: int | None = None,
    raw_aspect: bool = False,
    stream_fps: float = 0.0,
    max_gap: float = 0.0,
    batch_size: int = 16,
    workers: int = 0,
    timeout: float = snippet_features.TIMEOUT,
  ):
    self.path = path
    self.which = which
    self.frames = frames
    self.step = step
    self.stride = stride
    self.fps = fps
    self.resize = resize
    self.size = size
    self.raw_aspect = raw_aspect
    self.stream_fps = stream_fps
    self.max_gap = max_gap
    self.batch_size = batch_size
    self.workers = workers
    self.timeout = timeout

  def fit(self, X: Any = None, y: Any = None) -> VideoEncoder:
    """Learns nothing: the encoder is trained. Returns itself."""
    return self

  def transform(self, X: Any) -> np.ndarray:
    """The features of videos, float32 `[N, D]`, in the order of `X`.

    Args:
      X: a folder, for one row per video in it, sorted by name, also of subfolders; or a video; or N
        items, each a video, a span `(path, start, end)` in seconds, or a uint8 array
        `[T, H, W, C]`. A data frame has a column of paths, or path, start and end.

    Raises:
      UserError: no such checkpoint, or an item is none of these or cannot be read.
    """
    if self.batch_size < 1 or self.workers < 0 or not 0 <= self.timeout <= 1e9:
      raise UserError("batch_size must be positive, workers and timeout not negative.")
    items = _items(X)
    encode, made = self._encoder()
    with _tasks(items, made.settings) as tasks:
      found: dict[Task, np.ndarray] = {}
      unreadable = slide.slide_tasks(
        encode,
        list(dict.fromkeys(tasks)),
        lambda task, _, rows: found.update({task: rows.mean(axis=0)}),
        batch_size=self.batch_size,
        workers=self.workers or workers_lib.cores(),
        timeout=self.timeout,
      )
      for row, task in enumerate(tasks):
        if task in unreadable:
          where = f"X[{row}]" if isinstance(items[row], np.ndarray) else f"{task.path}"
          raise UserError(f"{where}: cannot be read: {unreadable[task]}.")
      return np.stack([found[task] for task in tasks])

  def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
    """The names of the D features, `videoencoder0` and so on."""
    width = self._encoder()[1].width
    return np.asarray([f"videoencoder{i}" for i in range(width)], object)

  def _encoder(self) -> tuple[slide.Encode, snippet_encoder.Made]:
    """The compiled encoder; loaded again if an argument has changed."""
    from vssl_jax.encoder import encoder

    key = tuple(sorted(self.get_params().items()))
    if self.__dict__.get("_built", (None,))[0] != key:
      if not str(self.path):
        raise UserError("path: give the folder of a run or of an exported encoder.")
      loaded = encoder.load_encoder(self.path, self.which)
      names = {f.name for f in dataclasses.fields(SnippetSettings)}
      cut = {k: v for k, v in key if k in names}
      settings = snippet_encoder.settings_of(loaded, cut)
      self._built = (key, snippet_encoder.build(loaded, settings, self.batch_size))
    return self._built[1]

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in super().__getstate__().items() if k != "_built"}

  def __sklearn_tags__(self) -> Any:
    tags = super().__sklearn_tags__()
    tags.requires_fit = False
    tags.no_validation = True
    tags.input_tags.two_d_array = False
    tags.input_tags.string = True
    tags.transformer_tags.preserves_dtype = []
    return tags


def _items(X: Any) -> list[Any]:
  """Paths, spans and arrays: those of a folder, or of what X holds."""
  if isinstance(X, str | os.PathLike):
    return list(snippet_features.find(files.path(X), "X"))
  if hasattr(X, "to_numpy"):  # of Pandas and others, which go through columns
    X = X.to_numpy()
  if isinstance(X, np.ndarray) and X.dtype.kind not in "OUT" and X.ndim != 5:
    raise UserError(f"X is {X.dtype}{list(X.shape)}: {_ITEM} for each row.")
  if not isinstance(X, Iterable):
    raise UserError(f"X is of type {type(X).__name__}: {_ITEM} for each row.")
  items = list(X)
  if not items:
    raise UserError(f"X is empty: {_ITEM} for each row, one at least.")
  return items


@contextlib.contextmanager
def _tasks(items: list[Any], settings: SnippetSettings) -> Iterator[list[Task]]:
  """What is to be read for each item; arrays lie in files meanwhile, which workers can read."""
  with tempfile.TemporaryDirectory(prefix="vssl_jax-") as folder:
    yield [_task(i, item, settings, pathlib.Path(folder)) for i, item in enumerate(items)]


def _task(row: int, item: Any, settings: SnippetSettings, folder: pathlib.Path) -> Task:
  if isinstance(item, np.ndarray) and item.dtype.kind not in "OUT":
    return _of_array(row, item, settings, folder)
  if isinstance(item, np.ndarray | list | tuple) and len(item) == 1:  # of a table of one column
    item = item[0]
  start, end = 0.0, math.inf
  if isinstance(item, np.ndarray | list | tuple) and len(item) == 3:
    item, *times = item
    try:
      start, end = map(float, times)
    except (TypeError, ValueError):
      raise UserError(f"X[{row}]: start and end are {times}: give seconds.") from None
    if not 0 <= start < end:  # not NaN either
      raise UserError(f"X[{row}]: its span is {start:g} to {end:g} s: give 0 <= start < end.")
  if not isinstance(item, str | os.PathLike) and not hasattr(item, "joinpath"):  # of a `UPath`
    raise UserError(f"X[{row}] is of type {type(item).__name__}: {_ITEM}.")
  path = files.path(item)
  if path.is_dir():
    raise UserError(
      f"X[{row}]: {path} is a folder, of any number of rows: give it alone, as X, or its videos."
    )
  (path,) = snippet_features.find(path, f"X[{row}]")
  if arrays.is_array(path) and not settings.stream_fps:
    raise UserError(f"stream_fps: {path} has no frame rate; give it, frames per second.")
  return Task(path, settings, start, end)


def _of_array(row: int, array: np.ndarray, settings: SnippetSettings, folder: pathlib.Path) -> Task:
  if array.ndim != 4 or 0 in array.shape or array.dtype != np.uint8:
    raise UserError(f"X[{row}] is {array.dtype}{list(array.shape)}: {_ITEM}.")
  file = folder / f"{row}.npy"
  np.save(file, np.ascontiguousarray(array))
  rate = settings.stream_fps or settings.fps or rates.UNKNOWN
  return Task(file, dataclasses.replace(settings, stream_fps=rate), 0.0, math.inf)
