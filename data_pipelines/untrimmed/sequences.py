"""Untrimmed videos as feature sequences, labelled by the actions that occur somewhere in them.

`config.data.path` is a folder of `<video>.npy` files `[L, D]`, one per video, or of such folders,
one per stream (`config.data.localization.streams`), joined along D. Ground truth is a JSON file in
ActivityNet's format: `config.data.localization.annotations`, or `annotations.json` in the folder.
Of it training sees the classes of a video alone, but for analyses that ask for more
(`config.data.localization.truth`). Splits are the file's subsets.

A batch holds `features` float32 `[N, T, D]`, `mask` bool `[N, T]`, `labels` float32 `[N, C]` (1
where the class occurs), `seconds` float32 `[N]` (time that a step of the sequence stands for),
`video` int64 `[N]` and, where asked for, `truth` bool `[N, T, C]`, what is annotated at the steps'
middles. T is `config.data.frames`; a video becomes that long in one of two ways
(`config.data.localization.sampling`):

* `sample`: T features are taken, one of each of T equal bins: in training at random (BaS-Net, Lee
  et al. 2020), else from its middle; a shorter video repeats its own.
* `pad`: a shorter video is followed by zeros where `mask` is False; a longer one is sampled.

A share of the training videos (`config.data.localization.validation`) may be held out to choose a
checkpoint by: they are the split `held_out(config.data)`, and `config.data.train_split` is without
them. Which they are depends on `config.data.localization.seed` alone, not on the run's.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from data_pipelines.records import fingerprint
from data_pipelines.source import Example, NumpySource, generator
from vssl_jax.errors import UserError
from vssl_jax.files import make_folder
from vssl_jax.localization import annotations as annotations_lib
from vssl_jax.localization import check
from vssl_jax.localization.annotations import Video

_NOTES, _ERRORS = 5, 20  # findings printed of a split, as notes and where it stops there
_HELD_OUT = 6  # purpose of the random numbers, see `source.generator`
UNLABELLED = "unlabelled"
Sequence2D = np.ndarray | Callable[[], np.ndarray]  # [L, D], or what reads it when needed


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Videos of all splits.

  Attributes:
    videos: what is annotated, by name.
    features: `[L, D]` by the same names.
    step_seconds: time from one feature to the next; feature i stands for [i, i + 1) times this.
    label_names: the classes, by index; by default all that are annotated, sorted.
    fingerprint: of the features; "" where the arrays in memory tell themselves.
  """

  videos: Mapping[str, Video]
  features: Mapping[str, Sequence2D]
  step_seconds: float
  label_names: tuple[str, ...] = ()
  fingerprint: str = ""

  def __post_init__(self):
    if not self.label_names:
      object.__setattr__(self, "label_names", annotations_lib.label_names(self.videos))

  def write(self, folder: str | pathlib.Path) -> None:
    """Writes the folder that the module describes, annotations last."""
    folder = make_folder(folder)
    for name in self.videos:
      np.save(folder / f"{name}.npy", _get(self.features[name]))
    annotations_lib.write_annotations(folder / "annotations.json", self.videos)


class LocalizationSource(NumpySource):
  """One split of a data set; implements `source.Source`.

  Args:
    data: `config.data`.
    dataset: all splits.
    split: the subset, or `held_out(data)`.
    **kwargs: as `source.load`.

  Attributes:
    videos: those in use, annotated, `videos[i]` being that of `video == i` in a batch.
    names: their names, likewise; the same as `video_names`.
    step_seconds: time from one feature to the next.

  Raises:
    UserError: no such subset, or a field is out of range.
  """

  def __init__(self, data: Any, dataset: Dataset, *, split: str, **kwargs: Any):
    chosen = part(data, annotations_lib.of_subset(dataset.videos, subset_of(data, split)), split)
    features = dataset.fingerprint or fingerprint.of_arrays([dataset.features[n] for n in chosen])
    mark = fingerprint.of(features, repr(chosen), dataset.step_seconds, dataset.label_names)
    super().__init__(data, len(chosen), fingerprint=mark, split=split, **kwargs)
    if data.frames < 1:
      raise UserError(f"config.data.frames: {data.frames} steps per sequence; give at least 1.")
    self._sampling = data.localization.sampling
    if self._sampling not in ("sample", "pad"):
      raise UserError(
        f"config.data.localization.sampling: {self._sampling!r} is neither 'sample' nor 'pad'."
      )
    self.label_names, self.step_seconds = dataset.label_names, dataset.step_seconds
    every = list(chosen)
    self.names = self.video_names = tuple(every[i] for i in self.ids)
    self.videos = tuple(chosen[name] for name in self.names)
    self._frames = data.frames
    self._features = [dataset.features[name] for name in self.names]
    self._labels = annotations_lib.multi_hot(self.videos, self.label_names)
    self._truth = data.localization.truth

  def only(self, videos: Sequence[int] | np.ndarray) -> Self:
    """See `source.Source`."""
    few = super().only(videos)
    few.names = few.video_names
    few.videos = tuple(self.videos[v] for v in videos)
    few._features = [self._features[v] for v in videos]
    few._labels = self._labels[np.asarray(videos, np.int64)]
    return few

  def sequence(self, video: int) -> np.ndarray:
    """All features of a video in use, `[L, D]`, as stored.

    Raises:
      UserError: they cannot be read, or aren't `[L ≥ 1, D]`.
    """
    sequence = _get(self._features[video])
    if sequence.ndim != 2 or not len(sequence):
      raise UserError(
        f"features of video {self.names[video]!r} have shape {sequence.shape}, not [L ≥ 1, D]."
      )
    return sequence

  def train_example(self, video: int, rng: np.random.Generator) -> Example:
    """A sequence of T features, at random within equal bins."""
    bins = np.arange(self._frames) + rng.random(self._frames)
    return self._example(video, lambda length: bins * (length / self._frames))

  def eval_example(self, video: int, **views: int) -> Example:
    """A sequence of T evenly spaced features; views are a matter of pixels.

    Each is from the middle of its bin: BaS-Net's linspace(0, L - 1, T), rounded down, lies up to a
    feature's length before the time that step t is then taken for, [t, t + 1) · L / T.
    """
    del views
    middles = np.arange(self._frames) + 0.5
    return self._example(video, lambda length: middles * (length / self._frames))

  def _example(self, video: int, places: Callable[[int], np.ndarray]) -> Example:
    sequence, frames = self.sequence(video), self._frames
    length, seconds = len(sequence), self.step_seconds
    if length > frames or (self._sampling == "sample" and length < frames):
      chosen = np.minimum(places(length).astype(np.int64), length - 1)
      sequence, seconds = sequence[chosen], seconds * length / frames
    features = np.zeros((frames, sequence.shape[1]), np.float32)
    features[: len(sequence)] = sequence
    example: Example = {
      "features": features,
      "mask": np.arange(frames) < len(sequence),
      "labels": self._labels[video],
      "seconds": np.float32(seconds),
      "video": np.int64(video),
    }
    if self._truth:
      example["truth"] = annotations_lib.truth(
        self.videos[video], self.label_names, frames, float(seconds)
      )
    return example


def step_of(data: Any) -> float:
  """Seconds from one feature to the next.

  Raises:
    UserError: they are not above 0.
  """
  seconds = data.localization.step_seconds
  if not 0 < seconds < math.inf:
    raise UserError(f"config.data.localization.step_seconds: {seconds} is not above 0.")
  return seconds


def held_out(data: Any) -> str:
  """The split of the training videos that are held out."""
  return f"{data.train_split}:held_out"


def subset_of(data: Any, split: str) -> str:
  """The annotations' subset that a split is of."""
  return data.train_split if split == held_out(data) else split


def part(data: Any, videos: Mapping[str, Any], split: str) -> dict[str, Any]:
  """Those of a subset's videos that belong to the split, in their order.

  Raises:
    UserError: the share held out leaves none on one side.
  """
  share = data.localization.validation
  if not 0 <= share < 1:
    raise UserError(f"config.data.localization.validation: {share} is not in [0, 1).")
  if split not in (data.train_split, held_out(data)):
    return dict(videos)
  count = round(share * len(videos))
  if count >= len(videos) or (split != data.train_split and not count):
    raise UserError(
      f"config.data.localization.validation: {share} of {len(videos)} training videos holds out "
      f"{count}; at least one must be held out and one left."
    )
  order = generator(data.localization.seed, 0, 0, _HELD_OUT).permutation(len(videos))
  kept = set(order[:count] if split != data.train_split else order[count:])
  return {name: video for i, (name, video) in enumerate(videos.items()) if i in kept}


def load(data: Any, *, split: str, **kwargs: Any) -> LocalizationSource:
  """See `source.load`; see the module for the files.

  Raises:
    UserError: files are missing or malformed, or `check` finds what should stop training.
  """
  dataset = read(data, subset_of(data, split))
  return LocalizationSource(data, dataset, split=split, **kwargs)


def read(data: Any, split: str, *, label_names: Sequence[str] = ()) -> Dataset:
  """The data set of a folder; files of the one split are checked, and read when needed.

  Args:
    data: `config.data`.
    split: the annotations' subset.
    label_names: the classes, where they are not all that are annotated.

  Raises:
    UserError: files are missing or malformed, or a label is none of the classes.
  """
  fields, folder, step_seconds = data.localization, pathlib.Path(data.path), step_of(data)
  if not data.path or not folder.is_dir():
    raise UserError(f"config.data.path: {data.path!r} is no folder of feature sequences.")
  videos = annotations_lib.read_annotations(
    fields.annotations or folder / "annotations.json", durations=fields.durations or None
  )
  streams = [folder / s for s in fields.streams] or [folder]
  if fields.check:
    _look_through(data, streams, videos, split, label_names)
  paths = {name: [s / f"{name}.npy" for s in streams] for name in videos}
  files = [path for name in annotations_lib.of_subset(videos, split) for path in paths[name]]
  return Dataset(
    videos,
    {name: _reader(parts) for name, parts in paths.items()},
    step_seconds,
    tuple(label_names),
    fingerprint=fingerprint.of_files(files, folder),
  )


def _look_through(
  data: Any,
  streams: Sequence[pathlib.Path],
  videos: Mapping[str, Video],
  split: str,
  label_names: Sequence[str],
) -> None:
  """Says what is wrong with a split's files and annotation, and stops where it is fatal."""
  own = annotations_lib.of_subset(videos, split)
  training = {name: v for name, v in videos.items() if v.subset == data.train_split}
  learns = not label_names  # else a trained network knows the classes, and scores what it is given
  if learns and not any(v.segments for v in own.values()):
    raise UserError(f"no video of subset {split!r} has an annotated action.")
  names = (
    label_names or annotations_lib.label_names(training) or annotations_lib.label_names(videos)
  )
  found = []
  for stream in streams:
    width = check.width_of(stream, training) if learns and split != data.train_split else None
    found += check.find_problems(
      own,
      stream,
      step_seconds=step_of(data),
      label_names=names,
      labelled=learns and split == data.train_split,
      width=width,
    )
  _tell(found, f"{data.path}, {split}")


def _tell(found: Sequence[check.Problem], where: str) -> None:
  found = list(dict.fromkeys(found))  # of two streams what is wrong with a video, once
  fatal = [p for p in found if p.fatal]
  if len(fatal) > 1 or (found and not fatal):
    _note(f"{where}:\n{check.report(found, most=_ERRORS if fatal else _NOTES)}")
  check.require(found)


@functools.cache
def _note(text: str) -> None:
  """Prints it once: a run opens the same split to train, to score and to draw."""
  print(text, end="", file=sys.stderr, flush=True)


def unlabelled(data: Any, label_names: Sequence[str]) -> Dataset:
  """All feature sequences of a folder, of which nothing is annotated: the split `UNLABELLED`.

  Args:
    data: `config.data`.
    label_names: the classes that a network knows.

  Raises:
    UserError: no such folder, no sequences in it, or such as cannot be used.
  """
  fields, folder, step_seconds = data.localization, pathlib.Path(data.path), step_of(data)
  streams = [folder / s for s in fields.streams] or [folder]
  paths = {f.stem: [s / f.name for s in streams] for f in sorted(streams[0].glob("*.npy"))}
  if not paths:
    raise UserError(f"config.data.path: {streams[0]} holds no feature sequences, <video>.npy.")
  videos = {name: Video(UNLABELLED, None, ()) for name in paths}
  if fields.check:
    found = []
    for stream in streams:
      found += check.find_problems(videos, stream, labelled=False)
    _tell(found, str(folder))
  return Dataset(
    videos,
    {name: _reader(files) for name, files in paths.items()},
    step_seconds,
    tuple(label_names),
    fingerprint=fingerprint.of_files([f for files in paths.values() for f in files], folder),
  )


def _get(features: Sequence2D) -> np.ndarray:
  return features() if callable(features) else features


def _reader(paths: list[pathlib.Path]) -> Callable[[], np.ndarray]:
  def read() -> np.ndarray:
    parts = [check.read_sequence(path) for path in paths]
    if len(parts) == 1:
      return parts[0]
    length = min(map(len, parts))  # streams may differ by a snippet at the end
    return np.concatenate([p[:length] for p in parts], axis=1)

  return read
