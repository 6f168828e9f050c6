"""Loads untrimmed videos as feature sequences with video-level labels (the actions that occur).

`config.data.path` is a folder of `<video>.npy` files `[L, D]`, one per video, or a folder with one
such folder per stream (`config.data.localization.streams`); streams are concatenated along D. Both
may be divided by split; `vssl_jax.localization.feature_folders` has all forms, BaS-Net's among
them. The ground truth is a JSON file in ActivityNet's format:
`config.data.localization.annotations`, or `annotations.json` or `gt.json` in the folder. Training
uses only the classes of each video from it, except in analyses that also need the times
(`config.data.localization.truth`). The splits are the file's subsets.

A batch has `features` float32 `[N, T, D]`, `mask` bool `[N, T]`, `labels` float32 `[N, C]` (1 if
the class occurs), `seconds` float32 `[N]` (duration of a step of the sequence), `video` int64 `[N]`
and, if requested, `truth` bool `[N, T, C]` (the classes annotated at the middle of each step). T is
`config.data.frames`. There are two ways to bring a video to this length
(`config.data.localization.sampling`):

* `sample`: the video is divided into T equal bins, and one feature is taken from each: a random
  one in training (BaS-Net, Lee et al. 2020), else the middle one. In a shorter video features
  repeat.
* `pad`: a shorter video is padded with zeros, where `mask` is False; a longer one is sampled.

A share of the training videos (`config.data.localization.validation`) can be held out to choose a
checkpoint. These videos are the split `held_out(config.data)`, and `config.data.train_split` does
not contain them. They depend on `config.data.localization.seed` alone, not on the run's seed. Where
videos are made up, as many as wanted can be made for that split instead
(`config.data.localization.validation_videos`).
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
from vssl_jax.files import check_name, local, make_folder
from vssl_jax.localization import annotations as annotations_lib
from vssl_jax.localization import check, feature_folders
from vssl_jax.localization.annotations import Video

# Maximum number of problems printed per split: if the run goes on, and if it stops.
_NOTES, _ERRORS = 5, 20
_HELD_OUT = 6  # `purpose` of the random numbers, see `source.generator`
UNLABELED = "unlabeled"
Sequence2D = np.ndarray | Callable[[], np.ndarray]  # [L, D], or a function that reads it


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The videos of all splits.

  Attributes:
    videos: annotations, by video name.
    features: features `[L, D]`, by video name.
    step_seconds: time from one feature to the next; feature i covers [i, i + 1) · step_seconds.
    label_names: class names by index; by default all annotated classes, sorted.
    fingerprint: fingerprint of the features; "" if it shall be computed from arrays in memory.
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
    """Writes the data set as a folder of the form described above, the annotations last."""
    for name in self.videos:
      check_name(name, "the names of the videos")
    folder = make_folder(folder)
    for name in self.videos:
      np.save(folder / f"{name}.npy", _get(self.features[name]))
    annotations_lib.write_annotations(folder / "annotations.json", self.videos)


class LocalizationSource(NumpySource):
  """One split of a data set; implements `source.Source`.

  Args:
    data: `config.data`.
    dataset: the videos of all splits.
    split: a subset, or `held_out(data)`.
    **kwargs: as for `source.load`.

  Attributes:
    videos: annotations of the videos in use; `videos[i]` belongs to `video == i` in a batch.
    names: names of the videos in use, in the same order; the same as `video_names`.
    step_seconds: time from one feature to the next.

  Raises:
    UserError: there is no such subset, or a field is out of range.
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
      UserError: they cannot be read, or their shape is not `[L ≥ 1, D]`.
    """
    sequence = _get(self._features[video])
    if sequence.ndim != 2 or not len(sequence):
      raise UserError(
        f"features of video {self.names[video]!r} have shape {sequence.shape}, not [L ≥ 1, D]."
      )
    return sequence

  def train_example(self, video: int, rng: np.random.Generator) -> Example:
    """A sequence of T features, one random feature from each of T equal bins."""
    bins = np.arange(self._frames) + rng.random(self._frames)
    return self._example(video, lambda length: bins * (length / self._frames))

  def eval_example(self, video: int, **views: int) -> Example:
    """A sequence of T evenly spaced features; `views` has no effect on features.

    Each feature is from the middle of its bin. BaS-Net's code takes the start, t · L / T rounded
    down, which is half a step earlier than the middle of the time that step t stands for,
    [t, t + 1) · L / T.
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
  """Seconds from one feature to the next, from the config.

  Raises:
    UserError: the value is not above 0.
  """
  seconds = data.localization.step_seconds
  if not 0 < seconds < math.inf:
    raise UserError(f"config.data.localization.step_seconds: {seconds} is not above 0.")
  return seconds


def held_out(data: Any) -> str:
  """Name of the split with the held-out training videos."""
  return f"{data.train_split}:held_out"


def subset_of(data: Any, split: str) -> str:
  """Name of the annotations' subset that contains a split's videos."""
  made = data.localization.validation_videos > 0
  return data.train_split if split == held_out(data) and not made else split


def counts(data: Any) -> dict[str, int]:
  """The number of videos to make up, by subset."""
  fields = data.localization
  made = {data.train_split: fields.videos, data.eval_split: fields.eval_videos}
  return made | ({held_out(data): extra} if (extra := fields.validation_videos) else {})


def part(data: Any, videos: Mapping[str, Any], split: str) -> dict[str, Any]:
  """The videos of a subset that belong to the split, in their order.

  Raises:
    UserError: `localization.validation` holds out no video or all videos.
  """
  share, made = data.localization.validation, data.localization.validation_videos
  if made < 0:
    raise UserError(f"config.data.localization.validation_videos: {made} is negative.")
  if not 0 <= share < 1:
    raise UserError(f"config.data.localization.validation: {share} is not in [0, 1).")
  if made or split not in (data.train_split, held_out(data)):
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
  """See `source.load`; the module's docstring describes the files.

  Raises:
    UserError: files are missing or malformed, or `check` finds a problem that must stop training.
  """
  if data.localization.validation_videos:
    raise UserError(
      "config.data.localization.validation_videos: only made-up videos can be made to be held out "
      "(config.data.source=untrimmed or stitched); hold out a share of these, "
      "config.data.localization.validation."
    )
  dataset = read(data, subset_of(data, split))
  return LocalizationSource(data, dataset, split=split, **kwargs)


def read(data: Any, split: str, *, label_names: Sequence[str] = ()) -> Dataset:
  """Opens the data set of a folder; checks the files of one split. Features are read when needed.

  Args:
    data: `config.data`.
    split: the annotations' subset.
    label_names: the classes; by default all annotated classes.

  Raises:
    UserError: files are missing or malformed, or a label is not one of the classes.
  """
  fields, folder, step_seconds = data.localization, local(data.path), step_of(data)
  if not data.path or not folder.is_dir():
    raise UserError(
      f"config.data.path: {data.path!r} is not a folder; give one with feature sequences, "
      "<video>.npy."
    )
  where = feature_folders.find(folder, tuple(fields.streams))
  file = fields.annotations or where.annotations()
  if not file:
    raise UserError(
      f"config.data.path: {folder} has neither {' nor '.join(feature_folders.ANNOTATIONS)}; put "
      "the ground truth there, or name it, config.data.localization.annotations."
    )
  videos = annotations_lib.read_annotations(file, durations=fields.durations or None)
  if not fields.annotations:
    videos = feature_folders.by_lists(videos, local(file))
  own = annotations_lib.of_subset(videos, split)
  paths = {name: where.files(name, video.subset) for name, video in videos.items()}
  if fields.check:
    _look_through(data, paths, videos, split, label_names)
  files = [path for name in own for path in paths[name]]
  return Dataset(
    videos,
    {name: _reader(parts) for name, parts in paths.items()},
    step_seconds,
    tuple(label_names),
    fingerprint=fingerprint.of_files(files, folder),
  )


def _look_through(
  data: Any,
  paths: Mapping[str, Sequence[pathlib.Path]],
  videos: Mapping[str, Video],
  split: str,
  label_names: Sequence[str],
) -> None:
  """Prints what is wrong with the files and annotations of a split; stops if it is fatal."""
  own = annotations_lib.of_subset(videos, split)
  training = {name: v for name, v in videos.items() if v.subset == data.train_split}
  learns = not label_names  # otherwise a trained network with known classes is evaluated
  if learns and not any(v.segments for v in own.values()):
    raise UserError(
      f"annotations: no video of subset {split!r} has an annotated action; check "
      "config.data.train_split and eval_split."
    )
  names = (
    label_names or annotations_lib.label_names(training) or annotations_lib.label_names(videos)
  )
  found = check.streams_differ({name: paths[name] for name in own})
  for stream in _streams(paths):
    width = check.width_of(stream, training) if learns and split != data.train_split else None
    found += check.find_problems(
      own,
      stream,
      step_seconds=step_of(data),
      label_names=names,
      labeled=learns and split == data.train_split,
      width=width,
    )
  _tell(found, f"{data.path}, {split}")


def _tell(found: Sequence[check.Problem], where: str) -> None:
  found = list(dict.fromkeys(found))  # a problem found in both streams is reported once
  fatal = [p for p in found if p.fatal]
  if len(fatal) > 1 or (found and not fatal):
    _note(f"{where}:\n{check.report(found, most=_ERRORS if fatal else _NOTES)}")
  check.require(found)


@functools.cache
def _note(text: str) -> None:
  """Prints a text only once: a run opens the same split for training, scores and figures."""
  print(text, end="", file=sys.stderr, flush=True)


def unlabeled(data: Any, label_names: Sequence[str]) -> Dataset:
  """All feature sequences of a folder without annotations, as the split `UNLABELED`.

  Args:
    data: `config.data`.
    label_names: the classes of the trained network.

  Raises:
    UserError: the folder does not exist, or its sequences are missing or unusable.
  """
  fields, folder, step_seconds = data.localization, local(data.path), step_of(data)
  where = feature_folders.find(folder, tuple(fields.streams))
  paths = {name: where.files(name) for name in where.videos()}
  if not paths:
    raise UserError(
      f"config.data.path: {where.root} holds no feature sequences; give a folder of <video>.npy."
    )
  videos = {name: Video(UNLABELED, None, ()) for name in paths}
  if fields.check:
    found = check.streams_differ(paths)
    for stream in _streams(paths):
      found += check.find_problems(videos, stream, labeled=False)
    _tell(found, str(folder))
  return Dataset(
    videos,
    {name: _reader(files) for name, files in paths.items()},
    step_seconds,
    tuple(label_names),
    fingerprint=fingerprint.of_files([f for files in paths.values() for f in files], folder),
  )


def _streams(paths: Mapping[str, Sequence[pathlib.Path]]) -> list[dict[str, pathlib.Path]]:
  """The files of each stream by video, from those of each video."""
  count = len(next(iter(paths.values())))
  return [{name: parts[i] for name, parts in paths.items()} for i in range(count)]


def _get(features: Sequence2D) -> np.ndarray:
  return features() if callable(features) else features


def _reader(paths: list[pathlib.Path]) -> Callable[[], np.ndarray]:
  return functools.partial(check.read_streams, paths)
