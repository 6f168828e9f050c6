"""A split through activations, proposals and scores: a network that knows the truth scores 1."""

import numpy as np
import pytest

from data_pipelines.untrimmed.sequences import Dataset, LocalizationSource
from tests.data_pipelines.untrimmed.sequences_test import ARGS, fields
from vssl_jax.errors import UserError
from vssl_jax.localization import scores as scores_lib
from vssl_jax.localization.annotations import Segment, Video
from vssl_jax.localization.proposals import ProposalSettings

STEPS, SECONDS = 20, 0.5
ACTIONS = {"v0": [("a", 2, 6), ("b", 10, 14)], "v1": [("b", 4, 9)], "v2": [("a", 1, 5)]}


def _source():
  """Feature c of a step is 1 within an action of class c: the truth itself."""
  videos, features = {}, {}
  for name, actions in ACTIONS.items():
    x = np.zeros((STEPS, 2), np.float32)
    for label, start, end in actions:
      x[start:end, "ab".index(label)] = 1
    segments = tuple(Segment(s * SECONDS, e * SECONDS, label) for label, s, e in actions)
    videos[name], features[name] = Video("test", STEPS * SECONDS, segments), x
  data = fields(frames=24, sampling="pad")
  dataset = Dataset(videos, features, SECONDS, ("a", "b"))
  return LocalizationSource(data, dataset, split="test", batch_size=2, **ARGS)


def _oracle(features, mask):
  assert not features[~mask].any()
  return features, features.max(axis=1)


SETTINGS = ProposalSettings(scale=1, thresholds=(0.5,))


def test_thresholds_are_chosen_by_the_score_that_they_give():
  calls = []

  def blurred(features, mask):
    """Half of the action's height reaches over its ends, so low thresholds find too long runs."""
    calls.append(len(features))
    wide = np.maximum(features, 0.5 * np.roll(features, 2, 1))
    return np.maximum(wide, 0.5 * np.roll(features, -2, 1)), features.max(axis=1)

  source, sets = _source(), ((0.2, 0.3), (0.6, 0.7), (0.4,), (0.8,))
  given = {"protocol": "thumos14", "batch_size": 2}
  chosen = scores_lib.choose(blurred, source, sets, settings=SETTINGS, **given)
  assert len(calls) == 2  # the network runs once for all sets
  alone = [
    scores_lib.evaluate(
      blurred, source, settings=ProposalSettings(scale=1, thresholds=thresholds), **given
    )["average"]["0.1:0.7"]
    for thresholds in sets
  ]
  assert chosen.scores == pytest.approx(alone)
  assert alone[0] < alone[1] == alone[3]
  assert chosen.thresholds == (0.6, 0.7)  # the first of the best


@pytest.mark.parametrize("frames", [50, 60, 130, 400])
def test_sampled_steps_are_where_they_are_said_to_be(frames):
  """Whatever T, the truth's edges are found within half a step, and on neither side on average."""
  rng, errors = np.random.default_rng(0), []
  for length in rng.integers(40, 300, 30).tolist():
    start = int(rng.integers(2, length - 20))
    x = np.zeros((length, 1), np.float32)
    x[start : start + 15] = 1
    video = Video("test", length * SECONDS, (Segment(0, 1, "a"),))
    data = fields(frames=frames, sampling="sample")
    source = LocalizationSource(
      data, Dataset({"v": video}, {"v": x}, SECONDS, ("a",)), split="test", batch_size=1, **ARGS
    )
    found, _ = scores_lib.predict(_oracle, source, batch_size=1, settings=SETTINGS)
    (one,) = found["v"]
    step = SECONDS * length / frames
    off = np.array([one.start - start * SECONDS, one.end - (start + 15) * SECONDS])
    assert (np.abs(off) <= 0.5 * step + 1e-4).all()
    errors.append(off / step)
  assert np.abs(np.mean(errors)) < 0.15


def test_the_truth_as_activations_scores_one():
  scores = scores_lib.evaluate(_oracle, _source(), batch_size=2, settings=SETTINGS)
  assert set(scores["mAP"]) == {"0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"}
  assert all(x == 1 for x in scores["mAP"].values())
  assert scores["average"] == {"0.1:0.7": 1, "0.1:0.5": 1, "0.3:0.7": 1}
  assert scores["headline"] == {"mAP@0.1:0.7": {"trained": 1}}
  assert scores["per_class"]["b"]["0.7"] == 1
  assert (scores["video_accuracy"], scores["videos"]) == (1, 3)
  np.testing.assert_allclose(scores["segments_per_video"], 4 / 3)


def test_classes_mixed_up_score_nothing():
  swapped = lambda x, mask: tuple(y[..., ::-1] for y in _oracle(x, mask))
  scores = scores_lib.evaluate(
    swapped, _source(), batch_size=2, settings=SETTINGS, protocol="activitynet"
  )
  assert scores["average"] == {"0.5:0.95": 0}
  assert scores["video_accuracy"] == pytest.approx(1 / 3)  # the video of both classes


def test_predictions_are_in_seconds_and_by_name():
  found, accuracy = scores_lib.predict(_oracle, _source(), batch_size=2, settings=SETTINGS)
  assert accuracy == 1
  assert [(p.label, p.start, p.end) for p in found["v1"]] == [("b", 2.0, 4.5)]
  assert sorted(p.label for p in found["v0"]) == ["a", "b"]


def test_unknown_protocol_is_named():
  with pytest.raises(UserError, match=r"^protocol is 'ava': choose one of thumos14, activitynet"):
    scores_lib.evaluate(_oracle, _source(), protocol="ava", batch_size=2)


def test_a_class_that_the_split_lacks_is_no_error():
  source = _source()
  source.videos = tuple(
    Video(v.subset, v.duration, tuple(s for s in v.segments if s.label == "a"))
    for v in source.videos
  )
  scores = scores_lib.evaluate(_oracle, source, batch_size=2, settings=SETTINGS)
  assert scores["per_class"].keys() == {"a"}
  assert scores["headline"]["mAP@0.1:0.7"]["trained"] == 1
