"""Writes what the page of a report shows of videos: a map, neighbors, and small moving clips.

`page/videos.json` has the test videos with their place in the map, what their neighbors vote for,
and the nearest training videos; `page/clips.zip` has a small animated WebP of each, of the center
crop of the middle test clip: what the encoder sees.
"""

from __future__ import annotations

import io
import json
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_pipelines.source import Source
from vssl_jax import figure as figure_lib
from vssl_jax import files, parallel, results
from vssl_jax.evaluation import frozen
from vssl_jax.evaluation.pictures import embedding_plot, gallery
from vssl_jax.evaluation.task import Task
from vssl_jax.probes import features
from vssl_jax.probes import views as views_lib

FOLDER, VIDEOS, CLIPS = "page", "videos.json", "clips.zip"
MOST = 500  # test videos
NEAR = 5  # neighbors of each
_SIDE, _FRAMES = 112, 8  # of a clip, at most
_QUALITY = 60  # of WebP
_SECONDS = 1.2  # that a clip takes, before it begins again
_READ = 128  # videos whose clips are in memory at a time


def write(task: Task, evaluated_sha256: str) -> None:
  """Writes both files, unless they are there for the same encoder and data; all processes call.

  Args:
    task: the videos, and the folder.
    evaluated_sha256: a hash of the encoder, its views and its data.
  """
  folder = task.output / FOLDER
  if parallel.from_first(lambda: _kept(folder / VIDEOS, evaluated_sha256)):
    return
  told = _told(task)
  clips: dict[str, bytes] = {}
  sources = {"query": task.test, "bank": task.train}
  for part, source in sources.items():
    wanted = [video["video"] for video in told[part]]
    clips |= {f"{part}{video}": data for video, data in _clips(source, wanted, task)}
  if not parallel.first():
    return
  archive = io.BytesIO()
  with zipfile.ZipFile(archive, "w") as file:
    for name, data in sorted(clips.items()):
      file.writestr(zipfile.ZipInfo(f"{name}.webp"), data)
  files.write_atomic(folder / CLIPS, archive.getvalue())
  told |= {"evaluated_sha256": evaluated_sha256}
  text = json.dumps(results.plain(told), ensure_ascii=False, separators=(",", ":"))
  files.write_atomic(folder / VIDEOS, files.encode(text))


def _kept(file: pathlib.Path, evaluated_sha256: str) -> bool:
  try:
    found = files.read_json(file)
  except (OSError, ValueError):
    return False
  return isinstance(found, dict) and found.get("evaluated_sha256") == evaluated_sha256


def _told(task: Task) -> dict[str, Any]:
  """What `videos.json` holds, but for the hash."""
  bank, queries, seed = task.bank, task.queries, task.config.seed
  rows = gallery.choose(queries.label, MOST, seed)
  known = np.flatnonzero(bank.label >= 0)
  found: dict[str, Any] = {
    "split": task.config.data.eval_split,
    "bank_split": task.config.data.train_split,
    "label_names": task.label_names,
    "projection": "",
    "query": [],
    "bank": [],
  }
  if not len(rows) or not len(known):
    return found
  votes = frozen.knn_votes(task, queries.mean()[rows]).argmax(axis=1)
  cosine, near = gallery.nearest(bank.mean()[known], queries.mean()[rows], NEAR)
  near = known[near]
  places = np.zeros((len(rows), 2))
  if len(rows) >= 4:
    method = embedding_plot.methods()[0]
    found["projection"] = method
    places = parallel.from_first(
      lambda: embedding_plot.project(queries.mean()[rows], method, seed).tolist()
    )
  found["query"] = [
    _video(queries, row)
    | {
      "place": place,
      "vote": int(vote),
      "near": [int(bank.video[n]) for n in near_],
      "cosine": cosines.tolist(),
    }
    for row, place, vote, near_, cosines in zip(rows, places, votes, near, cosine, strict=True)
  ]
  found["bank"] = [_video(bank, n) for n in np.unique(near)]
  return found


def _video(split: features.Features, row: int) -> dict[str, Any]:
  name = split.names[row] if split.names else ""
  return {"video": int(split.video[row]), "name": name, "label": int(split.label[row])}


def _clips(source: Source, videos: Sequence[int], task: Task) -> Iterator[tuple[int, bytes]]:
  """The videos' numbers and clips, without those that cannot be read; for process 0."""
  views: dict[str, Any] = views_lib.settings(task.config) | {"clips": 1, "crops": 1}
  views.pop("placement", None)  # by default, a single clip comes from the middle
  order = sorted(videos)
  for start in range(0, len(order), _READ):
    wanted = order[start : start + _READ]
    kept = {}
    size = parallel.for_all(min(16, len(wanted)))
    for batch in source.only(wanted).eval_batches(size, **views):
      valid = np.asarray(batch.get("valid", np.ones(len(batch["video"]), bool)))
      for place, video in zip(np.flatnonzero(valid), batch["video"][valid], strict=True):
        kept[wanted[int(video)]] = _few(np.asarray(batch["clips"][place, 0]))
    for video, frames in sorted(parallel.gather_numbered(kept).items()):
      if parallel.first():
        yield video, webp(frames)


def _few(frames: np.ndarray) -> np.ndarray:
  """At most `_FRAMES` of the frames `[T, H, W, C]`, evenly spaced."""
  count = len(frames)
  return frames[np.unique(np.linspace(0, count - 1, min(count, _FRAMES)).round().astype(int))]


def webp(frames: np.ndarray) -> bytes:
  """An animated WebP of frames `[T, H, W, C]` of any number of channels, scaled down if large.

  Frames that are not of 8 bits are shown from their smallest to their largest value.
  """
  from PIL import Image

  shown = figure_lib.visible(frames)
  if shown.dtype != np.uint8:
    low, high = float(shown.min()), float(shown.max())
    shown = (255 * (shown - low) / max(high - low, 1e-9)).astype(np.uint8)
  images = [Image.fromarray(frame) for frame in shown]
  for image in images:
    image.thumbnail((_SIDE, _SIDE))
  out = io.BytesIO()
  images[0].save(
    out,
    "WEBP",
    save_all=True,
    append_images=images[1:],
    duration=int(1000 * _SECONDS / len(images)),
    loop=0,
    quality=_QUALITY,
    method=3,
  )
  return out.getvalue()
