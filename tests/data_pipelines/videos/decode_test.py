"""Decoding: which frames, of what size, which way up, in which parts, and what is refused."""

import io
import math

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines.videos import container, decode, display, parts, snippets
from data_pipelines.videos.decode import FrameSettings, UnreadableError


def pixels(jpeg):
  return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


def numbers(part):
  """Which source frames a part holds, read from their grey levels."""
  return [round((pixels(f).mean() - 10) / 8) for f in part.frames]


def one(path, *, start=0.0, end=math.inf, **settings):
  (part,) = decode.decode(path, FrameSettings(**settings), start=start, end=end)
  return part


@pytest.mark.parametrize(
  ("name", "codec"),
  [("a.mp4", "mpeg4"), ("a.avi", "mpeg4"), ("a.mkv", "libx264"), ("a.mov", "libx264")],
)
def test_every_frame_of_every_container(tmp_path, make_video, name, codec):
  path = make_video(tmp_path / name, frames=14, fps=25, codec=codec)
  part = one(path)
  assert numbers(part) == list(range(14))
  assert (part.start, part.end) == (0.0, pytest.approx(14 / 25, abs=2e-3))
  assert part.fps == part.source_fps == 25.0
  assert part.size == part.source_size == (32, 24)


def test_a_title_that_is_no_utf8(tmp_path, make_video):
  path = make_video(tmp_path / "a.mkv")
  with av.open(str(path)) as container:
    encoder = container.metadata["ENCODER"].encode()
  data = path.read_bytes()
  assert encoder in data
  path.write_bytes(data.replace(encoder, b"\xe9" + encoder[1:]))
  assert numbers(one(path)) == list(range(12))


def test_an_ntsc_rate_is_kept_exactly(tmp_path, make_video):
  part = one(make_video(tmp_path / "a.mp4", fps="30000/1001"))
  assert part.fps == pytest.approx(30000 / 1001, rel=1e-12)


@pytest.mark.parametrize(
  ("fps", "expected"),
  [
    (25, list(range(12))),
    (12.5, [0, 2, 4, 6, 8, 10]),
    (10, [0, 2, 5, 7, 10]),  # at 0, 0.1, 0.2 … s: frames 0, 2.5, 5 …, the one on show
    (50, [i // 2 for i in range(24)]),
  ],
)
def test_resampling_takes_the_frame_on_show(tmp_path, make_video, fps, expected):
  part = one(make_video(tmp_path / "a.mp4", frames=12, fps=25), fps=fps)
  assert numbers(part) == expected
  assert part.fps == fps
  assert part.source_fps == 25
  assert part.end == pytest.approx(len(expected) / fps)


def test_variable_frame_rate_is_resampled_by_time_stamps(tmp_path, make_video):
  times = [0, 0.1, 0.2, 0.6, 0.7, 0.75]
  path = make_video(tmp_path / "a.mkv", frames=6, fps=10, times=times, codec="libx264")
  assert numbers(one(path, fps=10)) == [0, 1, 2, 2, 2, 2, 3, 4, 5]
  own = one(path)
  assert numbers(own) == [0, 1, 2, 3, 4, 5]
  assert own.fps == pytest.approx(5 / 0.75, rel=0.01)


@pytest.mark.parametrize(
  ("short_side", "size"), [(0, (64, 48)), (24, (32, 24)), (100, (64, 48)), (36, (48, 36))]
)
def test_short_side_shrinks_and_never_enlarges(tmp_path, make_video, short_side, size):
  part = one(make_video(tmp_path / "a.mp4", size=(64, 48)), short_side=short_side)
  assert part.size == size
  assert part.source_size == (64, 48)
  assert {Image.open(io.BytesIO(f)).size for f in part.frames} == {size}


def test_quality_changes_the_bytes(tmp_path, make_video):
  noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
  path = make_video(tmp_path / "a.mp4", size=(64, 48), pattern=noise)
  size = {q: len(one(path, quality=q).frames[0]) for q in (50, 95)}
  assert size[95] > 1.5 * size[50]


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_display_rotation_is_applied(tmp_path, make_video, rotation):
  picture = np.zeros((24, 32, 3), np.uint8)
  picture[:12, :16] = 250  # bright top left quarter
  path = make_video(tmp_path / "a.mp4", rotation=rotation, pattern=picture)
  part = one(path)
  upright = np.rot90(picture, rotation // 90)
  assert part.source_size == part.size == upright.shape[1::-1]
  np.testing.assert_allclose(pixels(part.frames[0]), upright, atol=60)


def test_rotated_videos_shrink_by_their_upright_size(tmp_path, make_video):
  path = make_video(tmp_path / "a.mp4", size=(64, 48), rotation=90)
  assert one(path, short_side=24).size == (24, 32)


def test_a_span(tmp_path, make_video):
  path = make_video(tmp_path / "a.mp4", frames=20, fps=10)
  part = one(path, start=0.5, end=1.2)
  assert numbers(part) == [5, 6, 7, 8, 9, 10, 11]
  assert (part.start, part.end) == (pytest.approx(0.5), pytest.approx(1.2))
  assert numbers(one(path, start=0.5, end=1.2, fps=5)) == [5, 7, 9, 11]


def test_a_late_span_is_reached_by_seeking(tmp_path, make_video, monkeypatch):
  path = make_video(tmp_path / "a.mp4", frames=28, fps=1)
  part = one(path, start=15, end=20)
  monkeypatch.setattr(container, "_SEEK_FROM", math.inf)
  assert part == one(path, start=15, end=20)
  assert numbers(part) == [15, 16, 17, 18, 19]
  assert part.start == 15


def test_seeking_decodes_little(tmp_path, make_video, monkeypatch):
  path = make_video(tmp_path / "a.mp4", frames=60, fps=1)
  source = container.Source(path, 50.0)
  assert next(iter(source))[0] >= 40


@pytest.mark.parametrize("start", [0, 15])
def test_a_first_frame_without_a_time_stamp(tmp_path, make_video, monkeypatch, start):
  path = make_video(tmp_path / "a.mp4", frames=28, fps=1)
  expected = one(path, start=start)
  frames = container.Source._frames

  def unstamped(self, seek_to):
    for i, (time, frame) in enumerate(frames(self, seek_to)):
      yield (time if i else None), frame

  monkeypatch.setattr(container.Source, "_frames", unstamped)
  assert one(path, start=start) == expected


@pytest.mark.parametrize(
  ("limit", "lengths"),
  [
    (0, [20]),
    (2.0, [20]),
    (1.0, [10, 10]),
    (0.9, [9, 6, 5]),
    (0.8, [8, 6, 6]),
    (0.3, [3, 3, 3, 3, 3, 3, 2]),
  ],
)
def test_long_videos_are_cut_without_stubs(tmp_path, make_video, limit, lengths):
  path = make_video(tmp_path / "a.mp4", frames=20, fps=10)
  parts = list(decode.decode(path, FrameSettings(max_seconds=limit)))
  assert [len(p.frames) for p in parts] == lengths
  assert [n for p in parts for n in numbers(p)] == list(range(20))
  edges = np.cumsum([0, *lengths]) / 10
  assert [p.start for p in parts] == pytest.approx(edges[:-1])
  assert [p.end for p in parts] == pytest.approx(edges[1:])
  assert {p.fps for p in parts} == {10.0}


def test_parts_come_before_the_video_ends():
  taken = []

  def frames():
    for i in range(1000):
      taken.append(i)
      yield i / 10, b""

  next(parts.cut(frames(), 1.0))
  assert len(taken) == 21  # two parts and one frame are all that is ever held


def reason(path, **span):
  with pytest.raises(UnreadableError) as error:
    list(decode.decode(path, FrameSettings(), **span))
  assert "\n" not in str(error.value)
  return str(error.value)


def test_files_that_are_no_videos(tmp_path, make_video, make_audio):
  (tmp_path / "empty.mp4").write_bytes(b"")
  (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
  (tmp_path / "folder.mp4").mkdir()
  assert reason(tmp_path / "missing.mp4") == "no such file"
  assert reason(tmp_path / "empty.mp4") == "empty file"
  assert reason(tmp_path / "text.mp4").startswith("cannot be decoded: Invalid data")
  assert reason(tmp_path / "folder.mp4").startswith("cannot be decoded")
  assert reason(make_audio(tmp_path / "sound.mp4")) == "no video stream (only audio)"
  assert reason(make_video(tmp_path / "one.mp4", frames=1)) == "only one frame"


def test_spans_without_frames(tmp_path, make_video):
  path = make_video(tmp_path / "a.mp4", frames=10, fps=10)
  assert reason(path, start=5.0, end=6.0) == "no frames from 5 to 6 s"
  assert reason(path, start=20.0) == "no frames from 20 to inf s"
  assert reason(path, start=0.9) == "only one frame from 0.9 to inf s"


def test_damaged_and_cut_off_files(tmp_path, make_video):
  noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
  video = make_video(tmp_path / "a.avi", frames=40, size=(64, 48), pattern=noise).read_bytes()
  path = tmp_path / "b.avi"
  path.write_bytes(video[: len(video) // 2])
  assert reason(path).startswith("cut off: ")
  damaged = bytearray(video)
  for i in range(6000, len(damaged) - 3000, 97):
    damaged[i] ^= 0x5A
  path.write_bytes(damaged)
  assert reason(path).startswith("damaged: ")


def test_settings_that_rare_files_need_are_told_only_if_set():
  usual = decode.described(FrameSettings(fps=5))
  assert usual == {"fps": 5, "short_side": 256, "quality": 85, "max_seconds": 120.0}
  assert decode.described(FrameSettings(fps=5, raw_aspect=True)) == {**usual, "raw_aspect": True}
  assert decode.described(FrameSettings(fps=0, max_gap=9.0))["max_gap"] == 9.0


@pytest.mark.parametrize("size", [(704, 32), (32, 704), (1 << 15, 1 << 13)])
def test_frames_that_would_fill_the_memory(size):
  with pytest.raises(decode.UnreadableError, match=rf"frames are {size[0]} x {size[1]}: at most"):
    display.check_size(size)
  display.check_size((640, 32))


def test_a_video_that_is_too_narrow_is_unreadable(tmp_path, make_video):
  path = make_video(tmp_path / "a.mp4", size=(704, 32))
  with pytest.raises(decode.UnreadableError, match="704 x 32"):
    list(decode.decode(path, decode.FrameSettings()))
  with pytest.raises(decode.UnreadableError, match="704 x 32"):
    list(snippets.read(path, snippets.SnippetSettings()))
