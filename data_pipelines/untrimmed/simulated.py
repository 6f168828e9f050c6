"""Simulated feature sequences of untrimmed videos, for machines without real features.

Every class has an action (a few prototypes, its phases) and a scene. A step of an action is the sum
of scene and action. The time between actions is cut into shots. A shot is either *context*: the
scene of one of the video's classes with a trace of its action, which is hard to tell from the
action with video-level labels alone; or one of a few backgrounds that all classes share. Added to
these are variations per action, shot and video, noise that is correlated over time, and bursts in
directions that belong to no class.

The times of the actions are made up as well, or taken from real videos: if
`config.data.localization.annotations` is a JSON file in ActivityNet's format, such as THUMOS14's,
every annotated video gets features, and the splits are the file's subsets. Everything else is made
up. Videos made to be held out (`config.data.localization.validation_videos`) then have the times of
the training videos, and features of their own.

`python -m data_pipelines.untrimmed` writes them in the ordinary format, for
`config.data.source = "localization"`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.signal import lfilter

from data_pipelines.records import fingerprint
from data_pipelines.source import generator
from data_pipelines.untrimmed import action_times
from data_pipelines.untrimmed.sequences import (
  Dataset,
  LocalizationSource,
  counts,
  held_out,
  step_of,
  subset_of,
)
from vssl_jax import config as config_lib
from vssl_jax.cli import arguments
from vssl_jax.errors import UserError
from vssl_jax.localization import annotations as files
from vssl_jax.localization.annotations import Annotations, Video

EXAMPLES = """\
python -m data_pipelines.untrimmed --output=DIR
python -m data_pipelines.untrimmed --output=DIR --annotations=gt.json --durations=videos.csv
"""
_BACKGROUNDS = 6
_PROTOTYPES, _VIDEO = 3, 4  # `purpose` of the random numbers, see `source.generator`


@dataclasses.dataclass(frozen=True)
class SimulationSettings:
  """How features are made (`config.data.localization.untrimmed`).

  Prototypes have length 1; strengths and noise are multiples of it.

  Attributes:
    classes: number of classes C; used only if the times of the actions are made up.
    scenes: number of different scenes; class c has scene c mod this number. 0: one per class.
    width: feature dimension D.
    phases: number of prototypes of an action; they follow each other from its start to its end.
    action: strength of the action.
    scene: strength of the scene, the same in actions and in context.
    context: probability that a shot between actions is context, not a shared background.
    resemblance: strength of the action's trace in context, as a share of `action`.
    shot_seconds: mean length of a shot, seconds.
    variation: strength of the random variations per action, shot and video.
    noise: strength of the noise.
    memory: correlation of the noise between neighboring steps, in [0, 1).
    bursts: share of steps with a burst; a burst is as strong as an action.
  """

  classes: int = 8
  scenes: int = 0
  width: int = 64
  phases: int = 3
  action: float = 1.0
  scene: float = 1.0
  context: float = 0.5
  resemblance: float = 0.3
  shot_seconds: float = 8.0
  variation: float = 0.5
  noise: float = 1.0
  memory: float = 0.7
  bursts: float = 0.1

  def __post_init__(self):
    whole = (self.classes, self.width, self.phases)
    if min(whole) < 1 or self.scenes < 0 or not self.shot_seconds > 0:
      raise UserError("untrimmed: classes, width, phases and shot_seconds must be positive.")
    if not (0 <= self.context <= 1 and 0 <= self.memory < 1 and 0 <= self.bursts <= 1):
      raise UserError("untrimmed: context and bursts must be in [0, 1], memory in [0, 1).")


def load(data: Any, *, split: str, **kwargs: Any) -> LocalizationSource:
  """See `source.load`; the settings are in `config.data.localization`."""
  dataset = make(data, [subset_of(data, split)])
  return LocalizationSource(data, dataset, split=split, **kwargs)


def make(data: Any, splits: Sequence[str] | None = None) -> Dataset:
  """Makes some splits in memory, float32; they depend on `config.data.localization` alone.

  Args:
    data: `config.data`.
    splits: names of the splits; None for all.

  Raises:
    UserError: a field is out of range, or the annotations lack durations.
  """
  fields = data.localization
  settings, step_seconds = SimulationSettings(**fields.untrimmed.to_dict()), step_of(data)
  if fields.annotations:
    videos = files.read_annotations(fields.annotations, durations=fields.durations or None)
    names = files.label_names(videos)
    own = {n: v for n, v in videos.items() if splits is None or v.subset in splits}
    if fields.validation_videos and (splits is None or held_out(data) in splits):
      training = list(files.of_subset(videos, data.train_split).items())
      for v in range(fields.validation_videos):  # their names give them other features
        name, video = training[v % len(training)]
        again = dataclasses.replace(video, subset=held_out(data))
        own[f"{name}_held_out_{v // len(training)}"] = again
    videos = own
  else:
    names = tuple(f"action_{c:02d}" for c in range(settings.classes))
    videos = {}
    sizes = counts(data)
    for subset in sizes if splits is None else splits:
      videos |= action_times.draw(
        action_times.typical(),
        names,
        sizes.get(subset, fields.videos),
        subset=subset,
        seed=fields.seed,
        max_seconds=fields.max_seconds,
        second_class=fields.second_class,
      )
  return simulate(videos, names, settings, step_seconds=step_seconds, seed=fields.seed)


def simulate(
  videos: Annotations,
  names: Sequence[str],
  settings: SimulationSettings,
  *,
  step_seconds: float = 0.64,
  seed: int = 0,
) -> Dataset:
  """Makes features for annotated videos.

  The features of a video depend on its annotation, its name, the settings and the seed, not on
  other videos.

  Args:
    videos: annotations with durations.
    names: names of the classes.
    settings: how features are made.
    step_seconds: time from one feature to the next.
    seed: seed of prototypes and videos.

  Raises:
    UserError: a video has no duration.
  """
  world = _World(names, settings, seed)
  features = {name: world.features(name, v, step_seconds) for name, v in videos.items()}
  mark = fingerprint.of(dataclasses.asdict(settings), seed)
  return Dataset(videos, features, step_seconds, tuple(names), mark)


class _World:
  """The prototypes that all videos share."""

  def __init__(self, names: Sequence[str], settings: SimulationSettings, seed: int):
    self.names, self.settings, self.seed = tuple(names), settings, seed
    rng, width = generator(seed, 0, 0, _PROTOTYPES), settings.width
    own = _unit(rng, len(names), 1, width)
    # The phases of an action are similar: their common and their separate parts are equally long.
    phases = own + _unit(rng, len(names), settings.phases, width)
    self.phases = phases / np.linalg.norm(phases, axis=-1, keepdims=True)
    scenes = _unit(rng, settings.scenes or len(names), width)
    self.scene_of = scenes[np.arange(len(names)) % len(scenes)]
    self.backgrounds = _unit(rng, _BACKGROUNDS, width)
    self.burst = _unit(rng, _BACKGROUNDS, width)

  def features(self, name: str, video: Video, step_seconds: float) -> np.ndarray:
    """Features of one video, float32 `[L, D]`; L counts a last, incomplete step too."""
    if video.duration is None:
      raise UserError(
        f"annotations: video {name!r} has no duration; give config.data.localization.durations."
      )
    s, rng = self.settings, generator(self.seed, 0, zlib.crc32(name.encode()), _VIDEO)
    steps = max(1, math.ceil(video.duration / step_seconds - 1e-9))
    present = np.array([self.names.index(label) for label in video.labels], int)
    shots = self._shots(rng, present, steps, step_seconds)
    x, left = np.zeros((steps, s.width)), np.ones(steps)
    for segment in video.segments:
      place, share = action_times.coverage(segment, steps, step_seconds)
      c = self.names.index(segment.label)
      middle = (np.arange(place.start, place.stop) + 0.5) * step_seconds
      at = (middle - segment.start) / max(segment.end - segment.start, 1e-9) * s.phases
      phase = self.phases[c, np.clip(at, 0, s.phases - 1).astype(int)]
      own = s.variation * _unit(rng, s.width)
      x[place] += share[:, None] * (s.action * phase + s.scene * self.scene_of[c] + own)
      left[place] -= share
    x += np.maximum(left, 0)[:, None] * shots
    x += s.variation * _unit(rng, s.width)
    x += s.noise * self._noise(rng, steps)
    hit = rng.random(steps) < s.bursts
    x += s.action * hit[:, None] * self.burst[rng.integers(len(self.burst), size=steps)]
    return x.astype(np.float32)

  def _shots(self, rng, present, steps, step_seconds):
    """The features between actions: context and backgrounds, shot by shot, `[L, D]`."""
    s = self.settings
    cuts = rng.random(steps) < min(1.0, step_seconds / s.shot_seconds)
    shot = np.cumsum(cuts)
    looks = np.empty((shot[-1] + 1, s.width))
    for i in range(len(looks)):
      if len(present) and rng.random() < s.context:
        c = rng.choice(present)
        trace = self.phases[c, rng.integers(s.phases)]
        looks[i] = s.scene * self.scene_of[c] + s.resemblance * s.action * trace
      else:
        looks[i] = s.scene * self.backgrounds[rng.integers(len(self.backgrounds))]
      looks[i] += s.variation * _unit(rng, s.width)
    return looks[shot]

  def _noise(self, rng, steps):
    """Autoregressive noise `[L, D]`; the mean square length of each step's vector is 1."""
    fresh = rng.standard_normal((steps, self.settings.width)) / math.sqrt(self.settings.width)
    memory = self.settings.memory
    fresh[1:] *= math.sqrt(1 - memory**2)
    return lfilter([1.0], [1.0, -memory], fresh, axis=0)


def _unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
  x = rng.standard_normal(shape)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def parser() -> arguments.Parser:
  """The command's flags."""
  assert __doc__
  p = arguments.Parser("python -m data_pipelines.untrimmed", __doc__, EXAMPLES)
  add = p.add_argument
  arguments.output(p, "folder to write")
  add(
    "--annotations",
    default="",
    help="JSON in ActivityNet's format, to take the times of actions from",
  )
  add("--durations", default="", help="CSV of video_id, duration_s, if the JSON has no durations")
  for name, default, what in (
    ("width", SimulationSettings.width, "feature dimension"),
    ("classes", SimulationSettings.classes, "number of classes, if times are made up"),
    ("videos", 200, "number of training videos, if times are made up"),
    ("eval_videos", 100, "number of evaluation videos, if times are made up"),
    ("seed", 0, "seed of all random draws"),
  ):
    add(f"--{name}", type=int, default=default, help=f"{what} (default: {default})")
  return p


def run(args: argparse.Namespace) -> int:
  """Writes a simulated data set as a folder."""
  given, data = arguments.given(args), config_lib.data()
  del given["output"]
  with data.unlocked():
    data.localization = config_lib.localization()
  fields = data.localization
  fields.untrimmed.update({k: given.pop(k) for k in ("width", "classes")})
  fields.update(given)
  dataset = make(data)
  dataset.write(args.output)
  print(f"{len(dataset.videos)} videos of {len(dataset.label_names)} classes in {args.output}")
  return 0
