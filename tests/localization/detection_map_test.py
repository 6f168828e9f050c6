import json
import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from vssl_jax.errors import UserError
from vssl_jax.localization import annotations as files
from vssl_jax.localization.annotations import Prediction, Segment, Video
from vssl_jax.localization.detection_map import ACTIVITYNET, THUMOS14, detection_map

ORACLE = pathlib.Path(__file__).parent.parent / "oracles" / "activitynet.json"


def truth(**videos):
  return {name: Video("test", 100.0, tuple(Segment(*s) for s in v)) for name, v in videos.items()}


def guesses(**videos):
  return {name: [Prediction(*p) for p in v] for name, v in videos.items()}


def slow_ap(annotations, predictions, label, tiou):
  """The definition, one prediction at a time."""
  ranked = [(p, v) for v, listed in predictions.items() for p in listed if p.label == label]
  ranked = sorted(ranked[::-1], key=lambda x: -x[0].score)  # of equal scores the later first
  total = sum(s.label == label for v in annotations.values() for s in v.segments)
  taken, outcome = set(), []
  for p, name in ranked:
    best, place = -1.0, None
    for i, s in enumerate(annotations[name].segments):
      union = max(p.end, s.end) - min(p.start, s.start)
      inside = max(0.0, min(p.end, s.end) - max(p.start, s.start))
      union = (p.end - p.start) + (s.end - s.start) - inside
      overlap = inside / union if union else float(p[:2] == s[:2])
      if s.label == label and (name, i) not in taken and overlap >= max(best, tiou):
        best, place = overlap, (name, i)
    outcome.append(place is not None)
    taken.add(place)
  points = [
    (sum(outcome[: i + 1]) / (i + 1), sum(outcome[: i + 1]) / total) for i in range(len(outcome))
  ]
  return sum(max(p for p, _ in points[i:]) / total for i, hit in enumerate(outcome) if hit)


@pytest.mark.parametrize("protocol", ["thumos14", "activitynet"])
def test_equals_activitynets_evaluator(protocol, tmp_path):
  """Its own figures, see `tests/oracles/make_activitynet.py`."""
  stored = json.loads(ORACLE.read_text())
  for name in ("truth", "predictions"):
    (tmp_path / name).write_text(json.dumps(stored[name]))
  want = stored[protocol]
  found = detection_map(
    files.read_annotations(tmp_path / "truth"),
    files.read_predictions(tmp_path / "predictions"),
    tious=want["tious"],
    subset=stored["subset"],
    strict=False,
  )
  np.testing.assert_allclose(found.ap, [want["ap"][c] for c in found.label_names], atol=1e-12)
  np.testing.assert_allclose(found.mean, want["mean"], atol=1e-12)
  assert found.average() == pytest.approx(want["average"], abs=1e-12)
  assert 0.05 < want["average"] < 0.5


TIME = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(sorted)
LABEL = st.sampled_from(["x", "y"])
SEGMENTS = st.lists(st.builds(lambda t, c: (float(t[0]), float(t[1]), c), TIME, LABEL), max_size=5)
SCORED = st.lists(
  st.builds(lambda t, c, s: (float(t[0]), float(t[1]), c, s / 4), TIME, LABEL, st.integers(0, 4)),
  max_size=8,
)


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
@hypothesis.given(a=SEGMENTS, b=SEGMENTS, p=SCORED, q=SCORED)
def test_equals_the_definition(a, b, p, q):
  annotations, predictions = truth(a=a, b=b), guesses(a=p, b=q)
  hypothesis.assume(a or b)
  found = detection_map(annotations, predictions, tious=(0.2, 0.5, 1.0), strict=False)
  for name, row in zip(found.label_names, found.ap, strict=True):
    want = [slow_ap(annotations, predictions, name, t) for t in found.tious]
    np.testing.assert_allclose(row, want, atol=1e-12)
  assert ((found.ap >= 0) & (found.ap <= 1)).all()
  assert (np.diff(found.ap, axis=1) <= 1e-12).all()  # a stricter threshold is never kinder


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(a=SEGMENTS, b=SEGMENTS)
def test_ground_truth_as_prediction_scores_one(a, b):
  hypothesis.assume(a or b)
  annotations = truth(a=a, b=b)
  perfect = {n: [Prediction(*s, 1.0) for s in v.segments] for n, v in annotations.items()}
  for tious in (THUMOS14, ACTIVITYNET, (1.0,)):
    np.testing.assert_array_equal(detection_map(annotations, perfect, tious=tious).ap, 1)


def test_by_hand():
  """Hit, miss, hit over two truths: precisions 1, 1/2, 2/3, so AP = (1 + 2/3) / 2."""
  annotations = truth(a=[(0.0, 10.0, "x"), (20.0, 30.0, "x")], b=[(0.0, 5.0, "y")])
  predictions = guesses(
    a=[(0.0, 9.0, "x", 0.9), (50.0, 60.0, "x", 0.8), (20.0, 29.0, "x", 0.7)], b=[]
  )
  found = detection_map(annotations, predictions, tious=(0.5, 0.95))
  np.testing.assert_allclose(found.ap, [[(1 + 2 / 3) / 2, 0], [0, 0]])
  np.testing.assert_allclose(found.mean, [(1 + 2 / 3) / 4, 0])
  assert found.label_names == ("x", "y")
  assert found.truths.tolist() == [2, 1]
  assert found.predictions.tolist() == [3, 0]
  assert found.average() == pytest.approx((1 + 2 / 3) / 8)
  assert found.average(0.1, 0.5) == pytest.approx((1 + 2 / 3) / 4)
  assert found.table().splitlines()[2] == "| x | 2 | 3 | 83.3 | 0.0 | 41.7 |"
  assert found.table().splitlines()[-1].startswith("| **mean** | 3 | 3 | 41.7 |")
  with pytest.raises(UserError, match=r"from 0.6 to 0.7"):
    found.average(0.6, 0.7)


def test_a_second_detection_of_one_action_is_a_miss():
  annotations = truth(a=[(0.0, 10.0, "x")], b=[(0.0, 10.0, "x")])
  twice = guesses(a=[(0.0, 10.0, "x", 0.9), (0.0, 10.0, "x", 0.8)], b=[(0.0, 10.0, "x", 0.5)])
  np.testing.assert_allclose(detection_map(annotations, twice, tious=(0.5,)).ap, (1 + 2 / 3) / 2)


def test_takes_the_truth_of_highest_overlap_that_is_free():
  annotations = truth(a=[(0.0, 10.0, "x"), (2.0, 12.0, "x")])
  predictions = guesses(a=[(1.0, 12.0, "x", 0.9), (1.0, 12.0, "x", 0.8)])
  found = detection_map(annotations, predictions, tious=(0.7, 0.9))
  np.testing.assert_allclose(found.ap, [[1, 0.5]])


def test_thresholds_are_those_of_the_data_sets():
  np.testing.assert_allclose(THUMOS14, np.arange(1, 8) / 10)
  np.testing.assert_allclose(ACTIVITYNET, np.arange(50, 100, 5) / 100)


def test_subsets_unknown_videos_and_classes():
  annotations = truth(a=[(0.0, 10.0, "x")], quiet=[])
  annotations["t"] = Video("train", None, (Segment(0.0, 1.0, "z"),))
  fine = guesses(a=[(0.0, 10.0, "x", 0.5), (0.0, 1.0, "z", 0.5)], quiet=[(0.0, 1.0, "x", 0.9)])
  found = detection_map(annotations, fine, subset="test")
  np.testing.assert_allclose(found.ap, 0.5)  # the quiet video's is a miss
  assert (found.label_names, found.ignored) == (("x",), 1)

  score = lambda predictions, **kw: detection_map(annotations, predictions, subset="test", **kw)
  with pytest.raises(UserError, match=r"'t', which is not in subset 'test'"):
    score(guesses(t=[(0.0, 1.0, "z", 1.0)]))
  with pytest.raises(UserError, match=r"'nowhere', which is not annotated"):
    score(guesses(nowhere=[(0.0, 1.0, "x", 1.0)]))
  with pytest.raises(UserError, match=r"class 'w' is nowhere annotated"):
    score(guesses(a=[(0.0, 1.0, "w", 1.0)]))
  lenient = guesses(a=[(0.0, 10.0, "x", 0.5)], nowhere=[(0.0, 1.0, "x", 1.0), (0.0, 1.0, "w", 1.0)])
  np.testing.assert_allclose(score(lenient, strict=False).ap, 0.5)


def test_no_predictions_score_zero():
  annotations = truth(a=[(0.0, 10.0, "x")])
  for none in ({}, {"a": []}):
    np.testing.assert_array_equal(detection_map(annotations, none).ap, np.zeros((1, 7)))


@pytest.mark.parametrize(
  ("annotations", "predictions", "options", "message"),
  [
    (truth(a=[]), {}, {}, "no annotated segment"),
    (truth(a=[(0.0, 1.0, "x")]), {}, {"subset": "train"}, "'train'"),
    (truth(a=[(0.0, 1.0, "x")]), {}, {"tious": (0.0,)}, r"\(0, 1\]"),
    (truth(a=[(0.0, 1.0, "x")]), {}, {"tious": ()}, r"\(0, 1\]"),
    (truth(a=[(0.0, 1.0, "x")]), guesses(a=[(2.0, 1.0, "x", 1.0)]), {}, "'a'"),
    (truth(a=[(0.0, 1.0, "x")]), guesses(a=[(0.0, 1.0, "x", float("nan"))]), {}, "not a segment"),
  ],
)
def test_bad_input_is_named(annotations, predictions, options, message):
  with pytest.raises(UserError, match=message):
    detection_map(annotations, predictions, **options)
