import itertools

import numpy as np
import pytest

from data_pipelines import source
from data_pipelines.sources.features import FeatureSource
from tests.data_pipelines import tiny
from vssl_jax.errors import UserError

ARGS = {"split": "train", "seed": 0, "process_index": 0, "process_count": 1}


def sequence(v, length, width=3):
  """Frame t of video v holds (v, t, …)."""
  result = np.zeros((length, width), np.float32)
  result[:, 0], result[:, 1] = v, np.arange(length)
  return result


def data(path="", **fields):
  return tiny.data(path, source="features", **{"frames": 6, **fields})


def load(path, split="train", batch_size=2, **fields):
  return source.load(data(path, **fields), split=split, batch_size=batch_size, seed=0)


def in_memory(lengths, **kwargs):
  sequences = [sequence(v, n) for v, n in enumerate(lengths)]
  return FeatureSource(data(), sequences, **{**ARGS, "batch_size": len(lengths), **kwargs})


def test_batch_follows_the_contract():
  s = in_memory([4, 6, 9], labels=np.array([2, 0, 1]), label_names=["a", "b", "c"])
  batch = next(s.train_batches())
  assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
    "features": ((3, 6, 3), "float32"),
    "mask": ((3, 6), "bool"),
    "label": ((3,), "int32"),
    "video": ((3,), "int64"),
  }
  np.testing.assert_array_equal(batch["features"][:, 0, 0], batch["video"])
  np.testing.assert_array_equal(batch["label"], np.array([2, 0, 1])[batch["video"]])
  np.testing.assert_array_equal(batch["mask"].sum(1), np.array([4, 6, 6])[batch["video"]])
  assert (s.num_videos, s.label_names) == (3, ("a", "b", "c"))


def test_short_sequences_are_padded_with_zeros():
  batch = next(in_memory([4]).train_batches())
  np.testing.assert_array_equal(batch["features"][0, :4], sequence(0, 4))
  assert (batch["features"][0, 4:] == 0).all()
  assert batch["mask"][0].tolist() == [True] * 4 + [False] * 2
  assert batch["label"].tolist() == [-1]


def test_long_sequences_give_one_frame_from_each_segment():
  s = in_memory([60])
  drawn = np.stack([b["features"][0, :, 1] for b in itertools.islice(s.train_batches(), 200)])
  segments = drawn // 10
  assert (segments == np.arange(6)).all()
  assert len(np.unique(drawn % 10)) == 10
  middle = next(s.eval_batches(1))["features"][0, :, 1]
  np.testing.assert_array_equal(middle, np.arange(6) * 10 + 5)


def test_batch_is_a_function_of_seed_and_number():
  s = in_memory([9, 30, 12, 8], batch_size=2)
  reference = list(itertools.islice(s.train_batches(), 6))
  resumed = next(in_memory([9, 30, 12, 8], batch_size=2).train_batches(5))
  for k in resumed:
    np.testing.assert_array_equal(resumed[k], reference[5][k])


def test_eval_pass_ignores_views_and_pads():
  batches = list(in_memory([9, 8, 7]).eval_batches(2, clips=10, crops=3, frames=32))
  assert [b["valid"].tolist() for b in batches] == [[True, True], [True, False]]
  assert batches[0]["features"].shape == (2, 6, 3)


def test_npz_file_with_subsets_and_lengths(tmp_path):
  features = np.stack([sequence(v, 5) for v in range(4)]).astype(np.float16)
  path = tmp_path / "all.npz"
  np.savez(
    path,
    features=features,
    label=[3, 2, 1, 0],
    length=[5, 2, 5, 5],
    subset=["train", "train", "test", "train"],
    label_names=list("abcd"),
  )
  s = load(path, batch_size=3)
  batch = next(s.eval_batches(3))
  assert batch["features"][:, 0, 0].tolist() == [0, 1, 3]
  assert batch["label"].tolist() == [3, 2, 0]
  assert batch["mask"].sum(1).tolist() == [5, 2, 5]
  assert s.label_names == tuple("abcd")
  with pytest.raises(UserError, match=r"'valid'.*test, train"):
    load(path, "valid")


def test_folder_by_class_and_split(tmp_path):
  for split, classes in {"train": ["run", "dive"], "test": ["run"]}.items():
    for c in classes:
      folder = tmp_path / split / c
      folder.mkdir(parents=True)
      np.save(folder / "one.npy", sequence(7, 4))
      np.savez(folder / "two.npz", features=sequence(8, 4))
  train, test = load(tmp_path), load(tmp_path, "test")
  assert (train.num_videos, test.num_videos) == (4, 2)
  assert train.label_names == test.label_names == ("dive", "run")
  batch = next(test.eval_batches(2))
  assert batch["label"].tolist() == [1, 1]
  assert batch["features"][:, 0, 0].tolist() == [7, 8]


@pytest.mark.parametrize("form", ["features/train/{}", "train/{}", "{}"])
def test_streams_are_joined_and_are_no_classes(tmp_path, form):
  """BaS-Net's features are `features/train/rgb/<video>.npy`: `rgb` is not what a video shows."""
  for stream, width in {"rgb": 3, "flow": 2}.items():
    for folder in {form.format(stream), form.format(stream).replace("train", "test")}:
      (tmp_path / folder).mkdir(parents=True)
      for v in range(2):
        np.save(tmp_path / folder / f"{v}.npy", sequence(v, 4, width))
  s = load(tmp_path)
  assert (s.num_videos, s.label_names) == (2, ())
  batch = next(s.eval_batches(2))
  assert batch["features"].shape == (2, 6, 5)
  assert batch["label"].tolist() == [-1, -1]
  np.testing.assert_array_equal(batch["features"][1, :4, 3:], sequence(1, 4, 2))
  np.save(tmp_path / form.format("flow") / "1.npy", sequence(1, 2, 2))
  with pytest.raises(UserError, match="streams differ"):
    list(load(tmp_path).eval_batches(2))


def test_features_in_a_folder_of_that_name(tmp_path):
  for name in ("features/train/a", "features/test/b"):
    (tmp_path / name).parent.mkdir(parents=True)
    np.save(tmp_path / f"{name}.npy", sequence(1, 4))
  s = load(tmp_path, batch_size=1)
  assert (s.num_videos, s.label_names) == (1, ())  # train and test are no classes


def test_folder_with_a_table(tmp_path):
  for v in range(3):
    np.save(tmp_path / f"{v}.npy", sequence(v, 4))
  table = tmp_path / "labels.csv"
  table.write_text("path,label,split\n2.npy,11,train\n0.npy,2,train\n1.npy,5,test\n")
  batch = next(load(tmp_path).eval_batches(2))
  assert batch["features"][:, 0, 0].tolist() == [2, 0]
  assert batch["label"].tolist() == [11, 2]  # numbers stand for themselves
  table.write_text("path,label\n2.npy,surf\n0.npy,dive\n1.npy,\n")
  s = load(tmp_path)
  assert s.label_names == ("dive", "surf")
  assert next(s.eval_batches(3))["label"].tolist() == [1, 0, -1]


@pytest.mark.parametrize(
  ("files", "message"),
  [
    ({}, "no feature sequences"),
    ({"labels.csv": "name,label\n"}, "no feature sequences"),
    ({"labels.csv": "name,label\na,b\n"}, "'path' and 'label'"),
  ],
)
def test_bad_folders(tmp_path, files, message):
  for name, text in files.items():
    (tmp_path / name).write_text(text)
  with pytest.raises(UserError, match=message):
    load(tmp_path)


def test_bad_files(tmp_path):
  with pytest.raises(UserError, match=r"no \.npz file or folder"):
    load(tmp_path / "missing")
  np.savez(tmp_path / "flat.npz", features=np.zeros((3, 4)))
  with pytest.raises(UserError, match=r"\[V, L, D\]"):
    load(tmp_path / "flat.npz")
  folder = tmp_path / "folder"
  folder.mkdir()
  (folder / "a.npy").write_bytes(b"nothing")
  with pytest.raises(UserError, match=r"a\.npy"):
    next(load(folder, batch_size=1).train_batches())
  with pytest.raises(UserError, match="shape"):
    next(FeatureSource(data(), [np.zeros((0, 3))], batch_size=1, **ARGS).train_batches())


@pytest.mark.parametrize(
  ("label", "names", "message"),
  [
    (np.zeros(3), (), r"3 labels of shape \[3\] for 2 videos"),
    (np.zeros(()), (), r"1 labels of shape \[\]"),
    (np.array(["a", "b"]), (), "class indices, not <U1"),
    (np.array([0, 2]), ("a", "b"), r"video 1 has label 2, but the 2 class names end at 1"),
    (np.array([-2, 0]), ("a", "b"), "video 0 has label -2"),
    (np.array([0, -2]), (), "video 1 has label -2, but it is out of range"),
    (np.array([0, 1 << 40]), (), "out of range"),
    (np.array([0.5, 1]), ("a", "b"), "label 0.5 is no class index"),
    (np.array([0, np.nan]), ("a", "b"), "label nan is no class index"),
    (np.zeros((2, 3)), ("a", "b"), "rows of 3 values for 2 classes"),
  ],
)
def test_labels_out_of_range_stop_at_opening(tmp_path, label, names, message):
  with pytest.raises(UserError, match=message):
    in_memory([3, 3], labels=label, label_names=names)
  path = tmp_path / "all.npz"
  np.savez(path, features=np.zeros((2, 3, 4)), label=label, label_names=np.array(names, np.str_))
  with pytest.raises(UserError, match=message) as error:
    load(path)
  assert str(path) in str(error.value)


def test_labels_that_are_in_range():
  assert in_memory([3, 3], labels=np.array([-1.0, 1.0]), label_names="ab").occurring() == {1}
  s = in_memory([3, 3, 3], labels=np.array([2, 0, 2], np.uint8))
  assert s.occurring() == {0, 2}
  assert s.only([0, 2]).occurring() == {2}
  assert in_memory([3, 3], labels=np.eye(2), label_names="ab").occurring() is None


def test_folders_of_splits_are_never_classes(tmp_path):
  """Whatever the capitals; and the videos of another split are not taken for those of this one."""
  for name in ("Train/run/a", "VAL/run/b", "VAL/.cache/x", "VAL/run/._b"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(tmp_path / f"{name}.npy", sequence(1, 4))
  assert load(tmp_path, batch_size=1).label_names == ("run",)
  assert load(tmp_path, "val", batch_size=1).num_videos == 1
  with pytest.raises(UserError, match="no folder of split 'test'; it has Train, VAL"):
    load(tmp_path, "test")


def test_class_folders_may_have_folders(tmp_path):
  for name in ("run/x/a", "dive/b"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(tmp_path / f"{name}.npy", sequence(1, 4))
  s = load(tmp_path)
  assert s.label_names == ("dive", "run")
  assert next(s.eval_batches(2))["label"].tolist() == [0, 1]


def test_the_table_is_read_as_any_csv(tmp_path):
  np.save(tmp_path / "0.npy", sequence(0, 4))
  table = tmp_path / "labels.csv"
  table.write_text("Path,LABEL\n0.npy,surf,\n,,\n")
  assert load(tmp_path, batch_size=1).label_names == ("surf",)
  table.write_text("path,label\n0.npy,surf,train\n")
  with pytest.raises(UserError, match=r"labels\.csv, line 2: 3 values"):
    load(tmp_path)
