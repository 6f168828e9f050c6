"""Fixtures that write tiny videos; frame i of a video is a flat grey of level 10 + 8 i."""

from fractions import Fraction

import av
import numpy as np
import pytest


@pytest.fixture
def make_video():
  """`make_video(path, frames=12, fps=25, ...)` writes a video and returns its path."""
  return _make_video


@pytest.fixture
def make_audio():
  """`make_audio(path)` writes a file with sound alone."""
  return _make_audio


def _make_video(
  path, frames=12, fps=25, size=(32, 24), *, codec="mpeg4", times=None, rotation=0, pattern=None
):
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=Fraction(fps))
    stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
    stream.gop_size = 5
    stream.bit_rate = 2_000_000
    if times is not None:
      stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
    if rotation:
      if not hasattr(stream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a display rotation")
      stream.set_display_rotation(rotation)
    for i in range(frames):
      pixels = np.full((size[1], size[0], 3), 10 + 8 * i % 240, np.uint8)
      if pattern is not None:
        pixels[:] = pattern
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      if times is not None:
        frame.pts, frame.time_base = round(times[i] * 1000), Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def _make_audio(path):
  with av.open(str(path), "w") as container:
    stream = container.add_stream("aac", rate=16000)
    stream.layout = "mono"
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 4096), np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate = 16000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path
