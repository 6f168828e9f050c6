import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from scipy import integrate, stats

from data_pipelines.clips import sampler
from data_pipelines.clips.sampler import Interval
from vssl_jax import config
from vssl_jax.errors import UserError

POWERS = (0.5, 1.0, 2.0, 7.0)
FRAMES, STRIDE = 8, 4
SPAN = (FRAMES - 1) * STRIDE


def draws(count, clips=2, seed=0):
  return np.random.default_rng(seed).random((count, sampler.num_uniforms(clips)))


def starts(u, length, **kwargs):
  return sampler.starts(u, np.asarray(length), frames=FRAMES, stride=STRIDE, **kwargs)


def density(x, power, distribution):
  return {
    "decreasing": (power + 1) / power * (1 - x**power),
    "uniform": np.ones_like(x),
    "increasing": (power + 1) * x**power,
  }[distribution]


@pytest.mark.parametrize("distribution", sampler.DENSITIES)
@pytest.mark.parametrize("power", POWERS)
class TestLaw:
  def test_cdf_integrates_the_density(self, distribution, power):
    for x in (0.0, 0.1, 0.5, 0.9, 1.0):
      expected = integrate.quad(lambda t: float(density(np.asarray(t), power, distribution)), 0, x)[
        0
      ]
      assert sampler.cdf(np.asarray(x), power, distribution) == pytest.approx(expected, abs=1e-7)

  def test_quantile_inverts_the_cdf(self, distribution, power):
    u = np.concatenate([[0, 1e-12, 1e-6, 1 - 1e-6], np.linspace(0.001, 0.999, 200)])
    x = sampler.quantile(u, power, distribution)
    np.testing.assert_allclose(sampler.cdf(x, power, distribution), u, atol=2e-10)
    assert (x >= 0).all()
    assert (x <= 1).all()

  def test_continuous_draw_follows_its_cdf(self, distribution, power):
    u = np.random.default_rng(1).random(20_000)
    x = sampler.quantile(u, power, distribution)
    result = stats.kstest(x, lambda t: sampler.cdf(np.asarray(t), power, distribution))
    assert result.pvalue > 1e-3

  def test_floored_draw_follows_its_probabilities(self, distribution, power):
    length = SPAN + 23
    drawn = starts(draws(40_000), length, interval=Interval(distribution, power))
    interval = np.abs(drawn[:, 0] - drawn[:, 1])
    edges = sampler.cdf(np.arange(24) / 23, power, distribution)
    expected = np.diff(edges) * len(interval)
    assert stats.chisquare(np.bincount(interval, minlength=23), expected).pvalue > 1e-3

  def test_earlier_start_is_uniform_among_those_that_leave_room(self, distribution, power):
    drawn = starts(draws(60_000), SPAN + 12, interval=Interval(distribution, power))
    interval = np.abs(drawn[:, 0] - drawn[:, 1])
    early = drawn.min(axis=1)[interval == 3]
    assert stats.chisquare(np.bincount(early, minlength=9)).pvalue > 1e-3

  def test_either_clip_may_be_the_earlier(self, distribution, power):
    a, b = starts(draws(20_000), 100, interval=Interval(distribution, power)).T
    assert stats.binomtest(int((a < b).sum()), int((a != b).sum())).pvalue > 1e-3
    assert stats.ks_2samp(a[:10_000], b[10_000:]).pvalue > 1e-3


def test_linear_law_has_a_third_of_the_support_as_mean():
  x = sampler.quantile(np.random.default_rng(0).random(100_000), 1.0)
  assert x.mean() == pytest.approx(1 / 3, abs=0.003)


def test_large_power_is_the_uniform_law():
  u = np.linspace(0, 0.99, 50)
  np.testing.assert_allclose(sampler.quantile(u, 1e4), u, atol=2e-3)


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(
  length=st.integers(1, 400),
  frames=st.integers(1, 32),
  stride=st.integers(1, 8),
  distribution=st.sampled_from(sampler.DISTRIBUTIONS),
  power=st.sampled_from(POWERS),
  clips=st.integers(1, 5),
  gap=st.floats(0, 500),
  max_seconds=st.sampled_from([0.0, 0.01, 0.5, 3.0]),
  min_seconds=st.sampled_from([0.0, 0.01, 0.4, 2.0]),
  edges=st.booleans(),
  seed=st.integers(0, 1000),
)
def test_every_index_is_within_bounds(
  length, frames, stride, distribution, power, clips, gap, max_seconds, min_seconds, edges, seed
):
  if distribution not in ("independent", "same") and clips > 2:
    clips = 2
  if distribution in ("same", "constant") or clips < 2 or 0 < max_seconds < min_seconds:
    min_seconds = 0.0
  u = draws(64, clips, seed)
  if edges:  # the ends of the unit interval
    u = np.where(u < 0.3, 0.0, np.where(u > 0.7, np.nextafter(1.0, 0.0), u))
  drawn = sampler.starts(
    u,
    np.full(64, length),
    frames=frames,
    stride=stride,
    clips=clips,
    interval=Interval(distribution, power, gap, "frames", max_seconds, min_seconds),
    fps=25.0,
  )
  assert drawn.shape == (64, clips)
  assert drawn.dtype == np.int64
  assert (drawn >= 0).all()
  assert (drawn < sampler.num_starts(np.asarray(length), frames, stride)).all()
  span, room = np.ptp(drawn, axis=1), int(sampler.num_starts(np.asarray(length), frames, stride))
  least = min(np.ceil(min_seconds * 25), room - 1)
  if (
    distribution == "independent" or length > (frames - 1) * stride
  ):  # shorter: clips wrap, as they come
    assert (span >= least).all()
  if max_seconds:
    assert (span <= max(max_seconds * 25, least)).all()
  indices = sampler.frame_indices(drawn, np.full(64, length), frames=frames, stride=stride)
  assert indices.shape == (64, clips, frames)
  assert (indices >= 0).all()
  assert (indices < length).all()
  if length > (frames - 1) * stride:
    assert (np.diff(indices, axis=-1) == stride).all()


def test_short_video_wraps_around_from_independent_starts():
  drawn = starts(draws(20_000), 5, interval=Interval("decreasing"))
  counts = np.zeros((5, 5))
  np.add.at(counts, tuple(drawn.T), 1)
  assert stats.chisquare(counts.reshape(-1)).pvalue > 1e-3
  indices = sampler.frame_indices(drawn[:1], np.array([5]), frames=8, stride=4)[0, 0]
  np.testing.assert_array_equal(indices, (drawn[0, 0] + 4 * np.arange(8)) % 5)


@pytest.mark.parametrize("length", [SPAN - 1, SPAN, SPAN + 1, SPAN + 2])
def test_last_valid_start_shows_the_last_frame(length):
  most = int(sampler.num_starts(np.asarray(length), FRAMES, STRIDE)) - 1
  assert most == (length - 1 if length <= SPAN else length - 1 - SPAN)


def test_constant_gap():
  drawn = starts(draws(500), 100, interval=Interval("constant", gap=17))
  assert (np.abs(drawn[:, 0] - drawn[:, 1]) == 17).all()
  seconds = Interval("constant", gap=0.5, unit="seconds")
  drawn = starts(draws(2), [100, 100], interval=seconds, fps=np.array([20.0, 30.0]))
  np.testing.assert_array_equal(np.abs(drawn[:, 0] - drawn[:, 1]), [10, 15])
  drawn = starts(draws(500), SPAN + 5, interval=Interval("constant", gap=17))
  assert (np.abs(drawn[:, 0] - drawn[:, 1]) == 4).all()  # cut to what the video allows


def test_same_takes_all_clips_at_one_time():
  drawn = starts(draws(20_000, 3), SPAN + 20, clips=3, interval=Interval("same"))
  assert (np.ptp(drawn, axis=1) == 0).all()
  assert stats.chisquare(np.bincount(drawn[:, 0], minlength=20)).pvalue > 1e-3


@pytest.mark.parametrize("clips", [1, 2, 4])
def test_independent_starts_are_uniform_and_independent(clips):
  drawn = starts(draws(30_000, clips), SPAN + 10, clips=clips, interval=Interval("independent"))
  for r in range(clips):
    assert stats.chisquare(np.bincount(drawn[:, r], minlength=10)).pvalue > 1e-3
  if clips > 1:
    table = np.zeros((10, 10))
    np.add.at(table, (drawn[:, 0], drawn[:, 1]), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("clips", [2, 3])
def test_bounded_independent_starts_equal_rejection(clips):
  m, bound = 5000, 1000  # long, so that frames are as good as continuous
  interval = Interval("independent", max_seconds=bound / 25)
  drawn = starts(draws(20_000, clips), SPAN + m, clips=clips, interval=interval, fps=25.0)
  tries = np.random.default_rng(5).integers(0, m, (400_000, clips))
  kept = tries[np.ptp(tries, axis=1) <= bound]
  for statistic in (lambda x: x[:, 0], lambda x: x.min(axis=1), lambda x: np.ptp(x, axis=1)):
    assert stats.ks_2samp(statistic(drawn), statistic(kept)).pvalue > 1e-3


@pytest.mark.parametrize("clips", [2, 3, 4])
@pytest.mark.parametrize("most", [0, 3000])
def test_starts_spread_at_least_so_far_equal_rejection(clips, most):
  m, least = 5000, 1000  # long, so that frames are as good as continuous
  interval = Interval("independent", max_seconds=most / 25, min_seconds=least / 25)
  drawn = starts(draws(20_000, clips), SPAN + m, clips=clips, interval=interval, fps=25.0)
  tries = np.random.default_rng(5).integers(0, m, (200_000, clips))
  span = np.ptp(tries, axis=1)
  kept = tries[(span >= least) & (span <= (most or m))]
  for statistic in (
    lambda x: x[:, 0],
    lambda x: x[:, -1],
    lambda x: x.min(axis=1),
    lambda x: np.ptp(x, axis=1),
    lambda x: np.median(x, axis=1),
  ):
    assert stats.ks_2samp(statistic(drawn), statistic(kept)).pvalue > 1e-3


def test_pairs_spread_at_least_so_far_are_exactly_uniform():
  interval = Interval("independent", max_seconds=6 / 25, min_seconds=4 / 25)
  drawn = starts(draws(60_000), SPAN + 9, interval=interval, fps=25.0)
  table = np.zeros((9, 9))
  np.add.at(table, tuple(drawn.T), 1)
  apart = np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
  allowed = (apart >= 4) & (apart <= 6)
  assert (table[~allowed] == 0).all()
  assert stats.chisquare(table[allowed]).pvalue > 1e-3


@pytest.mark.parametrize("distribution", sampler.DENSITIES)
def test_least_interval_truncates_the_density(distribution):
  interval = Interval(distribution, max_seconds=1.2, min_seconds=0.4)
  drawn = starts(draws(40_000), SPAN + 40, interval=interval, fps=25.0)
  gaps = np.abs(drawn[:, 0] - drawn[:, 1])
  mass = np.diff(sampler.cdf(np.arange(10, 32) / 40, 1.0, distribution))
  expected = mass / mass.sum() * len(gaps)
  assert stats.chisquare(np.bincount(gaps - 10, minlength=21), expected).pvalue > 1e-3


def test_bound_truncates_the_density():
  interval = Interval("decreasing", max_seconds=0.4)
  drawn = starts(draws(40_000), SPAN + 40, interval=interval, fps=25.0)
  gaps = np.abs(drawn[:, 0] - drawn[:, 1])
  mass = np.diff(sampler.cdf(np.arange(12) / 40, 1.0))
  expected = mass / mass.sum() * len(gaps)
  assert stats.chisquare(np.bincount(gaps, minlength=11), expected).pvalue > 1e-3


@pytest.mark.parametrize("least", [0.0, 0.7])
@pytest.mark.parametrize("distribution", sampler.DISTRIBUTIONS)
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_tensorflow_gives_numpys_numbers(tf, distribution, power, least):
  interval = Interval(distribution, power, gap=7, max_seconds=1.5, min_seconds=least)
  u, length = draws(200), np.random.default_rng(3).integers(1, 120, 200)
  fps = np.random.default_rng(4).uniform(10, 30, 200)
  expected = starts(u, length, interval=interval, fps=fps)
  actual = starts(tf.constant(u), tf.constant(length), interval=interval, fps=tf.constant(fps))
  np.testing.assert_array_equal(actual.numpy(), expected)
  assert actual.dtype == tf.int64
  cut = {"frames": FRAMES, "stride": STRIDE}
  np.testing.assert_array_equal(
    sampler.frame_indices(actual, tf.constant(length), **cut).numpy(),
    sampler.frame_indices(expected, length, **cut),
  )


@pytest.mark.parametrize("length", [1, 30, 64, 65, 300])
@pytest.mark.parametrize("clips", [2, 3, 10])
def test_eval_starts_are_the_floored_linspace(length, clips):
  expected = np.linspace(0, max(0, length - 64), clips)
  actual = sampler.eval_starts(np.asarray(length), frames=32, stride=2, clips=clips)
  np.testing.assert_array_equal(actual, np.floor(expected + 1e-9))
  middle = sampler.eval_starts(np.asarray(length), frames=32, stride=2, clips=1)
  np.testing.assert_array_equal(middle, [max(0, length - 64) // 2])


def test_frame_rate_is_required_where_it_matters():
  with pytest.raises(ValueError, match="frame rate"):
    starts(draws(2), 50, interval=Interval("constant", gap=1, unit="seconds"))
  assert not Interval("decreasing", unit="seconds").needs_fps


@pytest.mark.parametrize(
  ("field", "value", "clips", "message"),
  [
    ("distribution", "falling", 2, "distribution is 'falling'"),
    ("unit", "hours", 2, "'hours'"),
    ("power", 0.0, 2, "power"),
    ("gap", -1.0, 2, "negative"),
    ("distribution", "decreasing", 4, "independent"),
    ("distribution", "independent", 0, "at least 1"),
    ("min_seconds", -1.0, 2, "negative"),
    ("min_seconds", 1.0, 1, "no span"),
  ],
)
def test_bad_config_is_told_in_one_line(field, value, clips, message):
  interval = config.data().interval
  interval[field] = value
  with pytest.raises(UserError, match=message) as e:
    sampler.from_config(interval, clips)
  assert "\n" not in str(e.value)


def test_default_config_is_cvrls_law():
  assert sampler.from_config(config.data().interval, 2) == Interval()


@pytest.mark.parametrize(
  ("distribution", "most", "message"), [("same", 0.0, "no interval"), ("independent", 0.5, "above")]
)
def test_impossible_least_spans_are_told(distribution, most, message):
  interval = config.data().interval
  interval.distribution, interval.max_seconds, interval.min_seconds = distribution, most, 1.0
  with pytest.raises(UserError, match=message):
    sampler.from_config(interval, 2)
