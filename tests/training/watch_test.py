"""Each warning comes once, when its cause has lasted, and comes again after the cause was gone."""

import logging

import pytest

from vssl_jax.methods.base import Guess
from vssl_jax.training import watch

GUESS = Guess(2.0, "log(x)", "another rate")


def _told(caplog, losses, *, every=0.5, guess=GUESS):
  """The steps at which a guess is told."""
  one = watch.Watch(guess=guess, decodes=True)
  told = []
  for i, loss in enumerate(losses, 1):
    caplog.clear()
    one.guessing(i, {"epoch": every * i, "loss": loss})
    told += [i] * len(caplog.records)
  return told


@pytest.mark.parametrize("loss", [1.985, 2.0, 2.5])
def test_a_loss_that_stays_at_guessing_is_told_once(caplog, loss):
  assert _told(caplog, [loss] * 30) == [5]
  assert _told(caplog, [loss] * 30, every=0.1) == [21]
  assert _told(caplog, [loss] * 30, every=5.0) == [5]


def test_the_warning_names_loss_and_cures(caplog):
  with caplog.at_level(logging.WARNING):
    _told(caplog, [2.1] * 5)
  (record,) = caplog.records
  assert record.message == (
    "Guessing at step 5: for 2.0 epochs the loss (2.1) has not been below 2 = log(x), that of a "
    "network that guesses: it has not begun to learn. What helps: another rate."
  )


def test_a_loss_below_guessing_starts_the_count_anew(caplog):
  assert _told(caplog, [1.9] * 30) == []
  assert _told(caplog, [2.0] * 4 + [1.9] + [2.0] * 4) == []
  assert _told(caplog, [2.0] * 6 + [1.9] + [2.0] * 6) == [5, 12]
  assert _told(caplog, [2.0] * 30, guess=None) == []


def test_a_collapse_is_told_when_its_cause_changes(caplog):
  one = watch.Watch(guess=None, decodes=True)
  for spread, rank in ((0.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 9.0), (0.0, 1.0)):
    one.collapse(3, {"embedding_spread": spread, "effective_rank": rank})
  causes = [r.message.split(": ")[1] for r in caplog.records]
  assert causes == ["constant embeddings", "dimensional collapse", "constant embeddings"]


def test_a_low_rank_is_judged_by_what_batch_and_width_allow(caplog):
  """Rank 4 of 64 for a whole run, against rank 4 of 7, and a low rank for a short time."""

  def told(shares, every=0.5):
    one = watch.Watch(guess=None, decodes=True)
    caplog.clear()
    for i, share in enumerate(shares, 1):
      one.narrow(i, {"epoch": every * i, "effective_rank": 4.0, "effective_rank_share": share})
    return [int(r.message.split("step ")[1].split(":")[0]) for r in caplog.records]

  assert told([4 / 64] * 30) == [5]
  assert "effective rank is 4.0, where this width and batch allow 64." in caplog.records[0].message
  assert told([4 / 64] * 30, every=0.1) == [21]
  assert told([4 / 7] * 30) == told([0.3] * 30) == told([float("nan")] * 30) == []
  assert told([4 / 64] * 4 + [0.3] + [4 / 64] * 4) == []


@pytest.mark.parametrize("decodes", [True, False])
def test_waiting_is_told_once_after_three_rows(caplog, decodes):
  one = watch.Watch(guess=None, decodes=decodes)
  for step, share in enumerate([0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1, 0.9, 0.9, 0.9]):
    one.waiting(step, share)
  (record,) = caplog.records
  assert record.message.startswith("Input at step 5: the devices wait for it 90 % of the time.")
  assert ("vssl prepare" in record.message) is decodes
