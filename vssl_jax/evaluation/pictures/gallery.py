"""Draws retrieval results: queries with their nearest videos, marked as right or wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from data_pipelines.source import Source
from vssl_jax import figure as figure_lib
from vssl_jax import parallel
from vssl_jax.ops import tiles
from vssl_jax.ops.sphere import l2_normalize

_SIZE = 128  # side of a thumbnail in pixels
_CLIPS = 3  # clips read per video; the thumbnail comes from the middle one


def choose(label: np.ndarray, rows: int, seed: int) -> np.ndarray:
  """Draws the queries to show at random, taking one video of each class in turn.

  Args:
    label: int `[Q]`; videos with a negative label are never chosen.
    rows: number of queries; fewer if there are not enough videos.
    seed: seed of the draw.

  Returns:
    int64 `[≤ rows]`, positions in `label`, sorted by class.
  """
  label = np.asarray(label)
  rng = np.random.default_rng(seed)
  order = rng.permutation(np.flatnonzero(label >= 0))
  seen: dict[int, int] = {}
  turn = np.empty(len(order), np.int64)
  for i, place in enumerate(order):
    turn[i] = seen.get(int(label[place]), 0)
    seen[int(label[place])] = turn[i] + 1
  chosen = order[np.argsort(turn, kind="stable")][:rows]
  return chosen[np.argsort(label[chosen], kind="stable")]


def nearest(bank: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Cosines and positions `[Q, count]` of each query's nearest rows in the bank, nearest first."""
  cosine, found = tiles.nearest(
    l2_normalize(jnp.asarray(queries)), l2_normalize(jnp.asarray(bank)), min(count, len(bank)), 1024
  )
  return np.asarray(cosine), np.asarray(found)


def frames(source: Source, videos: Sequence[int], size: int = _SIZE) -> dict[int, np.ndarray]:
  """The center crop of the middle frame of the given videos: uint8 `[size, size, C]` by index.

  Videos that cannot be read are missing. Each process reads its share, and gets those of all.
  """
  wanted = sorted({int(v) for v in videos})
  views: dict[str, Any] = {
    "clips": _CLIPS,
    "crops": 1,
    "frames": 1,
    "stride": 1,
    "resize": size,
    "size": size,
  }
  kept = {}
  for batch in source.only(wanted).eval_batches(parallel.for_all(min(16, len(wanted))), **views):
    valid = batch.get("valid", np.ones(len(batch["video"]), bool))
    for place, video in zip(np.flatnonzero(valid), batch["video"][valid], strict=True):
      kept[wanted[int(video)]] = np.array(batch["clips"][place, _CLIPS // 2, 0])
  return parallel.gather_numbered(kept)


def draw(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
  """Draws one row per query; neighbors of its class have a green frame and a tick, others red.

  Args:
    path: path of the PNG.
    rows: for each query `query`, a thumbnail, and `neighbors`, a list of thumbnails, nearest
      first. A thumbnail has `frame` uint8 `[H, W, C]` or None, `label` (class name), `name` (of the
      video) and, for neighbors, `cosine` and `right`.
    title: title above the picture.
  """
  near = max(len(r["neighbors"]) for r in rows)
  side, step, rise, head, edge = 1.35, 1.48, 1.72, 0.95, 0.12  # inches
  left = [edge] + [edge + 0.2 + step * (i + 1) for i in range(near)]
  width, height = left[-1] + side + edge, head + rise * len(rows)
  figure = figure_lib.new(width, height)
  figure.set_layout_engine("none")  # a grid of equal squares is placed by hand
  for i, row in enumerate(rows):
    bottom = height - head - rise * i - side
    for x, item in zip(left, [row["query"], *row["neighbors"]], strict=False):
      axis = figure.add_axes((x / width, bottom / height, side / width, side / height))
      _thumbnail(axis, item)
  heads = ((left[0], "query"), (left[1], f"{near} nearest training videos, nearest first"))
  for x, text in heads:
    figure.text(x / width, 1 - (head - 0.08) / height, text, fontsize=10, fontweight="bold")
  figure.text(edge / width, 1 - edge / height, title, fontsize=9, va="top", parse_math=False)
  figure_lib.save(figure, path)


def _thumbnail(axis: Any, item: Mapping[str, Any]) -> None:
  axis.axis("on")
  frame = item["frame"]
  shown = np.full((2, 2, 3), 230, np.uint8) if frame is None else figure_lib.visible(frame)
  axis.imshow(shown, aspect="equal")
  axis.set_xticks([])
  axis.set_yticks([])
  right = item.get("right")
  color = figure_lib.GREY if right is None else figure_lib.RIGHT if right else figure_lib.WRONG
  for side in axis.spines.values():
    side.set(color=color, linewidth=1.0 if right is None else 3.0)
  mark = "" if right is None else "✓ " if right else "✗ "
  text = f"{mark}{figure_lib.short(item['label'], 17)}"
  if "cosine" in item:
    text += f"\ncosine {item['cosine']:.3f}"
  elif item["name"]:
    text += f"\n{figure_lib.short(item['name'].rsplit('/', 1)[-1].rsplit('.', 1)[0], 25)}"
  axis.set_xlabel(
    text, fontsize=7.0, labelpad=3, color="black" if right is None else color, parse_math=False
  )
