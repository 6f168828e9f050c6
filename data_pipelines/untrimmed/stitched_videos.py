"""Stitches untrimmed videos from trimmed ones, with exact ground truth.

  python -m data_pipelines.untrimmed.stitched_videos VIDEOS OUTPUT --actions=jump,run

VIDEOS is what `vssl prepare` takes: class folders, a CSV or lists, with splits. Videos of some
classes are actions, those of all others fill the time between actions; unlabeled ones do, too. So a
background is as real as an action, and differs from it by nothing but its class. Source videos of
one split make the untrimmed videos of this split alone.

Lengths of actions and gaps are log-normal, or those of real videos with --annotations. Excerpts
keep the order of their frames; if a source is shorter than an action, another of its class follows.
All frames have one rate and one size: they are resized to cover it, and cropped at the center.

OUTPUT gets `videos/<split>_<number>.mp4`, `annotations.json` in ActivityNet's format, and
`stitched.json` with the settings, the excerpts that each video is made of, and the sources that
could not be read. The same command again continues where it was broken off.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import numpy as np
from PIL import Image

from data_pipelines.encoded import h264
from data_pipelines.listing import given, video_list
from data_pipelines.listing.video_list import Entry
from data_pipelines.records import fingerprint
from data_pipelines.source import generator
from data_pipelines.untrimmed import action_times, stitched
from data_pipelines.videos import decode, jpeg, rates
from data_pipelines.videos.damage import UnreadableError
from vssl_jax import cli, files
from vssl_jax.cli import arguments, progress
from vssl_jax.errors import UserError
from vssl_jax.localization import annotations as annotations_lib
from vssl_jax.localization.annotations import Video

EXAMPLES = """\
python -m data_pipelines.untrimmed.stitched_videos VIDEOS OUTPUT --actions=jump,run
python -m data_pipelines.untrimmed.stitched_videos videos.csv OUTPUT --split_column=split1 \\
  --annotations=gt.json --durations=durations.csv --max_seconds=120
"""
FILE = "stitched.json"
_STITCH = 7  # `purpose` of the random numbers, see `source.generator`


@dataclasses.dataclass(frozen=True)
class StitchSettings:
  """What is made.

  Attributes:
    actions: classes that are actions; () for the first half of all classes.
    counts: number of untrimmed videos of each split.
    fps: frames per second.
    size: width and height, pixels.
    max_seconds: longest untrimmed video.
    second_class: probability that a video has actions of two classes.
    crf: quality of H.264, 0 to 51; lower is better and larger.
    seed: seed of all random draws.
  """

  actions: tuple[str, ...]
  counts: Mapping[str, int]
  fps: float = 25.0
  size: tuple[int, int] = (172, 128)
  max_seconds: float = 120.0
  second_class: float = 0.2
  crf: int = 20
  seed: int = 0

  def __post_init__(self):
    if not 0 < self.fps <= 240 or len(self.size) != 2 or min(self.size) < 16:
      raise UserError("--fps must be in (0, 240], and --size two numbers of at least 16 pixels.")
    if not 0 <= self.crf <= 51:
      raise UserError(f"--crf={self.crf} is not in [0, 51].")


def pictures(
  path: str, entry: Entry, settings: StitchSettings, first: int = 0, count: int | None = None
) -> Iterator[av.VideoFrame]:
  """Some frames of a source video at the rate and size of the untrimmed ones.

  Raises:
    UnreadableError: the video cannot be read, perhaps after some frames.
  """
  width, height = settings.size
  upright = jpeg.Pictures(0)
  with decode.opened(path, entry.start) as source:
    shown = rates.between(source, entry.start, entry.end)
    for i, (_, frame) in enumerate(rates.at_rate(shown, settings.fps)):
      if count is not None and i >= first + count:
        return
      if i < first:
        continue
      upright.aspect = source.aspect
      picture = Image.fromarray(upright(frame))
      scale = max(width / picture.width, height / picture.height)
      box_width, box_height = width / scale, height / scale
      left, top = (picture.width - box_width) / 2, (picture.height - box_height) / 2
      box = (left, top, left + box_width, top + box_height)
      resized = picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
      yield av.VideoFrame.from_ndarray(np.asarray(resized), format="rgb24")


def chosen(entries: Sequence[Entry], wanted: Sequence[str]) -> Sequence[str]:
  """The classes that are actions: those that are wanted, or the first half of all.

  Raises:
    UserError: one is no class of the videos.
  """
  classes = video_list.sort_labels(e.label for e in entries)
  if not classes:
    raise UserError("these videos have no labels: actions need class folders or a column 'label'.")
  unknown = [name for name in wanted if name not in classes]
  if unknown:
    raise UserError(
      f"--actions: {unknown[0]!r} is no class of these videos; choose from {', '.join(classes)}."
    )
  return wanted or classes[: (len(classes) + 1) // 2]


def stitch(
  entries: Sequence[Entry],
  lengths: Mapping[int, int],
  settings: StitchSettings,
  times: action_times.Lengths,
) -> dict[str, tuple[Video, np.ndarray]]:
  """What each untrimmed video is made of; depends on the arguments alone.

  Args:
    entries: the source videos.
    lengths: number of frames of each that can be read, by its position.
    settings: what is made.
    times: lengths of actions and gaps to draw from.

  Returns:
    By name, the annotation, and the frames as int `[L, 2]`: position of the source video, and
    number of the frame.

  Raises:
    UserError: an action is no class, or a split lacks videos of an action or of the background.
  """
  actions, found = chosen(entries, settings.actions), {}
  for split, count in settings.counts.items():
    pools: dict[str, list[np.ndarray]] = {name: [] for name in ("", *actions)}
    for i, entry in enumerate(entries):
      if entry.split == split and lengths.get(i, 0) > 0:
        frames = np.stack([np.full(lengths[i], i), np.arange(lengths[i])], axis=1)
        pools[entry.label if entry.label in actions else ""].append(frames)
    lacking = [
      name or "the background (all other classes)" for name, pool in pools.items() if not pool
    ]
    if lacking:
      raise UserError(
        f"no readable video of {lacking[0]} in split {split!r}; its splits are "
        f"{', '.join(sorted({e.split for e in entries}))}: see --splits and --actions."
      )
    drawn = action_times.draw(
      times,
      actions,
      count,
      subset=split,
      seed=settings.seed,
      max_seconds=settings.max_seconds,
      second_class=settings.second_class,
    )
    for v, (name, video) in enumerate(drawn.items()):
      rng = generator(settings.seed, zlib.crc32(split.encode()), v, _STITCH)
      found[name] = stitched.stitch(video, pools, rng, step_seconds=1 / settings.fps)
  return found


def excerpts(frames: np.ndarray) -> list[tuple[int, int, int]]:
  """Runs of frames `[L, 2]` that follow each other: (source, first frame, number of frames)."""
  cuts = np.flatnonzero((np.diff(frames[:, 0]) != 0) | (np.diff(frames[:, 1]) != 1)) + 1
  parts = np.split(frames, cuts)
  return [(int(p[0, 0]), int(p[0, 1]), len(p)) for p in parts]


def build(
  entries: Sequence[Entry],
  paths: Sequence[str],
  output: str | os.PathLike,
  settings: StitchSettings,
  times: action_times.Lengths,
) -> dict[str, Any]:
  """Writes the data set; continues one that was broken off.

  Args:
    entries: the source videos.
    paths: their files.
    output: the folder.
    settings: what is made.
    times: lengths of actions and gaps to draw from.

  Returns:
    What `stitched.json` has.

  Raises:
    UserError: see `stitch`; or the folder has videos of other settings or sources.
  """
  chosen(entries, settings.actions)  # before minutes of counting
  folder = files.make_folder(output)
  wanted = [i for i, e in enumerate(entries) if e.split in settings.counts]
  counted, unreadable = _count(entries, paths, wanted, settings)
  plan = stitch(entries, counted, settings, times)
  found: dict[str, Any] = {
    "settings": {**dataclasses.asdict(settings), "actions": [*settings.actions]},
    "unreadable": {paths[i]: why for i, why in unreadable.items()},
    "videos": {
      name: [[paths[i], first, count] for i, first, count in excerpts(frames)]
      for name, (_, frames) in plan.items()
    },
  }
  found["fingerprint"] = fingerprint.of(repr(found), [counted.get(i) for i in wanted])
  note = folder / FILE
  if note.exists():
    before = files.parse_json(files.read_text(note))
    if not isinstance(before, dict) or before.get("fingerprint") != found["fingerprint"]:
      raise UserError(
        f"{note}: the videos here are of other settings or sources; give another folder."
      )
  files.write_atomic(note, json.dumps(found, indent=1).encode())
  clips = files.make_folder(folder / "videos")
  left = [name for name in plan if not (clips / f"{name}.mp4").exists()]

  def write(name: str) -> None:
    shown = _shown(entries, paths, plan[name][1], settings)
    made = h264.Encoder(settings.size, settings.crf)(shown, settings.fps)
    with files.replacing(clips / f"{name}.mp4") as file:
      file.write(made.content)

  _all(write, left, "stitching", len(plan))
  annotations_lib.write_annotations(
    folder / "annotations.json", {name: video for name, (video, _) in plan.items()}
  )
  return found


def _shown(
  entries: Sequence[Entry], paths: Sequence[str], frames: np.ndarray, settings: StitchSettings
) -> Iterator[tuple[float, av.VideoFrame]]:
  step = 0
  for i, first, count in excerpts(frames):
    end = step + count
    for picture in pictures(paths[i], entries[i], settings, first, count):
      yield step / settings.fps, picture
      step += 1
    if step != end:
      raise UserError(f"{paths[i]}: was changed while it was read; start again in another folder.")


def _count(
  entries: Sequence[Entry], paths: Sequence[str], wanted: Sequence[int], settings: StitchSettings
) -> tuple[dict[int, int], dict[int, str]]:
  """The number of frames of each source at the rate, and why some cannot be read."""
  counted: dict[int, int] = {}
  unreadable: dict[int, str] = {}

  def count(i: int) -> None:
    try:
      with decode.opened(paths[i], entries[i].start) as source:
        shown = rates.between(source, entries[i].start, entries[i].end)
        counted[i] = sum(1 for _ in rates.at_rate(shown, settings.fps))
      if not counted[i]:
        raise UnreadableError("no frames")
    except UnreadableError as error:
      counted.pop(i, None)
      unreadable[i] = str(error)

  _all(count, wanted, "counting frames", len(wanted))
  return counted, dict(sorted(unreadable.items()))


def _all(work: Any, items: Sequence[Any], title: str, total: int) -> None:
  """Calls `work` for all items, several at a time; stops at the first error."""
  with (
    ThreadPoolExecutor(os.cpu_count()) as pool,
    progress.bar(title, total, done=total - len(items)) as bar,
  ):
    try:
      for _ in pool.map(work, items):
        bar.update()
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise


def parser() -> arguments.Parser:
  """The command's flags."""
  assert __doc__
  p = arguments.Parser("python -m data_pipelines.untrimmed.stitched_videos", __doc__, EXAMPLES)
  add, s = p.add_argument, StitchSettings((), {})
  add("input", metavar="VIDEOS", help="class folders, a CSV or lists of trimmed videos")
  add("output", metavar="OUTPUT", help="folder to write")
  add("--split_column", help="column of the CSV with each video's split")
  add(
    "--split_list", nargs="+", default=(), metavar="FILE", help="official lists of UCF101 or HMDB51"
  )
  add("--root", help="folder that relative paths of a CSV or list start from")
  listed = arguments.listed()
  add("--actions", type=listed, default=(), help="classes that are actions (default: half of them)")
  add("--splits", type=listed, default=("train", "test"), help="splits (default: train,test)")
  add(
    "--videos",
    type=arguments.listed(int),
    default=(200, 100),
    help="number of untrimmed videos of each split (default: 200,100)",
  )
  add("--annotations", default="", help="JSON of ActivityNet's form, for the lengths to draw from")
  add("--durations", default="", help="CSV of video_id, duration_s, if the JSON has none")
  add("--size", type=arguments.listed(int), default=s.size, help="pixels (default: 172,128)")
  for name, what in (
    ("fps", "frames per second"),
    ("max_seconds", "longest untrimmed video"),
    ("second_class", "probability of actions of two classes in a video"),
    ("crf", "quality of H.264, 0 to 51; lower is better and larger"),
    ("seed", "seed of all random draws"),
  ):
    value = getattr(s, name)
    add(f"--{name}", type=type(value), default=value, help=f"{what} (default: {value:g})")
  return p


def run(args: argparse.Namespace) -> int:
  """Writes the data set, and prints what it is; status 3 if sources could not be read."""
  if len(args.splits) != len(args.videos):
    raise UserError(f"--videos needs a number for each of the splits {', '.join(args.splits)}.")
  listing = given.videos(
    args.input, split_column=args.split_column, split_list=args.split_list, root=args.root
  )
  settings = StitchSettings(
    args.actions,
    dict(zip(args.splits, args.videos, strict=True)),
    **{k: getattr(args, k) for k in ("fps", "max_seconds", "second_class", "crf", "seed")},
    size=args.size,
  )
  times = action_times.typical()
  if args.annotations:
    real = annotations_lib.read_annotations(args.annotations, durations=args.durations or None)
    times = action_times.lengths_of(real)
  paths = [video_list.locate(listing.root, e.path) for e in listing.entries]
  found = build(listing.entries, paths, args.output, settings, times)
  for path, why in found["unreadable"].items():
    print(f"left out: {files.printable(f'{path}: {why}')}", file=sys.stderr)
  seconds = sum(n for parts in found["videos"].values() for _, _, n in parts) / settings.fps
  print(f"{len(found['videos'])} videos of {seconds / 3600:.2f} hours in {args.output}")
  return 3 if found["unreadable"] else 0


if __name__ == "__main__":
  sys.exit(cli.run("data_pipelines.untrimmed.stitched_videos"))
