"""What the logged numbers of a run mean, in plain words, and when they are a bad sign."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from vssl_jax.reports.reading import number

Row = Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Monitor:
  """One logged number.

  Attributes:
    key: its name in `metrics.jsonl`.
    title: heading of its figure.
    words: what it is, and which way is good.
    warn: a sentence about a bad sign in the rows of a run, or "".
    log: whether its axis is logarithmic.
    zero: whether its axis begins at 0.
  """

  key: str
  title: str
  words: str
  warn: Callable[[Sequence[Row]], str] = lambda rows: ""
  log: bool = False
  zero: bool = False


def last(rows: Sequence[Row], key: str) -> float | None:
  """The last finite value of a number that was logged."""
  return next((x for r in reversed(rows) if (x := number(r.get(key))) is not None), None)


def _guessing(rows: Sequence[Row]) -> str:
  loss, guess = last(rows, "loss"), last(rows, "loss_of_guessing")
  if loss is None or guess is None or guess <= 0 or loss < 0.99 * guess:
    return ""
  return f"The last loss, {loss:.4g}, is no better than guessing, {guess:.4g}."


def _collapsed(rows: Sequence[Row]) -> str:
  spread = last(rows, "embedding_spread")
  if spread is None or spread >= 0.1:
    return ""
  return f"The last spread is {spread:.2g}: the embeddings of all videos are almost equal."


def _narrow(rows: Sequence[Row]) -> str:
  rank, share = last(rows, "effective_rank"), last(rows, "effective_rank_share")
  # The share follows batch and width; runs of before it was logged have the rank alone.
  if rank is None or (rank >= 5 if share is None else share >= 0.1):
    return ""
  return f"The last effective rank is {rank:.1f}: the embeddings use very few directions."


def _waiting(rows: Sequence[Row]) -> str:
  waits = [x for r in rows if (x := number(r.get("input_wait"))) is not None]
  share = sum(waits) / len(waits) if waits else 0.0
  if share <= 0.3:
    return ""
  return f"Over the run, {100 * share:.0f} % of the time went into waiting for clips."


MONITORS = (
  Monitor(
    "loss",
    "Loss",
    "What training makes small. The dotted line, where there is one, is the loss of a network that "
    "guesses: a loss that stays there has not begun to learn.",
    _guessing,
  ),
  Monitor(
    "knn_top1",
    "Nearest neighbors during training",
    "Share of held-out training videos whose nearest neighbors vote for the right class. Higher is "
    "better; it uses labels, but training does not.",
    zero=True,
  ),
  Monitor(
    "effective_rank",
    "Effective rank",
    "How many directions the embeddings of a batch use. It cannot exceed the number of dimensions, "
    "nor the rows of a batch. A fall towards 1 is a collapse that the loss may not show.",
    _narrow,
    zero=True,
  ),
  Monitor(
    "embedding_spread",
    "Spread of the embeddings",
    "1: the embeddings are spread evenly over the sphere. 0: all are equal, a complete collapse.",
    _collapsed,
    zero=True,
  ),
  Monitor(
    "alignment",
    "Alignment",
    "Mean squared distance of two views of the same video, from 0 to 4. Smaller: views of a video "
    "are closer. 0 together with a spread of 0 is a collapse.",
    zero=True,
  ),
  Monitor(
    "uniformity",
    "Uniformity",
    "How evenly videos lie on the sphere: near −4 is even, 0 means that all are at one place.",
  ),
  Monitor(
    "contrast_accuracy",
    "Accuracy of the contrast",
    "How often the other view of the same video is more similar than every negative.",
    zero=True,
  ),
  Monitor(
    "input_wait",
    "Waiting for input",
    "Share of the time in which devices wait for clips. Near 0 is good; above 0.3, reading or "
    "decoding limits the speed, not the devices.",
    _waiting,
    zero=True,
  ),
  Monitor("clips_per_second", "Speed", "Clips per second, between two logged steps.", zero=True),
  Monitor("lr", "Learning rate", "The learning rate of each step.", zero=True),
  Monitor(
    "grad_norm",
    "Size of the gradient",
    "Norm of the gradient of all weights, on a logarithmic axis. Sudden peaks are a sign of steps "
    "that are too large.",
    log=True,
  ),
)
KNOWN = frozenset({m.key for m in MONITORS} | {"step", "epoch", "eta_seconds", "loss_of_guessing"})
