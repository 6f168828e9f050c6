"""Mean average precision of detected segments, as ActivityNet's evaluator defines it.

For each class and tIoU threshold, predictions of all videos are sorted by descending score. Each
prediction is matched to the unmatched ground truth of its video with the highest tIoU. It is a hit
if that tIoU reaches the threshold, so a second detection of the same action is a miss. The average
precision is the sum of precision, made monotonic from the right, times the steps of recall. The
mean is over the classes that occur in the ground truth.

Equal scores, and equal tIoUs, come in the order of the evaluator's sort, see `ranking`: of up to 16
values, the last one in the file comes first.

The evaluator is a script, not a package; the tests contain numbers that it computed.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.localization import ranking, segments
from vssl_jax.localization.annotations import Annotations, Predictions

THUMOS14 = tuple(np.linspace(0.1, 0.7, 7).tolist())
ACTIVITYNET = tuple(np.linspace(0.5, 0.95, 10).tolist())


@dataclasses.dataclass(frozen=True)
class DetectionMap:
  """Average precisions and the counts behind them.

  Attributes:
    tious: I thresholds, in (0, 1].
    label_names: the C classes that occur in the ground truth, sorted.
    ap: average precisions, float64 `[C, I]` in [0, 1].
    truths: int64 `[C]`, number of annotated segments.
    predictions: int64 `[C]`, number of predicted segments.
    ignored: number of predictions of classes that are not annotated in this subset.
  """

  tious: tuple[float, ...]
  label_names: tuple[str, ...]
  ap: np.ndarray
  truths: np.ndarray
  predictions: np.ndarray
  ignored: int

  @property
  def mean(self) -> np.ndarray:
    """The mAP at each threshold, `[I]`."""
    return self.ap.mean(axis=0)

  def average(self, low: float = 0.0, high: float = 1.0) -> float:
    """Mean of the mAP over the thresholds from `low` to `high`, both included.

    Raises:
      UserError: no threshold is in this range.
    """
    inside = [low - 1e-9 <= t <= high + 1e-9 for t in self.tious]
    if not any(inside):
      raise UserError(f"no tIoU from {low} to {high} among {', '.join(map(str, self.tious))}.")
    return float(self.mean[inside].mean())

  def table(self) -> str:
    """A Markdown table: segments, predictions and AP (%) by threshold of each class, and means."""
    lines = [
      "| class | segments | predicted | " + " | ".join(f"{t:g}" for t in self.tious) + " | mean |",
      "|---|---:|---:|" + "---:|" * (len(self.tious) + 1),
    ]
    for name, n, p, row in zip(
      self.label_names, self.truths, self.predictions, self.ap, strict=True
    ):
      lines.append(f"| {name} | {n} | {p} | {_percent(row)} |")
    total = f"{self.truths.sum()} | {self.predictions.sum()}"
    return "\n".join([*lines, f"| **mean** | {total} | {_percent(self.mean)} |"]) + "\n"


def _percent(row: np.ndarray) -> str:
  return " | ".join(f"{100 * x:.1f}" for x in (*row, row.mean()))


def detection_map(
  annotations: Annotations,
  predictions: Predictions,
  *,
  tious: Sequence[float] = THUMOS14,
  subset: str | None = None,
  strict: bool = True,
) -> DetectionMap:
  """Scores predictions against the ground truth.

  Args:
    annotations: videos by name, of any subset.
    predictions: lists of predictions by video; a video may be missing or have an empty list.
    tious: thresholds in (0, 1].
    subset: score only the videos of this subset; None for all videos.
    strict: True raises an error for predictions in unknown videos or of unknown classes. False
      counts predictions in videos outside of the subset as misses, as ActivityNet's evaluator does,
      and ignores classes that are not annotated anywhere.

  Returns:
    Average precisions; 0 for a class without predictions.

  Raises:
    UserError: there is no ground truth, a threshold is out of range, or a prediction is not finite
      or ends before it starts; if strict, also for an unknown video or class.
  """
  tious = tuple(float(t) for t in tious)
  if not tious or not all(0 < t <= 1 for t in tious):
    raise UserError(f"tIoU thresholds must be in (0, 1]; got {', '.join(map(str, tious))}.")
  truth: dict[str, dict[str, list[tuple[float, float]]]] = collections.defaultdict(
    lambda: collections.defaultdict(list)
  )
  chosen = {n: v for n, v in annotations.items() if subset is None or v.subset == subset}
  for name, video in chosen.items():
    for s in video.segments:
      truth[s.label][name].append((s.start, s.end))
  if not truth:
    raise UserError(f"no annotated segment to score against in subset {subset!r}.")
  elsewhere = {s.label for v in annotations.values() for s in v.segments}
  found, ignored = collections.defaultdict(list), 0
  for name, listed in predictions.items():
    if strict and listed and name not in chosen:
      raise UserError(
        f"predictions for video {name!r}, which is not "
        + (f"in subset {subset!r}." if name in annotations else "annotated.")
      )
    for p in listed:
      if p.label in truth:
        if not np.isfinite((p.start, p.end, p.score)).all() or p.end < p.start:
          raise UserError(f"predictions for video {name!r}: {p} is not a segment with a score.")
        found[p.label].append((name, p.start, p.end, p.score))
      elif strict and p.label not in elsewhere:
        raise UserError(f"predictions for video {name!r}: class {p.label!r} is nowhere annotated.")
      else:
        ignored += 1
  names = tuple(sorted(truth))
  return DetectionMap(
    tious,
    names,
    np.stack([_average_precision(truth[c], found[c], tious) for c in names]),
    np.array([sum(map(len, truth[c].values())) for c in names]),
    np.array([len(found[c]) for c in names]),
    ignored,
  )


def _average_precision(
  truth: dict[str, list], found: list[tuple[str, float, float, float]], tious: tuple[float, ...]
) -> np.ndarray:
  """AP of one class at each threshold `[I]`."""
  if not found:
    return np.zeros(len(tious))
  hits = np.zeros((len(found), len(tious)), bool)
  order = ranking.descending([p[3] for p in found])
  by_video = collections.defaultdict(list)
  for rank, i in enumerate(order):
    if found[i][0] in truth:
      by_video[found[i][0]].append((rank, found[i][1], found[i][2]))
  thresholds = np.asarray(tious)[:, None]
  for name, listed in by_video.items():
    overlap = segments.tiou(np.array([p[1:] for p in listed]), np.array(truth[name]))
    free = np.ones((len(tious), overlap.shape[1]), bool)
    for (rank, *_), row in zip(listed, overlap, strict=True):
      nearest = ranking.descending(row, least=min(tious))
      could = free[:, nearest] & (row[nearest] >= thresholds)
      hit = could.any(axis=1)
      free[hit, nearest[could.argmax(axis=1)[hit]]] = False
      hits[rank] = hit
  true = np.cumsum(hits, axis=0, dtype=np.float64)
  precision = true / np.arange(1, len(found) + 1)[:, None]
  recall = true / sum(map(len, truth.values()))
  envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
  return np.sum(np.diff(recall, axis=0, prepend=0) * envelope, axis=0)
