"""What the model will see: `python -m data_pipelines.inspect DIR --config=FILE[:variant]`.

Writes a contact sheet of training clips as they enter the encoder (frames from left to right, one
row a clip, after crops and device augmentation) and prints the statistics of the splits. They are
the first videos of a batch of the very run that the config describes. DIR stands for
`config.data.path`; sources without a folder need none.
"""

from __future__ import annotations

import collections
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from data_pipelines import source
from data_pipelines.text import printable
from vssl_jax.errors import UserError, brief

_COLUMNS = 8  # most frames shown of a clip
_SAMPLE = 200  # records read for statistics where there is no manifest

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, variant after a colon.")
_OUTPUT = flags.DEFINE_string("output", "clips.png", "The contact sheet.")
_VIDEOS = flags.DEFINE_integer("videos", 6, "Most videos on the sheet.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 0, "Number of the batch to show.", lower_bound=0)
_AUGMENT = flags.DEFINE_bool("augment", True, "Show clips after device augmentation.")


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


def main(argv: Sequence[str]) -> int:
  """See the module's docstring; exit status 0, or 2 where the input is bad."""
  try:
    if _CONFIG.value is None or len(argv) > 2:
      raise UserError("usage: python -m data_pipelines.inspect DIR --config=configs/cvrl.py")
    folder = pathlib.Path(_OUTPUT.value).absolute().parent
    if not folder.is_dir():
      raise UserError(f"--output={_OUTPUT.value}: there is no folder {folder}; make it first.")
    config = _CONFIG.value.copy_and_resolve_references().unlock()
    if len(argv) == 2:
      config.data.path = argv[1]
    if config.data.source == "tfrecord" and config.data.path:
      print(statistics(config.data.path))
    step = _BATCH.value
    videos, batch, size = training_rows(config, step=step, videos=_VIDEOS.value)
    if size < config.batch_size:
      print(
        f"note: training refuses batches of {config.batch_size:,} (config.batch_size), there are "
        f"{size:,} videos; shown is a batch of all"
      )
    clips = batch["clips"] / np.float32(255)
    if _AUGMENT.value:
      std, mean = (np.array(config.augment[k], np.float32) for k in ("std", "mean"))
      clips = np.clip(augmented(config, batch["clips"], step) * std + mean, 0, 1)
    contact_sheet(clips, captions(batch, videos.label_names), _OUTPUT.value)
    print(f"wrote {_OUTPUT.value}: {len(clips):,} of the {size:,} videos of batch {step}")
  except UserError as e:
    print(f"error: {printable(str(e))}", file=sys.stderr)
    return 2
  return 0


def _parse(argv: list[str]) -> list[str]:
  """Flags and config, with anything wrong in them told in one line."""
  try:
    rest = flags.FLAGS(argv)
    if _CONFIG.value is not None:
      _ = _CONFIG.value.name  # a config file that failed to load says so only when it is read
  except Exception as e:
    print(f"error: {printable(brief(e))}", file=sys.stderr)
    raise SystemExit(2) from e
  return rest


if __name__ == "__main__":
  logging.set_verbosity(logging.WARNING)
  app.run(main, flags_parser=_parse)
