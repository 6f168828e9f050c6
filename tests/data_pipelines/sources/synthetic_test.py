import numpy as np
import pytest

from data_pipelines import source
from tests.data_pipelines import tiny
from tests.data_pipelines.tiny import take
from vssl_jax.errors import UserError

VIEWS = {"clips": 2, "crops": 3, "frames": 3, "stride": 2, "resize": 12, "size": 8}


def load(**fields):
  fields = {"synthetic__videos": 10, "synthetic__eval_videos": 5} | fields
  return tiny.load(source="synthetic", **fields)


def test_batch_follows_the_contract():
  s = load()
  batch = next(s.train_batches())
  assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
    "clips": ((4, 2, 4, 8, 8, 3), "uint8"),
    "label": ((4,), "int32"),
    "video": ((4,), "int64"),
    "offset": ((4, 2), "int32"),
  }
  assert (s.num_videos, s.steps_per_epoch, s.unreadable, len(s.label_names)) == (10, 2, 0, 8)


def test_batch_is_a_function_of_seed_and_number():
  reference = take(load().train_batches(), 5)
  resumed = take(load().train_batches(3), 2)
  hosts = [take(load(process=(p, 2)).train_batches(3), 2) for p in range(2)]
  for i in range(2):
    for k, expected in reference[3 + i].items():
      np.testing.assert_array_equal(resumed[i][k], expected)
      np.testing.assert_array_equal(np.concatenate([h[i][k] for h in hosts]), expected)
  other = next(load(seed=1).train_batches())
  assert not np.array_equal(other["clips"], reference[0]["clips"])


def test_each_epoch_is_a_new_permutation():
  videos = [b["video"] for b in take(load(batch_size=5).train_batches(), 4)]
  epochs = np.concatenate(videos).reshape(2, 10)
  assert (np.sort(epochs) == np.arange(10)).all()
  assert (epochs[0] != epochs[1]).any()


def test_content_does_not_hang_on_the_seed():
  fields = {"crop__random": False, "interval__distribution": "same", "synthetic__length": 7}
  a, b = (load(seed=s, batch_size=10, **fields) for s in (0, 1))
  first, second = (next(s.train_batches()) for s in (a, b))
  rows = {int(v): i for i, v in enumerate(second["video"])}
  for i, v in enumerate(first["video"]):
    np.testing.assert_array_equal(first["clips"][i], second["clips"][rows[int(v)]])


def test_eval_pass_is_ordered_and_padded():
  batches = list(load(split="test").eval_batches(4, **VIEWS))
  assert batches[0]["clips"].shape == (4, 6, 3, 8, 8, 3)
  valid = np.concatenate([b["valid"] for b in batches])
  assert valid.tolist() == [True] * 5 + [False] * 3
  assert np.concatenate([b["video"] for b in batches])[valid].tolist() == [0, 1, 2, 3, 4]
  assert batches[0]["offset"][0].tolist() == [0, 0, 0, 42, 42, 42]


def test_splits_share_no_video():
  train, test = (next(load(split=s).eval_batches(4, **VIEWS))["clips"] for s in ("train", "test"))
  assert not np.array_equal(train, test)


def test_motion_tells_the_class_and_a_frame_does_not():
  """Direction of the drift, estimated by least squares on the optical-flow constraint."""
  s = load(split="test", synthetic__eval_videos=60, synthetic__classes=4, synthetic__length=12)
  views = {"clips": 1, "crops": 1, "frames": 12, "stride": 1, "resize": 32, "size": 32}
  guesses, labels = [], []
  for batch in s.eval_batches(20, **views):
    clips = batch["clips"][:, 0].astype(float)
    for clip, label in zip(clips, batch["label"], strict=True):
      moving = clip - clip.mean(axis=0)  # the standing texture drops out
      dt, dy, dx = np.gradient(moving, axis=(0, 1, 2))
      a = np.stack([dx.ravel(), dy.ravel()], axis=1)
      vx, vy = np.linalg.lstsq(a, -dt.ravel(), rcond=None)[0]
      guesses.append(round(np.arctan2(vy, vx) / (np.pi / 2)) % 4)
      labels.append(label)
  assert np.mean(np.array(guesses) == labels) > 0.9


def test_crops_are_changes_of_coordinates():
  whole = {"clips": 1, "crops": 1, "frames": 2, "stride": 1, "resize": 16, "size": 16}
  left = {**whole, "size": 8, "crops": 3}
  a = next(load(split="test").eval_batches(2, **whole))["clips"][:, 0]
  b = next(load(split="test").eval_batches(2, **left))["clips"]
  for i, x in enumerate((0, 4, 8)):
    np.testing.assert_array_equal(b[:, i], a[:, :, 4:12, x : x + 8])


@pytest.mark.parametrize("consistent", [True, False])
def test_consistent_crop(consistent):
  fields = {
    "crop__consistent": consistent,
    "crop__area": (0.3, 0.4),
    "interval__distribution": "same",
  }
  s = load(**fields)
  windows = s._windows(source.generator(0, 0), 1 if consistent else 4)
  assert windows.shape == (1 if consistent else 4, 4)
  assert ((windows[:, :2] + windows[:, 2:]) <= 1 + 1e-9).all()
  next(s.train_batches())


def test_squares_by_the_short_side():
  windows = load(crop__short=(0.7, 0.875))._windows(source.generator(0, 0), 500)
  side = windows[:, 2]
  np.testing.assert_array_equal(side, windows[:, 3])
  assert ((windows[:, :2] >= 0) & (windows[:, :2] + windows[:, 2:] <= 1 + 1e-9)).all()
  assert 0.7 <= side.min() < 0.71 < 0.86 < side.max() <= 0.875


def test_bad_fields():
  with pytest.raises(UserError, match="synthetic"):
    load(synthetic__classes=0)


def test_clips_at_a_target_rate():
  """48 frames at 25 per second; of 50 per second, 3 frames with stride 2 cover 3 of them."""
  views = VIEWS | {"crops": 1, "target_fps": 50.0, "placement": "starts"}
  batch = next(load(split="test").eval_batches(4, **views))
  assert batch["offset"].tolist() == [[0, 22]] * 4  # half of 48 - 3, rounded down
  fields = {"target_fps": 50.0, "interval__distribution": "independent", "crop__log_aspect": True}
  drawn = [b["offset"] for b in take(load(batch_size=10, **fields).train_batches(), 30)]
  assert (np.min(drawn), np.max(drawn)) == (0, 44)  # 48 - 4
