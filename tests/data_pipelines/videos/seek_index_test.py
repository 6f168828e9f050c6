"""Indices of videos: against a decode of the whole file, and what the cache keeps."""

import os
import pathlib

import av
import numpy as np
import pytest

from data_pipelines.videos import container, seek_index
from data_pipelines.videos.damage import UnreadableError
from vssl_jax.errors import UserError

B_FRAMES = {"codec": "libx264", "b_frames": 2}


def decoded(path, **how):
  """Times of all frames, by decoding."""
  return [time for time, _ in container.Source(path, **how)]


@pytest.mark.parametrize(
  ("name", "options", "timed"),
  [
    ("a.mp4", B_FRAMES, True),
    ("a.mkv", B_FRAMES, True),
    ("a.mov", {"codec": "mjpeg"}, True),
    ("a.webm", {"codec": "libvpx-vp9"}, True),
    ("a.mp4", {"times": [0, 0.1, 0.15, 0.4, 0.5, 2.0, 2.1, 2.3, 9.0, 9.1, 9.2, 9.3]}, True),
    ("a.avi", {}, False),
    ("a.ts", B_FRAMES, False),
    ("a.h264", B_FRAMES, False),
  ],
)
def test_frames_are_those_that_decoding_gives(make_video, tmp_path, name, options, timed):
  path = make_video(tmp_path / name, **options)
  index = seek_index.make(path)
  np.testing.assert_allclose(index.times, decoded(path), atol=1e-9)
  assert (len(index.pts) > 0) == timed
  assert index.size == (32, 24)
  assert (index.sideways, index.aspect) == (False, 1.0)
  if timed and "codec" in options and options["codec"] == "libx264":
    starts = np.searchsorted(index.pts, index.keys[:, 0])
    assert starts.tolist() == [0, 4, 8]  # x264 makes the groups so long
    for number, first in {0: 0, 3: 0, 4: 4, 7: 4, 11: 8}.items():
      assert index.group_of(number) == (first // 4, first)


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_a_copy_that_begins_within_a_group(make_video, tmp_path, name):
  """As `ffmpeg -ss … -c copy` makes them: the first frames cannot be decoded, or are not shown."""
  whole = make_video(tmp_path / name.replace("b", "a"), 20, **B_FRAMES)
  with av.open(str(whole)) as source, av.open(str(tmp_path / name), "w") as target:
    stream = source.streams.video[0]
    copy = target.add_stream_from_template(stream)
    for number, packet in enumerate(source.demux(stream)):
      if number >= 3 and packet.size:
        packet.stream = copy
        target.mux(packet)
  index = seek_index.make(tmp_path / name)
  np.testing.assert_allclose(index.times, decoded(tmp_path / name), atol=1e-9)
  assert 10 <= len(index.times) < 20


def test_a_turned_video_and_its_rate(make_video, tmp_path):
  path = make_video(tmp_path / "a.mp4", rotation=90, aspect="2/1")
  index = seek_index.make(path)
  assert (index.sideways, index.size) == (True, (32, 24))
  assert index.aspect == 2.0
  assert index.declared_fps == 25


def test_a_file_that_ends_early_has_the_frames_of_a_decode(make_video, tmp_path):
  path = make_video(tmp_path / "a.mkv", 40, **B_FRAMES)
  content = path.read_bytes()
  path.write_bytes(content[: int(len(content) * 0.93)])
  index = seek_index.make(path)
  np.testing.assert_allclose(index.times, decoded(path), atol=1e-9)
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(UnreadableError, match="cut off"):
    seek_index.make(path)


@pytest.mark.parametrize("content", [b"", b"no video"])
def test_what_is_no_video(tmp_path, content):
  (tmp_path / "a.mp4").write_bytes(content)
  with pytest.raises(UnreadableError, match=r"empty file|cannot be decoded"):
    seek_index.make(tmp_path / "a.mp4")


def test_settings_of_rare_files(make_video, tmp_path):
  raw = make_video(tmp_path / "a.h264", **B_FRAMES)
  index = seek_index.make(raw, seek_index.Reading(stream_fps=10))
  np.testing.assert_allclose(np.diff(index.times), 0.1)
  gap = make_video(tmp_path / "a.mp4", 3, times=[0, 1, 90])
  assert "gap" in seek_index.make(gap).notes[0]
  with pytest.raises(UnreadableError, match="time stamps jump"):
    seek_index.make(gap, seek_index.Reading(max_gap=60))


class TestCache:
  @pytest.fixture
  def path(self, make_video, tmp_path):
    return str(make_video(tmp_path / "videos" / "a.mp4", **B_FRAMES))

  @pytest.fixture
  def made(self, monkeypatch):
    """The files that were read to make an index."""
    seen, make = [], seek_index.make
    monkeypatch.setattr(seek_index, "make", lambda path, *a: seen.append(path) or make(path, *a))
    return seen

  def test_is_made_once_and_not_beside_the_videos(self, path, tmp_path, made):
    first, second = (seek_index.cached(tmp_path / "cache", path) for _ in range(2))
    assert made == [path]
    for name in ("times", "pts", "keys", "declared_fps", "aspect", "size", "sideways", "notes"):
      np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert os.listdir(tmp_path / "videos") == ["a.mp4"]

  def test_other_settings_have_their_own(self, path, tmp_path, made):
    for gap in (0, 60, 0, 60):
      seek_index.cached(tmp_path, path, seek_index.Reading(max_gap=gap))
    assert len(made) == 2

  def test_a_file_of_another_time_or_size_is_read_again(self, path, tmp_path, made, make_video):
    seek_index.cached(tmp_path, path)
    os.utime(path, (1, 1))
    seek_index.cached(tmp_path, path)
    assert len(made) == 2
    make_video(tmp_path / "videos" / "a.mp4", 30, **B_FRAMES)
    assert len(seek_index.cached(tmp_path, path).times) == 30

  def test_an_object_of_the_same_size_in_its_place_is_read_again(self, path, tmp_path, made):
    fsspec = pytest.importorskip("fsspec")
    store, content = fsspec.filesystem("memory"), pathlib.Path(path).read_bytes()
    for count in (1, 2):
      store.pipe_file("/seek_index/a.mp4", content)
      for _ in range(2):
        seek_index.cached(tmp_path, "memory://seek_index/a.mp4")
      assert len(made) == count

  def test_damage_is_repaired(self, path, tmp_path, made):
    good = seek_index.cached(tmp_path, path)
    own = seek_index.place(tmp_path, path, seek_index.Reading())
    content = own.read_bytes()
    rng = np.random.default_rng(0)
    for size in (0, 10, len(content) // 2, len(content) - 1):
      own.write_bytes(content[:size])
      np.testing.assert_array_equal(seek_index.cached(tmp_path, path).pts, good.pts)
    for place in rng.integers(0, len(content), 60):
      flipped = bytearray(content)
      flipped[place] ^= 1 << rng.integers(8)
      own.write_bytes(flipped)
      found = seek_index.cached(tmp_path, path)
      np.testing.assert_array_equal(found.pts, good.pts)
      np.testing.assert_array_equal(found.times, good.times)
    own.write_bytes(b"rubble")
    assert len(made) > 5

  def test_arrays_that_do_not_fit_are_no_index(self, path):
    good = seek_index.make(path)
    facts = good.declared_fps, good.aspect, good.size, good.sideways
    for arrays in (
      (good.times[:0], good.pts[:0], good.keys[:0]),
      (good.times[::-1], good.pts, good.keys),
      (good.times, good.pts[:-1], good.keys),
      (good.times, good.pts, good.keys[:0]),
      (good.times, good.pts, good.keys[:, 0]),
      (good.times.astype(int), good.pts, good.keys),
    ):
      with pytest.raises((ValueError, IndexError)):
        seek_index.SeekIndex(*arrays, *facts)

  def test_a_folder_that_cannot_be_written(self, path, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"config\.data\.videos\.cache: .*cannot be written"):
      seek_index.cached(tmp_path / "taken", path)

  def test_a_missing_file(self, tmp_path):
    with pytest.raises(UnreadableError, match="no such file"):
      seek_index.cached(tmp_path, str(tmp_path / "none.mp4"))
