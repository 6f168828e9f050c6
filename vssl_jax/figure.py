"""Helpers for all figures: making a figure without a window, its colors, writing it as PNG."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from vssl_jax import files

_FORMULA = "$\\mathdefault"
RIGHT, WRONG, GREY = "#2a8a3e", "#c0392b", "0.45"


def new(width: float, height: float) -> Any:
  """A figure of the given width and height, inches."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout="constrained")
  FigureCanvasAgg(figure)
  return figure


def save(figure: Any, path: str | os.PathLike[str]) -> None:
  """Writes the figure as PNG and makes the folder; the file appears complete or not at all."""
  from matplotlib.text import Text

  for text in figure.findobj(Text):
    # Names of classes and videos may have dollar signs; only Matplotlib's own numbers are formulas.
    if not text.get_text().startswith(_FORMULA):
      text.set_parse_math(False)
  buffer = io.BytesIO()
  # Leave out Matplotlib's version, so that equal pictures give equal files.
  figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
  files.write_atomic(path, buffer.getvalue())


def visible(frames: Any) -> Any:
  """Frames `[..., H, W, C]` as RGB, of the same type: gray, their channels' mean, if C is not 3."""
  if frames.shape[-1] == 3:
    return frames
  return np.repeat(frames.mean(-1, keepdims=True), 3, axis=-1).astype(frames.dtype)


def colors(count: int) -> list[Any]:
  """One color per class, as distinct as possible for this number of classes."""
  import matplotlib

  name, size = ("tab10", 10) if count <= 10 else ("tab20", 20) if count <= 20 else ("hsv", count)
  table = matplotlib.colormaps[name].resampled(size)
  return [table(i) for i in range(count)]


def short(name: str, length: int = 22) -> str:
  """A name cut to at most `length` characters."""
  return name if len(name) <= length else name[: length - 1] + "…"
