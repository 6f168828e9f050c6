"""What the model will see: `vssl inspect DIR --config=NAME[:variant]`.

Writes a contact sheet of training clips as they enter the encoder (frames from left to right, one
row a clip, after crops and device augmentation) and prints the statistics of the splits. They are
the first videos of a batch of the very run that the config describes. DIR stands for
`config.data.path`; sources without a folder need none.
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
from data_pipelines.text import printable
from vssl_jax.cli import arguments
from vssl_jax.errors import UserError, brief

_COLUMNS = 8  # most frames shown of a clip
_SAMPLE = 200  # records read for statistics where there is no manifest

EXAMPLES = """\
vssl inspect RECORDS --config=cvrl:ucf6
vssl inspect --config=cvrl:demo --batch=3 --noaugment --output=batch3.png
"""


def training_rows(
  config: Any, *, step: int, videos: int
) -> tuple[source.Source, source.Batch, int]:
  """The first videos of batch `step` of a run.

  Args:
    config: the run's.
    step: number of the batch, from 0.
    videos: how many of it at most.

  Returns:
    The source, rows 0 to n − 1 of the batch, and the size of the whole batch: `config.batch_size`,
    or all videos there are where they are fewer (such a run would be refused).

  Raises:
    UserError: the data cannot be read, or has no pixels.
  """
  data, size = config.data, config.batch_size

  def load(size: int) -> source.Source:
    # As the first of as many processes as leave it just enough rows: the others are not decoded.
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
  if found.num_videos < size:
    size = found.num_videos
    found = load(size)
  batch = next(found.train_batches(step))
  if "clips" not in batch:
    raise UserError(f"config.data.source={data.source}: no pixels to show.")
  return found, {k: v[:videos] for k, v in batch.items()}, size


def augmented(config: Any, clips: np.ndarray, step: int) -> np.ndarray:
  """What the encoder gets of the first clips of batch `step` of a run.

  Args:
    config: the run's.
    clips: uint8 `[n, R, T, H, W, 3]`, rows 0 to n − 1 of the batch.
    step: its number.

  Returns:
    float32 of the same shape, normalized by `config.augment.mean` and `std`.
  """
  import jax

  from vssl_jax import augment
  from vssl_jax.ops.step_keys import step_keys

  _, keys = step_keys(config.seed, step, len(clips))  # a row's key is that of any larger batch
  return np.asarray(jax.jit(augment.build(config.augment, config.data.size))(keys, clips))


def contact_sheet(
  clips: np.ndarray, captions: Sequence[Sequence[str]], path: str | pathlib.Path
) -> None:
  """Writes clips as a PNG, one row each, grouped by video.

  Args:
    clips: `[N, R, T, H, W, 3]`, uint8 or float in [0, 1]; at most 8 of the T frames are shown.
    captions: text beside each clip, `[N][R]`.
    path: the file.

  Raises:
    UserError: the file cannot be written.
  """
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  videos, rows, frames, height, width = clips.shape[:5]
  shown = np.unique(np.linspace(0, frames - 1, min(frames, _COLUMNS)).round().astype(int))
  inch = 1.2
  figure, axes = plt.subplots(
    videos * rows,
    len(shown),
    figsize=((len(shown) + 1.6) * inch, videos * rows * (inch * height / width + 0.08)),
    squeeze=False,
    gridspec_kw={"wspace": 0.03, "hspace": 0.05},
  )
  for v in range(videos):
    for r in range(rows):
      for column, t in enumerate(shown):
        axis = axes[v * rows + r, column]
        axis.imshow(clips[v, r, t], vmin=0, vmax=1)
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
          side.set_color("0.75" if v % 2 else "black")
      label = axes[v * rows + r, 0]
      label.set_ylabel(
        _drawable(captions[v][r]),
        rotation=0,
        ha="right",
        va="center",
        fontsize=7,
        parse_math=False,  # a label may hold dollar signs
      )
  try:
    figure.savefig(path, dpi=110, bbox_inches="tight")
  except (OSError, ValueError) as e:
    raise UserError(f"{path}: cannot be written ({brief(e)})") from None
  finally:
    plt.close(figure)


def _drawable(caption: str) -> str:
  """A caption with the characters escaped that Matplotlib's font lacks (it would warn of each)."""
  from matplotlib import font_manager

  known = font_manager.get_font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
  return "".join(
    c if c == "\n" or ord(c) in known else c.encode("unicode_escape").decode() for c in caption
  )


def captions(batch: source.Batch, label_names: Sequence[str]) -> list[list[str]]:
  """Video number, class and first frame of every clip, `[N][R]`."""
  result = []
  for video, label, offsets in zip(batch["video"], batch["label"], batch["offset"], strict=True):
    name = label_names[label] if 0 <= label < len(label_names) else f"label {label}"
    result.append([f"video {video}\n{printable(name)}\nfrom frame {o}" for o in offsets])
  return result


def statistics(folder: str | pathlib.Path) -> str:
  """What a folder of records holds: from its manifest, else from a sample of its records.

  Raises:
    UserError: the folder holds no records.
  """
  from data_pipelines.records import manifest

  if stored := manifest.read(folder):
    return "\n".join(_split_text(name, counts) for name, counts in stored["splits"].items())
  shards = pathlib.Path(folder).glob("*-of-*")
  names = sorted({p.name.rpartition("-of-")[0][:-6] for p in shards} - {""})
  if not names:
    raise UserError(f"{folder}: neither {manifest.MANIFEST} nor shards named SPLIT-00000-of-00008.")
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
    ("classes", "classes"),
  ):
    lines.append(f"  {title}: {_histogram(counts[key])}")
  return "\n".join(lines)


def _scanned_text(folder: str | pathlib.Path, split: str) -> str:
  from data_pipelines.records import index, sequence_example

  where = index.load(folder, split)
  chosen = np.unique(np.linspace(0, len(where) - 1, min(len(where), _SAMPLE)).astype(int))
  videos = [sequence_example.decode(index.read_record(where, int(i))) for i in chosen]
  lengths = [len(v.frames) for v in videos]
  rates = collections.Counter(f"{v.fps:g}" if v.fps else "unknown" for v in videos)
  labels = collections.Counter(v.label_text or str(v.label) for v in videos)
  return "\n".join(
    [
      f"{split}: {len(where):,} records, {where.length.sum() / 1e9:.2f} GB; of {len(chosen)} read:",
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
  """The flags."""
  assert __doc__
  p = arguments.Parser("vssl inspect", __doc__, EXAMPLES, config=True)
  add = p.add_argument
  add("folder", metavar="DIR", nargs="?", default="", help="folder of records")
  add("--output", default="clips.png", metavar="FILE", help="the contact sheet (clips.png)")
  add("--videos", type=int, default=6, help="most videos on the sheet (6)")
  add("--batch", type=int, default=0, help="number of the batch to show (0)")
  arguments.switch(p, "augment", "show clips after device augmentation", default=True)
  return p


def run(args: argparse.Namespace) -> int:
  """Writes the sheet, and prints the statistics."""
  if args.config is None:
    raise UserError("--config is missing: e.g. vssl inspect RECORDS --config=cvrl:ucf6")
  for name, low in {"videos": 1, "batch": 0}.items():
    if getattr(args, name) < low:
      raise UserError(f"--{name}={getattr(args, name)}: give {low} or more.")
  folder = pathlib.Path(args.output).absolute().parent
  if not folder.is_dir():
    raise UserError(f"--output={args.output}: there is no folder {folder}; make it first.")
  config = args.config.copy_and_resolve_references().unlock()
  if args.folder:
    config.data.path = args.folder
  if config.data.source == "tfrecord" and config.data.path:
    print(statistics(config.data.path))
  videos, batch, size = training_rows(config, step=args.batch, videos=args.videos)
  if size < config.batch_size:
    print(
      f"note: training refuses batches of {config.batch_size:,} (config.batch_size), there are "
      f"{size:,} videos; shown is a batch of all"
    )
  clips = batch["clips"] / np.float32(255)
  if args.augment:
    std, mean = (np.array(config.augment[k], np.float32) for k in ("std", "mean"))
    clips = np.clip(augmented(config, batch["clips"], args.batch) * std + mean, 0, 1)
  contact_sheet(clips, captions(batch, videos.label_names), args.output)
  print(f"wrote {args.output}: {len(clips):,} of the {size:,} videos of batch {args.batch}")
  return 0


if __name__ == "__main__":
  from vssl_jax import cli

  sys.exit(cli.run("data_pipelines.inspect"))
