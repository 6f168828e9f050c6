"""Files that are cut, damaged or joined, have no time stamps, or cannot be sought."""

import io
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines.videos import container, decode
from data_pipelines.videos.decode import FrameSettings, UnreadableError

NOISE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


def read(path, *, start=0.0, end=float("inf"), **settings):
  settings = FrameSettings(**{"max_seconds": 0, **settings})
  (part,) = decode.decode(path, settings, start=start, end=end)
  return part


def reason(path, **settings):
  with pytest.raises(UnreadableError) as error:
    list(decode.decode(path, FrameSettings(**settings)))
  return str(error.value)


def numbers(part):
  """Which source frames a part holds, read from their grey levels."""
  pixels = [np.asarray(Image.open(io.BytesIO(f)).convert("RGB")).astype(int) for f in part.frames]
  return [round((p.mean() - 10) / 8) for p in pixels]


def times(path):
  with decode.opened(path) as source:
    return [time for time, _ in source]


def packets(path):
  """Places of the packets of the video in the file: first byte and length."""
  with av.open(str(path)) as opened:
    return [(p.pos, p.size) for p in opened.demux(video=0) if p.size]


def damage(path, which):
  """Overwrites some packets, which begin with 4 bytes of length, with noise."""
  data, places = bytearray(path.read_bytes()), packets(path)
  rng = np.random.default_rng(1)
  for i in which:
    first, size = places[i]
    data[first + 4 : first + size] = rng.bytes(size - 4)
  path.write_bytes(data)
  return path


def shorten(path, share):
  data = path.read_bytes()
  path.write_bytes(data[: round(len(data) * share)])
  return path


# --- Damaged packets.


@pytest.mark.parametrize(
  ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mjpeg")]
)
def test_a_damaged_packet_costs_its_own_frame(tmp_path, make_video, name, codec):
  path = make_video(tmp_path / name, frames=28, codec=codec, size=(64, 48))
  part = read(damage(path, [14]))
  assert len(part.frames) == 27
  assert part.notes == ("about 1 of 28 frames are lost to damage",)
  assert part.end == pytest.approx(28 / 25, abs=3e-3)
  assert numbers(part)[:10] + numbers(part)[-4:] == [*range(10), 24, 25, 26, 27]


def test_too_many_damaged_packets(tmp_path, make_video):
  path = make_video(tmp_path / "a.avi", frames=40, codec="mjpeg", size=(64, 48))
  found = reason(damage(path, range(0, 40, 3)))
  assert (
    found == "damaged: 14 of about 40 frames are lost (Invalid data found when processing input)"
  )


def test_nothing_but_damage(tmp_path, make_video):
  path = make_video(tmp_path / "a.avi", frames=10, codec="mjpeg", size=(64, 48))
  assert reason(damage(path, range(10))).startswith("cannot be decoded: Invalid data")


def test_damage_does_not_move_frames_of_avi(tmp_path, make_video):
  path = make_video(tmp_path / "a.avi", frames=28, codec="libx264", b_frames=2, size=(64, 48))
  whole = times(path)
  left = times(damage(path, [14]))
  assert len(left) < 28
  assert left[:10] == whole[:10]
  assert left[-3:] == pytest.approx(whole[-3:], abs=1.01 / 25)


# --- Files that are cut off.


@pytest.mark.parametrize(
  ("name", "codec"),
  [
    ("a.mp4", "mpeg4"),
    ("a.mov", "mpeg4"),
    ("a.mkv", "mpeg4"),
    ("a.avi", "mpeg4"),
    ("a.flv", "flv"),
  ],
)
@pytest.mark.parametrize("share", [0.5, 0.85])
def test_one_rule_for_all_containers(tmp_path, make_video, name, codec, share):
  made = tmp_path / f"made_{name}"
  make_video(made, frames=80, fps=10, size=(64, 48), codec=codec, pattern=NOISE)
  path = tmp_path / name
  if name.endswith(("mp4", "mov")):  # with the header in front, as on the web
    with (
      av.open(str(made)) as source,
      av.open(str(path), "w", options={"movflags": "faststart"}) as to,
    ):
      stream = to.add_stream_from_template(source.streams.video[0])
      for packet in source.demux(video=0):
        if packet.dts is not None:
          packet.stream = stream
          to.mux(packet)
  else:
    path = made
  shorten(path, share)
  if share < 0.8:
    assert reason(path).startswith("cut off: ends at ")
  else:
    part = read(path)
    assert 64 <= len(part.frames) < 80
    assert any(note.startswith(f"ends at {part.end:.1f} s of the 8.") for note in part.notes)


def test_a_longer_sound_is_no_cut(tmp_path, make_video):
  path = make_video(tmp_path / "a.mkv", frames=20, fps=10, codec="libx264", sound=20)
  data = path.read_bytes()
  shorten(path, 0.6)  # the header says that the video itself is whole
  assert (len(read(path).frames), read(path).notes) == (20, ())
  path.write_bytes(data.replace(b"DURATION", b"XURATION"))  # other programs do not write it
  assert len(read(path).frames) == 20
  assert read(path).notes == ()
  assert reason(shorten(path, 0.6)).startswith("cut off: ")


def test_frames_hidden_by_an_edit_list(tmp_path, make_video):
  """A cut without encoding again: of 60 frames in the header, 15 are shown."""
  exe = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
  made = make_video(tmp_path / "made.mp4", frames=28, fps=10, codec="libx264", b_frames=2)
  # One key frame in all: the cut has to keep everything before it.
  long = tmp_path / "long.mp4"
  path = tmp_path / "cut.mp4"
  run = [exe, "-v", "error", "-y"]
  subprocess.run([*run, "-i", made, "-c:v", "libx264", "-g", "100", "-bf", "2", long], check=True)
  subprocess.run([*run, "-ss", "2", "-i", long, "-t", "0.5", "-c", "copy", path], check=True)
  with av.open(str(path)) as opened:
    assert opened.streams.video[0].frames > 20
  part = read(path)
  assert numbers(part)[:5] == [20, 21, 22, 23, 24]
  assert (part.start, part.notes) == (0.0, ())


def test_frames_that_the_camera_dropped(tmp_path, make_video):
  """AVI has an empty place for each of them, and its header counts the places."""
  kept = [i / 25 for i in range(60) if i % 3 == 0]
  path = make_video(tmp_path / "a.mkv", frames=20, times=kept, codec="libx264")
  to = tmp_path / "a.avi"
  with av.open(str(path)) as source, av.open(str(to), "w") as target:
    stream = target.add_stream("mpeg4", rate=25)
    stream.width, stream.height = 32, 24
    for i, frame in enumerate(source.decode(video=0)):
      frame.pts, frame.time_base = 3 * i, Fraction(1, 25)
      target.mux(stream.encode(frame))
    target.mux(stream.encode())
  with av.open(str(to)) as opened:
    assert opened.streams.video[0].frames > 50
  part = read(to)
  assert numbers(part) == list(range(20))
  assert times(to) == pytest.approx(kept)
  assert part.source_fps == pytest.approx(25 / 3)


# --- Streams without time stamps.


@pytest.mark.parametrize("name", ["a.h264", "a.m2v"])
def test_a_stream_at_its_own_rate(tmp_path, make_video, name):
  codec = {"h264": "libx264", "m2v": "mpeg2video"}[name[2:]]
  path = make_video(tmp_path / name, frames=24, fps=30, codec=codec, b_frames=2)
  part = read(path)
  assert numbers(part) == list(range(24))
  assert times(path) == pytest.approx([i / 30 for i in range(24)])
  assert part.source_fps == part.fps == 30
  assert numbers(read(path, start=0.3, end=0.6)) == list(range(9, 18))


@pytest.mark.parametrize(("name", "codec"), [("a.h264", "libx264"), ("a.mjpeg", "mjpeg")])
def test_a_stream_at_a_stated_rate(tmp_path, make_video, name, codec):
  path = make_video(tmp_path / name, frames=24, fps=30, codec=codec)
  part = read(path, stream_fps=12)
  assert len(part.frames) == 24
  assert (part.source_fps, part.end) == (12, pytest.approx(2.0))
  assert len(read(path, stream_fps=12, fps=6).frames) == 12


def test_a_stated_rate_changes_no_container(tmp_path, make_video):
  path = make_video(tmp_path / "a.mp4", frames=24, fps=30)
  assert read(path, stream_fps=12) == read(path)


# --- Gaps, and time stamps that begin anew.

GAP = [0, 0.1, 0.2, 0.3, 100.0, 100.1, 100.2, 100.3]


def test_a_long_gap_is_kept_and_noted(tmp_path, make_video):
  path = make_video(tmp_path / "a.mkv", frames=8, times=GAP, codec="libx264")
  part = read(path)
  assert numbers(part) == list(range(8))
  assert part.notes == ("1 gap of more than 60 s, the longest of 100 s at 0 s",)
  assert part.fps == part.source_fps == pytest.approx(10)
  assert part.end == pytest.approx(100.4)
  assert len(read(path, fps=10).frames) == 8  # nothing is made up for the gap
  assert numbers(read(path, start=99.0)) == [4, 5, 6, 7]


def test_a_limit_for_gaps(tmp_path, make_video):
  path = make_video(tmp_path / "a.mkv", frames=8, times=GAP, codec="libx264")
  assert reason(path, max_gap=60) == (
    "its time stamps jump from 0 s to 100 s: broken or not a video (--max_gap)"
  )
  assert len(read(path, max_gap=120).frames) == 8


def test_a_part_ends_at_a_gap_between_parts(tmp_path, make_video):
  path = make_video(tmp_path / "a.mkv", frames=8, times=GAP, codec="libx264")
  first, second = decode.decode(path, FrameSettings(max_seconds=0.4))
  assert (first.end, second.start) == (pytest.approx(0.4), pytest.approx(100.0))


def test_a_time_lapse(tmp_path, make_video):
  stamps = [120.0 * i for i in range(12)]
  path = make_video(tmp_path / "a.mkv", frames=12, times=stamps, codec="libx264")
  (part,) = decode.decode(path, FrameSettings())
  assert numbers(part) == list(range(12))
  assert part.fps == part.source_fps == pytest.approx(1 / 120)
  assert "11 gaps of more than 60 s" in part.notes[0]


def test_joined_transport_streams(tmp_path, make_video):
  path = make_video(tmp_path / "a.ts", frames=28, fps=25, codec="libx264")
  path.write_bytes(path.read_bytes() * 3)
  part = read(path)
  assert numbers(part) == list(range(28)) * 3
  assert times(path) == pytest.approx([i / 25 for i in range(84)], abs=1e-6)
  assert part.notes == ("its time stamps begin anew 2 times",)
  assert part.source_fps == 25


def test_the_rate_of_the_file_is_the_median_gaps(tmp_path, make_video):
  stamps = [*(i / 10 for i in range(12)), 40.0]
  path = make_video(tmp_path / "a.mkv", frames=13, times=stamps, codec="libx264")
  assert read(path).source_fps == pytest.approx(10)


# --- Spans.


@pytest.mark.parametrize(
  ("name", "codec"),
  [
    ("a.avi", "mpeg4"), ("b.avi", "libx264"), ("a.mpg", "mpeg2video"), ("a.ts", "libx264"),
    ("a.mp4", "libx264"), ("a.mkv", "libx264"),
  ],
)  # fmt: skip
def test_a_late_span_has_the_frames_of_the_whole(tmp_path, make_video, name, codec):
  make_video(tmp_path / name, frames=400, fps=25, codec=codec, b_frames=2, size=(64, 48))
  whole, at = read(tmp_path / name), times(tmp_path / name)
  assert at == pytest.approx([i / 25 for i in range(400)], abs=1e-3)
  span = read(tmp_path / name, start=12.3, end=14.1)
  chosen = [i for i, t in enumerate(at) if 12.3 - 2e-3 <= t < 14.1 - 2e-3]
  assert span.frames == tuple(whole.frames[i] for i in chosen)
  assert span.start == at[chosen[0]]


def test_a_late_span_of_joined_transport_streams(tmp_path, make_video):
  path = make_video(tmp_path / "a.ts", frames=60, fps=5, codec="libx264", b_frames=2)
  path.write_bytes(path.read_bytes() * 2)  # each time from 0 to 12 s is there twice
  whole = read(path)
  assert len(whole.frames) == 120
  assert read(path, start=13.0, end=14.0).frames == whole.frames[65:70]
  assert read(path, start=20.0).frames == whole.frames[100:]


@pytest.mark.parametrize(("b_frames", "least"), [(0, 40), (2, 0)])
def test_avi_is_sought_only_where_frames_are_in_order(tmp_path, make_video, b_frames, least):
  path = make_video(tmp_path / "a.avi", frames=60, fps=1, b_frames=b_frames)
  first = next(iter(container.Source(path, 50.0)))[0]
  assert first >= 40 if least else first == 0


def test_frames_of_vp8_that_are_never_shown():
  vp8, h264 = av.CodecContext.create("vp8", "r"), av.CodecContext.create("h264", "r")
  shown, hidden = av.Packet(bytes([0x11, 0, 0])), av.Packet(bytes([0x01, 0, 0]))
  assert container._is_hidden(vp8, hidden)
  assert not container._is_hidden(vp8, shown)
  assert not container._is_hidden(h264, hidden)


def test_durations_of_matroska():
  assert container._seconds({"DURATION": "01:02:03.500000000"}) == 3723.5
  assert container._seconds({"DURATION-eng": "00:00:04.0"}) == 4
  assert container._seconds({"DURATION": "soon", "title": "00:00:01"}) == 0
