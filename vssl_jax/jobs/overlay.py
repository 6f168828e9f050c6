"""A video with its timeline burnt in: what is predicted when, and what is going on now."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.videos import decode, jpeg
from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.localization.annotations import Prediction, Segment

SMALLEST, LARGEST = 240, 480  # shorter side of the pictures, pixels
LANES = 4  # classes with a lane, those with the most certain predictions
SURE = 0.5  # of the highest score of the video: from here on a prediction is named on the frame
_LANE, _TEXT, _EDGE = 16, 11, 4  # pixels
_BACK, _INK, _NOW = (24, 24, 24), (235, 235, 235), (255, 255, 255)
# Told apart with any color vision (Okabe and Ito 2008).
_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167))
_BASE = Fraction(1, 90_000)  # seconds


def write(
  path: str | os.PathLike[str],
  video: str | os.PathLike[str],
  predictions: Sequence[Prediction],
  *,
  seconds: float,
  truth: Sequence[Segment] = (),
) -> None:
  """Writes an MP4 (H.264, without sound) of the video with a lane per class below its frames.

  Segments are drawn stronger the higher their score; a line shows the present time. Annotated
  actions, if there are any, have a white bar on top of their lane. The names of actions whose score
  is at least half of the highest are on the frame while they last.

  Args:
    path: the file to write; it appears only when it is complete.
    video: a video file.
    predictions: what was found in it.
    seconds: the length of the timeline.
    truth: the annotated actions.

  Raises:
    UserError: the video cannot be read.
  """
  timeline: _Timeline | None = None
  with files.replacing(path) as file:
    try:
      with av.open(file, "w", format="mp4") as out:
        stream: Any = None
        last = -1
        for time, picture in _frames(video):
          if timeline is None:
            timeline = _Timeline(predictions, truth, seconds, picture.shape[1])
            stream = _stream(out, picture.shape[1], picture.shape[0] + timeline.height)
          whole = np.concatenate([timeline.named(picture, time), timeline.at(time)])
          frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(whole), format="rgb24")
          last = max(last + 1, round(time / _BASE))
          frame.pts, frame.time_base = last, _BASE
          out.mux(stream.encode(frame))
        if stream is None:
          raise UserError(f"{video}: has no frames.")
        out.mux(stream.encode())
    except decode.UnreadableError as error:
      raise UserError(f"{video}: {error}.") from None


def _stream(out: Any, width: int, height: int) -> Any:
  stream = out.add_stream("libx264", rate=25)
  stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
  stream.time_base = stream.codec_context.time_base = _BASE
  stream.codec_context.options = {"crf": "21", "preset": "fast"}
  return stream


def _frames(video: str | os.PathLike[str]) -> Iterator[tuple[float, np.ndarray]]:
  """Seconds and upright pictures of even width and height."""
  pictures = jpeg.Pictures(LARGEST)
  with decode.opened(video) as source:
    for time, frame in source:
      pictures.aspect = source.aspect
      picture = Image.fromarray(pictures(frame))
      scale = max(1.0, SMALLEST / min(picture.size))
      size = [max(2, 2 * round(scale * side / 2)) for side in picture.size]
      yield time, np.asarray(picture.resize((size[0], size[1]), Image.Resampling.BICUBIC))


class _Timeline:
  """The lanes, drawn once, and the names on the frames."""

  def __init__(
    self, predictions: Sequence[Prediction], truth: Sequence[Segment], seconds: float, width: int
  ):
    best: dict[str, float] = {}
    for p in predictions:
      best[p.label] = max(best.get(p.label, -np.inf), p.score)
    ranked = sorted(best, key=lambda name: -best[name])
    labels = list(dict.fromkeys([*ranked[:LANES], *sorted({s.label for s in truth})]))
    self._colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(labels)}
    self._truth, self._seconds, self._width = truth, max(seconds, 1e-3), width
    low = min((p.score for p in predictions), default=0.0)
    high = max((p.score for p in predictions), default=1.0)
    self._weight = lambda score: (score - low) / (high - low) if high > low else 1.0
    self._found = [p for p in predictions if p.label in self._colors]
    self._names: dict[tuple[str, ...], np.ndarray] = {}
    self._strip = self._drawn(labels)
    self.height = self._strip.shape[0]

  def _x(self, time: float) -> int:
    share = min(max(time / self._seconds, 0.0), 1.0)
    return round(share * (self._width - 1))

  def _drawn(self, labels: Sequence[str]) -> np.ndarray:
    height = max(1, len(labels)) * _LANE + 2 * _EDGE
    image = Image.new("RGB", (self._width, height + height % 2), _BACK)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_TEXT)
    for p in sorted(self._found, key=lambda p: p.score):  # the most certain on top
      top = _EDGE + labels.index(p.label) * _LANE
      strength = 0.2 + 0.8 * self._weight(p.score)
      color = _mixed(self._colors[p.label], strength)
      draw.rectangle((self._x(p.start), top + 2, self._x(p.end), top + _LANE - 2), fill=color)
    for s in self._truth:
      top = _EDGE + labels.index(s.label) * _LANE
      draw.rectangle((self._x(s.start), top, self._x(s.end), top + 1), fill=_INK)
    for i, name in enumerate(labels):
      place = (_EDGE, _EDGE + i * _LANE + 1)
      draw.text(place, files.printable(name)[:40], _INK, font, stroke_width=1, stroke_fill=_BACK)
    if not labels:
      draw.text((_EDGE, _EDGE), "nothing found", _INK, font)
    return np.asarray(image)

  def at(self, time: float) -> np.ndarray:
    """The lanes with a line at the present time, uint8 `[H, W, 3]`."""
    strip = self._strip.copy()
    x = self._x(time)
    strip[:, max(x - 1, 0) : x + 1] = _NOW
    return strip

  def named(self, picture: np.ndarray, time: float) -> np.ndarray:
    """The picture with the names of what is going on in its corner."""
    now = [p for p in self._found if p.start <= time < p.end and self._weight(p.score) >= SURE]
    names = tuple(dict.fromkeys(p.label for p in sorted(now, key=lambda p: -p.score)))
    if not names:
      return picture
    if names not in self._names:
      self._names[names] = self._label(names)
    label = self._names[names][: picture.shape[0], : picture.shape[1]]
    marked = picture.copy()
    marked[: label.shape[0], : label.shape[1]] = label
    return marked

  def _label(self, names: tuple[str, ...]) -> np.ndarray:
    font = ImageFont.load_default(_TEXT + 2)
    lines = [files.printable(name)[:40] for name in names]
    width = max(round(font.getlength(line)) for line in lines) + 3 * _EDGE
    image = Image.new("RGB", (width, (_TEXT + 7) * len(lines)), _BACK)
    draw = ImageDraw.Draw(image)
    for i, (name, line) in enumerate(zip(names, lines, strict=True)):
      top = i * (_TEXT + 7)
      draw.rectangle((0, top, 2, top + _TEXT + 6), fill=self._colors[name])
      draw.text((2 * _EDGE, top + 2), line, _INK, font)
    return np.asarray(image)


def _mixed(color: tuple[int, int, int], strength: float) -> tuple[int, int, int]:
  r, g, b = (round(strength * c + (1 - strength) * k) for c, k in zip(color, _BACK, strict=True))
  return r, g, b
