"""Shows what the model will see: `vssl inspect DIR --config=NAME[:variant]`.

Writes a contact sheet of training clips as they enter the encoder, after cropping and augmentation
on the device: one row per clip, frames from left to right. Clips that are not RGB are shown as the
mean of their channels. Clips that are black, of one color or without any motion are marked in red
and listed. Prints the statistics of the splits.
The clips are those of the first videos of a batch, exactly as the run of this config would get
them. DIR sets `config.data.path`; leave it out for sources that need no folder.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines import source
from vssl_jax import files
from vssl_jax.cli import arguments
from vssl_jax.errors import UserError, brief
from vssl_jax.figure import visible
from vssl_jax.files import local, printable

_TOLD = 5  # clips that are listed of each fault
_COLUMNS = 8  # maximum number of frames shown per clip
_BLACK = 20.5 / 255  # the highest value of black: 16 is that of video levels
_EQUAL = 2.5 / 255  # values that differ by less than encoding changes them
_SAMPLE = 200  # records read for the statistics if there is no manifest

EXAMPLES = """\
vssl inspect RECORDS --config=cvrl:ucf6
vssl inspect --config=cvrl:demo --batch=3 --noaugment --output=batch3.png
"""


def training_rows(
  config: Any, *, step: int, videos: int
) -> tuple[source.Source, source.Batch, int]:
  """The first videos of batch `step` of a run.

  Args:
    config: config of the run.
    step: number of the batch, from 0.
    videos: maximum number of videos to return.

  Returns:
    The source, rows 0 to n − 1 of the batch, and the size of the whole batch: `config.batch_size`,
    or the number of videos in the split if that is smaller (training would refuse such a run).

  Raises:
    UserError: the data cannot be read, or has no pixels.
  """
  data, size = config.data, config.batch_size
  if size < 1:
    raise UserError(f"config.batch_size: {size} videos per batch; set it to 1 or more.")

  def load(size: int) -> source.Source:
    # Pretend to be the first of several processes: then only its share of the batch is decoded.
    # The share is the smallest divisor of the batch size with enough rows.
    share = next(n for n in range(min(videos, size), size + 1) if size % n == 0)
    return source.load(
      data,
      split=data.train_split,
      batch_size=size,
      seed=config.seed,
      process_index=0,
      process_count=size // share,
    )

  found = load(size)
  if not found.num_videos:
    raise UserError(f"config.data.train_split: {data.train_split!r} has no videos.")
  if found.num_videos < size:
    size = found.num_videos
    found = load(size)
  batch = next(found.train_batches(step))
  if "clips" not in batch:
    raise UserError(
      f"config.data.source={data.source}: it has features and no pixels to show; use a source of "
      "videos."
    )
  return found, {k: v[:videos] for k, v in batch.items()}, size


def augmented(config: Any, clips: np.ndarray, step: int) -> np.ndarray:
  """Augments the first clips of batch `step` exactly as training does.

  Args:
    config: config of the run.
    clips: uint8 `[n, R, T, H, W, C]`, rows 0 to n − 1 of the batch.
    step: number of the batch.

  Returns:
    The encoder's input, float32 of the same shape, normalized by `config.augment.mean` and `std`.
  """
  import jax

  from vssl_jax import augment
  from vssl_jax.ops.step_keys import step_keys

  # A row's key does not depend on the batch size, so these are the keys of the whole batch's rows.
  _, keys = step_keys(config.seed, step, len(clips))
  d = config.data
  transform = augment.build(config.augment, d.size, channels=d.channels)
  return np.asarray(jax.jit(transform)(keys, clips))


def faults(clips: np.ndarray) -> list[list[str]]:
  """What a model can learn nothing from: `[N][R]`, "" for a clip with nothing of the kind.

  Args:
    clips: `[N, R, T, H, W, C]`, in [0, 1].
  """
  return [[_fault(clip) for clip in video] for video in clips]


def _fault(clip: np.ndarray) -> str:
  if clip.max() <= _BLACK:
    return "black"
  if np.ptp(clip, axis=(1, 2)).max() <= _EQUAL:  # in each frame and channel
    return "one color"
  if len(clip) > 1 and np.ptp(clip, axis=0).max() <= _EQUAL:
    return "no motion"
  return ""


def contact_sheet(
  clips: np.ndarray,
  captions: Sequence[Sequence[str]],
  path: str | pathlib.Path,
  marks: Sequence[Sequence[str]] | None = None,
) -> None:
  """Writes clips as a PNG, one row per clip, grouped by video.

  Args:
    clips: `[N, R, T, H, W, C]`, uint8 or float in [0, 1]; at most 8 of the T frames are shown.
    captions: text beside each clip, `[N][R]`.
    path: the file to write.
    marks: what is wrong with each clip, `[N][R]`, shown in red below its caption; "" if nothing.

  Raises:
    UserError: the file cannot be written.
  """
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  videos, rows, frames, height, width = clips.shape[:5]
  shown = np.unique(np.linspace(0, frames - 1, min(frames, _COLUMNS)).round().astype(int))
  inch = 1.2
  clips = visible(clips)
  figure, axes = plt.subplots(
    videos * rows,
    len(shown),
    figsize=((len(shown) + 1.6) * inch, videos * rows * (inch * height / width + 0.08)),
    squeeze=False,
    gridspec_kw={"wspace": 0.03, "hspace": 0.05},
  )
  for v in range(videos):
    for r in range(rows):
      mark = marks[v][r] if marks else ""
      for column, t in enumerate(shown):
        axis = axes[v * rows + r, column]
        axis.imshow(clips[v, r, t], vmin=0, vmax=1)
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
          side.set_color("red" if mark else "0.75" if v % 2 else "black")
      label = axes[v * rows + r, 0]
      label.set_ylabel(
        _drawable("\n".join([captions[v][r], mark.upper()]).rstrip()),
        color="red" if mark else "black",
        rotation=0,
        ha="right",
        va="center",
        fontsize=7,
        parse_math=False,  # a label may contain dollar signs
      )
  try:
    figure.savefig(path, dpi=110, bbox_inches="tight")
  except (OSError, ValueError) as e:
    raise UserError(f"{path}: cannot be written ({brief(e)})") from None
  finally:
    plt.close(figure)


def _drawable(caption: str) -> str:
  """Escapes the characters that Matplotlib's font lacks; it would print a warning for each."""
  from matplotlib import font_manager

  known = font_manager.get_font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
  return "".join(
    c if c == "\n" or ord(c) in known else c.encode("unicode_escape").decode() for c in caption
  )


def captions(batch: source.Batch, label_names: Sequence[str]) -> list[list[str]]:
  """Captions `[N][R]`: video number, class and first frame of each clip."""
  result = []
  for video, label, offsets in zip(batch["video"], batch["label"], batch["offset"], strict=True):
    name = label_names[label] if 0 <= label < len(label_names) else f"label {label}"
    result.append([f"video {video}\n{printable(name)}\nfrom frame {o}" for o in offsets])
  return result


def statistics(folder: str | pathlib.Path) -> str:
  """Describes a folder of records, from its manifest or else from a sample of its records.

  Raises:
    UserError: the folder has no records.
  """
  from data_pipelines.records import manifest

  if stored := manifest.read(folder):
    return "\n".join(_split_text(name, counts) for name, counts in stored["splits"].items())
  shards = files.matching(files.path(folder), "*-of-*")
  names = sorted({p.name.rpartition("-of-")[0][:-6] for p in shards} - {""})
  if not names:
    raise UserError(
      f"{folder}: has neither {manifest.MANIFEST} nor shards named SPLIT-00000-of-00008; make them "
      "with `vssl prepare`."
    )
  return "\n".join(_scanned_text(folder, name) for name in names)


def _split_text(name: str, counts: dict[str, Any]) -> str:
  lines = [
    f"{name}: {counts['videos']:,} videos, {counts['records']:,} records, "
    f"{counts['frames']:,} frames, {counts['seconds'] / 3600:.2f} h, {counts['bytes'] / 1e9:.2f} GB"
    f", unreadable {len(counts['unreadable']):,}"
  ]
  for title, key in (
    ("seconds", "durations"),
    ("frames per second", "fps"),
    ("size in the files", "size"),
    ("size stored", "stored_size"),
    ("encoded videos", "forms"),
    ("classes", "classes"),
  ):
    if key == "forms" and key not in counts:
      continue
    lines.append(f"  {title}: {_histogram(counts[key])}")
  return "\n".join(lines)


def _scanned_text(folder: str | pathlib.Path, split: str) -> str:
  from data_pipelines.encoded import example
  from data_pipelines.records import index, sequence_example

  def described(record: bytes) -> tuple[int, sequence_example.Video]:
    length = example.length_of(record)
    if length is None:
      video = sequence_example.decode(record)
      return len(video.frames), video
    return length, sequence_example.about(record, length)

  where = index.load(folder, split)
  chosen = np.unique(np.linspace(0, len(where) - 1, min(len(where), _SAMPLE)).astype(int))
  found = [described(index.read_record(where, int(i))) for i in chosen]
  lengths, videos = [length for length, _ in found], [video for _, video in found]
  rates = collections.Counter(f"{v.fps:g}" if v.fps else "unknown" for v in videos)
  labels = collections.Counter(v.label_text or str(v.label) for v in videos)
  gigabytes = where.length().sum() / 1e9
  return "\n".join(
    [
      f"{split}: {len(where):,} records, {gigabytes:.2f} GB; {len(chosen)} sampled:",
      f"  frames: {min(lengths)} to {max(lengths)}, median {int(np.median(lengths))}",
      f"  frames per second: {_histogram(rates)}",
      f"  classes: {_histogram(labels)}",
    ]
  )


def _histogram(counts: dict[str, int], most: int = 12) -> str:
  items = list(counts.items())
  text = ", ".join(f"{printable(key) or 'none'} ({count:,})" for key, count in items[:most])
  return text + (f", and {len(items) - most} more" if len(items) > most else "")


def parser() -> arguments.Parser:
  """The command's flags."""
  assert __doc__
  p = arguments.Parser("vssl inspect", __doc__, EXAMPLES, config=True)
  add = p.add_argument
  add("folder", metavar="DIR", nargs="?", default="", help="folder of records")
  add(
    "--output", default="clips.png", metavar="FILE", help="PNG file to write (default: clips.png)"
  )
  add("--videos", type=int, default=6, help="largest number of videos to show (default: 6)")
  arguments.switch(p, "verify", "first compare the SHA-256 of every shard with the manifest")
  add("--batch", type=int, default=0, help="number of the batch to show, from 0 (default: 0)")
  arguments.switch(p, "augment", "show clips as augmented on the device", default=True)
  return p


def run(args: argparse.Namespace) -> int:
  """Writes the contact sheet and prints the statistics."""
  if args.config is None:
    raise UserError("--config is missing: e.g. vssl inspect RECORDS --config=cvrl:ucf6")
  for name, low in {"videos": 1, "batch": 0}.items():
    if getattr(args, name) < low:
      raise UserError(f"--{name}={getattr(args, name)}: give {low} or more.")
  folder = local(args.output).absolute().parent
  if not folder.is_dir():
    raise UserError(f"--output={args.output}: there is no folder {folder}; make it first.")
  config = args.config.copy_and_resolve_references().unlock()
  if args.folder:
    config.data.path = args.folder
  if args.verify:
    if config.data.source != "tfrecord" or not config.data.path:
      raise UserError("--verify: it is of records; give their folder.")
    from data_pipelines.records import manifest

    shards = manifest.verify(config.data.path)
    print(f"{printable(str(config.data.path))}: {shards:,} shards are those of the manifest")
  if config.data.source == "tfrecord" and config.data.path:
    print(statistics(config.data.path))
  videos, batch, size = training_rows(config, step=args.batch, videos=args.videos)
  if size < config.batch_size:
    print(
      f"note: config.batch_size is {config.batch_size:,}, but there are only {size:,} videos, so "
      "training would stop; here the batch holds all videos"
    )
  clips = batch["clips"] / np.float32(255)
  marks = faults(clips)
  if args.augment:
    from vssl_jax.augment import settings

    channels = config.data.channels
    std, mean = (
      np.array(settings.channels(config.augment, k, channels), np.float32) for k in ("std", "mean")
    )
    clips = np.clip(augmented(config, batch["clips"], args.batch) * std + mean, 0, 1)
    after = faults(clips)
    marks = [
      [x or (y and f"{y} after augmentation") for x, y in zip(*two, strict=True)]
      for two in zip(marks, after, strict=True)
    ]
  shown = captions(batch, videos.label_names)
  contact_sheet(clips, shown, args.output, marks)
  for line in listed(marks, shown):
    print(line)
  written = printable(str(local(args.output).absolute()))
  print(f"wrote {written}: {len(clips):,} of the {size:,} videos of batch {args.batch}")
  return 0


def listed(marks: Sequence[Sequence[str]], captions: Sequence[Sequence[str]]) -> list[str]:
  """A line for each kind of fault: how many clips have it, and which."""
  where: dict[str, list[str]] = {}
  for video, texts in zip(marks, captions, strict=True):
    for mark, text in zip(video, texts, strict=True):
      if mark:
        where.setdefault(mark, []).append(text.replace("\n", " "))
  total = sum(map(len, marks))
  return [
    f"note: {len(which)} of {total} clips: {mark}: {'; '.join(which[:_TOLD])}"
    + (f"; and {len(which) - _TOLD} more" if len(which) > _TOLD else "")
    for mark, which in where.items()
  ]


if __name__ == "__main__":
  from vssl_jax import cli

  sys.exit(cli.run("data_pipelines.inspect"))
