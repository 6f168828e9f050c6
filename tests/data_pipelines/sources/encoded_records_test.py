"""Clips from records of encoded videos: those of the video files, whatever is in the records."""

import dataclasses
import json
import logging
import shutil

import numpy as np
import pytest

from data_pipelines import inspect
from data_pipelines.encoded import example, pack
from data_pipelines.prepare import prepare as prepare_lib
from data_pipelines.prepare import resume
from data_pipelines.prepare.prepare import prepare
from data_pipelines.records import index, manifest, sequence_example, tfrecord
from data_pipelines.videos import decode
from tests.data_pipelines import tiny
from tests.data_pipelines.encoded import moving
from vssl_jax import files
from vssl_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("tf")  # it cuts the clips

VIEWS = {"clips": 2, "crops": 3, "frames": 3, "stride": 2, "resize": 12, "size": 8}
HOW = {"max_seconds": 2.0, "short_side": 32, "workers": 1, "timeout": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("videos")
  for v in range(5):
    where = root / "train" / ("jump", "run")[v % 2] / f"{v}.{('mp4', 'mkv')[v % 2]}"
    moving.write(where, 30 + 2 * v, v=v, b_frames=v % 3, sound=1.0 if v == 2 else 0)
  moving.write(root / "train" / "run" / "long.mp4", 60, v=8, b_frames=2)
  for v in range(3):
    moving.write(root / "test" / ("jump", "run")[v % 2] / f"{v}.mp4", 25, v=v)
  (root / "train" / "run" / "bad.mp4").write_bytes(b"no video")
  return root


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
  root = tmp_path_factory.mktemp("records")
  return root, prepare(folder, root, store="video", **HOW)


@pytest.fixture(scope="module")
def records(made):
  return made[0]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def load(path, **fields):
  own = {
    "threads": 1,
    "videos__max_seconds": 2.0,
    "videos__short_side": 32,
    "videos__timeout": 300.0,
  }
  return tiny.load(path, **own | fields)


@pytest.fixture(scope="module")
def reference(records):
  return tiny.take(load(records).train_batches(), 3)


class TestClips:
  """The source of video files is the oracle: the records hold the same bytes or packets."""

  def test_they_are_those_of_the_video_files(self, made, folder, cache, reference):
    records, told = made
    assert told["splits"]["train"]["forms"] == {"copied": 2, "file": 4}
    direct = load(folder, source="videos", videos__cache=str(cache))
    ours = load(records)
    assert ours.num_videos == direct.num_videos == 7
    assert ours.video_names == direct.video_names
    assert (ours.label_names, ours.occurring()) == (direct.label_names, direct.occurring())
    for a, b in zip(reference, direct.train_batches(), strict=False):
      tiny.assert_equal(a, b)
    fields = {"interval__max_seconds": 0.3, "crop__consistent": False}
    a, b = (
      next(load(path, **fields, **more).train_batches(3))
      for path, more in (
        (records, {}),
        (folder, {"source": "videos", "videos__cache": str(cache)}),
      )
    )
    tiny.assert_equal(a, b)

  def test_test_views(self, records, folder, cache):
    ours = list(load(records, split="test").eval_batches(2, **VIEWS))
    direct = load(folder, split="test", source="videos", videos__cache=str(cache))
    for a, b in zip(ours, direct.eval_batches(2, **VIEWS), strict=True):
      tiny.assert_equal(a, b)
    assert ours[-1]["valid"].tolist() == [True, False]

  def test_neither_workers_nor_restarts_nor_hosts_change_a_byte(self, records, reference):
    tiny.assert_equal(
      next(load(records, threads=3, videos__timeout=0.0).train_batches(1)), reference[1]
    )
    hosts = [next(load(records, process=(p, 2)).train_batches(2)) for p in range(2)]
    for k, expected in reference[2].items():
      np.testing.assert_array_equal(np.concatenate([h[k] for h in hosts]), expected)

  def test_from_a_bucket_without_the_manifest(self, records, reference):
    bucket = files.path("memory://bucket/encoded")
    files.upload(records, str(bucket))
    try:
      files.unlink(bucket / manifest.MANIFEST)
      tiny.assert_equal(next(load(str(bucket)).train_batches()), reference[0])
    finally:
      files.remove_tree(bucket)


class TestPrepare:
  def test_parts_and_resuming_give_the_same_bytes(self, made, folder, tmp_path):
    records, told = made
    for part in ("1/2", "2/2"):
      prepare(folder, tmp_path, store="video", part=part, **HOW)
    assert prepare(folder, tmp_path, store="video", **HOW) == told
    assert json.loads((records / manifest.MANIFEST).read_text()) == told
    (tmp_path / manifest.MANIFEST).write_text("{")
    again = resume.earlier(tmp_path)
    for split in ("train", "test"):  # made anew from the results of the shards
      assert again["splits"][split]["settings"] == told["splits"][split]["settings"]
      assert again["splits"][split]["forms"] == told["splits"][split]["forms"]

  def test_the_manifest_says_the_form_and_index_and_hashes_hold(self, made):
    records, told = made
    settings = told["splits"]["train"]["settings"]
    assert (settings["store"], settings["crf"]) == ("video", 20)
    assert "quality" not in settings
    assert [f["path"] for f in told["splits"]["train"]["unreadable"]] == ["train/run/bad.mp4"]
    assert manifest.verify(records) == sum(len(s["shards"]) for s in told["splits"].values())
    assert len(index.load(records, "train")) == told["splits"]["train"]["records"] == 7
    assert "encoded videos: copied (2), file (4)" in manifest.summary(told).replace(
      "file (4), copied (2)", "copied (2), file (4)"
    )
    assert "encoded videos: copied (2), file (4)" in inspect.statistics(records)

  def test_records_of_jpegs_say_nothing_of_it(self, folder, tmp_path):
    told = prepare(folder / "test", tmp_path, **HOW)
    (split,) = told["splits"].values()
    assert "forms" not in split
    assert not {"store", "crf"} & split["settings"].keys()

  def test_another_form_needs_another_folder(self, folder, records):
    for how in ({}, {"store": "h264"}, {"store": "video", "crf": 30}):
      with pytest.raises(UserError, match=r"already has split .* (store|crf)="):
        prepare(folder, records, **HOW, **how)

  @pytest.mark.parametrize("how", [{"store": "jpeg"}, {"crf": 52}, {"crf": -1}])
  def test_what_the_flags_may_be(self, how, folder, tmp_path):
    with pytest.raises(UserError, match=r"store is 'jpeg'|crf is"):
      prepare(folder, tmp_path, **how)
    args = prepare_lib.parser().parse_args(["a", "b", "--store=h264", "--crf=30"])
    assert (args.store, args.crf) == ("h264", 30)

  def test_records_without_a_manifest_are_described(self, records, tmp_path):
    shutil.copytree(records, tmp_path / "copy")
    (tmp_path / "copy" / manifest.MANIFEST).unlink()
    text = inspect.statistics(tmp_path / "copy")
    assert "test: 3 records" in text
    assert "frames: 25 to 25, median 25" in text


@pytest.fixture(scope="module")
def video(folder):
  (one,) = pack.pack(folder / "test/jump/0.mp4", decode.FrameSettings(store="video"))
  return one.video


def about(name="bad.mp4"):
  return sequence_example.Video(frames=(), fps=25.0, label=0, filename=name)


def hostile(video):
  """Records that are not what they say, by what is wrong."""
  change = dataclasses.replace
  whole = example.encode(video, about())
  cut = change(video, content=video.content[: len(video.content) // 3])
  noise = np.random.default_rng(0).bytes(len(video.content))
  playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
  message = sequence_example.parsed(whole)
  found = {
    "cut bytes": example.encode(cut, about()),
    "no bytes": example.encode(change(video, content=b""), about()),
    "noise": example.encode(change(video, content=noise), about()),
    "a list of addresses": example.encode(change(video, content=playlist), about()),
    "another container": example.encode(change(video, container="matroska"), about()),
    "pictures of another size": example.encode(change(video, size=(480, 320)), about()),
    "huge pictures": example.encode(change(video, size=(11000, 11000)), about()),
    "times that are not there": example.encode(change(video, shown=video.shown + 7), about()),
    "times far away": example.encode(change(video, shown=video.shown + (1 << 60)), about()),
    "a record of JPEGs": example_of_jpegs(),
    "half a record": whole[: len(whole) // 2],
  }

  def changed(what, edit):
    message = sequence_example.parsed(whole)
    edit(message.context.feature, message.feature_lists.feature_list)
    found[what] = message.SerializeToString(deterministic=True)

  del message
  changed("more frames than times", lambda c, f: set_numbers(c[example.LENGTH], [1 << 40]))
  changed("no frames", lambda c, f: set_numbers(c[example.LENGTH], [0]))
  changed("fewer than none", lambda c, f: set_numbers(c[example.LENGTH], [-5]))
  changed("no index", lambda c, f: f[example.PTS].feature[0].int64_list.ClearField("value"))
  changed(
    "times that go back", lambda c, f: set_numbers(f[example.PTS].feature[0], [*range(25)][::-1])
  )
  changed("no keyframes", lambda c, f: set_numbers(f[example.KEYS_SHOWN].feature[0], []))
  changed("no size", lambda c, f: set_numbers(c[example.SIZE], []))
  changed("sizes of less than nothing", lambda c, f: set_numbers(c[example.SIZE], [-4, -4]))
  changed("an unknown form", lambda c, f: set_text(c[example.FORM], b"tape"))
  changed("FFmpeg's concat", lambda c, f: set_text(c[example.CONTAINER], b"concat"))
  return found


def example_of_jpegs():
  return sequence_example.encode(dataclasses.replace(tiny.video(), filename="bad.mp4"))


def set_numbers(feature, values):
  del feature.int64_list.value[:]
  feature.int64_list.value.extend(values)


def set_text(feature, value):
  feature.bytes_list.value[0] = value


class TestHostileRecords:
  def test_each_is_replaced_counted_and_named(self, video, tmp_path, caplog):
    """One bad record among good ones, for every way to be bad."""
    good = [example.encode(video, about(f"good{i}.mp4")) for i in range(2)]
    bad = hostile(video)
    tiny.write(tmp_path, [*good, *bad.values()], shards=1)
    ours = load(tmp_path, batch_size=1, threads=2)
    with caplog.at_level(logging.WARNING, logger="absl"):
      (batches,) = [list(ours.eval_batches(1, **VIEWS))]
    assert [bool(b["valid"][0]) for b in batches] == [True] * 2 + [False] * len(bad)
    assert ours.unreadable == len(bad)
    lines = [r.getMessage() for r in caplog.records if "cannot be decoded" in r.getMessage()]
    assert len(lines) == len(bad)
    assert all("the record at byte" in line and "\n" not in line for line in lines)
    assert sum("(bad.mp4)" in line for line in lines) >= len(bad) - 1  # not of half a record

  def test_the_run_stops_with_one_line_if_it_is_strict(self, video, tmp_path):
    bad = hostile(video)
    tiny.write(tmp_path, [example.encode(video, about("good.mp4")), bad["cut bytes"]], shards=1)
    with pytest.raises(UserError, match="cannot be decoded") as error:
      tiny.take(load(tmp_path, batch_size=2, strict=True).train_batches(), 1)
    assert "\n" not in str(error.value)

  def test_damage_costs_its_own_video(self, records, tmp_path, caplog):
    """A flipped byte inside the stored video is found by the checksum of its record."""
    shutil.copytree(records, tmp_path / "copy")
    where = index.load(tmp_path / "copy", "train")
    name, offset, length = where.place_of(2)
    with open(name, "r+b") as file:
      file.seek(offset + length // 2)
      byte = file.read(1)
      file.seek(-1, 1)
      file.write(bytes([byte[0] ^ 255]))
    ours = load(tmp_path / "copy", batch_size=7)
    with caplog.at_level(logging.WARNING, logger="absl"):
      next(ours.train_batches())
    assert ours.unreadable == 1
    assert f"the record at byte {offset}" in caplog.text


def test_names_and_labels_are_at_the_front(video):
  record = example.encode(video, about())
  assert sequence_example.filename_of(record[:4096]) == "bad.mp4"
  assert sequence_example.label_of(record[:4096]) == 0
  assert example.length_of(record[:4096]) == 25
  assert example.length_of(example_of_jpegs()[:4096]) is None
  again = example.decode(record)
  for field in dataclasses.fields(again):
    np.testing.assert_array_equal(getattr(again, field.name), getattr(video, field.name))
  with pytest.raises(UserError, match="no frames under"):
    sequence_example.decode(record)


def test_a_shard_can_be_rewritten_by_others(video, tmp_path):
  """The payload is a plain SequenceExample: TensorFlow reads all of it."""
  import tensorflow as tf

  with tfrecord.ShardWriter(tmp_path / "train-00000-of-00001.tfrecord") as writer:
    writer.write(example.encode(video, about()))
  (record,) = tf.data.TFRecordDataset(str(tmp_path / "train-00000-of-00001.tfrecord"))
  parsed = tf.train.SequenceExample.FromString(record.numpy())
  (content,) = parsed.feature_lists.feature_list[example.VIDEO].feature
  assert content.bytes_list.value[0] == video.content
  (times,) = parsed.feature_lists.feature_list[example.PTS].feature
  assert list(times.int64_list.value) == video.shown.tolist()


def test_kept_decoded_in_memory_they_give_the_same_batches(records, reference, tmp_path):
  kept = load(records, cache="host", cache_folder=str(tmp_path))
  for got, want in zip(tiny.take(kept.train_batches(), 3), reference, strict=True):
    tiny.assert_equal(got, want)


def test_they_are_rgb(records):
  with pytest.raises(UserError, match=r"videos in RGB, but config\.data\.channels is 1"):
    load(records, channels=1)
