import numpy as np
import pytest

from tests.data_pipelines import tiny
from tests.data_pipelines.tiny import take
from vssl_jax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")

VIEWS = {"clips": 2, "crops": 1, "frames": 3, "stride": 2, "resize": 12, "size": 8}


class TinyVideos(tfds.core.GeneratorBasedBuilder):
  """Eight videos of flat colors (see `tiny`)."""

  VERSION = tfds.core.Version("1.0.0")
  encoding = "jpeg"

  def _info(self):
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "video": tfds.features.Video((None, 24, 32, 3), encoding_format=self.encoding),
          "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
        }
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    encode = tiny.jpeg if self.encoding == "jpeg" else tiny.png
    for v in range(8):
      frames = [encode(tiny.flat(t, v)) for t in range(20)]
      yield v, {"video": frames, "label": v % 3}


class TinyPngVideos(TinyVideos):
  """The same as PNG, as UCF101 in TFDS is."""

  VERSION = tfds.core.Version("1.0.0")
  encoding = "png"


class TinyRatedVideos(TinyVideos):
  """The same with frame rates of 4, 5, 6 … a second, but for the last video."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = {**dict(super()._info().features.items()), "frame_rate": np.float32}
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features), disable_shuffling=True
    )

  def _generate_examples(self):
    for v, example in super()._generate_examples():
      yield v, {**example, "frame_rate": v + 4 if v < 7 else 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("tfds")


def load(name, folder, split="train", **fields):
  return tiny.load(folder, split=split, **{"source": "tfds", "name": name, **fields})


@pytest.mark.parametrize(
  ("builder", "file_format"),
  [(TinyVideos, "tfrecord"), (TinyPngVideos, "tfrecord"), (TinyVideos, "array_record")],
)
def test_prepared_data_set(builder, file_format, tmp_path):
  builder(data_dir=str(tmp_path), file_format=file_format).download_and_prepare()
  s = load(builder.name, tmp_path)
  batches = take(s.train_batches(), 3)
  for batch in batches:
    assert batch["clips"].shape == (4, 2, 4, 8, 8, 3)
    green = batch["clips"][..., 1].mean((1, 2, 3, 4))
    np.testing.assert_allclose(green, 16 * batch["video"], atol=3)
    np.testing.assert_array_equal(batch["label"], batch["video"] % 3)
    red = batch["clips"][..., 0].mean((3, 4))
    times = batch["offset"][..., None] + 2 * np.arange(4)
    np.testing.assert_allclose(red, 2 * times, atol=3)
  assert (s.num_videos, s.label_names) == (8, ("a", "b", "c"))
  resumed = next(load(builder.name, tmp_path).train_batches(2))
  for k, expected in batches[2].items():
    np.testing.assert_array_equal(resumed[k], expected)
  (views,) = load(builder.name, tmp_path).eval_batches(8, **VIEWS)
  assert views["video"].tolist() == list(range(8))
  assert views["valid"].all()


def test_splits_may_be_slices(tmp_path):
  TinyVideos(data_dir=str(tmp_path)).download_and_prepare()
  s = load("tiny_videos", tmp_path, "train[25%:75%]", batch_size=2)
  (views,) = s.eval_batches(4, **VIEWS)
  np.testing.assert_allclose(views["clips"][..., 1].mean((1, 2, 3, 4)), [32, 48, 64, 80], atol=3)
  with pytest.raises(UserError, match="no split 'test'; it has train"):
    load("tiny_videos", tmp_path, "test")


SECONDS = {"interval__distribution": "constant", "interval__unit": "seconds", "interval__gap": 1.0}


def test_spans_in_seconds_by_each_videos_own_frame_rate(tmp_path):
  TinyRatedVideos(data_dir=str(tmp_path)).download_and_prepare()
  s = load("tiny_rated_videos", tmp_path, "train[:7]", **SECONDS)
  batch = next(s.train_batches())
  apart = np.abs(np.diff(batch["offset"], axis=1))[:, 0]
  np.testing.assert_array_equal(apart, batch["video"] + 4)
  assert set(batch) == {"clips", "label", "video", "offset"}
  (views,) = s.eval_batches(7, **VIEWS)
  assert set(views) == {"clips", "label", "video", "offset", "valid"}
  assert set(next(load("tiny_rated_videos", tmp_path).train_batches())) == set(batch)
  whole = load("tiny_rated_videos", tmp_path, batch_size=8, **SECONDS)
  with pytest.raises(UserError, match=r"video 7: no frame rate.*interval\.unit=frames"):
    next(whole.train_batches())


def test_spans_in_seconds_without_frame_rates(tmp_path):
  TinyVideos(data_dir=str(tmp_path)).download_and_prepare()
  with pytest.raises(UserError, match=r"'fps'.*config\.data\.interval\.unit=frames") as e:
    next(load("tiny_videos", tmp_path, **SECONDS).train_batches())
  assert "prepare" not in str(e.value)
  next(load("tiny_videos", tmp_path, **SECONDS | {"interval__unit": "frames"}).train_batches())


def test_ucf101_by_mock_data(tmp_path):
  with tfds.testing.mock_data(num_examples=5):
    s = load("ucf101/ucf101_1", tmp_path, batch_size=2)
    batch = next(s.train_batches(7))
    again = next(load("ucf101/ucf101_1", tmp_path, batch_size=2).train_batches(7))
    valid = [b["valid"].sum() for b in s.eval_batches(3, **VIEWS)]
  assert batch["clips"].shape == (2, 2, 4, 8, 8, 3)
  assert (s.num_videos, len(s.label_names), s.unreadable) == (5, 101, 0)
  for k, expected in batch.items():
    np.testing.assert_array_equal(again[k], expected)
  assert valid == [3, 2]


def test_nothing_is_prepared_or_downloaded(tmp_path):
  with pytest.raises(UserError, match="tfds build"):
    load("ucf101/ucf101_1", tmp_path)
  assert not list(tmp_path.iterdir())


def test_bad_names(tmp_path):
  with pytest.raises(UserError, match="cannot be opened") as e:
    load("no_such_data_set", tmp_path)
  assert "\n" not in str(e.value)
  with pytest.raises(UserError, match="no TFDS builder named"):
    load("", tmp_path)
  with tfds.testing.mock_data(num_examples=1), pytest.raises(UserError, match="one video feature"):
    load("mnist", tmp_path)
