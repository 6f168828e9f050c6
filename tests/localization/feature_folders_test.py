"""Layouts of feature folders, made on disk as people have them."""

import os
import pathlib

import pytest

from vssl_jax.errors import UserError
from vssl_jax.localization import feature_folders
from vssl_jax.localization.annotations import Video
from vssl_jax.localization.feature_folders import find


def laid(root, *files):
  for name in files:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).touch()
  return root


def files(folder, video, split=""):
  return [p.relative_to(folder.path).as_posix() for p in folder.files(video, split)]


def basnet(root, splits=("train", "test"), streams=("rgb", "flow")):
  names = {splits[0]: ("val_1", "val_2"), splits[1]: ("test_1",)}
  each = [
    f"features/{s}/{m}/video_{v}.npy"
    for s, videos in names.items()
    for m in streams
    for v in videos
  ]
  return laid(root, *each, "gt.json", "features/test/README.md", "features/train/rgb/._junk.npy")


def test_basnets_folders(tmp_path):
  found = find(basnet(tmp_path))
  assert (found.splits, found.streams) == (("test", "train"), ("rgb", "flow"))
  want = ["features/train/rgb/video_val_1.npy", "features/train/flow/video_val_1.npy"]
  assert files(found, "video_val_1", "train") == want
  assert files(found, "video_val_1", "Train") == want
  assert files(found, "video_val_1", "validation") == want  # the only place it is at
  assert files(found, "gone", "test")[0] == "features/test/rgb/gone.npy"
  assert found.videos("train") == ["video_val_1", "video_val_2"]
  assert found.videos() == ["video_test_1", "video_val_1", "video_val_2"]
  with pytest.raises(UserError, match=r"no folder of split 'valid'; it has test, train\."):
    found.videos("valid")


@pytest.mark.parametrize("inside", ["", "features", "features/train"])
def test_the_same_from_a_folder_further_in(tmp_path, inside):
  found = find(basnet(tmp_path) / inside)
  assert found.files("video_val_2", "train") == [
    tmp_path / "features" / "train" / m / "video_val_2.npy" for m in ("rgb", "flow")
  ]
  assert found.annotations() == tmp_path / "gt.json"


def test_relative_folders_have_annotations_beside_them(tmp_path, monkeypatch):
  monkeypatch.chdir(basnet(tmp_path) / "features")
  (found,) = {find(pathlib.Path(p)).annotations().resolve() for p in (".", "..", "train")}
  assert found == (tmp_path / "gt.json").resolve()


def test_one_stream_may_be_chosen_or_alone(tmp_path):
  one = find(basnet(tmp_path / "both"), ("flow",))
  assert files(one, "video_test_1", "test") == ["features/test/flow/video_test_1.npy"]
  turned = find(tmp_path / "both", ("flow", "rgb"))
  assert [p.parent.name for p in turned.files("video_test_1", "test")] == ["flow", "rgb"]
  alone = find(basnet(tmp_path / "alone", streams=("rgb",)))
  assert alone.streams == ("rgb",)
  capitals = find(basnet(tmp_path / "capitals", ("Train", "Test"), ("RGB", "Flow")))
  assert capitals.streams == ("RGB", "Flow")
  assert files(capitals, "video_test_1", "test")[1] == "features/Test/Flow/video_test_1.npy"


@pytest.mark.parametrize(
  ("there", "splits", "streams", "want"),
  [
    (["a.npy"], (), (), ["a.npy"]),
    (["a.npy", "rgb/b.npy"], (), (), ["a.npy"]),  # files in the folder itself come first
    (["rgb/a.npy", "flow/a.npy"], (), ("rgb", "flow"), ["rgb/a.npy", "flow/a.npy"]),
    (["train/a.npy", "test/b.npy"], ("test", "train"), (), ["train/a.npy"]),
    (["features/a.npy"], (), (), ["features/a.npy"]),
    (["features/train/a.npy"], ("train",), (), ["features/train/a.npy"]),
    (["nothing/here.txt"], (), (), ["a.npy"]),
    ([], (), (), ["a.npy"]),
  ],
)
def test_other_forms(tmp_path, there, splits, streams, want):
  found = find(laid(tmp_path, *there))
  assert (found.splits, found.streams) == (splits, streams)
  assert files(found, "a", "train") == want
  assert found.annotations() is None


def test_named_streams_of_any_name(tmp_path):
  found = find(laid(tmp_path, "i3d/a.npy", "clip/a.npy", "rgb/a.npy"), ("clip", "i3d"))
  assert files(found, "a") == ["clip/a.npy", "i3d/a.npy"]
  missing = find(tmp_path, ("clip", "audio"))
  assert files(missing, "a") == ["clip/a.npy", "audio/a.npy"]
  assert files(find(tmp_path, ("x",)), "a") == ["x/a.npy"]


def test_a_video_in_several_folders_is_named(tmp_path):
  found = find(laid(tmp_path, "one/a.npy", "two/a.npy"))
  assert files(found, "a", "two") == ["two/a.npy"]
  with pytest.raises(UserError, match=r"'a' is in several folders, one, two; name one"):
    found.files("a", "test")


def test_annotations_come_before_gt(tmp_path):
  found = find(laid(tmp_path, "a.npy", "gt.json", "annotations.json"))
  assert found.annotations() == tmp_path / "annotations.json"


def test_folders_of_streams_are_no_classes():
  assert feature_folders.are_streams(["RGB", "flow", "rgb"])
  assert not feature_folders.are_streams(["rgb", "run"])
  assert not feature_folders.are_streams([])


def test_lists_choose_the_videos_of_a_split(tmp_path):
  videos = {name: Video("test", 1.0, ()) for name in "abc"} | {"t": Video("train", 2.0, ())}
  file = tmp_path / "gt.json"
  assert feature_folders.by_lists(videos, file) == videos
  (tmp_path / "split_test.txt").write_text("c\r\na\n\n")  # b is left out, as BaS-Net leaves three
  found = feature_folders.by_lists(videos, file)
  assert list(found) == ["t", "c", "a"]
  assert {n: v.subset for n, v in found.items()} == {"t": "train", "c": "test", "a": "test"}
  (tmp_path / "split_train.txt").write_text("b\n")
  assert feature_folders.by_lists(videos, file)["b"] == Video("train", 1.0, ())
  for text, message in {
    "x\n": r"split_train.txt, line 1: video 'x' is not annotated",
    "t\nt\n": r"line 2: video 't' is listed twice",
    "t\na\n": r"line 2: video 'a' is listed twice",  # in the other list
  }.items():
    (tmp_path / "split_train.txt").write_text(text)
    with pytest.raises(UserError, match=message):
      feature_folders.by_lists(videos, file)
  (tmp_path / "split_train.txt").write_bytes(b"\xff\xfe")
  with pytest.raises(UserError, match="cannot be read"):
    feature_folders.by_lists(videos, file)
  os.truncate(tmp_path / "split_train.txt", 2 << 30)
  with pytest.raises(UserError, match=r"^\S*split_train\.txt: more than 1024 MiB"):
    feature_folders.by_lists(videos, file)
