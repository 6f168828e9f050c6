"""Clips straight from videos: those of their records, whatever the workers and restarts."""

import csv
import logging
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from data_pipelines.prepare.prepare import prepare
from data_pipelines.videos import seek_index, servers, survey
from data_pipelines.videos.damage import UnreadableError
from tests.data_pipelines import tiny
from tests.data_pipelines.tiny import assert_equal, take
from vssl_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("tf")  # it cuts the clips

VIEWS = {"clips": 2, "crops": 3, "frames": 3, "stride": 2, "resize": 12, "size": 8}
# JPEG of quality 100 keeps a smooth picture to a few levels; two frames differ by 6.
NEAR = 4


def write(path, length, v=0, size=(48, 32), **options):
  """A ramp in both directions that gets brighter from frame to frame, different in each video."""
  path.parent.mkdir(parents=True, exist_ok=True)
  codec = "mpeg4" if path.suffix == ".avi" else "libx264"
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=Fraction(25))
    stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
    stream.gop_size, stream.bit_rate = 8, 4_000_000
    stream.codec_context.options = {"bf": "2", **options}
    y, x = np.mgrid[: size[1], : size[0]]
    for t in range(length):
      level = y + x + 6 * (t % 20) + 3 * v
      frame = np.repeat(np.clip(level, 0, 255).astype(np.uint8)[..., None], 3, -1)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())
  return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Videos of all kinds in class folders and splits, some of which cannot be read."""
  root = tmp_path_factory.mktemp("videos")
  for v in range(7):
    suffix = ("mp4", "mkv", "avi")[v % 3]
    write(root / "train" / ("jump", "run")[v % 2] / f"{v}.{suffix}", 30 + 2 * v, v)
  write(root / "train" / "run" / "long.mp4", 90, 8)
  for v in range(3):
    write(root / "test" / ("jump", "run")[v % 2] / f"{v}.mp4", 25, v)
  (root / "train" / "run" / "bad.mp4").write_bytes(b"no video")
  return root


@pytest.fixture(scope="module")
def records(folder, tmp_path_factory):
  """The same videos, prepared; the longest becomes two records."""
  root = tmp_path_factory.mktemp("records")
  prepare(folder, root, quality=100, short_side=24, max_seconds=3, workers=1, timeout=0)
  return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def load(path, cache, **fields):
  fields = {"threads": 1, "source": "videos", "videos__cache": str(cache)} | fields
  fields = {"videos__short_side": 24, "videos__max_seconds": 3.0, "videos__timeout": 300.0} | fields
  return tiny.load(path, **fields)


def assert_near(a, b):
  """Equal, but for what JPEG loses."""
  assert a.keys() == b.keys()
  for k in a:
    if k == "clips":
      assert np.abs(a[k].astype(int) - b[k]).max() <= NEAR
    else:
      np.testing.assert_array_equal(a[k], b[k], err_msg=k)


@pytest.fixture(scope="module")
def reference(folder, cache):
  return take(load(folder, cache).train_batches(), 4)


class TestRecords:
  """`prepare` and the source of records are the oracle."""

  def test_the_same_videos_labels_and_names(self, folder, records, cache):
    for split in ("train", "test"):
      ours = load(folder, cache, split=split, batch_size=2)
      theirs = load(records, cache, split=split, batch_size=2, source="tfrecord")
      assert ours.num_videos == theirs.num_videos == (9 if split == "train" else 3)
      assert ours.video_names == theirs.video_names
      assert ours.label_names == theirs.label_names == ("jump", "run")
      assert ours.occurring() == theirs.occurring() == {0, 1}

  def test_the_same_training_batches(self, records, cache, reference):
    theirs = take(load(records, cache, source="tfrecord").train_batches(), 4)
    for a, b in zip(reference, theirs, strict=True):
      assert_near(a, b)

  def test_the_same_frames_of_intervals_in_seconds_and_other_crops(self, folder, records, cache):
    fields = {"interval__max_seconds": 0.3, "crop__short": (0.7, 0.9), "crop__consistent": False}
    a, b = (
      next(load(path, cache, source=kind, **fields).train_batches(3))
      for path, kind in ((folder, "videos"), (records, "tfrecord"))
    )
    assert_near(a, b)

  def test_the_same_test_views(self, folder, records, cache):
    ours = list(load(folder, cache, split="test").eval_batches(2, **VIEWS))
    theirs = load(records, cache, split="test", source="tfrecord").eval_batches(2, **VIEWS)
    for a, b in zip(ours, theirs, strict=True):
      assert_near(a, b)
    assert ours[-1]["valid"].tolist() == [True, False]

  def test_spans_and_splits_of_a_csv_at_another_rate(self, folder, cache, tmp_path):
    table = tmp_path / "a.csv"
    rows = [
      ("path", "label", "split", "start", "end"),
      (folder / "train/run/long.mp4", "b", "train", 0.5, 1.4),
      (folder / "train/run/long.mp4", "a", "train", 2.0, ""),
      (folder / "train/jump/2.avi", "a", "train", 0.4, 1.1),
      (folder / "test/run/1.mp4", "b", "mine", "", ""),
    ]
    with table.open("w", newline="") as file:
      csv.writer(file).writerows(rows)
    how = {"short_side": 20, "quality": 100, "fps": 12.0}
    prepare(table, tmp_path / "r", **how, workers=1, timeout=0)
    fields = {"videos__short_side": 20, "videos__fps": 12.0, "videos__max_seconds": 120.0}
    for split, count in {"train": 3, "mine": 1}.items():
      a, b = (
        load(path, cache, split=split, batch_size=count, source=kind, **fields)
        for path, kind in ((table, "videos"), (tmp_path / "r", "tfrecord"))
      )
      assert_near(next(a.train_batches()), next(b.train_batches()))
      assert a.label_names == ("a", "b")


class TestDeterminism:
  def test_workers_change_no_byte(self, folder, cache, reference):
    for a, b in zip(load(folder, cache, threads=3).train_batches(), reference, strict=False):
      assert_equal(a, b)

  def test_a_restart_at_any_batch(self, folder, cache, reference):
    assert_equal(next(load(folder, cache).train_batches(2)), reference[2])

  def test_hosts_share_the_batch(self, folder, cache, reference):
    hosts = [next(load(folder, cache, process=(p, 2)).train_batches(1)) for p in range(2)]
    for k, expected in reference[1].items():
      np.testing.assert_array_equal(np.concatenate([h[k] for h in hosts]), expected)

  def test_another_folder_and_a_new_cache_change_no_byte(self, folder, cache, reference, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    ours = load(copy, tmp_path / "cache", videos__timeout=0.0)
    assert_equal(next(ours.train_batches()), reference[0])
    assert ours.fingerprint == load(folder, cache).fingerprint

  def test_the_fingerprint_is_that_of_the_videos_and_settings(self, folder, cache):
    marks = [
      load(folder, cache).fingerprint,
      load(folder, cache, split="test", batch_size=2).fingerprint,
      load(folder, cache, videos__short_side=20).fingerprint,
      load(folder, cache, videos__fps=12.0).fingerprint,
    ]
    assert len(set(marks)) == 4
    assert load(folder, cache, seed=1).fingerprint == marks[0]

  def test_the_index_is_used_again(self, folder, cache, reference, monkeypatch):
    monkeypatch.setattr(survey, "_look_at_all", None)
    monkeypatch.setattr(seek_index, "make", None)
    assert_equal(next(load(folder, cache).train_batches()), reference[0])
    assert not [p for p in folder.rglob("*") if p.suffix in (".npz", ".json")]


class TestDamage:
  @pytest.fixture
  def copy(self, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder / "train", copy / "train")
    return copy

  def test_videos_that_cannot_be_read_are_left_out_and_named(self, copy, tmp_path, caplog):
    fields = {"videos__timeout": 0.0}
    for _ in range(2):  # each opening tells it
      caplog.clear()
      with caplog.at_level(logging.WARNING, logger="absl"):
        ours = load(copy, tmp_path / "cache", **fields)
      assert ours.num_videos == 9
      assert "1 video of split 'train' cannot be read: left out: train/run/bad.mp4" in caplog.text
    with pytest.raises(UserError, match=r"bad\.mp4 cannot be read .*strict=False"):
      load(copy, tmp_path / "cache", strict=True, **fields)

  def test_a_video_that_is_damaged_later_is_replaced_and_counted(self, copy, tmp_path, caplog):
    ours = load(copy, tmp_path / "cache", batch_size=9, videos__timeout=300.0)
    bad = ours.video_names.index("train/run/1.mkv")
    (copy / "train" / "run" / "1.mkv").write_bytes(b"rubble")
    with caplog.at_level(logging.WARNING, logger="absl"):
      batch = next(ours.train_batches())
    expected = [(bad + 1) % 9 if v == bad else v for v in range(9)]
    assert sorted(batch["video"]) == sorted(expected)
    assert ours.unreadable == 1
    assert "1.mkv (cannot be decoded" in caplog.text
    views = list(ours.eval_batches(9, **VIEWS))
    assert np.flatnonzero(~views[0]["valid"]).tolist() == [bad]
    assert ours.unreadable == 2

  def test_processes_that_are_lost_are_no_fault_of_the_video(self, folder, cache, monkeypatch):
    def lost(*_, **__):
      raise servers.LostError(servers.workers.Crash("ended by SIGKILL", outside=True))

    ours = load(folder, cache)
    monkeypatch.setattr(servers.Servers, "call", lost)
    with pytest.raises(UserError, match=r"SIGKILL.*run the same command again"):
      next(ours.train_batches())

  @pytest.mark.parametrize("kind", ["train", "test"])
  def test_a_storage_that_fails_replaces_nothing(self, folder, cache, monkeypatch, kind):
    def failing(self, function, request, *, timeout):
      if "1." in request.span.path:
        raise UnreadableError("cannot be decoded: Stale file handle", passing=True)
      return call(self, function, request, timeout=timeout)

    call = servers.Servers.call
    ours = load(folder, cache, split=kind, batch_size=2)
    monkeypatch.setattr(servers.Servers, "call", failing)
    batches = ours.train_batches() if kind == "train" else ours.eval_batches(2, **VIEWS)
    with pytest.raises(UserError, match=r"1\.m..: .*Stale file handle.*run the same command again"):
      take(batches, 9)

  def test_a_hang_is_replaced(self, folder, cache, monkeypatch):
    call = servers.Servers.call

    def slow(self, function, request, *, timeout):
      assert timeout == 300
      if "long" in request.span.path:
        raise servers.LostError(servers.workers.Crash("took longer than 300 s", outside=False))
      return call(self, function, request, timeout=timeout)

    ours = load(folder, cache, batch_size=9)
    monkeypatch.setattr(servers.Servers, "call", slow)
    long = [i for i, name in enumerate(ours.video_names) if "long" in name]
    assert not set(next(ours.train_batches())["video"]) & set(long)
    assert ours.unreadable >= 2


class TestRefusals:
  @pytest.mark.parametrize(
    ("fields", "message"),
    [
      ({"split": "val"}, r"no videos of split 'val'; it has test, train: set config\.data"),
      ({"videos__fps": -1.0}, r"config\.data\.videos\.fps: -1"),
      ({"videos__root": "x"}, "root needs a CSV"),
      ({"batch_size": 10}, "10 videos per batch"),
    ],
  )
  def test_fields(self, folder, cache, fields, message):
    with pytest.raises(UserError, match=message):
      load(folder, cache, **fields).train_batches().__next__()

  def test_paths(self, cache, tmp_path):
    for path, message in (("", "VIDEOS"), (tmp_path / "none", "no such folder")):
      with pytest.raises(UserError, match=message):
        load(path, cache)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read \(empty file\), nor can any other"):
      load(tmp_path, cache, videos__timeout=0.0)

  def test_a_flat_folder_has_no_labels(self, folder, cache):
    ours = load(folder / "test" / "run", cache, batch_size=1, videos__timeout=0.0)
    assert ours.label_names == ()
    batch = next(load(folder / "test" / "run", cache, batch_size=1).train_batches())
    assert batch["label"].tolist() == [-1]
