"""What the model will see: `python -m data_pipelines.inspect DIR --config=FILE[:variant]`.

Writes a contact sheet of training clips as they enter the encoder (frames from left to right, one
row a clip, after crops and device augmentation) and prints the statistics of the splits. DIR
stands for `config.data.path`; sources without a folder need none.
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
from vssl_jax.errors import UserError

_COLUMNS = 8  # most frames shown of a clip
_SAMPLE = 200  # records read for statistics where there is no manifest

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, variant after a colon.")
_OUTPUT = flags.DEFINE_string("output", "clips.png", "The contact sheet.")
_VIDEOS = flags.DEFINE_integer("videos", 6, "Videos on the sheet.")
_BATCH = flags.DEFINE_integer("batch", 0, "Number of the batch to show.")
_AUGMENT = flags.DEFINE_bool("augment", True, "Show clips after device augmentation.")


def contact_sheet(
  clips: np.ndarray, captions: Sequence[Sequence[str]], path: str | pathlib.Path
) -> None:
  """Writes clips as a PNG, one row each, grouped by video.

  Args:
    clips: `[N, R, T, H, W, 3]`, uint8 or float in [0, 1]; at most 8 of the T frames are shown.
    captions: text beside each clip, `[N][R]`.
    path: the file.
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
      label.set_ylabel(captions[v][r], rotation=0, ha="right", va="center", fontsize=7)
  figure.savefig(path, dpi=110, bbox_inches="tight")
  plt.close(figure)


def captions(batch: source.Batch, label_names: Sequence[str]) -> list[list[str]]:
  """Video number, class and first frame of every clip, `[N][R]`."""
  result = []
  for video, label, offsets in zip(batch["video"], batch["label"], batch["offset"], strict=True):
    name = label_names[label] if 0 <= label < len(label_names) else f"label {label}"
    result.append([f"video {video}\n{name}\nfrom frame {o}" for o in offsets])
  return result


def statistics(folder: str | pathlib.Path) -> str:
  """What a folder of records holds: from its manifest, else from a sample of its records.

  Raises:
    UserError: the folder holds no records.
  """
  from data_pipelines import manifest

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
    ("frames a second", "fps"),
    ("size in the files", "size"),
    ("size stored", "stored_size"),
    ("classes", "classes"),
  ):
    lines.append(f"  {title}: {_histogram(counts[key])}")
  return "\n".join(lines)


def _scanned_text(folder: str | pathlib.Path, split: str) -> str:
  from data_pipelines import index, records

  where = index.load(folder, split)
  chosen = np.unique(np.linspace(0, len(where) - 1, min(len(where), _SAMPLE)).astype(int))
  videos = [records.decode(index.read_record(where, int(i))) for i in chosen]
  lengths = [len(v.frames) for v in videos]
  rates = collections.Counter(f"{v.fps:g}" if v.fps else "unknown" for v in videos)
  labels = collections.Counter(v.label_text or str(v.label) for v in videos)
  return "\n".join(
    [
      f"{split}: {len(where):,} records, {where.length.sum() / 1e9:.2f} GB; of {len(chosen)} read:",
      f"  frames: {min(lengths)} to {max(lengths)}, median {int(np.median(lengths))}",
      f"  frames a second: {_histogram(rates)}",
      f"  classes: {_histogram(labels)}",
    ]
  )


def _histogram(counts: dict[str, int], most: int = 12) -> str:
  items = list(counts.items())
  text = ", ".join(f"{key or 'none'} ({count:,})" for key, count in items[:most])
  return text + (f", and {len(items) - most} more" if len(items) > most else "")


def main(argv: Sequence[str]) -> int:
  """See the module's docstring; exit status 0, or 2 where the input is bad."""
  config = _CONFIG.value
  try:
    if config is None or len(argv) > 2:
      raise UserError("usage: python -m data_pipelines.inspect DIR --config=configs/cvrl.py")
    data = config.data.copy_and_resolve_references().unlock()
    if len(argv) == 2:
      data.path = argv[1]
    if data.source == "tfrecord" and data.path:
      print(statistics(data.path))
    videos = source.load(data, split=data.train_split, batch_size=_VIDEOS.value, seed=config.seed)
    batch = next(videos.train_batches(_BATCH.value))
    if "clips" not in batch:
      raise UserError(f"config.data.source={data.source}: no pixels to show.")
    clips = batch["clips"] / np.float32(255)
    if _AUGMENT.value:
      clips = _augmented(config, batch["clips"])
    contact_sheet(clips, captions(batch, videos.label_names), _OUTPUT.value)
    print(f"wrote {_OUTPUT.value}: {_VIDEOS.value} videos, batch {_BATCH.value}")
  except UserError as e:
    print(f"error: {e}", file=sys.stderr)
    return 2
  return 0


def _augmented(config: Any, clips: np.ndarray) -> np.ndarray:
  import jax

  from vssl_jax import augment

  keys = jax.random.split(jax.random.key(config.seed), len(clips))
  run = jax.jit(augment.build(config.augment, config.data.size))
  std, mean = (np.array(config.augment[k], np.float32) for k in ("std", "mean"))
  return np.clip(np.asarray(run(keys, clips)) * std + mean, 0, 1)


if __name__ == "__main__":
  logging.set_verbosity(logging.WARNING)
  app.run(main)
