"""Warnings about a run that goes on, but learns nothing or wastes its devices."""

from __future__ import annotations

import math
from collections.abc import Mapping

from absl import logging

from vssl_jax.methods.base import Guess
from vssl_jax.ops import embed_stats

MOST_WAITING, WAITS_TOLD = 0.3, 3  # share of the time, in so many logged rows in succession
# A loss this close to guessing is called no better. It is told after so many epochs, and rows.
NO_BETTER, GUESSING_EPOCHS, GUESSING_ROWS = 0.99, 2.0, 5
# Embeddings are called narrow below this share of the rank that batch and width allow, after as
# long. Measured by us: one run of each method on the digits stays above 0.29, with 64 dimensions.
NARROW = 0.1


class Watch:
  """Reads each logged row, and says once what is wrong and what helps.

  A run that is resumed starts counting anew.
  """

  def __init__(self, *, guess: Guess | None, decodes: bool):
    """Starts without any warning.

    Args:
      guess: the loss of a network that guesses, if the method has one.
      decodes: whether the input consists of clips that have to be decoded.
    """
    self._guess, self._decodes = guess, decodes
    self._collapse: str | None = None
    self._waits = 0  # logged rows in a row with much waiting for input
    self._guesses: list[float] = []  # epochs of the logged rows in a row that are no better
    self._narrow: list[float] = []  # likewise, of those whose embeddings are narrow

  def collapse(self, step: int, row: Mapping[str, float]) -> None:
    """Names a collapse of the embeddings, see `embed_stats.diagnose`."""
    cause = embed_stats.diagnose(row)
    if cause is not None and cause != self._collapse:
      logging.warning("Collapse at step %d: %s", step, cause)
    self._collapse = cause

  def narrow(self, step: int, row: Mapping[str, float]) -> None:
    """Says if the embeddings have used few directions for two epochs; reads `epoch` too.

    How many are few depends on the width of the embeddings and on the size of the batch: see
    `effective_rank_share` of `embed_stats.summary`.
    """
    if not row["effective_rank_share"] < NARROW:
      self._narrow = []
      return
    self._narrow.append(row["epoch"])
    epochs = row["epoch"] - self._narrow[0]
    if GUESSING_EPOCHS <= epochs < math.inf and len(self._narrow) >= GUESSING_ROWS:
      rank, share = row["effective_rank"], row["effective_rank_share"]
      logging.warning(
        "Narrow embeddings at step %d: for %.1f epochs they have used few directions: their "
        "effective rank is %.1f, where this width and batch allow %.0f. If probes are poor too, a "
        "smaller learning rate, batch norm on the embeddings (config.head.out_bn), stronger "
        "augmentation, more negatives or a larger batch may help.",
        step,
        epochs,
        rank,
        rank / share if share else math.nan,
      )
      self._narrow = [-math.inf]  # told

  def guessing(self, step: int, row: Mapping[str, float]) -> None:
    """Says if `loss` has not been below that of guessing for two epochs; reads `epoch` too."""
    if self._guess is None:
      return
    if row["loss"] < NO_BETTER * self._guess.loss:
      self._guesses = []
      return
    self._guesses.append(row["epoch"])
    epochs = row["epoch"] - self._guesses[0]
    if GUESSING_EPOCHS <= epochs < math.inf and len(self._guesses) >= GUESSING_ROWS:
      logging.warning(
        "Guessing at step %d: for %.1f epochs the loss (%.4g) has not been below %.4g = %s, that "
        "of a network that guesses: it has not begun to learn. What helps: %s.",
        step,
        epochs,
        row["loss"],
        self._guess.loss,
        self._guess.name,
        self._guess.cures,
      )
      self._guesses = [-math.inf]  # told

  def waiting(self, step: int, share: float) -> None:
    """Says how to speed up a run whose devices wait for this share of the time."""
    if self._waits >= WAITS_TOLD:
      return
    self._waits = self._waits + 1 if share > MOST_WAITING else 0
    if self._waits == WAITS_TOLD:
      decoding = (
        "Prepare records whose frames are hardly larger than the crops (vssl prepare "
        "--short_side), keep them decoded in memory if they fit (config.data.cache=host or "
        "device), use more CPU cores or hosts per device, use each clip in several steps with new "
        "colors and blur (config.data.echo=2), or read"
      )
      logging.warning(
        "Input at step %d: the devices wait for it %.0f %% of the time. %s from a local disk.",
        step,
        100 * share,
        decoding if self._decodes else "Read",
      )
