"""Draws the pictures of the uncertainty analysis: training, quantiles, corruptions, mined pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vssl_jax import figure as figure_lib
from vssl_jax.figure import GREY, RIGHT, WRONG

_BLUE, _ORANGE = "#1f5fa8", "#d9601a"
_RUNS = (_BLUE, _ORANGE, "#2a8a3e", "#7b4ab5", "#8a6d1f", "#444444")
_MARKS = "osD^vP"
_UNCERTAINTY = "uncertainty  Σ σ² of a video"


def training(path: str | os.PathLike[str], runs: Mapping[str, Mapping[str, Any]]) -> None:
  """Draws uncertainty and R@1 of the evaluation videos over training, one panel per run.

  Args:
    path: path of the PNG.
    runs: by run name: `training`, rows of `epoch`, `uncertainty`, `predicted` and `R@1`; optionally
      `logged`, `[n, 2]`, epoch and uncertainty of the training batches.
  """
  figure = figure_lib.new(0.8 + 4.6 * len(runs), 4.0)
  axes = figure.subplots(1, len(runs), squeeze=False, sharey=True)[0]
  twins = [a.twinx() for a in axes]
  for i, (axis, twin, (name, run)) in enumerate(zip(axes, twins, runs.items(), strict=True)):
    rows = run["training"]
    epochs = [r["epoch"] for r in rows]
    logged = np.asarray(run.get("logged", ()), float).reshape(-1, 2)
    lines = []
    if len(logged):
      lines += axis.plot(*logged.T, color=_BLUE, lw=1, alpha=0.4, label="training batches: Σ σ²")
    both = [r["uncertainty"] for r in rows]
    head = [r["predicted"] for r in rows]
    lines += axis.plot(epochs, both, "o-", color=_BLUE, label="evaluation videos: Σ σ²")
    lines += axis.plot(epochs, head, "o:", color=_BLUE, mfc="white", label="the head's part of it")
    rate = [100 * r["R@1"] for r in rows]
    lines += twin.plot(epochs, rate, "s-", color=_ORANGE, label="evaluation videos: R@1")
    axis.set(title=name, xlabel="epoch", xlim=(0, None))
    axis.tick_params(axis="y", colors=_BLUE)
    twin.tick_params(axis="y", colors=_ORANGE)
    twin.set_ylim(0, max(_top(r, "training", "R@1") for r in runs.values()) * 115)
    if i == 0:
      axis.set_ylabel(_UNCERTAINTY, color=_BLUE)
    if i == len(runs) - 1:
      twin.set_ylabel("R@1, %", color=_ORANGE)
  axes[0].set_ylim(0, None)  # the axis is shared, so set its range after all panels are drawn
  columns = 2 if len(runs) == 1 else 4
  figure.legend(handles=lines, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
  figure_lib.save(figure, path)


def quantiles(
  path: str | os.PathLike[str], runs: Mapping[str, Sequence[Mapping[str, float]]]
) -> None:
  """Draws R@1 of groups of videos, from lowest to highest uncertainty, with standard errors.

  Args:
    path: path of the PNG.
    runs: by run name: rows of `correlation.by_quantile`.
  """
  figure = figure_lib.new(5.6, 3.9)
  axis = figure.subplots()
  for i, (name, rows) in enumerate(runs.items()):
    x = np.arange(len(rows)) + 0.05 * (i - (len(runs) - 1) / 2)
    rate, error = ([100 * r[k] for r in rows] for k in ("R@1", "error"))
    axis.errorbar(
      x, rate, error, fmt=_MARKS[i % 6] + "-", color=_RUNS[i % 6], capsize=3, label=name
    )
  n = len(rows)
  axis.set_xlim(-0.4, n - 0.6)
  ends = {0: "\nmost certain", n - 1: "\nleast certain"}
  axis.set_xticks(range(n), [f"{j + 1}{ends.get(j, '')}" for j in range(n)])
  axis.set(xlabel="videos in groups by uncertainty", ylabel="R@1, %")
  axis.set_ylim(0, None)
  axis.legend(frameon=False)
  axis.grid(axis="y", color="0.9")
  figure_lib.save(figure, path)


def corruption(
  path: str | os.PathLike[str], runs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
  """Draws uncertainty (top) and R@1 (bottom) over the strength of each corruption.

  Args:
    path: path of the PNG.
    runs: by run name: rows of `name` ("" for the clean videos), `strength`, `uncertainty`,
      `predicted` (dotted) and `R@1`.
  """
  kinds = list(dict.fromkeys(r["name"] for rows in runs.values() for r in rows if r["name"]))
  figure = figure_lib.new(2.7 * len(kinds) + 0.6, 5.4)
  axes = figure.subplots(2, len(kinds), squeeze=False, sharey="row", sharex="col")
  for column, kind in enumerate(kinds):
    for i, (name, rows) in enumerate(runs.items()):
      own = sorted((r for r in rows if r["name"] in (kind, "")), key=lambda r: r["strength"])
      x = [r["strength"] for r in own]
      for axis, key, scale in zip(axes[:, column], ("uncertainty", "R@1"), (1, 100), strict=True):
        y = [scale * r[key] for r in own]
        axis.plot(x, y, _MARKS[i % 6] + "-", color=_RUNS[i % 6], label=name, clip_on=False)
        axis.grid(axis="y", color="0.9")
      head = [r["predicted"] for r in own]
      axes[0, column].plot(x, head, ":", color=_RUNS[i % 6], label=f"{name}, the head's part")
    axes[0, column].set_title(kind)
    axes[1, column].set_xlabel(_STRENGTH.get(kind, "strength"))
    axes[1, column].set_xlim(0, None)
  axes[0, 0].set_ylabel(_UNCERTAINTY)
  axes[0, 0].set_ylim(0, None)
  axes[1, 0].set_ylabel("R@1, %")
  axes[1, 0].set_ylim(0, None)
  handles, names = axes[0, 0].get_legend_handles_labels()
  figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
  figure_lib.save(figure, path)


_STRENGTH = {
  "blur": "std, fraction of height",
  "noise": "std, fraction of white",
  "occlusion": "fraction of area",
  "dropped frames": "fraction of frames",
}


def pairs(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], title: str) -> None:
  """Draws anchors with their mined positives and hardest negatives as thumbnails.

  The border of a thumbnail is green if its label equals the anchor's, red if it differs, and gray
  if either is unknown.

  Args:
    path: path of the PNG.
    rows: one row per anchor: `anchor`, a thumbnail; `positives` and `negatives`, lists of
      thumbnails, nearest first. A thumbnail has `frame` uint8 `[H, W, C]`, `video` (index),
      `uncertainty`, `label` (class name, "" if unknown) and, except for anchors, `distance`.
    title: title above the picture.
  """
  near = max(1, *(len(r["positives"]) for r in rows))
  far = max(1, *(len(r["negatives"]) for r in rows))
  gap = 0.18
  widths = [1, gap, *[1] * near, gap, *[1] * far]
  height, width = rows[0]["anchor"]["frame"].shape[:2]
  inch = 1.25
  tall = inch * height / width + 0.48
  figure = figure_lib.new(inch * 1.06 * sum(widths), tall * len(rows) + 0.75)
  grid = figure.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths)
  for axis in grid.ravel():
    axis.axis("off")
    axis.set_box_aspect(height / width)  # titles then have the same height, with or without picture
  for axes in grid:
    for column in (1, 2 + near):
      axes[column].set_box_aspect(None)
  heads = {0: "video", 2: "mined positives, nearest first", 3 + near: "hardest negatives"}
  for column, text in heads.items():
    grid[0, column].set_title(text, fontsize=9, loc="left", fontweight="bold", pad=7)
  for axes, row in zip(grid, rows, strict=True):
    _thumbnail(axes[0], row["anchor"], None)
    for first, key in ((2, "positives"), (3 + near, "negatives")):
      for axis, item in zip(axes[first:], row[key], strict=False):
        _thumbnail(axis, item, row["anchor"]["label"])
      if not row[key]:
        axes[first].text(
          0.5,
          0.5,
          "none",
          ha="center",
          va="center",
          color=GREY,
          fontsize=9,
          transform=axes[first].transAxes,
        )
  figure.suptitle(title, fontsize=9, x=0.01, ha="left")
  figure_lib.save(figure, path)


def _thumbnail(axis: Any, item: Mapping[str, Any], anchor: str | None) -> None:
  axis.axis("on")
  axis.imshow(figure_lib.visible(item["frame"]), interpolation="nearest")
  axis.set_xticks([])
  axis.set_yticks([])
  known = anchor and item["label"]
  color = (RIGHT if item["label"] == anchor else WRONG) if known else GREY
  for side in axis.spines.values():
    side.set(color=color, linewidth=2.5 if known else 1)
  name = item["label"] if len(item["label"]) <= 14 else item["label"][:13] + "…"
  name = f"{name}  #{item['video']}".strip()
  apart = f"D {item['distance']:.3g}   " if "distance" in item else ""
  text = f"{name}\n{apart}Σσ² {item['uncertainty']:.2f}"
  axis.set_xlabel(text, fontsize=7.5, labelpad=3, parse_math=False)


def _top(run: Mapping[str, Any], part: str, key: str) -> float:
  return max([r[key] for r in run[part]] + [0.01])
