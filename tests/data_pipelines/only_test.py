"""Some of a source's videos alone, as few-label protocols and galleries need them."""

import numpy as np
import pytest

from data_pipelines import source
from tests.data_pipelines import tiny
from vssl_jax import config as config_lib

VIEWS = {"clips": 1, "crops": 1, "frames": 2, "stride": 1, "resize": 16, "size": 16}


@pytest.fixture(params=["synthetic", "tfrecord"])
def loaded(request, tmp_path):
  if request.param == "tfrecord":
    request.getfixturevalue("tf")
  data = tiny.data(tiny.write(tmp_path, [tiny.video(v, length=6) for v in range(6)]), frames=2)
  data.source = request.param
  data.synthetic.videos, data.synthetic.classes, data.synthetic.length = 6, 3, 6
  return source.load(data, split="train", batch_size=2, seed=0)


def _whole(loaded):
  batches = list(loaded.eval_batches(2, **VIEWS))
  keep = np.concatenate([b["valid"] for b in batches])
  return {k: np.concatenate([b[k] for b in batches])[keep] for k in ("clips", "label", "video")}


def test_the_videos_asked_for_in_their_order(loaded):
  whole, videos = _whole(loaded), [4, 1, 3]
  names = getattr(loaded, "video_names", ())
  few = loaded.only(videos)
  found = _whole(few)
  assert few.num_videos == 3
  np.testing.assert_array_equal(found["video"], [0, 1, 2])
  for key in ("clips", "label"):
    np.testing.assert_array_equal(found[key], whole[key][videos])
  if names:
    assert few.video_names == ("videos/4.avi", "videos/1.avi", "videos/3.avi")
  assert loaded.num_videos == 6
  np.testing.assert_array_equal(_whole(loaded)["clips"], whole["clips"])


def test_untrimmed_videos_keep_their_names_annotations_and_features():
  data = config_lib.data()
  data.source, data.frames = "untrimmed", 16
  data.localization.untrimmed.width = 8
  data.localization.videos = 6
  whole = source.load(data, split="train", batch_size=2, seed=0)
  videos = [4, 1, 3]
  few = whole.only(videos)
  assert few.names == tuple(whole.names[v] for v in videos)
  assert few.videos == tuple(whole.videos[v] for v in videos)
  for i, v in enumerate(videos):
    want, found = whole.eval_example(v), few.eval_example(i)
    assert (found.pop("video"), want.pop("video")) == (i, v)
    for key, value in want.items():
      np.testing.assert_array_equal(found[key], value, err_msg=key)
  assert few.only([2]).names == (whole.names[3],)
  assert whole.num_videos == 6


def test_training_sees_them_alone(loaded):
  whole, few = _whole(loaded), loaded.only([4, 0])
  assert few.steps_per_epoch == 1
  batches = few.train_batches()
  for _ in range(3):
    batch = next(batches)
    assert sorted(batch["video"].tolist()) == [0, 1]
    np.testing.assert_array_equal(batch["label"], whole["label"][[4, 0]][batch["video"]])
