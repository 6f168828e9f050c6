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
  path,
  frames=12,
  fps=25,
  size=(32, 24),
  *,
  codec="mpeg4",
  times=None,
  rotation=0,
  pattern=None,
  matrix=None,
  aspect=None,
  b_frames=0,
  sound=0,
):
  """Writes a video.

  Args:
    path: file to write; its extension chooses the container.
    frames: number of frames.
    fps: frames per second.
    size: width and height, pixels.
    codec: FFmpeg's name of the encoder.
    times: seconds of each frame, instead of `fps`.
    rotation: display rotation, counter-clockwise degrees.
    pattern: picture of all frames, instead of levels of grey.
    matrix: display matrix, nine integers.
    aspect: sample aspect ratio.
    b_frames: number of frames between two others that are stored after them.
    sound: seconds of silence in a second stream.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=Fraction(fps))
    stream.width, stream.height = size
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    stream.gop_size = 5
    stream.bit_rate = 2_000_000
    if b_frames:
      # Exactly so many, where x264 would choose.
      stream.codec_context.options = {"bf": str(b_frames), "x264-params": "b-adapt=0"}
    if aspect is not None:
      stream.codec_context.sample_aspect_ratio = Fraction(aspect)
    if matrix is not None:
      if not hasattr(stream, "set_display_matrix"):
        pytest.skip("this PyAV cannot write a display matrix")
      stream.set_display_matrix(matrix)
    silence = _stream_of_sound(container) if sound else None
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
    if silence is not None:
      _add_silence(container, silence, sound)
  return path


def _stream_of_sound(container):
  stream = container.add_stream("aac", rate=16000)
  stream.layout = "mono"
  return stream


def _add_silence(container, stream, seconds):
  for i in range(round(seconds * 16000 / 1024)):
    samples = np.zeros((1, 1024), np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 16000, 1024 * i
    frame.time_base = Fraction(1, 16000)
    container.mux(stream.encode(frame))
  container.mux(stream.encode())


def _make_audio(path):
  with av.open(str(path), "w") as container:
    stream = _stream_of_sound(container)
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 4096), np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate = 16000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path
