import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import interpolate

from vssl_jax.errors import UserError
from vssl_jax.localization import proposals
from vssl_jax.localization.annotations import Prediction
from vssl_jax.localization.proposals import ProposalSettings, propose

PLAIN = ProposalSettings(thresholds=(0.5,), scale=1, outer=0.5, gamma=0.0)


def test_by_hand():
  """One class: the run above 0.5 covers steps 2 to 5; half its length on each side is two steps."""
  cas = np.array([0.0, 0.2, 0.8, 1.0, 0.9, 0.6, 0.4, 0.1])[:, None]
  found = propose(cas, np.array([0.9]), step_seconds=0.5, settings=PLAIN)
  np.testing.assert_array_equal(found.segment, [[1.0, 3.0]])
  np.testing.assert_allclose(found.score, [3.3 / 4])  # what lies outside is masked
  whole = ProposalSettings(thresholds=(0.5,), scale=1, outer=0.5, gamma=0.2, masked=False)
  found = propose(cas, np.array([0.9]), step_seconds=0.5, settings=whole)
  np.testing.assert_allclose(found.score, [3.3 / 4 - (0.0 + 0.2 + 0.4 + 0.1) / 4 + 0.2 * 0.9])
  np.testing.assert_array_equal(found.label, [0])


def test_masked_score_still_sees_another_run_nearby():
  cas = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])[:, None]
  found = propose(
    cas,
    np.array([1.0]),
    step_seconds=1.0,
    settings=ProposalSettings((0.5), (0.5,), 1, 1.0, 0.0),
  )
  np.testing.assert_array_equal(found.segment, [[0, 1], [2, 4]])
  np.testing.assert_allclose(found.score, [1 - 0, 1 - 1 / 4])


def test_the_bonus_is_the_probability_of_the_class():
  cas = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
  probability = np.array([0.9, 0.3])
  score = {
    gamma: propose(cas, probability, step_seconds=1.0, settings=ProposalSettings(gamma=gamma)).score
    for gamma in (0.0, 0.5)
  }
  gained = np.unique((score[0.5] - score[0.0]).round(9))
  np.testing.assert_allclose(gained, 0.5 * probability[::-1])


def test_classes_by_probability_or_the_likeliest():
  assert proposals.present(np.array([0.3, 0.1, 0.25]), 0.25).tolist() == [0, 2]
  assert proposals.present(np.array([0.2, 0.1, 0.15]), 0.25).tolist() == [0]  # index 0 counts too
  assert proposals.present(np.array([0.1, 0.2]), 0.25).tolist() == [1]
  cas = np.eye(3)
  labels = propose(cas, np.array([0.3, 0.1, 0.3]), step_seconds=1.0).label
  assert set(labels) == {0, 2}


def test_each_class_is_normalized_over_time_by_itself():
  cas = np.array([[-1.0, 10.0, 3.0, -2.0], [1.0, 20.0, 3.0, -4.0], [3.0, 30.0, 3.0, -1.0]])
  want = [[-1 / 3, 0, 0, -2], [1 / 3, 0.5, 0, -4], [1, 1, 0, -1]]
  np.testing.assert_allclose(proposals.normalize(cas), want)


def test_upsampling_keeps_the_middles_in_place():
  x = np.array([[0.0], [3.0], [0.0]])
  up = proposals.upsample(x, 3)[:, 0]
  np.testing.assert_allclose(up, [0, 0, 1, 2, 3, 2, 1, 0, 0])
  np.testing.assert_allclose(up, up[::-1])
  np.testing.assert_array_equal(proposals.upsample(x, 1), x)
  np.testing.assert_allclose(proposals.upsample(x, 3, "start")[:, 0], [0, 1, 2, 3, 2, 1, 0, -1, -2])
  for place in ("middle", "start"):
    np.testing.assert_array_equal(proposals.upsample(x, 1, place), x)
    np.testing.assert_array_equal(proposals.upsample(x[1:2], 3, place), [[3.0]] * 3)


def original(cas, scale, place):
  """One class as the public code has it: `minmax_norm`, then SciPy's line through the steps."""
  high, low = max(cas.max(), 0.0), max(cas.min(), 0.0)
  x = (cas - low) / (high - low if high > low else 1.0)
  steps = np.arange(len(x), dtype=np.float64)
  if place == "middle":  # ours: what a step stands for is around it, and nothing is beyond the ends
    line = interpolate.interp1d(steps + 0.5, x, bounds_error=False, fill_value=(x[0], x[-1]))
    return line((np.arange(len(x) * scale) + 0.5) / scale)
  return interpolate.interp1d(steps, x, fill_value="extrapolate")(np.arange(0, len(x), 1 / scale))


def original_proposals(up, threshold, outer, *, masked=True):
  """Runs of samples `[first, last + 1)` with their scores, before the bonus, by slices."""
  active = [float(v) if v >= threshold and v > 0 else 0.0 for v in up]
  kept = active if masked else [max(float(v), 0.0) for v in up]
  found, at = [], 0
  for is_active, run in itertools.groupby(active, key=bool):
    size = len(list(run))
    if is_active:
      first, last = at, at + size - 1
      left = range(max(0, int(first - outer * size)), first)
      right = range(last + 1, min(len(up) - 1, int(last + outer * size)) + 1)
      around = [kept[i] for i in (*left, *right)]
      inner = np.mean(kept[first : last + 1])
      found.append((first, last + 1, inner - (np.mean(around) if around else 0.0)))
    at += size
  return found


@pytest.mark.parametrize("place", ["middle", "start"])
def test_equal_to_the_public_inference(place):
  """Sequences of all kinds: noise, long waves, below 0, above 0, a network's scale."""
  rng = np.random.default_rng(0)
  settings = ProposalSettings(place=place)
  count = 0
  for steps in (2, 5, 50, 320):
    noise, wave = rng.normal(size=(2, steps))
    for cas in (3 * noise, np.cumsum(wave), np.abs(noise) + 2, 12 * noise - 9, np.cumsum(wave) - 1):
      up = original(cas, settings.scale, place)
      if not (up > 0).any():
        continue
      want = [
        (first / settings.scale, end / settings.scale, score + settings.gamma * 0.6)
        for threshold in settings.thresholds
        for first, end, score in original_proposals(up, threshold, settings.outer)
      ]
      found = propose(cas[:, None], np.array([0.6]), step_seconds=1.0, settings=settings)
      got = np.concatenate([found.segment, found.score[:, None]], axis=1)
      np.testing.assert_allclose(got, want, atol=1e-9)
      count += len(want)
  assert count > 2000


def test_a_run_ends_where_the_line_crosses_the_threshold():
  """Three active steps between deep ones: 1 falls to −3, so a quarter of a step each way."""
  cas = np.array([-3.0, 1.0, 1.0, 1.0, -3.0])[:, None]
  for place, want in {"start": (0.75 + 1 / 24, 3.25), "middle": (1.25, 3.75)}.items():
    settings = ProposalSettings(thresholds=(0.0,), place=place)
    found = propose(cas, np.ones(1), step_seconds=1.0, settings=settings)
    np.testing.assert_allclose(found.segment, [want])
  # Another class's being below 0 all the time brings no segment, nor its own fallback.
  both = np.concatenate([cas, np.full((5, 1), -2.0) - cas], axis=1)
  found = propose(both, np.ones(2), step_seconds=1.0, settings=settings)
  assert set(found.label) == {0, 1}
  found = propose(np.minimum(both, [[9, -1]]), np.ones(2), step_seconds=1.0, settings=settings)
  assert set(found.label) == {0}


def test_seconds_do_not_depend_on_the_upsampling():
  cas = np.zeros((40, 1))
  cas[10:20] = 1
  for scale in (1, 8, 24):
    found = propose(
      cas, np.ones(1), step_seconds=0.64, settings=ProposalSettings(thresholds=(0.49,), scale=scale)
    )
    np.testing.assert_allclose(found.segment, [[6.4, 12.8]], atol=0.64 / scale + 1e-9)
  cut = propose(cas, np.ones(1), step_seconds=0.64, duration=9.0)
  assert cut.segment.max() == 9.0
  assert not len(propose(cas, np.ones(1), step_seconds=0.64, duration=5.0).score)


def test_a_video_without_activation_gets_its_likeliest_class():
  cas = np.stack([[-3.0, -1, -1, -3], [-1.0, -9, -9, -9], [-2.0] * 4], axis=1)
  one = propose(cas, np.array([0.6, 0.3, 0.1]), step_seconds=1.0, settings=PLAIN)
  assert set(one.label) == {0}  # both are likely enough to be looked for
  np.testing.assert_array_equal(one.segment, [[1.0, 3.0]])
  for probability, whole in ({(0.1, 0.1, 0.2): True, (0.1, 0.2, 0.1): False}).items():
    found = propose(cas, np.array(probability), step_seconds=1.0, settings=PLAIN)
    np.testing.assert_array_equal(found.segment, [[0.0, 4.0 if whole else 1.0]])
  # One step, and activation that is the same all the time.
  for flat in (np.array([[3.0]]), np.full((5, 1), 2.0)):
    found = propose(flat, np.ones(1), step_seconds=2.0, settings=PLAIN)
    np.testing.assert_array_equal(found.segment, [[0.0, 2.0 * len(flat)]])
    np.testing.assert_allclose(found.score, PLAIN.gamma)  # 1 inside, 0 outside, less 1
  # Where any class that is looked for is active, the others stay as they are.
  cas[2, 1] = 1
  found = propose(cas, np.array([0.6, 0.3, 0.1]), step_seconds=1.0, settings=PLAIN)
  assert set(found.label) == {1}


def test_smoothing_joins_what_noise_parts():
  cas = np.tile([1.0, 0.0], 12)[:, None] * (np.abs(np.arange(24) - 12) < 7)[:, None]
  raw = propose(cas, np.ones(1), step_seconds=1.0, settings=PLAIN)
  smooth = ProposalSettings(thresholds=(0.5,), scale=1, smooth=9)
  joined = propose(cas, np.ones(1), step_seconds=1.0, settings=smooth)
  assert len(raw.score) > 4
  assert len(joined.score) == 1
  short = propose(cas[6:11], np.ones(1), step_seconds=1.0, settings=smooth)  # below the window
  assert len(short.score)


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
@hypothesis.given(
  cas=st.lists(st.floats(-2, 2, width=16), min_size=2, max_size=12),
  outer=st.sampled_from([0.0, 0.25, 1.0]),
  masked=st.booleans(),
)
def test_contrast_equals_slices(cas, outer, masked):
  x = np.asarray(cas)
  settings = ProposalSettings(thresholds=(0.0, 0.4), scale=2, outer=outer, gamma=0.1, masked=masked)
  found = propose(x[:, None], np.array([0.7]), step_seconds=2.0, settings=settings)
  less = 0
  if not (original(x, 1, "middle") > 0).any():  # relative to the least, or the whole video
    x, less = x - x.min(), 1
  up = np.ones(2 * len(x)) if not np.ptp(x) else original(x, 2, "middle")
  want = [
    (float(first), float(end), score + 0.07 - less)
    for threshold in settings.thresholds
    for first, end, score in original_proposals(up, threshold, outer, masked=masked)
  ]
  got = np.concatenate([found.segment, found.score[:, None]], axis=1)
  np.testing.assert_allclose(got, np.array(want).reshape(-1, 3), atol=1e-9)


def test_predictions_have_names():
  found = propose(np.array([[0.0], [1.0]]), np.ones(1), step_seconds=1.0, settings=PLAIN)
  assert found.predictions(["run"]) == [Prediction(1.0, 2.0, "run", 1.0)]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: propose(np.ones(3), np.ones(1), step_seconds=1.0), r"\[T, C\]"),
    (lambda: propose(np.ones((3, 2)), np.ones(1), step_seconds=1.0), r"\[C\]"),
    (lambda: propose(np.full((3, 1), np.nan), np.ones(1), step_seconds=1.0), "diverged"),
    (lambda: propose(np.ones((3, 1)), np.ones(1), step_seconds=0.0), "0.0 s"),
    (lambda: ProposalSettings(thresholds=(1.0,)), "thresholds"),
    (lambda: ProposalSettings(thresholds=()), "thresholds"),
    (lambda: ProposalSettings(scale=0), "scale"),
    (lambda: ProposalSettings(place="end"), "'end': choose middle or start"),
    (lambda: ProposalSettings(smooth=4), "odd"),
    (lambda: ProposalSettings(smooth=1), "order"),
  ],
)
def test_bad_input_is_named(call, message):
  with pytest.raises(UserError, match=message):
    call()
