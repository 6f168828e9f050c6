"""The videos whose movement is the class, through TFDS and `config.data.source = "motion"`."""

import numpy as np
import pytest

from data_pipelines import source
from data_pipelines.digits import motion
from tests.data_pipelines import tiny

tfds = pytest.importorskip("tensorflow_datasets")
from data_pipelines.digits import motion_builder  # noqa: E402
from data_pipelines.digits.tfds_builder import encode  # noqa: E402

TINY = motion.MotionConfig(length=3, size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """TFDS's folder; its first reader makes a few videos of three small frames."""
  folder = tmp_path_factory.mktemp("motion")
  config = motion_builder.MotionBuilderConfig(name="shots", description="", videos=TINY)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(motion_builder.MotionVideo, "BUILDER_CONFIGS", [config])
    patch.setattr(motion_builder.MotionVideo, "builder_configs", {"shots": config})
    patch.setattr(motion, "VIDEOS", {"train": 36, "test": 24})
    yield folder


def _load(folder, split):
  data = tiny.data(source="motion", path=str(folder), frames=3, stride=1, size=16)
  return source.load(data, split=split, batch_size=12, seed=0)


def test_the_source_makes_the_data_set_once_and_reads_it(folder, capsys):
  for split, videos in motion.VIDEOS.items():
    found = _load(folder, split)
    assert found.num_videos == videos
    assert found.label_names == motion.CLASSES
  assert capsys.readouterr().out.count("Making the motion data set") == 1
  views = {"clips": 1, "crops": 1, "frames": 3, "stride": 1, "resize": 16, "size": 16}
  batch = next(_load(folder, "test").eval_batches(12, **views))
  np.testing.assert_array_equal(batch["label"], np.arange(12))
  for i in range(12):
    frames, _ = motion.video(i, "test", 0, TINY)
    assert np.abs(batch["clips"][i, 0].astype(int) - frames).mean() < 8  # JPEG


def test_examples_are_the_generators_in_order(folder):
  builder = tfds.builder("motion_video", data_dir=folder)
  skip = {"video": tfds.decode.SkipDecoding()}
  for i, example in enumerate(tfds.as_numpy(builder.as_dataset(split="train[:14]", decoders=skip))):
    frames, label = motion.video(i, "train", 0, TINY)
    assert (example["label"], example["index"], example["fps"]) == (label, i, motion.FPS)
    assert list(example["video"]) == [encode(frame) for frame in frames]


def test_the_default_variant_is_the_generators_default():
  assert motion_builder.MotionBuilderConfig(name="x").videos == motion.MotionConfig()
  assert str(motion_builder.MotionVideo.VERSION) in motion_builder.MotionVideo.RELEASE_NOTES
