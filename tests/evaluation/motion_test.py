"""Scores with frames in other orders: encoders that look at known frames have known scores."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from data_pipelines.source import NumpySource
from tests import small
from vssl_jax import models, parallel
from vssl_jax.evaluation import options as options_lib
from vssl_jax.evaluation.motion import orders, protocol
from vssl_jax.evaluation.motion.orders import ORDERS, Reordered, places
from vssl_jax.evaluation.task import Task
from vssl_jax.probes import views as views_lib
from vssl_jax.probes.too_few_videos import TooFewVideos

CLASSES = 6  # frame t of a video of class c lights pixel (c + t) % CLASSES
FRAMES = 5
QUICK = ("knn", "retrieval")


class Codes(NumpySource):
  """Videos of which the first frame tells the class, and each later one would tell the next."""

  def __init__(self, data, videos, lost=()):
    given = {"split": "test", "batch_size": 4, "seed": 0, "process_index": 0, "process_count": 1}
    super().__init__(data, videos, fingerprint=f"codes {videos}", **given)
    self.label_names = tuple("abcdef")
    self.lost, self.passes = lost, 0

  def eval_example(self, video, **views):
    own = int(self.ids[video])
    shown = (own % CLASSES + np.arange(views["frames"])) % CLASSES
    clip = np.zeros((views["frames"], 4, 4, 3), np.uint8)
    clip.reshape(len(shown), -1)[np.arange(len(shown)), 3 * shown] = 255
    count = views["clips"] * views["crops"]
    return {
      "clips": np.stack([clip] * count),
      "label": np.int32(own % CLASSES),
      "video": np.int64(video),
      "offset": np.zeros(count, np.int32),
    }

  def eval_batches(self, batch_size, **views):
    self.passes += 1
    for batch in super().eval_batches(batch_size, **views):
      if self.passes in self.lost:
        batch["valid"] = batch["valid"] & (batch["video"] != 3)
      yield batch


class Look(nn.Module):
  """An encoder whose features are the pixels of one frame, or the sum over all frames."""

  frame: int | None

  @nn.compact
  def __call__(self, clips, train=False):
    del train
    seen = clips.sum(1) if self.frame is None else clips[:, self.frame]
    return seen.reshape(len(clips), -1)[:, : 3 * CLASSES : 3]


@pytest.fixture
def make(monkeypatch):
  """A task of an encoder that looks at one frame."""

  def task(frame, folder=None, *, lost=(), frames=FRAMES, clips=2, **options):
    config = small.shrink(small.load("cvrl.py", "demo"))
    config.data.eval.update(clips=clips, crops=2, frames=frames, batch_size=4, resize=4, size=4)
    config.knn.k = 5
    monkeypatch.setattr(models, "build_encoder", lambda *_: Look(frame))
    train, test = Codes(config.data, 42), Codes(config.data, 24, lost)
    mesh = parallel.make_mesh(jax.devices()[:1])
    chosen = options_lib.make(**options)
    cached = [views_lib.Cached(s, 0) for s in (train, test)]
    return Task(config, chosen, {}, *cached, None, folder, mesh, "")

  return task


def _scores(found, order):
  """Logistic regression, nearest neighbors and R@1 in one order."""
  scores = found["orders"][order]
  return [scores["logistic"]["top-1"], scores["knn"]["top-1"], scores["retrieval"]["R@1"]]


def test_places_are_those_of_their_orders():
  assert places("reversed", 4).tolist() == [3, 2, 1, 0]
  assert places("frozen", 4).tolist() == [2] * 4
  assert places("frozen", 5).tolist() == [2] * 5
  seen = set()
  for video in range(60):
    for clip in range(5):
      found = places("shuffled", 3, seed=1, video=video, clip=clip)
      assert found.tolist() == places("shuffled", 3, seed=1, video=video, clip=clip).tolist()
      seen.add(tuple(found.tolist()))
  assert seen == {(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}  # all but 0, 1, 2
  assert places("shuffled", 2).tolist() == [1, 0]
  a, b = (places("shuffled", 16, seed=s).tolist() for s in (0, 1))
  assert a != b


def test_clips_are_reordered_and_nothing_else(make):
  source = views_lib.Cached(make(0).test)  # whose next pass gives the same arrays
  views = {"clips": 2, "crops": 3, "frames": 6, "stride": 1, "resize": 4, "size": 4}
  plain = list(source.eval_batches(5, **views))
  kept = [b["clips"].copy() for b in plain]
  for order in ORDERS:
    changed = list(Reordered(source, order, 9).eval_batches(5, **views))
    assert len(changed) == len(plain)
    for a, b, before in zip(plain, changed, kept, strict=True):
      np.testing.assert_array_equal(a["clips"], before)  # which others may read from memory
      assert all(np.array_equal(a[k], b[k]) for k in ("label", "video", "offset", "valid"))
      for row, video in enumerate(a["video"]):
        for view in range(6):
          chosen = places(order, 6, seed=9, video=int(video), clip=view // 3)
          np.testing.assert_array_equal(b["clips"][row, view], a["clips"][row, view][chosen])


def test_a_part_of_the_videos_keeps_its_permutations(make):
  source = Reordered(make(0).test, "shuffled", 2)
  views = {"clips": 1, "crops": 1, "frames": 7, "stride": 1, "resize": 4, "size": 4}
  (whole,) = source.eval_batches(24, **views)
  for part, rows in ((source.only([20, 3]), [20, 3]), (source.only(range(9, 15)).only([4]), [13])):
    (few,) = part.eval_batches(len(rows), **views)
    np.testing.assert_array_equal(few["clips"], whole["clips"][rows])


def test_each_order_is_other_data(make):
  source = make(0).test
  marks = {
    (order, seed): Reordered(source, order, seed).fingerprint for order in ORDERS for seed in (0, 1)
  }
  assert len({source.fingerprint, *marks.values()}) == 5  # of one seed, but for "shuffled"
  assert marks["shuffled", 0] != marks["shuffled", 1]


def test_features_that_ignore_order_lose_nothing(make):
  found = protocol._run(make(None))
  assert _scores(found, "normal") == [1, 1, 1]
  for order in ("reversed", "shuffled"):
    assert all(x == 0 for own in found["drop"][order].values() for x in own.values())
  assert min(_scores(found, "frozen")) < 1  # one frame is not the sum of all


def test_features_of_the_first_frame_have_the_scores_of_what_stands_there(make):
  found = protocol._run(make(0, clips=1))
  assert _scores(found, "normal") == [1, 1, 1]
  assert _scores(found, "reversed") == [0, 0, 0]  # all are taken for the fourth class from theirs
  assert _scores(found, "frozen") == [0, 0, 0]  # for the second
  right = np.mean([places("shuffled", FRAMES, video=v)[0] == 0 for v in range(24)])
  assert 0 < right < 1
  assert _scores(found, "shuffled") == pytest.approx([right] * 3, abs=1e-12)
  assert found["drop"]["shuffled"]["retrieval"]["R@1"] == pytest.approx(1 - right, abs=1e-12)


def test_other_orders_show_the_frames_that_they_name(make):
  frames = [make(t).queries.features for t in range(FRAMES)]
  found = protocol._features(make(0))
  np.testing.assert_array_equal(found["frozen"].features, frames[FRAMES // 2])
  np.testing.assert_array_equal(found["reversed"].features, frames[-1])
  for row, video in enumerate(found["shuffled"].video):
    drawn = [places("shuffled", FRAMES, video=int(video), clip=c)[0] for c in range(2)]
    expected = np.mean([frames[t][row, 0] for t in drawn], axis=0)
    np.testing.assert_allclose(found["shuffled"].features[row, 0], expected, rtol=1e-6, atol=1e-6)


def test_the_middle_frame_loses_nothing_when_clips_are_frozen(make):
  drop = protocol._run(make(FRAMES // 2, motion_scores=QUICK))["drop"]
  for order in ("frozen", "reversed"):  # the middle of five frames stays there
    assert all(x == 0 for own in drop[order].values() for x in own.values())


def test_features_are_kept_by_order_and_used_again(make, tmp_path, monkeypatch):
  first = protocol._run(make(0, tmp_path, motion_scores=QUICK))
  names = sorted(p.name.rsplit("-", 1)[0] for p in tmp_path.iterdir())
  assert names == ["test", "test_frozen", "test_reversed", "test_shuffled", "train"]
  monkeypatch.setattr(Codes, "eval_example", lambda *_, **__: pytest.fail("read again"))
  assert protocol._run(make(0, tmp_path, motion_scores=QUICK)) == first


def test_videos_that_one_pass_cannot_read_are_left_out_of_all(make):
  found = protocol._features(make(0, lost=(2,)))  # passes: normal, reversed, …
  assert {order: len(x.video) for order, x in found.items()} == dict.fromkeys(found, 23)
  assert all(3 not in x.video for x in found.values())
  again = make(0, lost=(2,), motion_scores="knn")
  assert protocol._run(again)["read"] == {"train": 42, "eval": 23}


def test_the_table_has_each_score_and_its_drop(make):
  task = make(0, motion_scores=("knn", "few_shot"), episodes=3, queries=2, ways=3, shots=(1,))
  protocol.MOTION.check(task)
  found = protocol._run(task)
  figures = ("kNN top-1", "3-way 1-shot")
  expected = [
    f"{f}{o}" for f in figures for o in ("", *(f", {o}{d}" for o in ORDERS for d in ("", ": drop")))
  ]
  assert sorted(found["headline"]) == sorted(expected)
  for f in figures:
    for o in ORDERS:
      h = found["headline"]
      assert h[f"{f}, {o}: drop"] == h[f] - h[f"{f}, {o}"]
  assert set(protocol._describe(task)["scores"]) == {"knn", "few_shot"}
  assert orders.NORMAL not in found["drop"]


def test_clips_of_one_frame_have_no_order(make):
  with pytest.raises(TooFewVideos, match="give 2 or more"):
    protocol._describe(make(0, frames=1))
