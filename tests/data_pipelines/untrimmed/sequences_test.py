import itertools
import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines.untrimmed import sequences
from data_pipelines.untrimmed.sequences import Dataset, LocalizationSource
from tests.data_pipelines import tiny
from vssl_jax import config as config_lib
from vssl_jax.errors import UserError
from vssl_jax.localization import annotations
from vssl_jax.localization.annotations import Segment, Video

ARGS = {"seed": 0, "process_index": 0, "process_count": 1}


def fields(path="", frames=6, fraction=1.0, **kwargs):
  data = ConfigDict(tiny.data(path, source="localization", frames=frames, fraction=fraction))
  with data.unlocked():
    data.localization = config_lib.localization()
  data.localization.step_seconds = 0.5
  data.localization.update(kwargs)
  return data


def sequence(v, length, width=3):
  """Step t of video v holds (v, t, 0)."""
  result = np.zeros((length, width), np.float32)
  result[:, 0], result[:, 1] = v, np.arange(length)
  return result


def dataset(lengths, subset="train"):
  """Video v has action v mod 2, and the first has both."""
  videos, features = {}, {}
  for v, n in enumerate(lengths):
    segments = [Segment(0.0, 0.5, "ba"[v % 2])] + [Segment(0.2, 0.4, "a")] * (v == 0)
    videos[f"v{v}"] = Video(subset, n / 2, tuple(segments))
    features[f"v{v}"] = sequence(v, n)
  return Dataset(videos, features, 0.5)


def opened(lengths, batch_size=None, **kwargs):
  batch_size = batch_size or len(lengths)
  return LocalizationSource(
    fields(**kwargs), dataset(lengths), split="train", batch_size=batch_size, **ARGS
  )


def test_batch_follows_the_contract():
  s = opened([4, 6, 9])
  batch = next(s.train_batches())
  assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
    "features": ((3, 6, 3), "float32"),
    "mask": ((3, 6), "bool"),
    "labels": ((3, 2), "float32"),
    "seconds": ((3,), "float32"),
    "video": ((3,), "int64"),
  }
  np.testing.assert_array_equal(batch["features"][:, :, 0].T, [batch["video"]] * 6)
  want = np.array([[1, 1], [1, 0], [0, 1]])[batch["video"]]  # classes a, b
  np.testing.assert_array_equal(batch["labels"], want)
  assert (s.num_videos, s.label_names, s.names) == (3, ("a", "b"), ("v0", "v1", "v2"))


def test_annotated_moments_come_along_where_asked_for():
  assert "truth" not in next(opened([4, 6, 9]).train_batches())
  batch = next(opened([4, 6, 9], truth=True).train_batches())
  assert (batch["truth"].shape, batch["truth"].dtype) == ((3, 6, 2), bool)
  for v, truth, seconds in zip(batch["video"], batch["truth"], batch["seconds"], strict=True):
    middle = (np.arange(6) + 0.5) * seconds
    expected = np.zeros((6, 2), bool)
    expected[:, 1 - v % 2] = middle < 0.5  # video v has action "ba"[v % 2]
    if v == 0:
      expected[:, 0] |= (middle >= 0.2) & (middle < 0.4)
    np.testing.assert_array_equal(truth, expected)


def test_sampling_takes_evenly_spaced_steps_to_test():
  batch = next(opened([4, 6, 60]).eval_batches(3))
  np.testing.assert_array_equal(batch["features"][0, :, 1], [0, 1, 1, 2, 3, 3])
  np.testing.assert_array_equal(batch["features"][1, :, 1], np.arange(6))
  np.testing.assert_array_equal(batch["features"][2, :, 1], [5, 15, 25, 35, 45, 55])
  assert batch["mask"].all()
  np.testing.assert_allclose(batch["seconds"] * 6, [2, 3, 30])


def test_sampling_jitters_within_bins_to_train():
  batches = itertools.islice(opened([4, 6, 60]).train_batches(), 200)
  drawn = {v: [] for v in range(3)}
  for b in batches:
    for v, x in zip(b["video"], b["features"][:, :, 1], strict=True):
      drawn[int(v)].append(x)
  long = np.array(drawn[2])
  assert (long // 10 == np.arange(6)).all()
  assert len(np.unique(long % 10)) == 10
  np.testing.assert_array_equal(drawn[1], np.tile(np.arange(6), (200, 1)))  # of equal length
  short = np.array(drawn[0])  # 6 bins of 2/3 of a step
  low, high = np.arange(6) * 2 / 3, np.arange(1, 7) * 2 / 3
  assert (short >= np.floor(low)).all()
  assert (short < np.ceil(high)).all()
  assert (np.diff(short, axis=1) >= 0).all()


def test_padding_masks_what_is_not_there():
  s = opened([4, 6, 60], sampling="pad")
  for batch in (next(s.eval_batches(3)), next(s.train_batches())):
    order = np.argsort(batch["video"])
    assert batch["mask"].sum(1)[order].tolist() == [4, 6, 6]
    short = batch["features"][order[0]]
    np.testing.assert_array_equal(short[:4], sequence(0, 4))
    np.testing.assert_array_equal(short[4:], 0)
    np.testing.assert_allclose(batch["seconds"][order], [0.5, 0.5, 5])


def test_batch_is_a_function_of_seed_and_number():
  lengths = [9, 30, 12, 8]
  reference = list(itertools.islice(opened(lengths, 2).train_batches(), 6))
  resumed = next(opened(lengths, 2).train_batches(5))
  for k in resumed:
    np.testing.assert_array_equal(resumed[k], reference[5][k])


def test_a_fraction_keeps_videos_and_features_together():
  s = opened([8] * 10, 2, fraction=0.4)
  assert s.num_videos == len(s.videos) == 4
  for b in itertools.islice(s.train_batches(), 4):
    for v, x, labels in zip(b["video"], b["features"], b["labels"], strict=True):
      assert s.names[v] == f"v{x[0, 0]:.0f}"
      assert [n for n, y in zip(s.label_names, labels, strict=True) if y] == list(
        s.videos[v].labels
      )
      np.testing.assert_array_equal(s.sequence(v), sequence(x[0, 0], 8))


def written(folder, **kwargs):
  both = dataset([6, 9])
  other = dataset([7], "test")
  whole = Dataset(
    both.videos | {"t": other.videos["v0"]}, both.features | {"t": other.features["v0"]}, 0.5
  )
  whole.write(folder)
  return fields(str(folder), **kwargs)


def load(data, split="train", batch_size=1):
  return sequences.load(data, split=split, batch_size=batch_size, **ARGS)


def test_folder(tmp_path):
  data = written(tmp_path)
  train, test = load(data), load(data, "test")
  assert (train.num_videos, test.num_videos) == (2, 1)
  assert train.label_names == test.label_names == ("a", "b")
  want = next(
    LocalizationSource(data, dataset([6, 9]), split="train", batch_size=2, **ARGS).train_batches()
  )
  for k, x in next(load(data, batch_size=2).train_batches()).items():
    np.testing.assert_array_equal(x, want[k])
  with pytest.raises(UserError, match="'valid'"):
    load(data, "valid")


def test_streams_are_joined_and_annotations_may_lie_elsewhere(tmp_path):
  written(tmp_path / "rgb")
  written(tmp_path / "flow")
  np.save(tmp_path / "flow" / "v0.npy", 100 + sequence(0, 5, 2))  # a snippet shorter
  np.save(tmp_path / "flow" / "v1.npy", 100 + sequence(1, 9, 2))
  videos = tmp_path / "gt.json"
  (tmp_path / "rgb" / "annotations.json").rename(videos)
  data = fields(str(tmp_path), streams=("rgb", "flow"), annotations=str(videos))
  joined = load(data).sequence(0)
  np.testing.assert_array_equal(joined[:, :3], sequence(0, 5))
  np.testing.assert_array_equal(joined[:, 3:], 100 + sequence(0, 5, 2))


def basnet(root):
  """What BaS-Net's authors distribute: streams by split, times as text, lists of the videos."""
  lengths = {"train": {"val_1": 6, "val_2": 9}, "test": {"test_1": 7, "test_excluded": 5}}
  database = {}
  for split, videos in lengths.items():
    for name, length in videos.items():
      for stream, width in {"rgb": 3, "flow": 2}.items():
        folder = root / "features" / split / stream
        folder.mkdir(parents=True, exist_ok=True)
        x = 100 * (stream == "flow") + sequence(length, length, width)
        np.save(folder / f"{name}.npy", x.astype(np.float64)[:, None, None])  # as I3D is extracted
      entry = {"segment": ["0.5", "1.5"], "label": "ab"[length % 2]}
      database[name] = {"subset": split, "annotations": [entry]}
    listed = [name for name in videos if name != "test_excluded"]
    (root / f"split_{split}.txt").write_text("\n".join(listed) + "\n")
  (root / "gt.json").write_text(json.dumps({"database": database}))
  return root


@pytest.mark.parametrize("inside", ["", "features"])
def test_basnets_folders_as_they_lie(tmp_path, inside):
  data = fields(str(basnet(tmp_path) / inside))
  train, test = load(data, batch_size=2), load(data, "test")
  assert (train.names, test.names) == (("val_1", "val_2"), ("test_1",))
  assert (train.label_names, test.label_names) == (("a", "b"), ("a", "b"))
  assert train.videos[1] == Video("train", None, (Segment(0.5, 1.5, "b"),))
  batch = next(train.eval_batches(2))
  assert batch["features"].shape == (2, 6, 5)
  np.testing.assert_array_equal(batch["features"][0, :, :3], sequence(6, 6))
  np.testing.assert_array_equal(batch["features"][0, :, 3:], 100 + sequence(6, 6, 2))
  np.testing.assert_array_equal(batch["labels"], [[1, 0], [0, 1]])
  data.localization.streams = ("flow",)
  assert load(data, "test").sequence(0).shape == (7, 2)


def test_basnets_folders_without_annotations(tmp_path):
  (basnet(tmp_path) / "gt.json").unlink()
  found = sequences.unlabeled(fields(str(tmp_path)), ("a",))
  assert list(found.videos) == ["test_1", "test_excluded", "val_1", "val_2"]
  assert found.features["test_1"]().shape == (7, 5)
  with pytest.raises(UserError, match=r"has neither annotations.json nor gt.json"):
    load(fields(str(tmp_path)))


def test_a_list_beside_other_annotations_does_not_count(tmp_path):
  data = fields(str(basnet(tmp_path)), annotations=str(tmp_path / "gt.json"))
  assert load(data, "test").names == ("test_1", "test_excluded")


def test_streams_of_different_length_stop_the_run(tmp_path, capsys):
  data = fields(str(basnet(tmp_path)))
  flow = tmp_path / "features" / "train" / "flow" / "val_2.npy"
  np.save(flow, sequence(9, 8, 2))  # one less is usual
  assert load(data).sequence(1).shape == (8, 5)
  assert not capsys.readouterr().err
  np.save(flow, sequence(9, 3, 2))
  with pytest.raises(UserError, match=r"'val_2': the streams differ .*val_2.npy 9, .*val_2.npy 3"):
    load(data)
  data.localization.check = False
  with pytest.raises(UserError, match=r"differ in their number of features: .*extract them again"):
    load(data).sequence(1)


def test_a_bad_file_is_found_before_training(tmp_path):
  data = written(tmp_path)
  bad = sequence(1, 9)
  bad[3, 2] = np.nan
  np.save(tmp_path / "v1.npy", bad)
  with pytest.raises(UserError, match=r"'v1'.*NaN"):
    load(data)
  load(data, "test")
  data.localization.check = False
  load(data)
  (tmp_path / "v1.npy").unlink()
  with pytest.raises(UserError, match=r"v1.npy is missing"):
    next(load(data, batch_size=2).train_batches())


def test_all_findings_are_told_before_it_stops(tmp_path, capsys):
  data = written(tmp_path)
  for v in (0, 1):
    np.save(tmp_path / f"v{v}.npy", np.full((6 + v, 3), np.nan))
  with pytest.raises(UserError, match=r"'v0'.*and 1 more problems"):
    load(data)
  told = capsys.readouterr().err
  assert f"{tmp_path}, train:" in told
  assert all(f"error: v{v}: " in told for v in (0, 1))


def test_splits_have_one_width_and_the_classes_of_training(tmp_path):
  data = written(tmp_path)
  np.save(tmp_path / "t.npy", sequence(0, 7, 4))
  load(data)
  with pytest.raises(UserError, match=r"'t': features are 4 wide, those of the training videos 3"):
    load(data, "test")
  np.save(tmp_path / "t.npy", sequence(0, 7))
  typo = Video("test", 3.5, (Segment(0.0, 0.5, "aa"),))
  videos = annotations.read_annotations(tmp_path / "annotations.json") | {"t": typo}
  annotations.write_annotations(tmp_path / "annotations.json", videos)
  with pytest.raises(UserError, match=r"'t': label 'aa' is none of the 2 classes of training"):
    load(data, "test")


def test_only_training_videos_need_an_action(tmp_path):
  data = written(tmp_path)
  stored, none = annotations.read_annotations(tmp_path / "annotations.json"), Video("test", 4.5, ())
  np.save(tmp_path / "u.npy", sequence(0, 9))

  def annotate(**videos):
    annotations.write_annotations(tmp_path / "annotations.json", stored | videos)

  annotate(u=none)
  assert load(data, "test").num_videos == 2
  annotate(u=none, t=none)
  with pytest.raises(UserError, match="no video of subset 'test' has an annotated action"):
    load(data, "test")
  dataset = sequences.read(data, "test", label_names=("a", "b"))  # for a trained network
  assert dataset.videos["u"] == none
  annotate(v0=Video("train", 3.0, ()))
  with pytest.raises(UserError, match=r"'v0': has no annotated action"):
    load(data)


def test_unlabeled_sequences_are_looked_through(tmp_path):
  data = fields(str(tmp_path))
  for v, x in enumerate([sequence(0, 4), sequence(0, 4, 5)]):
    np.save(tmp_path / f"v{v}.npy", x)
  with pytest.raises(UserError, match=r"'v1': features are 5 wide, those of the first video 3"):
    sequences.unlabeled(data, ("a",))
  np.save(tmp_path / "v1.npy", sequence(0, 4) + np.inf)
  with pytest.raises(UserError, match=r"'v1':.*has NaN or infinity in 4 of 4 rows"):
    sequences.unlabeled(data, ("a",))
  np.save(tmp_path / "v1.npy", sequence(1, 4))
  assert list(sequences.unlabeled(data, ("a",)).videos) == ["v0", "v1"]


def test_bad_input_is_named(tmp_path):
  for seconds in (0.0, -1.0, float("nan"), float("inf")):
    with pytest.raises(UserError, match=r"step_seconds: .* is not above 0"):
      load(fields(str(tmp_path), step_seconds=seconds))
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="file: no folder can be made here"):
    dataset([4]).write(tmp_path / "file")
  with pytest.raises(UserError, match=r"config.data.path"):
    load(fields(str(tmp_path / "none")))
  with pytest.raises(UserError, match=r"annotations.json"):
    load(fields(str(tmp_path)))
  with pytest.raises(UserError, match="'stretch'"):
    opened([4], sampling="stretch")
  with pytest.raises(UserError, match=r"config.data.frames"):
    opened([4], frames=0)
  flat = Dataset({"v": Video("train", 1.0, (Segment(0, 1, "a"),))}, {"v": np.ones(3)}, 0.5)
  s = LocalizationSource(fields(), flat, split="train", batch_size=1, **ARGS)
  with pytest.raises(UserError, match=r"'v' have shape \(3,\)"):
    s.sequence(0)
  assert annotations.label_names(flat.videos) == flat.label_names


def split_names(split, videos=10, **kwargs):
  data = fields(**kwargs)
  made = dataset([4] * videos)
  return LocalizationSource(data, made, split=split, batch_size=1, **ARGS).names


def test_training_videos_are_held_out_once_and_for_all_seeds_of_a_run():
  left, out = (split_names(s, validation=0.3) for s in ("train", "train:held_out"))
  assert (len(left), len(out)) == (7, 3)
  assert set(left) | set(out) == set(split_names("train"))
  assert list(left) == sorted(left)  # in their order
  other = [split_names("train:held_out", validation=0.3, seed=s) for s in range(4)]
  assert out == other[0]
  assert len(set(other)) > 1
  assert sequences.held_out(fields()) == "train:held_out"
  # A fraction of the videos to learn from is one of those that are left.
  assert set(split_names("train", validation=0.3, fraction=0.5)) < set(left)
  assert split_names("train:held_out", validation=0.3, fraction=0.5) == out


def test_other_splits_are_whole_and_empty_shares_refused():
  data = fields(validation=0.5)
  whole = LocalizationSource(data, dataset([4] * 4, "test"), split="test", batch_size=1, **ARGS)
  assert whole.num_videos == 4
  for share, split in ((1.0, "train"), (0.0, "train:held_out"), (0.96, "train")):
    with pytest.raises(UserError, match=r"config.data.localization.validation"):
      split_names(split, validation=share)


@pytest.mark.parametrize("source", ["untrimmed", "localization"])
def test_made_and_stored_videos_are_held_out_alike(source, tmp_path):
  from data_pipelines.source import load
  from data_pipelines.untrimmed import simulated

  data = fields(str(tmp_path), validation=0.25, videos=8, eval_videos=2)
  simulated.make(data).write(tmp_path)
  with data.unlocked():
    data.source = source
    data.localization.step_seconds = 0.64
  got = {s: load(data, split=s, batch_size=1, seed=3).names for s in ("train", "train:held_out")}
  assert (len(got["train"]), len(got["train:held_out"])) == (6, 2)
  assert not set(got["train"]) & set(got["train:held_out"])
