"""Results for people and programs: one RESULT line, a JSON file, tables, a confusion matrix."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vssl_jax import figure as figure_lib
from vssl_jax.io import files
from vssl_jax.probes.metrics import Accuracy

_ANNOTATED = 20  # up to so many classes, cells carry numbers
_NAMED = 60  # up to so many, every class has its name on the axes
_PAIRS = 40  # most frequent confusions listed beside a larger matrix
_WEAKEST = 20  # classes likewise


EXACT = 17  # digits that tell any two floats apart


def plain(value: Any, digits: int = 4) -> Any:
  """Turns a tree of results into JSON's own types.

  Floats are rounded to `digits` decimals (below 0.1: to as many significant digits), NaN and
  infinities become None, arrays lists, and mappings dicts with sorted string keys.
  """
  if isinstance(value, ConfigDict):
    value = value.to_dict()
  if isinstance(value, Mapping):
    return {str(k): plain(value[k], digits) for k in sorted(value, key=str)}
  if isinstance(value, np.ndarray | jax.Array):
    return plain(np.asarray(value).tolist(), digits)
  if isinstance(value, Sequence) and not isinstance(value, str):
    return [plain(x, digits) for x in value]
  if isinstance(value, bool | np.bool_):
    return bool(value)
  if isinstance(value, int | np.integer):
    return int(value)
  if isinstance(value, float | np.floating):
    x = float(value)
    if not math.isfinite(x):
      return None
    return round(x, digits) if abs(x) >= 0.1 else float(f"{x:.{digits}g}")
  if value is None or isinstance(value, str):
    return value
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  raise TypeError(f"a result cannot hold a {type(value).__name__}: {value!r}")


def result_line(result: Mapping[str, Any]) -> str:
  """`RESULT {json}` on one line, keys sorted, floats rounded: equal results, equal lines.

  `per_class` is left out, wherever it stands: it may have hundreds of entries.
  """

  def short(value: Any) -> Any:
    if isinstance(value, dict):
      return {k: short(v) for k, v in value.items() if k != "per_class"}
    return value

  return "RESULT " + json.dumps(short(plain(result)), ensure_ascii=False, allow_nan=False)


def write_json(result: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
  """Writes the whole result as indented JSON; the file appears whole or not at all."""
  text = json.dumps(plain(result), indent=2, ensure_ascii=False, allow_nan=False)
  write_atomic(path, (text + "\n").encode())


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes a file beside its final name, then renames it; makes the folder."""
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  with files.replacing(path) as file:
    file.write(data)


def tree_hash(tree: Any) -> str:
  """SHA-256 over names, types, shapes and bytes of every array: equal only if bit-identical."""
  digest = hashlib.sha256()
  for path, x in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
    x = np.asarray(x)
    digest.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}\n".encode())
    digest.update(np.ascontiguousarray(x).tobytes())
  return digest.hexdigest()


def config_hash(config: ConfigDict) -> str:
  """SHA-256 of the config's JSON, whatever the order of its fields."""
  text = json.dumps(json.loads(config.to_json()), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: str | os.PathLike[str]) -> str:
  """SHA-256 of a file."""
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def class_names(label_names: Sequence[str], classes: int) -> list[str]:
  """The names, or the classes' numbers where there are not as many names."""
  return list(label_names) if len(label_names) == classes else [str(i) for i in range(classes)]


def class_table(accuracy: Accuracy, label_names: Sequence[str] = ()) -> str:
  """Markdown: each class, its videos, top-1 within it, and what it is most often taken for."""
  names = class_names(label_names, len(accuracy.confusion))
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
  """Draws a confusion matrix, true classes in rows, each row's shares as shades.

  Few classes: every cell has its count. Many: the axes are numbered, and the most frequent
  confusions and the weakest classes stand beside the matrix in words.

  Args:
    path: of the PNG; appears whole or not at all.
    confusion: int [K, K], videos by true and predicted class.
    label_names: K names.
    title: above the picture.
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
  # The square root lets a share of one hundredth be seen.
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
    axes.set_xticks(range(classes), shown, rotation=45 if classes <= _ANNOTATED else 90,
                    ha="right" if classes <= _ANNOTATED else "center", fontsize=size)  # fmt: skip
    axes.set_yticks(range(classes), shown, fontsize=size)
  if classes <= _ANNOTATED:
    for i, j in np.ndindex(confusion.shape):
      if confusion[i, j]:
        colour = "white" if share[i, j] > 0.35 else "black"
        axes.text(j, i, str(confusion[i, j]), ha="center", va="center", color=colour)
  figure_lib.save(figure, path)


def _write_words(axes: Any, confusion: np.ndarray, names: Sequence[str]) -> None:
  wrong = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
  videos = confusion.sum(axis=1)
  lines = ["most frequent confusions: videos of true class → predicted class", ""]
  for cell in np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]:
    i, j = divmod(int(cell), len(confusion))
    if wrong[i, j]:
      lines.append(f"{wrong[i, j]:>4} of {videos[i]:<5} {i} {names[i]} → {j} {names[j]}")
  lines += ["", "weakest classes: videos told right", ""]
  share = np.where(videos > 0, np.diag(confusion) / np.maximum(videos, 1), np.inf)
  for i in np.argsort(share, kind="stable")[:_WEAKEST]:
    if videos[i]:
      lines.append(f"{confusion[i, i]:>4} of {videos[i]:<5} {i} {names[i]}")
  axes.axis("off")
  text = "\n".join(line if len(line) <= 76 else line[:75] + "…" for line in lines)
  axes.text(0, 1, text, va="top", fontsize=7.5, family="monospace")
