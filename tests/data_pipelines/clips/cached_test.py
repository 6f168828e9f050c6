"""Batches with decoded videos in memory against those without, bit for bit."""

import io
import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from data_pipelines import source
from data_pipelines.records import manifest, sequence_example
from tests.data_pipelines import tiny
from vssl_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("tf")

BAD, VIDEOS = 3, 8
VIEWS = {"clips": 2, "crops": 3, "frames": 3, "stride": 2, "resize": 12, "size": 8}


def noise(v, length):
  """JPEGs of noise, whose colors have all, half or a quarter of the resolution."""
  rng = np.random.default_rng(v)
  frames = []
  for _ in range(length):
    buffer = io.BytesIO()
    picture = rng.integers(0, 255, (40 + v, 51 - v, 3), np.uint8)
    PIL.Image.fromarray(picture).save(buffer, "JPEG", quality=90, subsampling=v % 3)
    frames.append(buffer.getvalue())
  return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Videos of several lengths and sizes; one has a frame that is cut short."""
  folder = tmp_path_factory.mktemp("records")
  frames = [noise(v, 12 + 2 * v) for v in range(VIDEOS)]
  frames[BAD][7] = frames[BAD][7][:200]
  rates = [25.0, 30.0, 12.5, 25.0] * 2
  return tiny.write(
    folder,
    [
      sequence_example.Video(frames=f, fps=fps, label=v % 3, filename=f"{v}.mp4")
      for v, (f, fps) in enumerate(zip(frames, rates, strict=True))
    ],
  )


@pytest.fixture
def memory(tmp_path):
  """A folder in the place of the machine's memory."""
  (tmp_path / "memory").mkdir()
  return tmp_path / "memory"


def load(folder, memory=None, **fields):
  fields |= {"cache": "host", "cache_folder": str(memory)} if memory else {}
  return source.load(tiny.data(folder, **fields), split="train", batch_size=4, seed=0)


def assert_equal(found, wanted):
  for a, b in zip(found, wanted, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def take(of, count=6, start=0):
  return list(itertools.islice(of.train_batches(start), count))


def test_batches_are_those_without_it_also_of_a_damaged_video(folder, memory):
  fields = {"interval__max_seconds": 0.5}  # so that frame rates matter
  plain, cached = load(folder, **fields), load(folder, memory, **fields)
  wanted = take(plain)
  assert_equal(take(cached), wanted)
  assert_equal(take(load(folder, memory, **fields), 2, start=3), wanted[3:5])
  assert plain.unreadable == cached.unreadable > 0
  views = list(plain.eval_batches(4, **VIEWS))
  assert_equal(cached.eval_batches(4, **VIEWS), views)
  rest = [0, 2, 5, 6, 7]
  assert_equal(take(cached.only(rest), 2), take(plain.only(rest), 2))
  assert cached._cache.filled().holds.tolist() == [v != BAD for v in range(VIDEOS)]


def test_damaged_video_still_stops_a_strict_run(folder, memory):
  with pytest.raises(UserError, match="cannot be decoded"):
    take(load(folder, memory, strict=True))


def test_part_of_the_videos_is_all_that_is_kept(folder, memory):
  few = load(folder, memory, fraction=0.5)
  assert_equal(take(few, 2), take(load(folder, fraction=0.5), 2))
  assert few._cache.filled().holds.sum() <= 4


def test_straight_from_videos(tmp_path, memory, make_video):
  rng = np.random.default_rng(0)
  for v in range(4):
    pattern = rng.integers(0, 255, (24, 32, 3), np.uint8)
    make_video(tmp_path / "videos" / "train" / f"{v}.mp4", frames=10 + v, pattern=pattern)
  kept = {"source": "videos", "videos__cache": str(tmp_path / "index")}
  wanted = take(load(tmp_path / "videos", **kept), 2)
  assert_equal(take(load(tmp_path / "videos", memory, **kept), 2), wanted)


def test_only_training_videos_are_kept_and_reading_each_once_decodes_none(folder, memory):
  tiny.write(folder, [tiny.video(0)], "test", shards=1)
  data = tiny.data(folder, cache="host", cache_folder=str(memory))
  test = source.load(data, split="test", batch_size=1, seed=0)
  next(test.eval_batches(1, **VIEWS))
  next(load(folder, memory).eval_batches(4, **VIEWS))
  assert not list(memory.iterdir())


def test_manifest_tells_the_bytes_before_anything_is_decoded(tmp_path, monkeypatch):
  from data_pipelines.clips import cached, frame_memory

  tiny.write(tmp_path, [tiny.video(v) for v in range(4)])
  videos = load(tmp_path, tmp_path)
  counts = {"frames": 10**9, "stored_size": {"32x24": 4}}
  monkeypatch.setattr(manifest, "shards_of", lambda *_: [])
  monkeypatch.setattr(manifest, "read", lambda _: {"splits": {"train": counts}})
  monkeypatch.setattr(cached._Reader, "size", lambda *_: pytest.fail("a video was read"))
  monkeypatch.setattr(frame_memory, "room", lambda _: 10**9)
  message = r"cache=host: .* take 2,304\.0 GB, and 1\.0 GB are free in .*: set config\.data\.cache="
  for sizes in ({"32x24": 4}, {"32x24": 3, "64x48": 1}):  # of several, at least this is needed
    counts["stored_size"] = sizes
    with pytest.raises(UserError, match=message) as error:
      take(videos, 1)
    assert "\n" not in str(error.value)
  assert not [p for p in tmp_path.iterdir() if p.name.startswith("vssl-frames")]


def test_unknown_values_are_named(folder, tmp_path):
  with pytest.raises(UserError, match=r"config\.data\.cache: 'ram'; choose"):
    load(folder, cache="ram")
  with pytest.raises(UserError, match=r"config\.data\.cache_folder: .*none is no folder"):
    take(load(folder, tmp_path / "none"), 1)


OTHER = """
import sys
from tests.data_pipelines.clips import cached_test
from data_pipelines.clips import cached

def fail(*_):
  raise AssertionError("decoded again")

cached._Reader.copy = fail
videos = cached_test.load(sys.argv[1], sys.argv[2])
next(videos.train_batches())
print("found", flush=True)
"""


@pytest.mark.slow
def test_another_process_uses_the_same_memory(folder, memory):
  videos = load(folder, memory)
  take(videos, 1)
  (file,) = memory.iterdir()
  assert file.stat().st_mode & 0o777 == 0o600
  root = pathlib.Path(__file__).resolve().parents[3]
  command = [sys.executable, "-c", OTHER, str(folder), str(memory)]
  done = subprocess.run(
    command, capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
  )
  assert done.stdout.strip() == "found", done.stderr
  assert file.exists()  # this process still uses it
