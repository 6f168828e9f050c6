"""The draws have the stated distributions and depend on the key alone."""

import itertools

import jax
import numpy as np
import pytest
import scipy.stats

from vssl_jax import config
from vssl_jax.augment import draws, settings

N = 20_000
CHANCE = 1e-4  # of a false alarm, each


@pytest.fixture(scope="module")
def view():
  cfg = config.augment()
  cfg.rotation_p = 0.3
  cfg.blur_p, cfg.solarize_p, cfg.invert_p = (0.1,), (0.2,), 0.4
  return settings.view(cfg, 0, 56)


@pytest.fixture(scope="module")
def drawn(view):
  keys = jax.random.split(jax.random.key(7), N)
  return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda k: draws.draw(k, view)))(keys))


@pytest.mark.parametrize(
  ("field", "p"),
  [
    ("flip", 0.5),
    ("jitter", 0.8),
    ("gray", 0.2),
    ("blur", 0.1),
    ("solarize", 0.2),
    ("invert", 0.4),
    ("turns", 0.3),
  ],
)
def test_probabilities(drawn, field, p):
  count = int((getattr(drawn, field) > 0).sum())
  assert scipy.stats.binomtest(count, N, p).pvalue > CHANCE


@pytest.mark.parametrize(
  ("field", "low", "high"),
  [
    ("brightness", 0.2, 1.8),
    ("contrast", 0.2, 1.8),
    ("saturation", 0.2, 1.8),
    ("hue", -0.2, 0.2),
    ("sigma", 0.1, 2.0),
  ],
)
def test_ranges(drawn, field, low, high):
  values = getattr(drawn, field)
  assert scipy.stats.kstest(values, "uniform", (low, high - low)).pvalue > CHANCE


def test_factors_are_never_negative():
  cfg = config.augment()
  cfg.brightness = 1.5
  view = settings.view(cfg, 0, 56)
  u = np.linspace(0, 1, 500, endpoint=False)[:, None].repeat(14, 1)
  factors = draws.resolve(u, view).brightness
  assert factors.min() == 0
  assert 2.4 < factors.max() <= 2.5


def test_every_order_is_as_likely(drawn):
  assert sorted(map(tuple, draws.ORDERS)) == sorted(itertools.permutations(range(4)))
  counts = np.bincount(drawn.order, minlength=24)
  assert counts.shape == (24,)
  assert scipy.stats.chisquare(counts).pvalue > CHANCE


def test_turns_are_uniform(drawn):
  counts = np.bincount(drawn.turns, minlength=4)[1:]
  assert counts.shape == (3,)
  assert scipy.stats.chisquare(counts).pvalue > CHANCE


def test_draws_are_independent(drawn):
  table = np.stack([np.asarray(f, np.float64) for f in drawn])
  correlation = np.corrcoef(table) - np.eye(len(table))
  assert np.abs(correlation).max() < 5 / np.sqrt(N)


def test_certain_and_impossible():
  cfg = config.augment()
  cfg.flip, cfg.jitter_p, cfg.gray_p = 1.0, 0.0, 1.0
  view = settings.view(cfg, 0, 56)
  d = jax.jit(jax.vmap(lambda k: draws.draw(k, view)))(jax.random.split(jax.random.key(1), N))
  assert d.flip.all()
  assert d.gray.all()
  assert not d.jitter.any()


def test_switching_one_operation_off_leaves_the_others(view):
  import dataclasses

  other = dataclasses.replace(view, flip=0.0, solarize_p=0.0, rotation_p=0.0, invert_p=0.0)
  key = jax.random.key(3)
  one, two = draws.draw(key, view), draws.draw(key, other)
  for field in ("jitter", "order", "brightness", "hue", "blur", "sigma", "gray"):
    assert getattr(one, field) == getattr(two, field)
