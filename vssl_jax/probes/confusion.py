"""Shows the errors of a classifier: confusion matrix as PNG, table of classes as Markdown."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vssl_jax import figure as figure_lib
from vssl_jax import files
from vssl_jax.probes.metrics import Accuracy

CELLS, COLUMNS = "_confusion.csv", ("class", "predicted", "videos")  # ending and head of a file
_ANNOTATED = 20  # with at most this many classes, the cells show counts
_NAMED = 60  # with at most this many classes, the axes show every class name
_PAIRS = 40  # number of most frequent confusions listed next to a larger matrix
_WEAKEST = 20  # number of classes with the lowest accuracy listed there


def write_classes(
  picture: str | os.PathLike[str], name: str, scored: Accuracy, label_names: Sequence[str]
) -> None:
  """Writes a confusion matrix and, next to it, the table of classes as `.md` (process 0 only).

  `<name>_confusion.csv` has the columns class, predicted and videos, for each cell that is not
  empty.
  """
  if jax.process_index() > 0:
    return
  title = f"{name}: top-1 {100 * scored.top1:.1f} %"
  confusion_png(picture, scored.confusion, label_names, title)
  table = class_table(scored, label_names)
  picture = files.path(picture)
  files.write_atomic(picture.with_suffix(".md"), table.encode())
  names = class_names(label_names, len(scored.confusion))
  cells = io.StringIO()
  rows = csv.writer(cells, lineterminator="\n")
  rows.writerow(COLUMNS)
  rows.writerows(
    (names[i], names[j], scored.confusion[i, j]) for i, j in np.argwhere(scored.confusion)
  )
  files.write_atomic(picture.with_name(f"{picture.stem}{CELLS}"), files.encode(cells.getvalue()))


def class_names(label_names: Sequence[str], classes: int) -> list[str]:
  """The class names, or the class indices if the number of names is not `classes`."""
  return list(label_names) if len(label_names) == classes else [str(i) for i in range(classes)]


def class_table(accuracy: Accuracy, label_names: Sequence[str] = ()) -> str:
  """A Markdown table: per class its videos, top-1, and the class it is most often confused with."""
  names = [files.markdown(n) for n in class_names(label_names, len(accuracy.confusion))]
  lines = ["| class | videos | top-1 | taken for |", "|---|---:|---:|---|"]
  for i, row in enumerate(accuracy.confusion):
    wrong = row.copy()
    wrong[i] = 0
    other = f"{names[wrong.argmax()]} ({wrong.max()})" if wrong.any() else ""
    top1 = f"{100 * accuracy.per_class[i]:.1f} %" if row.any() else "–"
    lines.append(f"| {names[i]} | {row.sum()} | {top1} | {other} |")
  mean = f"{100 * accuracy.mean_class:.1f} %"
  lines.append(f"| **mean over classes** | {accuracy.confusion.sum()} | {mean} | |")
  return "\n".join(lines) + "\n"


def confusion_png(
  path: str | os.PathLike[str],
  confusion: np.ndarray,
  label_names: Sequence[str] = (),
  title: str = "",
) -> None:
  """Draws a confusion matrix: true classes in rows, each row's fractions as shades.

  With few classes, every cell shows its count. With many, the axes show class indices, and a list
  next to the matrix names the most frequent confusions and the weakest classes.

  Args:
    path: path of the PNG; written completely or not at all.
    confusion: int [K, K], number of videos by true and predicted class.
    label_names: K names.
    title: title above the picture.
  """
  classes = len(confusion)
  names = class_names(label_names, classes)
  share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
  side = 9.0 if classes > _NAMED else 3.5 + 0.24 * min(classes, 40) + 0.3 * min(classes, 8)
  figure = figure_lib.new(side + (5.5 if classes > _NAMED else 0), side)
  if classes > _NAMED:
    axes, words = figure.subplots(1, 2, width_ratios=(side, 5.0))
    _write_words(words, confusion, names)
  else:
    axes = figure.subplots()
  # The square root makes a fraction of 1 % visible.
  image = axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
  bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02)
  ticks = np.array([0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0])
  bar.set_ticks(np.sqrt(ticks), labels=[f"{100 * t:g} %" for t in ticks])
  bar.set_label("share of the true class")
  axes.set(xlabel="predicted class", ylabel="true class")
  if title:
    axes.set_title(title)
  if classes <= _NAMED:
    size = 10 if classes <= _ANNOTATED else 7
    shown = [n if len(n) <= 24 else n[:23] + "…" for n in names]
    axes.set_xticks(
      range(classes),
      shown,
      rotation=45 if classes <= _ANNOTATED else 90,
      ha="right" if classes <= _ANNOTATED else "center",
      fontsize=size,
    )
    axes.set_yticks(range(classes), shown, fontsize=size)
  if classes <= _ANNOTATED:
    for i, j in np.ndindex(confusion.shape):
      if confusion[i, j]:
        color = "white" if share[i, j] > 0.35 else "black"
        axes.text(j, i, str(confusion[i, j]), ha="center", va="center", color=color)
  figure_lib.save(figure, path)


def _write_words(axes: Any, confusion: np.ndarray, names: Sequence[str]) -> None:
  wrong = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
  videos = confusion.sum(axis=1)
  lines = ["most frequent confusions: videos of true class → predicted class", ""]
  for cell in np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]:
    i, j = divmod(int(cell), len(confusion))
    if wrong[i, j]:
      lines.append(f"{wrong[i, j]:>4} of {videos[i]:<5} {i} {names[i]} → {j} {names[j]}")
  lines += ["", "weakest classes: correct videos", ""]
  share = np.where(videos > 0, np.diag(confusion) / np.maximum(videos, 1), np.inf)
  for i in np.argsort(share, kind="stable")[:_WEAKEST]:
    if videos[i]:
      lines.append(f"{confusion[i, i]:>4} of {videos[i]:<5} {i} {names[i]}")
  axes.axis("off")
  text = "\n".join(line if len(line) <= 76 else line[:75] + "…" for line in lines)
  axes.text(0, 1, text, va="top", fontsize=7.5, family="monospace")
