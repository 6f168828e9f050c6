"""Few-shot probe: k-shot n-way episodes on frozen features; nearest class mean by cosine."""

from __future__ import annotations

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.probes.too_few_videos import TooFewVideos


def evaluate(
  bank: np.ndarray,
  bank_label: np.ndarray,
  queries: np.ndarray,
  query_label: np.ndarray,
  *,
  shots: int = 1,
  ways: int = 5,
  per_class: int = 15,
  episodes: int = 600,
  seed: int = 0,
) -> dict[str, float]:
  """Mean accuracy over seeded episodes.

  An episode draws n classes. For each class it draws k support videos from one split and up to
  `per_class` queries from the other, so that no query comes from the same recording as a support
  video. A query is assigned to the class whose mean of unit features has the highest cosine with it
  (Snell et al. 2017, with cosines as in Chen et al. 2019).

  Args:
    bank: float `[V, F]`, features of the split that gives the support videos.
    bank_label: int `[V]`; videos with a negative label are left out.
    queries: float `[Q, F]`.
    query_label: int `[Q]`; videos with a negative label are left out.
    shots: k.
    ways: n; limited to the number of classes with k support videos and a query.
    per_class: queries per class and episode; fewer if the class has fewer.
    episodes: number of episodes, at least 2.
    seed: seed of the episodes.

  Returns:
    `accuracy`, the mean over episodes; `interval`, half the width of its 95 % confidence interval
    (1.96 standard errors over episodes); `shots`, `ways` (as used), `episodes`, `queries`.

  Raises:
    UserError: a number is too small.
    TooFewVideos: fewer than two classes have k support videos and a query.
  """
  for name, value, least in (
    ("shots", shots, 1),
    ("ways", ways, 2),
    ("queries", per_class, 1),
    ("episodes", episodes, 2),
  ):
    if value < least:
      raise UserError(f"--{name}: {value} is too few for few-shot episodes; give {least} or more.")
  bank, queries = _unit(bank), _unit(queries)
  support = {c: np.flatnonzero(bank_label == c) for c in np.unique(bank_label) if c >= 0}
  asked = {c: np.flatnonzero(query_label == c) for c in np.unique(query_label) if c >= 0}
  usable = classes(bank_label, query_label, shots)
  ways = min(ways, len(usable))
  scores = np.empty(episodes)
  for episode in range(episodes):
    rng = np.random.default_rng([seed, shots, episode])
    drawn = rng.choice(usable, ways, replace=False)
    means = np.stack([bank[rng.choice(support[c], shots, replace=False)].mean(0) for c in drawn])
    picked = [rng.permutation(asked[c])[:per_class] for c in drawn]
    truth = np.repeat(np.arange(ways), [len(p) for p in picked])
    guess = np.argmax(queries[np.concatenate(picked)] @ _unit(means).T, axis=1)
    scores[episode] = np.mean(guess == truth)
  return {
    "accuracy": float(scores.mean()),
    "interval": float(1.96 * scores.std(ddof=1) / np.sqrt(episodes)),
    "shots": shots,
    "ways": ways,
    "episodes": episodes,
    "queries": per_class,
  }


def classes(bank_label: np.ndarray, query_label: np.ndarray, shots: int) -> np.ndarray:
  """The classes that episodes can be drawn from.

  Args:
    bank_label: int `[V]`.
    query_label: int `[Q]`.
    shots: k.

  Returns:
    int `[n]`, ascending: classes with k support videos and a query.

  Raises:
    TooFewVideos: there are fewer than two such classes.
  """
  support, count = np.unique(bank_label[bank_label >= 0], return_counts=True)
  found = np.intersect1d(support[count >= shots], query_label)
  if len(found) < 2:
    raise TooFewVideos(
      f"--shots={shots}: fewer than two classes have {shots} training videos and a query video; "
      "give fewer shots."
    )
  return found


def _unit(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float64)
  return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float64).tiny)
