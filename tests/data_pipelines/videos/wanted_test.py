"""Wanted frames against a decode of the whole video, and how many frames are decoded for them."""

import math
import os

import av
import numpy as np
import pytest

from data_pipelines.videos import container, decode, jpeg, seek_index, wanted
from data_pipelines.videos.damage import UnreadableError

KINDS = [
  ("a.mp4", {"codec": "libx264", "b_frames": 3}),
  ("a.mkv", {"codec": "libx264", "b_frames": 3}),
  ("a.avi", {"b_frames": 1}),
]


def whole(path, short_side=0):
  """Pictures of all frames, by decoding from the beginning."""
  pictures = jpeg.Pictures(short_side)
  return [pictures(frame) for _, frame in container.Source(path)]


def span(path, cache, start=0.0, end=math.inf, **settings):
  return wanted.Span(str(path), str(cache), decode.FrameSettings(**settings), start, end)


def read(of, frames, part=0):
  length = len(wanted.cut(of, of.index())[part].numbers)
  return wanted.read(wanted.Request(of, part, length, tuple(frames)))


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_pictures_are_those_of_a_whole_decode(make_video, tmp_path, name, options):
  path = make_video(tmp_path / name, 60, **options)
  of, expected = span(path, tmp_path, short_side=12), whole(path, 12)
  rng = np.random.default_rng(0)
  choices = [range(60), [59], [0], [31, 30, 31, 2], [7, 6, 5, 4]]
  choices += [sorted(rng.integers(0, 60, 5).tolist()) for _ in range(20)]
  for frames in choices:
    np.testing.assert_array_equal(read(of, frames), [expected[i] for i in frames])


@pytest.mark.parametrize(
  "options",
  [
    "keyint=12:min-keyint=6:open-gop=1:bframes=3",
    "keyint=12:min-keyint=6:intra-refresh=1:bframes=0",
    "keyint=40:intra-refresh=1:bframes=0",  # the decoder calls the wrong pictures good
  ],
)
def test_groups_that_need_others(tmp_path, options):
  """With open groups, and with pictures that build up over many frames."""
  path = tmp_path / "a.mp4"
  rng = np.random.default_rng(0)
  texture = rng.integers(0, 255, (48, 160, 3), np.uint8)
  with av.open(str(path), "w") as file:
    stream = file.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    stream.codec_context.options = {"x264-params": options}
    for t in range(90):
      pixels = np.ascontiguousarray(texture[:, t : t + 64])
      file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    file.mux(stream.encode())
  of, expected = span(path, tmp_path), whole(path)
  for frames in ([30, 31], [5, 66], [47, 50, 53], [79], [86, 88], [89]):
    np.testing.assert_array_equal(read(of, frames), [expected[i] for i in frames])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_few_other_frames_are_decoded(make_video, tmp_path, name, monkeypatch):
  path = make_video(tmp_path / name, 200, codec="libx264", b_frames=3)
  of = span(path, tmp_path)
  of.index()
  seen, next_frame = [], wanted._Decoder.next
  monkeypatch.setattr(
    wanted._Decoder, "next", lambda self: (f := next_frame(self)) and (seen.append(f.pts) or f)
  )
  read(of, [151, 152, 153])  # groups begin at 148 and 152
  assert len(seen) <= 6
  seen.clear()
  read(of, [20, 22, 24, 180, 184])
  assert len(seen) <= 10


def test_a_container_that_finds_nothing_is_decoded_from_its_beginning(
  make_video, tmp_path, monkeypatch
):
  path = make_video(tmp_path / "a.mkv", 60, codec="libx264", b_frames=3)
  of, expected = span(path, tmp_path), whole(path)
  opened = container.open_file

  class Lost:
    """A file that always ends up at its last keyframe."""

    def __init__(self, path):
      self._file = opened(path)

    def __getattr__(self, name):
      return getattr(self._file, name)

    def seek(self, target, **how):
      self._file.seek(10**6, **how)

  read(of, [0])
  monkeypatch.setattr(container, "open_file", Lost)
  np.testing.assert_array_equal(read(of, [30, 31]), [expected[30], expected[31]])


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
@pytest.mark.parametrize(
  ("start", "end", "settings"),
  [
    (0, math.inf, {}),
    (0.5, 1.1, {}),
    (0, math.inf, {"fps": 10}),
    (0.3, 1.3, {"fps": 40}),
    (0, math.inf, {"max_seconds": 0.7}),
    (0.2, math.inf, {"max_seconds": 0.5, "fps": 12}),
  ],
)
def test_parts_are_those_that_prepare_stores(make_video, tmp_path, name, start, end, settings):
  path = make_video(tmp_path / name, 55, size=(16, 16))
  of = span(path, tmp_path, start, end, **settings)
  found, expected = wanted.cut(of, of.index()), whole(path)
  parts = list(decode.decode(path, of.settings, start=start, end=end))
  assert [len(f.numbers) for f in found] == [len(p.frames) for p in parts]
  assert [f.fps for f in found] == pytest.approx([p.fps for p in parts], rel=1e-12)
  for number, (stored, part) in enumerate(zip(found, parts, strict=True)):
    pictures = read(of, range(len(part.frames)), number)
    np.testing.assert_array_equal(pictures, [expected[i] for i in stored.numbers])
    encoder = jpeg.Encoder(0, 85)
    encoder.pictures = lambda x: x
    assert [encoder(np.array(p)) for p in pictures] == list(part.frames)  # bytes are the same


def test_too_short_a_span(make_video, tmp_path):
  of = span(make_video(tmp_path / "a.mp4"), tmp_path, start=9.0)
  with pytest.raises(UnreadableError, match="fewer than two frames from 9 s"):
    wanted.cut(of, of.index())


def test_turned_videos_and_pixels_that_are_not_square(make_video, tmp_path):
  path = make_video(tmp_path / "a.mp4", rotation=90, aspect="2/1")
  assert read(span(path, tmp_path), [3]).shape == (1, 64, 24, 3)
  assert read(span(path, tmp_path, raw_aspect=True), [3]).shape == (1, 32, 24, 3)
  assert read(span(path, tmp_path, short_side=12), [3]).shape == (1, 32, 12, 3)


class TestDamage:
  @pytest.fixture
  def path(self, make_video, tmp_path):
    # Every frame is a keyframe, so that each packet is a picture of its own.
    return make_video(tmp_path / "a.mov", 20, codec="mjpeg")

  def spoil(self, path, numbers):
    """Zeros the packets of some frames, without changing size or time of the file."""
    status = path.stat()
    with container.open_file(path) as opened:
      places = [(p.pos, p.size) for p in opened.demux(video=0) if p.size]
    content = bytearray(path.read_bytes())
    for number in numbers:
      place, size = places[number]
      content[place : place + size] = bytes(size)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

  def test_a_lost_frame_shows_the_one_before(self, path, tmp_path):
    of, expected = span(path, tmp_path), whole(path)
    of.index()
    self.spoil(path, [7])
    found = read(of, [5, 6, 7, 8, 9, 10])
    np.testing.assert_array_equal(found, [expected[i] for i in (5, 6, 6, 8, 9, 10)])

  def test_too_many_lost_frames(self, path, tmp_path):
    of = span(path, tmp_path)
    of.index()
    self.spoil(path, [7, 8])
    with pytest.raises(UnreadableError, match="damaged: 2 of 6 frames are lost"):
      read(of, range(5, 11))

  def test_a_video_that_lost_all(self, path, tmp_path):
    of = span(path, tmp_path)
    of.index()
    self.spoil(path, range(20))
    with pytest.raises(UnreadableError, match="cannot be decoded"):
      read(of, [3, 4])

  def test_a_video_of_another_length_is_not_read(self, path, tmp_path):
    of = span(path, tmp_path)
    with pytest.raises(UnreadableError, match="changed"):
      wanted.read(wanted.Request(of, 0, 21, (0,)))
    with pytest.raises(UnreadableError, match="changed"):
      wanted.read(wanted.Request(of, 1, 20, (0,)))

  def test_a_file_that_ends_before_its_index(self, make_video, tmp_path, monkeypatch):
    of = span(make_video(tmp_path / "a.avi", 20), tmp_path)
    longer = seek_index.make(make_video(tmp_path / "b.avi", 25))
    monkeypatch.setattr(wanted, "_known", lambda *_: (longer, wanted.cut(of, longer)))
    with pytest.raises(UnreadableError, match="ends before"):
      wanted.read(wanted.Request(of, 0, 25, (22,)))

  def test_a_file_that_is_gone_may_come_back(self, path, tmp_path):
    of = span(path, tmp_path)
    expected = read(of, [3])
    path.rename(tmp_path / "b.mov")
    request = wanted.Request(of, 0, 20, (3,))
    with pytest.raises(UnreadableError, match="no such file any more") as error:
      wanted.read(request)
    assert error.value.passing
    (tmp_path / "b.mov").rename(path)
    np.testing.assert_array_equal(wanted.read(request), expected)

  def test_pictures_that_would_fill_the_memory(self, path, tmp_path, monkeypatch):
    monkeypatch.setattr(wanted, "_MOST_BYTES", 5000)
    with pytest.raises(UnreadableError, match=r"3 frames of 32 x 24 exceed .*short_side"):
      read(span(path, tmp_path), [0, 1, 2])
