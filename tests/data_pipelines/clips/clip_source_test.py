import itertools
import logging
import os
import resource

import numpy as np
import pytest
from scipy import stats

from data_pipelines.records import index, sequence_example
from tests.data_pipelines import tiny
from tests.data_pipelines.tiny import assert_equal, load, take
from vssl_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("tf")  # records are read with it

VIDEOS, BATCH = 10, 4  # a batch has as many videos as that of `load`
VIEWS = {"clips": 2, "crops": 3, "frames": 3, "stride": 2, "resize": 12, "size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  tiny.write(folder, [tiny.video(v) for v in range(VIDEOS)])
  tiny.write(folder, [tiny.video(v) for v in range(5)], "test", shards=1)
  return folder


@pytest.fixture(scope="module")
def reference(folder):
  """The first batches of the run that most tests repeat in another way."""
  return take(load(folder).train_batches(), 6)


@pytest.fixture(scope="module")
def orders(tf):
  """Orders of 101 videos in 150 epochs."""
  from data_pipelines.clips.clip_source import _shuffled

  place, epoch = (x.ravel() for x in np.meshgrid(np.arange(101), np.arange(150), indexing="xy"))
  pairs = tf.constant(np.stack([place, epoch], 1))
  run = tf.function(
    lambda: tf.map_fn(
      lambda pe: _shuffled(pe[0], 0, pe[1], 101), pairs, fn_output_signature=tf.int64
    )
  )
  return run().numpy().reshape(150, 101)


def damaged(folder, videos, bad):
  """Records of which those numbered in `bad` have lost their pictures."""
  broken = {v: sequence_example.Video(frames=[b"\xff\xd8 none"] * 40, label=9) for v in bad}
  return tiny.write(folder, [broken.get(v) or tiny.video(v) for v in range(videos)])


def test_a_label_without_a_name_stops_at_its_batch(folder, monkeypatch):
  """Where the labels cannot be checked at opening, as those of TFDS."""
  from data_pipelines.records import labels, manifest

  monkeypatch.setattr(labels, "occurring", lambda *_: None)
  monkeypatch.setattr(manifest, "read_labels", lambda _: ("a", "b"))
  s = load(folder)
  assert s.occurring() is None
  message = r"\(videos/\d\.avi\): has label 2, but there are 2 class names"
  with pytest.raises(UserError, match=message):
    take(s.train_batches(), 3)
  with pytest.raises(UserError, match=message):
    list(s.eval_batches(4, **VIEWS))


def test_classes_are_known_of_whole_splits_alone(folder, monkeypatch):
  from data_pipelines.records import manifest

  monkeypatch.setattr(manifest, "read_labels", lambda _: ("a", "b", "c"))
  s = load(folder)
  assert s.occurring() == {0, 1, 2}
  assert s.only([0, 1]).occurring() is None
  assert load(folder, batch_size=2, fraction=0.5).occurring() is None


class TestTraining:
  def test_batch_follows_the_contract(self, folder, reference):
    s, batch = load(folder), reference[0]
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
      "clips": ((BATCH, 2, 4, 8, 8, 3), "uint8"),
      "label": ((BATCH,), "int32"),
      "video": ((BATCH,), "int64"),
      "offset": ((BATCH, 2), "int32"),
    }
    np.testing.assert_array_equal(batch["label"], batch["video"] % 3)
    np.testing.assert_allclose(
      batch["clips"][..., 1].mean((1, 2, 3, 4)), 16 * batch["video"], atol=3
    )
    red = batch["clips"][..., 0].mean((3, 4))
    expected = 2 * (batch["offset"][..., None] + 2 * np.arange(4))
    np.testing.assert_allclose(red, expected, atol=3)
    assert (s.num_videos, s.steps_per_epoch, s.unreadable) == (VIDEOS, 2, 0)

  def test_each_epoch_shows_each_video_at_most_once_in_a_new_order(self, folder):
    batches = take(load(folder, batch_size=5).train_batches(), 6)
    epochs = np.concatenate([b["video"] for b in batches]).reshape(3, VIDEOS)
    for epoch in epochs:
      assert sorted(epoch) == list(range(VIDEOS))
    assert len({tuple(e) for e in epochs}) == 3
    first = [b["offset"][b["video"] == 3] for b in batches if 3 in b["video"]]
    assert len({o.tobytes() for o in first}) > 1  # other draws in another epoch

  @pytest.mark.parametrize("threads", [1, 8])
  def test_threads_change_no_byte(self, folder, reference, threads):
    for a, b in zip(load(folder, threads=threads).train_batches(), reference, strict=False):
      assert_equal(a, b)

  def test_hosts_share_the_batch(self, folder, reference):
    hosts = [take(load(folder, process=(p, 2)).train_batches(1), 4) for p in range(2)]
    for expected, *parts in zip(reference[1:5], *hosts, strict=True):
      assert_equal({k: np.concatenate([p[k] for p in parts]) for k in expected}, expected)

  @pytest.mark.parametrize("start", [1, 4])
  def test_restart_at_any_batch(self, folder, reference, start):
    resumed = take(load(folder).train_batches(start), 2)
    for a, b in zip(resumed, reference[start : start + 2], strict=True):
      assert_equal(a, b)

  def test_far_start_replays_nothing(self, folder):
    assert next(load(folder).train_batches(10**12))["clips"].shape[0] == BATCH

  def test_seed_decides(self, folder, reference):
    a, b = reference[0], next(load(folder, seed=1).train_batches())
    assert not np.array_equal(a["clips"], b["clips"])
    assert not np.array_equal(a["video"], b["video"])

  def test_fraction_is_a_fixed_share_of_the_videos(self, folder):
    s = load(folder, fraction=0.5, batch_size=5)
    shown = np.concatenate([b["clips"][:, 0, 0, 0, 0, 1] for b in take(s.train_batches(), 4)])
    originals = np.unique(np.round(shown / 16))
    assert (s.num_videos, s.steps_per_epoch, len(originals)) == (5, 1, 5)
    np.testing.assert_array_equal(s.ids, originals)
    assert load(folder, fraction=0.5, batch_size=5, split="test").num_videos == 5

  def test_crops_may_be_drawn_frame_by_frame(self, tmp_path):
    ramps = sequence_example.Video(frames=[tiny.jpeg(tiny.ramp())] * 20)
    tiny.write(tmp_path, [ramps] * 2)
    for consistent in (True, False):
      batch = next(load(tmp_path, batch_size=2, crop__consistent=consistent).train_batches())
      first, rest = batch["clips"][:, :, :1], batch["clips"][:, :, 1:]
      same = (first == rest).all((-1, -2, -3))
      assert same.all() if consistent else not same.any()

  def test_edit_changes_the_graph(self, folder, reference):
    from data_pipelines.clips.clip_source import ClipSource
    from data_pipelines.sources.tfrecord import RecordStore

    def darken(graph, training):
      assert training
      graph.preprocessor_builder.add_fn(lambda x: x // 2, "image", "darken")
      graph.postprocessor_builder.add_fn(lambda f: f | {"label": f["label"] + 100})

    make = {"split": "train", "batch_size": BATCH, "seed": 0}
    plain = reference[0]
    store = RecordStore(str(folder), "train")
    edited = next(ClipSource(tiny.data(folder), store, edit=darken, **make).train_batches())
    np.testing.assert_array_equal(edited["clips"], plain["clips"] // 2)
    np.testing.assert_array_equal(edited["label"], plain["label"] + 100)


class TestOrder:
  def test_are_permutations(self, orders):
    assert (np.sort(orders, axis=1) == np.arange(101)).all()

  def test_first_places_are_uniform(self, orders):
    for place in (0, 1, 50, 100):
      assert stats.kstest((orders[:, place] + 0.5) / 101, "uniform").pvalue > 1e-3

  def test_neighbors_and_epochs_are_uncorrelated(self, orders):
    serial = [np.corrcoef(o[:-1], o[1:])[0, 1] for o in orders]
    between = [np.corrcoef(a, b)[0, 1] for a, b in itertools.pairwise(orders)]
    for correlations in (serial, between):
      assert np.std(correlations) == pytest.approx(101**-0.5, rel=0.25)
      assert abs(np.mean(correlations)) < 4 * 101**-0.5 * 150**-0.5


class TestDamage:
  def test_unreadable_video_is_replaced_by_the_next_and_counted(self, tmp_path, caplog):
    damaged(tmp_path, VIDEOS, bad=(2, 3))
    s = load(tmp_path, batch_size=VIDEOS)
    with caplog.at_level(logging.WARNING, logger="absl"):
      batches = take(s.train_batches(), 2)
    for batch in batches:
      expected = sorted([0, 1, 4, 4, 4, 5, 6, 7, 8, 9])
      assert sorted(batch["video"]) == expected
      np.testing.assert_array_equal(batch["label"], batch["video"] % 3)
    assert s.unreadable == 2 * 3  # 2 gives way to 3, 3 to 4; 3 to 4
    assert len(caplog.messages) == 2  # each once
    assert "at byte" in caplog.text
    again = next(load(tmp_path, batch_size=VIDEOS, threads=1).train_batches(1))
    assert_equal(again, batches[1])  # as if the first had not been met

  def test_flipped_byte_is_noticed_by_the_checksum(self, tmp_path):
    tiny.write(tmp_path, [tiny.video(v) for v in range(3)], shards=1)
    (shard,) = tmp_path.glob("*.tfrecord")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1  # in the middle record
    shard.write_bytes(content)
    s = load(tmp_path, batch_size=3)
    assert sorted(next(s.train_batches())["video"]) == [0, 2, 2]
    assert s.unreadable == 1

  def test_a_record_with_a_damaged_head_has_no_name_and_is_left_out(self, tmp_path):
    tiny.write(tmp_path, [tiny.video(v) for v in range(3)], shards=1)
    where = index.load(tmp_path, "train")
    (shard,) = tmp_path.glob("*.tfrecord")
    content = bytearray(shard.read_bytes())
    start = int(where.offset[1]) + 4
    content[start : start + 40] = b"\xff" * 40
    shard.write_bytes(content)
    s = load(tmp_path)
    assert s.video_names == ("videos/0.avi", "", "videos/2.avi")
    (batch,) = s.eval_batches(3, **VIEWS)
    assert batch["valid"].tolist() == [True, False, True]
    assert "the record at byte" in s.describe(1)

  def test_strict_stops(self, tmp_path):
    damaged(tmp_path, 4, bad=(1,))
    with pytest.raises(UserError, match="strict") as e:
      take(load(tmp_path, strict=True).train_batches(), 1)
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="strict"):
      take(load(tmp_path, strict=True).eval_batches(2, **VIEWS), 4)

  def test_nothing_readable_is_an_error(self, tmp_path):
    damaged(tmp_path, 4, bad=range(4))
    with pytest.raises(UserError, match=r"split 'train'.*(JPEG|jpeg).*nor can"):
      next(load(tmp_path).train_batches())

  def test_evaluation_marks_unreadable_videos(self, tmp_path):
    damaged(tmp_path, 5, bad=(1,))
    s = load(tmp_path)
    batches = list(s.eval_batches(2, **VIEWS))
    valid = np.concatenate([b["valid"] for b in batches])
    assert valid.tolist() == [True, False, True, True, True, False]
    assert s.unreadable == 1
    assert batches[0]["label"][1] == -1


class TestForeignRecords:
  def test_without_index_label_or_rate(self, tmp_path, tf):
    for v in range(4):
      example = tf.train.SequenceExample()
      for t in range(20):
        image = example.feature_lists.feature_list["image/encoded"].feature.add()
        image.bytes_list.value.append(tiny.jpeg(tiny.flat(t, v)))
      with tf.io.TFRecordWriter(str(tmp_path / f"clips-{v:05d}-of-00004")) as writer:
        writer.write(example.SerializeToString())
    s = load(tmp_path, split="clips")
    batch = next(s.train_batches())
    np.testing.assert_allclose(batch["clips"][:, 0, 0, 0, 0, 1], 16 * batch["video"], atol=3)
    assert (batch["label"] == -1).all()
    assert s.label_names == ()
    assert s.video_names == ()

  def test_spans_in_seconds_need_a_rate(self, tmp_path):
    tiny.write(tmp_path, [tiny.video(v, fps=0.0) for v in range(4)])
    with pytest.raises(UserError, match=r"videos/\d\.avi.*prepare") as e:
      next(load(tmp_path, interval__max_seconds=1.0).train_batches())
    assert "\n" not in str(e.value)

  def test_spans_in_seconds_go_by_each_videos_rate(self, tmp_path):
    rates = [5.0, 10.0, 20.0, 30.0]
    tiny.write(tmp_path, [tiny.video(v, 120, fps) for v, fps in enumerate(rates)])
    fields = {
      "interval__distribution": "constant",
      "interval__gap": 0.6,
      "interval__unit": "seconds",
    }
    batch = next(load(tmp_path, **fields).train_batches())
    gaps = np.abs(np.diff(batch["offset"], axis=1))[:, 0]
    np.testing.assert_array_equal(gaps, np.array([3, 6, 12, 18])[batch["video"]])


class TestEvaluation:
  @pytest.mark.parametrize("hosts", [1, 2])
  def test_one_ordered_pass_with_a_padded_end(self, folder, hosts):
    per_host = [
      list(load(folder, process=(p, hosts)).eval_batches(4, **VIEWS)) for p in range(hosts)
    ]
    batches = [
      {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
      for parts in zip(*per_host, strict=True)
    ]
    assert len(batches) == 3
    assert batches[0]["clips"].shape == (4, 6, 3, 8, 8, 3)
    assert batches[0]["offset"].tolist() == [[0, 0, 0, 34, 34, 34]] * 4
    valid = np.concatenate([b["valid"] for b in batches])
    video = np.concatenate([b["video"] for b in batches])
    assert valid.tolist() == [True] * VIDEOS + [False] * 2
    assert video[valid].tolist() == list(range(VIDEOS))
    clips = np.concatenate([b["clips"] for b in batches])[valid]
    np.testing.assert_allclose(clips[..., 1].mean((1, 2, 3, 4)), 16 * video[valid], atol=3)

  def test_same_views_at_any_batch_size(self, folder):
    small, large = (list(load(folder).eval_batches(n, **VIEWS)) for n in (2, 5))
    for k in small[0]:
      np.testing.assert_array_equal(
        np.concatenate([b[k] for b in small]), np.concatenate([b[k] for b in large])
      )


class TestErrors:
  def test_no_path(self):
    with pytest.raises(UserError, match=r"vssl prepare"):
      load("")

  def test_batch_larger_than_split(self, folder):
    with pytest.raises(UserError, match="'train' has 10"):
      next(load(folder, batch_size=11).train_batches())

  def test_processes_must_divide_the_batch(self, folder):
    with pytest.raises(UserError, match="3 processes"):
      next(load(folder, process=(0, 3)).train_batches())

  def test_video_names_go_by_the_numbers_of_the_batches(self, folder):
    s = load(folder, fraction=0.5)
    assert s.video_names == tuple(f"videos/{i}.avi" for i in s.ids)
    assert 0 < len(s.video_names) < VIDEOS

  def test_a_name_behind_a_long_caption(self, tmp_path):
    tiny.write(tmp_path, [tiny.video(v, length=4, caption="c" * 9000) for v in range(4)])
    assert load(tmp_path).video_names == tuple(f"videos/{v}.avi" for v in range(4))

  def test_label_names_come_from_the_folder(self, tmp_path):
    tiny.write(tmp_path, [tiny.video()])
    (tmp_path / "labels.txt").write_text("archery\nsurfing\n")
    assert load(tmp_path).label_names == ("archery", "surfing")

  def test_names_that_are_no_utf8(self, tmp_path):
    records_folder = tiny.write(tmp_path / os.fsdecode(b"caf\xe9"), [tiny.video()])
    (records_folder / "labels.txt").write_bytes(b"caf\xe9\n")
    s = load(records_folder, batch_size=1)
    assert s.label_names == (r"caf\xe9",)
    np.testing.assert_array_equal(next(s.train_batches())["video"], [0])


def test_memory_stays_flat(folder):
  batches = load(folder, batch_size=10, size=32).train_batches()
  take(batches, 20)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  take(batches, 60)  # 1,200 clips, 12 MB of pixels each ten batches
  grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
  assert grown < 20  # MB
