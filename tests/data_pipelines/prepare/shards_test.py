"""Shards: how videos are dealt, what writing one leaves, when an earlier result counts."""

import dataclasses
import math
import os

import pytest

from data_pipelines.listing.video_list import Entry
from data_pipelines.prepare import shards
from data_pipelines.records import index
from data_pipelines.records import sequence_example as example
from data_pipelines.videos import decode, parts


def entries(count):
  return [Entry(f"{i}.mp4", label=str(i % 3)) for i in range(count)]


@pytest.mark.parametrize(("videos", "count"), [(10, 3), (10, 10), (7, 1), (100, 16)])
def test_every_video_is_dealt_once_and_evenly(videos, count):
  dealt = shards.assign(entries(videos), count)
  assert len(dealt) == count
  assert sorted(e.path for shard in dealt for e in shard) == sorted(e.path for e in entries(videos))
  sizes = [len(shard) for shard in dealt]
  assert max(sizes) - min(sizes) <= 1


def test_dealing_shuffles_and_ignores_the_order_given():
  dealt = shards.assign(entries(60), 4)
  assert dealt == shards.assign(entries(60)[::-1], 4)
  assert [e for shard in dealt for e in shard] != sorted(entries(60), key=lambda e: e.path)
  assert all(len({e.label for e in shard}) == 3 for shard in dealt)


def test_spans_of_one_video_are_told_apart():
  spans = [Entry("a.mp4", start=i, end=i + 1.0) for i in range(20)] + [Entry("a.mp4", end=math.inf)]
  dealt = shards.assign(spans, 2)
  assert dealt == shards.assign(spans[::-1], 2)
  assert len({e for shard in dealt for e in shard}) == 21


@pytest.mark.parametrize(
  ("sizes", "expected"),
  [
    ([1] * 5, 5),
    ([1] * 500, 16),
    ([-1] * 3, 3),
    ([2**30] * 10, 10),
    ([2**20] * 6400, 101),
    ([2**40] * 3, 3),
  ],
)
def test_default_count(sizes, expected):
  assert shards.default_count(sizes) == expected


@pytest.fixture
def shard(tmp_path, make_video):
  (tmp_path / "out" / shards.STATE).mkdir(parents=True)
  make_video(tmp_path / "in" / "a.mp4", frames=20, fps=10)
  make_video(tmp_path / "in" / "b.mp4", frames=6, fps=10)
  (tmp_path / "in" / "broken.mp4").write_bytes(b"nothing")
  return shards.Shard(
    path=str(tmp_path / "out" / "train-00000-of-00001.tfrecord"),
    root=str(tmp_path / "in"),
    entries=(Entry("a.mp4", label="x"), Entry("broken.mp4", label="y"), Entry("b.mp4", label="y")),
    sizes=(1, 7, 2),
    labels=("x", "y"),
    settings=decode.FrameSettings(max_seconds=0.8),
  )


def test_writing_a_shard(shard):
  messages = []
  result = shards.write(shard, messages.append)
  found = index.build([shard.path])
  videos = [example.decode(index.read_record(found, i, verify=True)) for i in range(len(found))]
  assert [(v.filename, v.label, v.label_text, len(v.frames)) for v in videos] == [
    ("a.mp4", 0, "x", 8),
    ("a.mp4", 0, "x", 6),
    ("a.mp4", 0, "x", 6),
    ("b.mp4", 1, "y", 6),
  ]
  assert [(v.start, v.end) for v in videos[:3]] == [
    (0, 800_000),
    (800_000, 1_400_000),
    (1_400_000, 2_000_000),
  ]
  assert messages == [
    (kind, i) for i, parts in enumerate((3, 0, 1)) for kind in ("start", *["part"] * parts, "end")
  ]
  assert result["records"] == 4
  assert result["bytes"] == os.path.getsize(shard.path) == result["counts"]["bytes"]
  assert result["counts"]["videos"] == 2
  assert result["counts"]["seconds"] == pytest.approx(2.6)
  assert [f["path"] for f in result["counts"]["unreadable"]] == ["broken.mp4"]
  assert shard.result() == result


def test_a_video_that_breaks_late_leaves_no_records(shard, monkeypatch):
  real = decode.decode

  def break_late(path, *args, **kwargs):
    for number, part in enumerate(real(path, *args, **kwargs)):
      if path.endswith("a.mp4") and number == 2:
        raise decode.UnreadableError("late")
      yield part

  monkeypatch.setattr(decode, "decode", break_late)
  result = shards.write(shard, lambda _: None)
  found = index.build([shard.path])
  assert [example.decode(index.read_record(found, i)).filename for i in range(len(found))] == [
    "b.mp4"
  ]
  assert result["counts"]["unreadable"][0] == {"path": "a.mp4", "reason": "late"}


def test_a_video_that_killed_its_worker_is_not_tried_again(shard):
  crashed = dataclasses.replace(shard, crashed={0: "boom"})
  result = shards.write(crashed, lambda _: None)
  assert {"path": "a.mp4", "reason": "boom"} in result["counts"]["unreadable"]
  assert result["records"] == 1


def test_a_strict_shard_stops_and_leaves_no_file(shard):
  with pytest.raises(shards.UnreadableVideoError, match=r"broken\.mp4: cannot be decoded"):
    shards.write(dataclasses.replace(shard, strict=True), lambda _: None)
  assert not os.path.exists(shard.path)
  assert shard.result() is None


def test_a_record_beyond_two_gigabytes_is_refused(shard, monkeypatch):
  monkeypatch.setattr(parts, "RECORD_BYTES", 100)
  result = shards.write(shard, lambda _: None)
  assert result["records"] == 0
  reasons = {f["path"]: f["reason"] for f in result["counts"]["unreadable"]}
  assert "--max_seconds" in reasons["a.mp4"]
  assert "--max_seconds" in reasons["b.mp4"]


def test_a_result_counts_only_for_the_same_whole_shard(shard):
  assert shard.result() is None
  shards.write(shard, lambda _: None)
  assert shard.result() is not None
  assert dataclasses.replace(shard, sizes=(1, 8, 2)).result() is None  # a file has changed
  assert dataclasses.replace(shard, entries=shard.entries[::-1]).result() is None
  assert dataclasses.replace(shard, labels=("y", "x")).result() is None
  shard.state.write_text("{")
  assert shard.result() is None
  shards.write(shard, lambda _: None)
  os.truncate(shard.path, 10)
  assert shard.result() is None
