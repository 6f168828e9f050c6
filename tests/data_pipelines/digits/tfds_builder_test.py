"""The digit videos through TFDS: built, stored as JPEG, read back."""

import io

import numpy as np
import PIL.Image
import pytest

from data_pipelines.digits import render

tfds = pytest.importorskip("tensorflow_datasets")
from data_pipelines.digits import tfds_builder  # noqa: E402
from data_pipelines.digits.tfds_builder import (  # noqa: E402
  DigitsBuilderConfig,
  DigitsVideo,
)

TINY = DigitsBuilderConfig(name="tiny", videos=render.DigitsConfig(length=2, size=16), seed=5)


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
  builder = DigitsVideo(data_dir=tmp_path_factory.mktemp("digits"), config=TINY)
  builder.download_and_prepare()
  return builder


def test_splits_and_features(builder):
  assert {k: s.num_examples for k, s in builder.info.splits.items()} == {"train": 1415, "test": 382}
  assert builder.info.features["label"].names == list("0123456789")
  assert builder.info.features["video"].shape == (2, 16, 16, 3)


@pytest.mark.parametrize("split", ["train", "test"])
def test_examples_are_the_generators_in_order(builder, split):
  dataset = builder.as_dataset(split=split).take(20)
  for i, example in enumerate(tfds.as_numpy(dataset)):
    frames, label = render.video(i, split, 5, TINY.videos)
    assert example["label"] == label
    assert example["index"] == i
    assert example["image"] == render.images(split)[i]
    assert example["fps"] == render.FPS
    assert np.abs(example["video"].astype(int) - frames).mean() < 8  # JPEG


def test_frames_are_stored_as_encode_makes_them(builder):
  skip = {"video": tfds.decode.SkipDecoding()}
  (example,) = tfds.as_numpy(builder.as_dataset(split="train[3:4]", decoders=skip))
  frames, _ = render.video(3, "train", 5, TINY.videos)
  assert list(example["video"]) == [tfds_builder.encode(frame) for frame in frames]


def test_the_version_has_a_release_note(builder):
  assert str(builder.version) in builder.RELEASE_NOTES


def test_all_handwriting_is_there_once(builder):
  skip = {"video": tfds.decode.SkipDecoding()}
  for split in ("train", "test"):
    examples = tfds.as_numpy(builder.as_dataset(split=split, decoders=skip))
    assert [e["image"] for e in examples] == list(render.images(split))


def test_a_reader_may_decode_single_frames(builder):
  skip = {"video": tfds.decode.SkipDecoding()}
  (example,) = tfds.as_numpy(builder.as_dataset(split="test[7:8]", decoders=skip))
  whole = next(iter(tfds.as_numpy(builder.as_dataset(split="test[7:8]"))))["video"]
  assert example["video"].shape == (2,)
  one = np.asarray(PIL.Image.open(io.BytesIO(example["video"][1])))
  assert np.abs(one.astype(int) - whole[1]).max() <= 6  # two JPEG decoders


def test_registered_and_read_back_without_generating(builder, monkeypatch):
  monkeypatch.setattr(render, "video", lambda *_: pytest.fail("made again"))
  again = DigitsVideo(data_dir=builder.data_dir_root, config=TINY)
  again.download_and_prepare()
  assert again.info.splits["test"].num_examples == 382
  assert tfds.builder_cls("digits_video") is DigitsVideo


def test_the_same_shards_every_time(builder, tmp_path, monkeypatch):
  monkeypatch.setattr(render, "num_videos", lambda *_: 4)
  shards = []
  for name in "ab":
    made = DigitsVideo(data_dir=tmp_path / name, config=TINY)
    made.download_and_prepare()
    shards.append([p.read_bytes() for p in sorted(made.data_path.glob("*.tfrecord*"))])
  assert len(shards[0]) == 2
  assert shards[0] == shards[1]


def test_the_default_variant_is_the_generators_default():
  (config,) = DigitsVideo.BUILDER_CONFIGS
  assert config.videos == render.DigitsConfig()
  assert config.seed == 0


def test_encode_keeps_color_at_full_resolution():
  frame = np.zeros((16, 16, 3), np.uint8)
  frame[:, ::2, 0] = frame[:, 1::2, 2] = 200  # red and blue columns
  back = np.asarray(PIL.Image.open(io.BytesIO(tfds_builder.encode(frame, quality=100))))
  assert np.abs(back.astype(int) - frame).max() < 12
