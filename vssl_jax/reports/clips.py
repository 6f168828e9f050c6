"""Small moving clips for the page, made smaller until all of them fit."""

from __future__ import annotations

import base64
import io
import pathlib
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

from vssl_jax import files
from vssl_jax.reports.reading import text

_LARGEST = 1 << 20  # bytes of a clip in a file
_SIDES = 1024  # largest side of its pictures
_SAMPLE = 24  # clips by which a level is judged first
_BASE64 = 4 / 3


class Level(NamedTuple):
  """How clips are written: largest side in pixels, frames at most, WebP's quality."""

  side: int
  frames: int
  quality: int


LEVELS = (
  Level(96, 8, 50),
  Level(96, 6, 35),
  Level(80, 6, 30),
  Level(64, 6, 25),
  Level(64, 4, 20),
  Level(48, 4, 15),
  Level(48, 1, 15),
)


def read(archive: pathlib.Path, names: Sequence[str]) -> dict[str, bytes]:
  """The clips of these names that a zip file has, as they are; damaged ones are left out.

  Raises:
    OSError: the file cannot be read, or is no zip file.
  """
  found = {}
  try:
    with files.open_read(archive) as file, zipfile.ZipFile(file) as opened:
      sizes = {info.filename: info.file_size for info in opened.infolist()}
      for name in names:
        if sizes.get(f"{name}.webp", _LARGEST) < _LARGEST:
          data = opened.read(f"{name}.webp")
          if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            found[name] = data
  except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as e:
    raise OSError(f"{archive.name}: {text(e, 100)}") from None
  return found


def fit(clips: dict[str, bytes], budget: float) -> tuple[dict[str, str], str]:
  """Clips as base64 that together take at most `budget` bytes.

  Args:
    clips: WebP by name, the most important first.
    budget: bytes of base64.

  Returns:
    The clips, and in words what was done to them, "" for nothing. If even the smallest form is too
    large, the last ones are left out.
  """
  if sum(map(len, clips.values())) * _BASE64 + 4 * len(clips) <= budget:
    return {name: _text(data) for name, data in clips.items()}, ""
  names = list(clips)
  few = names[:: max(1, len(names) // _SAMPLE)]
  for level in LEVELS:
    small = [len(d) for n in few if (d := smaller(clips[n], level)) is not None]
    likely = _BASE64 * len(names) * sum(small) / max(len(small), 1)
    if likely > 1.1 * budget and level != LEVELS[-1]:
      continue
    kept, left = {}, budget
    for name in names:
      data = smaller(clips[name], level)
      size = len(_text(data)) if data is not None else 0
      if data is None or size > left:
        if level != LEVELS[-1] and data is not None:
          break
        continue
      kept[name], left = _text(data), left - size
    else:
      words = f"at most {level.side} pixels and {level.frames} frames"
      lost = len(names) - len(kept)
      return kept, f"Clips are made smaller to fit ({words})" + (
        f"; {lost} have none." if lost else "."
      )
  return {}, "There is no room for clips."


def smaller(data: bytes, level: Level) -> bytes | None:
  """A clip at a level; None if it is damaged."""
  from PIL import Image, ImageSequence

  try:
    with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
      if max(image.size) > _SIDES:
        return None
      count = getattr(image, "n_frames", 1)
      wanted = {round(i * (count - 1) / max(level.frames - 1, 1)) for i in range(level.frames)}
      frames, total = [], 0
      for i, frame in enumerate(ImageSequence.Iterator(image)):
        total += int(frame.info.get("duration", 0))
        if i in wanted:
          kept = frame.convert("RGB")
          kept.thumbnail((level.side, level.side))
          frames.append(kept)
    out = io.BytesIO()
    duration = max(20, total // len(frames))
    frames[0].save(
      out,
      "WEBP",
      save_all=len(frames) > 1,
      append_images=frames[1:],
      duration=duration,
      loop=0,
      quality=level.quality,
      method=2,
    )
  except (OSError, ValueError, SyntaxError, IndexError, Image.DecompressionBombError):
    return None
  return out.getvalue()


def _text(data: bytes) -> str:
  return base64.b64encode(data).decode()
