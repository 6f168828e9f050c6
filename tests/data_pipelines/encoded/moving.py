"""Tiny videos of a texture that moves, in any codec, pixel format and container."""

from fractions import Fraction

import av
import numpy as np
import PIL.Image
import pytest

from tests.data_pipelines.conftest import _add_silence, _stream_of_sound


def texture(size, t, v=0):
  """Frame t of video v, uint8 `[H, W, 3]`; it moves by two pixels from frame to frame."""
  rng = np.random.default_rng(v)
  width, height = size
  noise = rng.integers(0, 255, (-(-height // 4), -(-(width + 512) // 4), 3), np.uint8)
  wide = PIL.Image.fromarray(noise).resize((width + 512, height), PIL.Image.Resampling.BICUBIC)
  return np.asarray(wide)[:, 2 * t : 2 * t + width]


def write(
  path,
  frames=25,
  fps=25,
  size=(48, 32),
  *,
  v=0,
  codec="libx264",
  pix_fmt="yuv420p",
  times=None,
  matrix=None,
  aspect=None,
  b_frames=0,
  sound=0,
  damaged=(),
):
  """Writes a video; for the arguments see `make_video`; the packets `damaged` are noise."""
  path.parent.mkdir(parents=True, exist_ok=True)
  frames = len(times) if times is not None else frames
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=Fraction(fps))
    (stream.width, stream.height), stream.pix_fmt = size, pix_fmt
    stream.gop_size, stream.bit_rate = 8, 2_000_000
    if codec == "libx264":
      stream.codec_context.options = {"bf": str(b_frames), "x264-params": "b-adapt=0:asm=SSE4.2"}
    if aspect is not None:
      stream.codec_context.sample_aspect_ratio = Fraction(aspect)
    if matrix is not None:
      if not hasattr(stream, "set_display_matrix"):
        pytest.skip("this PyAV cannot write a display matrix")
      stream.set_display_matrix(matrix)
    silence = _stream_of_sound(container) if sound else None
    if times is not None:
      stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
    for t in range(frames):
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture(size, t, v)), format="rgb24")
      if times is not None:
        frame.pts, frame.time_base = round(times[t] * 1000), Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
    if silence is not None:
      _add_silence(container, silence, sound)
  if damaged:
    _damage(path, damaged)
  return path


def _damage(path, which):
  with av.open(str(path)) as opened:
    places = [(p.pos, p.size) for p in opened.demux(video=0) if p.size]
  data, rng = bytearray(path.read_bytes()), np.random.default_rng(1)
  for i in which:
    first, size = places[i]
    data[first + 4 : first + size] = rng.bytes(size - 4)
  path.write_bytes(data)
