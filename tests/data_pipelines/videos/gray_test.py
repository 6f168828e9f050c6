"""Gray and deep gray frames of videos, against FFmpeg's own and the closed form."""

import subprocess

import av
import imageio_ffmpeg
import numpy as np
import pytest

from data_pipelines import source
from data_pipelines.prepare.prepare import prepare
from data_pipelines.videos import decode, display, snippets, wanted
from data_pipelines.videos.damage import UnreadableError
from tests.data_pipelines import tiny
from vssl_jax.errors import UserError

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
SIZE, LENGTH = (48, 32), 12


def _ffmpeg(path, pix_fmt, depth=1):
  """All frames as FFmpeg's program decodes them, `[L, H, W]`."""
  command = [FFMPEG, "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", pix_fmt, "-"]
  data = subprocess.run(command, capture_output=True, check=True).stdout
  return np.frombuffer(data, f"<u{depth}").reshape(-1, *SIZE[::-1])


def _write(path, frames, pix_fmt, codec="ffv1", stored=None):
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=25)
    stream.width, stream.height, stream.pix_fmt = *SIZE, stored or pix_fmt
    for pixels in frames:
      frame = av.VideoFrame.from_ndarray(pixels, format=pix_fmt)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return str(path)


@pytest.fixture(scope="module")
def colored(tmp_path_factory):
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (LENGTH, 4, 6, 3), np.uint8)
  frames = coarse.repeat(8, 1).repeat(8, 2)
  path = tmp_path_factory.mktemp("colored") / "train" / "a" / "0.mp4"
  path.parent.mkdir(parents=True)
  return _write(path, frames, "rgb24", "libx264", "yuv420p")


@pytest.fixture(scope="module")
def depth(tmp_path_factory):
  rng = np.random.default_rng(1)
  frames = rng.integers(0, 1 << 16, (LENGTH, *SIZE[::-1])).astype(np.uint16)
  return _write(tmp_path_factory.mktemp("depth") / "a.mkv", frames, "gray16le"), frames


def _read(path, cache, frames, **settings):
  span = wanted.Span(path, str(cache), decode.FrameSettings(short_side=0, **settings))
  length = len(span.index().times)
  return wanted.read(wanted.Request(span, 0, length, tuple(frames)))


def test_gray_of_a_colored_video_is_ffmpegs(colored, tmp_path):
  frames = [5, 0, 11]
  found = _read(colored, tmp_path, frames, channels=1)
  np.testing.assert_array_equal(found[..., 0], _ffmpeg(colored, "gray")[frames])


def test_depth_keeps_its_highest_bits_or_a_range(depth, tmp_path):
  path, frames = depth
  np.testing.assert_array_equal(_ffmpeg(path, "gray16le", 2), frames)  # stored without loss
  plain = _read(path, tmp_path, range(LENGTH), channels=1)[..., 0]
  np.testing.assert_array_equal(plain, (2 * frames.astype(int) + 257) // 514)  # x / 257, rounded
  assert np.abs(plain - _ffmpeg(path, "gray").astype(int)).max() <= 2  # which is dithered
  low, high = 1000.0, 9000.0
  bounds = {"channels": 1, "value_range": (low, high)}
  x = frames.astype(int) - 1000
  expected = np.clip((510 * x + 8000) // 16000, 0, 255)  # rounded, in whole numbers
  np.testing.assert_array_equal(_read(path, tmp_path, range(LENGTH), **bounds)[..., 0], expected)
  (snippet, _), *_ = snippets.read(
    path, snippets.SnippetSettings(frames=4, fps=0, resize=32, size=32, **bounds)
  )
  np.testing.assert_array_equal(snippet[..., 0], expected[:4, :, 8:40])


def test_a_range_is_for_gray_frames(colored, tmp_path):
  with pytest.raises(UnreadableError, match="yuv420p, but a range of values is for gray"):
    _read(colored, tmp_path, [0], channels=1, value_range=(0.0, 9.0))


def test_frames_are_resized_on_one_thread(colored, tmp_path, monkeypatch):
  given, own = [], display.VideoReformatter()

  class Seen:
    def reformat(self, *args, **kwargs):
      given.append(kwargs.get("threads", 1 if not display._ONE_THREAD else None))
      return own.reformat(*args, **kwargs)

  monkeypatch.setattr("data_pipelines.videos.jpeg.VideoReformatter", Seen)
  _read(colored, tmp_path, [0, 1])
  assert given == [1, 1]


@pytest.mark.usefixtures("tf")
def test_records_and_videos_give_the_same_gray(colored, tmp_path):
  """Records of RGB, records of gray, and the video itself, but for the loss of JPEG."""
  videos = colored.rpartition("/train/")[0]
  how = {"quality": 100, "short_side": 0, "workers": 1, "timeout": 0}
  prepare(videos, tmp_path / "rgb", **how)
  prepare(videos, tmp_path / "gray", **how, channels=1)
  fields = {"channels": 1, "size": 32, "crop__random": False, "videos__short_side": 0}
  fields |= {"videos__cache": str(tmp_path / "cache")}
  cases = [("tfrecord", tmp_path / "rgb"), ("tfrecord", tmp_path / "gray"), ("videos", videos)]
  batches = []
  for kind, path in cases:
    data = tiny.data(path, source=kind, **fields)
    batches.append(next(source.load(data, split="train", batch_size=1, seed=0).train_batches()))
  rgb, gray, video = (b["clips"].astype(int) for b in batches)
  assert rgb.shape == (1, 2, 4, 32, 32, 1)
  # JPEG's own rounding; RGB rounds three values per pixel before its luma is taken.
  assert np.abs(gray - video).max() <= 3
  assert np.abs(rgb - video).max() <= 6
  with pytest.raises(UserError, match=r"already has split 'train' with channels=1 \(now None\)"):
    prepare(videos, tmp_path / "gray", **how)
  with pytest.raises(UserError, match=r"channels is 12: records hold JPEGs.*source=arrays"):
    prepare(videos, tmp_path / "bands", channels=12)
