"""Encoded videos of records: their frames are those that `prepare` decodes from the files."""

from fractions import Fraction

import av
import numpy as np
import pytest

from data_pipelines.encoded import h264, pack, read
from data_pipelines.videos import decode, jpeg
from data_pipelines.videos.damage import UnreadableError
from tests.data_pipelines.encoded import moving

ONE, UNIT = 1 << 16, 1 << 30
TURN = [0, ONE, 0, -ONE, 0, 0, 32 * ONE, 0, UNIT]
MIRROR = [-ONE, 0, 0, 0, ONE, 0, 32 * ONE, 0, UNIT]


@pytest.fixture
def decoded(monkeypatch):
  """`decoded(path, …)`: the parts that `prepare` decodes, with pixels in place of JPEGs."""

  def pixels(path, start=0.0, end=float("inf"), **settings):
    with monkeypatch.context() as patch:
      patch.setattr(jpeg.Encoder, "__call__", lambda self, f: self.pictures(f).tobytes())
      parts = list(decode.decode(path, decode.FrameSettings(**settings), start=start, end=end))
    return [
      (part, np.frombuffer(b"".join(part.frames), np.uint8).reshape(-1, *part.size[::-1], 3))
      for part in parts
    ]

  return pixels


def packed(path, start=0.0, end=float("inf"), store="video", **settings):
  settings = decode.FrameSettings(store=store, **settings)
  return list(pack.pack(path, settings, start=start, end=end))


def brightness(pixels):
  return pixels @ np.array([0.299, 0.587, 0.114])


def frames(video):
  return read.pictures(video, tuple(range(len(video.shown))))


COPIES = {
  "as it is": ({}, {}, "file"),
  "matroska": ({"name": "a.mkv", "b_frames": 2}, {}, "file"),
  "vp9 in webm": ({"name": "a.webm", "codec": "libvpx-vp9"}, {}, "file"),
  "sound": ({"sound": 0.4, "b_frames": 2}, {}, "copied"),
  "sound in matroska": ({"name": "a.mkv", "sound": 0.4}, {}, "copied"),
  "turned": ({"matrix": TURN, "sound": 0.4}, {}, "copied"),
  "mirrored": ({"matrix": MIRROR}, {}, "file"),
  "pixels that are not square": ({"aspect": "16/15", "sound": 0.4}, {}, "copied"),
  "raw pixels": ({"aspect": "2/1"}, {"raw_aspect": True}, "file"),
  "odd": ({"size": (31, 25), "pix_fmt": "yuv444p"}, {}, "file"),
  "full range": ({"pix_fmt": "yuvj420p", "sound": 0.4}, {}, "copied"),
  "10 bit": ({"pix_fmt": "yuv420p10le"}, {}, "file"),
  "variable rate": ({"times": [0, 0.04, 0.1, 0.13, 0.3, 0.31, 0.5, 0.9]}, {}, "file"),
  "another rate": ({"b_frames": 2}, {"fps": 40.0}, "file"),
  "another rate and sound": ({"b_frames": 2, "sound": 1.0}, {"fps": 40.0}, "copied"),
  "a span": ({"b_frames": 2}, {"start": 0.3, "end": 0.9}, "copied"),
  "several records": ({"b_frames": 2, "sound": 1.0}, {"max_seconds": 0.5}, "copied"),
  "a late span": ({"frames": 90, "fps": 5}, {"start": 15.1, "end": 16.7}, "copied"),
}


@pytest.mark.parametrize("case", COPIES)
def test_a_copy_has_the_frames_of_the_file(case, tmp_path, decoded):
  how, settings, form = COPIES[case]
  how = dict(how)
  path = moving.write(tmp_path / how.pop("name", "a.mp4"), **how)
  found, expected = packed(path, **settings), decoded(path, **settings)
  assert len(found) == len(expected) == (2 if case == "several records" else 1)
  for one, (part, pixels) in zip(found, expected, strict=True):
    assert one.video.form == form
    for name in ("start", "end", "fps", "size", "source_fps", "source_size", "notes", "length"):
      assert getattr(one, name) == getattr(part, name), name
    np.testing.assert_array_equal(frames(one.video), pixels)
    few = (len(pixels) - 1, 0, len(pixels) // 2)
    np.testing.assert_array_equal(read.pictures(one.video, few), pixels[list(few)])
  if form == "file":
    assert found[0].video.content == path.read_bytes()
  else:
    assert sum(len(one.video.content) for one in found) < path.stat().st_size * 1.5


ENCODED = {
  "reduced": ({}, {"short_side": 20}),
  "reduced to an odd size": ({"size": (50, 32)}, {"short_side": 19}),
  "turned": ({"matrix": TURN}, {"short_side": 17}),
  "pixels that are not square": ({"aspect": "3/2"}, {"short_side": 16}),
  "full range": ({"pix_fmt": "yuvj420p"}, {"short_side": 20}),
  "10 bit": ({"pix_fmt": "yuv420p10le"}, {"short_side": 20}),
  "variable rate": ({"times": [0, 0.04, 0.1, 0.13, 0.3, 0.31, 0.5, 0.9]}, {"short_side": 20}),
  "several records at another rate": ({}, {"fps": 60.0, "max_seconds": 0.5, "short_side": 20}),
  "a container without times": ({"name": "a.avi", "codec": "mpeg4"}, {}),
  "a transport stream": ({"name": "a.ts"}, {}),
  "damaged packets": ({"damaged": [7]}, {}),
  "always": ({}, {"store": "h264"}),
}


@pytest.mark.parametrize("case", ENCODED)
def test_h264_has_the_frames_up_to_its_loss(case, tmp_path, decoded):
  how, settings = (dict(x) for x in ENCODED[case])
  path = moving.write(tmp_path / how.pop("name", "a.mp4"), **how)
  found = packed(path, crf=4, **settings)
  settings.pop("store", None)
  expected = decoded(path, **settings)
  assert len(found) == len(expected)
  for place, (one, (part, pixels)) in enumerate(zip(found, expected, strict=True)):
    assert one.video.form == "h264"
    for name in ("start", "end", "fps", "size", "source_fps", "source_size", "length"):
      assert getattr(one, name) == getattr(part, name), name
    seen = frames(one.video)
    # crf 4 loses little of the brightness, whatever becomes of the colors' resolution.
    assert np.abs(brightness(seen) - brightness(pixels)).mean((1, 2)).max() < 4
    alone = tmp_path / f"{place}.mp4"
    alone.write_bytes(one.video.content)
    ((_, whole),) = decoded(alone, short_side=0, max_seconds=0)
    height, width = seen.shape[1:3]
    np.testing.assert_array_equal(seen, whole[:, :height, :width])
    few = (len(seen) - 1, 0, len(seen) // 2)
    np.testing.assert_array_equal(read.pictures(one.video, few), seen[list(few)])
  assert found[-1].notes == expected[-1][0].notes


def test_neighbors_differ_by_more_than_the_loss(tmp_path, decoded):
  """Else the test above could not tell a frame from the next one."""
  ((_, pixels),) = decoded(moving.write(tmp_path / "a.mp4"), short_side=16)
  assert np.abs(np.diff(brightness(pixels), axis=0)).mean((1, 2)).min() > 8


def test_h264_is_the_same_each_time_and_soon_reached(tmp_path):
  path = moving.write(tmp_path / "a.mp4", frames=50, size=(128, 96))
  (one,), (two,) = (packed(path, store="h264") for _ in range(2))
  assert one.video.content == two.video.content
  (small,) = packed(path, store="h264", crf=40)
  assert len(small.video.content) < len(one.video.content) / 2
  gaps = np.diff(np.searchsorted(one.video.shown, [*one.video.keys[:, 0], one.video.shown[-1]]))
  assert gaps.max() <= h264.GROUP
  rate = Fraction(1, 25) / Fraction(1, 90_000)
  assert set(np.diff(one.video.shown)) == {int(rate)}  # players show it at its own speed


def test_what_cannot_be_read_is_what_prepare_cannot_read(tmp_path, decoded):
  sound = moving.write(tmp_path / "a.mp4")
  cut = tmp_path / "cut.mp4"
  cut.write_bytes(sound.read_bytes()[:600])
  empty = tmp_path / "empty.mp4"
  empty.write_bytes(b"")
  one = moving.write(tmp_path / "one.mp4", frames=1)
  much = moving.write(tmp_path / "much.mp4", damaged=range(5, 20))
  for path in (cut, empty, one, much, tmp_path / "none.mp4"):
    with pytest.raises(UnreadableError) as theirs:
      decoded(path)
    for store in ("video", "h264"):
      with pytest.raises(UnreadableError) as ours:
        packed(path, store=store)
      assert str(ours.value) == str(theirs.value)


def test_a_copy_that_differs_is_not_taken(tmp_path, monkeypatch):
  """A copy whose first frame is another one is encoded instead."""
  path = moving.write(tmp_path / "a.mp4", sound=0.4)
  real = pack.packets.copied
  monkeypatch.setattr(
    pack.packets, "copied", lambda *a: (lambda c, t, k: (c, np.r_[t[1], t[1:]], k))(*real(*a))
  )
  (one,) = packed(path)
  assert one.video.form == "h264"


def test_the_copy_is_a_video_that_players_open(tmp_path):
  path = moving.write(tmp_path / "a.mp4", frames=20, b_frames=2, sound=0.8)
  (one,) = packed(path, 0.2, 0.6)
  (tmp_path / "b.mp4").write_bytes(one.video.content)
  with av.open(str(tmp_path / "b.mp4")) as opened:
    assert [s.type for s in opened.streams] == ["video"]
    assert len(list(opened.decode(video=0))) >= 10
