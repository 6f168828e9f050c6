"""Measures whether uncertainty predicts retrieval: the numbers of ProViCo's analysis.

Park et al., CVPR 2022, show three effects: during training, uncertainty falls while retrieval
improves; videos with low uncertainty are retrieved better; corrupted videos have higher
uncertainty. Correlations are Spearman's, so the scales of the two quantities do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.probes import gaussian

LEVEL = 0.05  # a correlation counts as significant below this p
_PARTS = ("predicted", "spread")  # the two parts of an uncertainty


def scores(bank: gaussian.Videos, queries: gaussian.Videos) -> dict[str, float]:
  """The mean uncertainty of the queries and their R@1; all videos have labels.

  Returns:
    `uncertainty`, the mean Σ_d σ_d² of the queries, and its parts `predicted` and `spread` (see
    `gaussian.Videos`); `R@1` by μ(V), in [0, 1].
  """
  found = gaussian.hits(bank, queries)
  parts = {k: float(getattr(queries, k).mean()) for k in ("uncertainty", "predicted", "spread")}
  return parts | {"R@1": float(found.mean())}


def spearman(x: Sequence[float], y: Sequence[float], *, independent: bool = True) -> dict[str, Any]:
  """Spearman's rank correlation of two series; ties get their mean rank.

  Args:
    x: the first series.
    y: the second series, of the same length.
    independent: whether the points are independent. Checkpoints of one run are not, nor are
      corruptions of the same videos; a p-value means nothing for them.

  Returns:
    `rho` in [−1, 1], None if a series is constant or has fewer than 3 points; `p`, two-sided, for
    the hypothesis of no correlation (Student's t), None also with fewer than 10 points or dependent
    points; `n`, the number of points.
  """
  from scipy import stats

  a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
    return {"rho": None, "p": None, "n": len(x)}
  found = stats.spearmanr(a, b)
  has_p = independent and len(x) >= 10
  p = float(found.pvalue) if has_p else None
  return {"rho": float(found.statistic), "p": p, "n": len(x)}


def by_quantile(
  uncertainty: np.ndarray, hit: np.ndarray, groups: int = 5
) -> list[dict[str, float]]:
  """R@1 of groups of videos of equal size, sorted by uncertainty, lowest uncertainty first.

  Args:
    uncertainty: float `[Q]`.
    hit: bool `[Q]`, whether the first neighbor has the query's class.
    groups: number of groups, from 2 to Q.

  Returns:
    One row per group: `videos`; `uncertainty`, the mean, and `from` and `to`, the range; `R@1` and
    its standard error `error`, √(r (1 − r) / videos).

  Raises:
    UserError: there are fewer videos than groups.
  """
  check_groups(len(hit), groups)
  rows = []
  for part in np.array_split(np.argsort(uncertainty, kind="stable"), groups):
    u, rate = uncertainty[part], float(hit[part].mean())
    rows.append(
      {
        "videos": len(part),
        "uncertainty": float(u.mean()),
        "from": float(u[0]),
        "to": float(u[-1]),
        "R@1": rate,
        "error": float(np.sqrt(rate * (1 - rate) / len(part))),
      }
    )
  return rows


def check_groups(videos: int, groups: int) -> None:
  """Raises `UserError` unless `groups` is between 2 and `videos`."""
  if not 2 <= groups <= videos:
    raise UserError(f"quantiles: {groups} groups of {videos} videos; give 2 to {videos}")


def correlations(analysis: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Spearman's correlations of uncertainty and R@1 in one run's analysis.

  Args:
    analysis: `videos`: `uncertainty` and `hit` of each query; `training`: scores by checkpoint;
      `corruption`: rows with `name`, `strength` and the scores, the uncorrupted one with strength 0
      and no name.

  Returns:
    `videos`: correlation of uncertainty and hit over single videos. `training` and `corruption`:
    correlation of mean uncertainty and R@1, over checkpoints, or over all corruptions and
    strengths, if there are any. `strength, NAME`: correlation of strength and uncertainty for one
    corruption. Each is also given for the two parts of the uncertainty: `…, predicted` by the head,
    and `…, spread` of the views' means.
  """
  v = analysis["videos"]
  out = {}
  for suffix, part in (("", "uncertainty"), *((f", {k}", k) for k in _PARTS)):
    out[f"videos{suffix}"] = spearman(v[part], v["hit"])
    for name in ("training", "corruption"):
      if rows := analysis.get(name):
        series = [r[part] for r in rows], [r["R@1"] for r in rows]
        out[name + suffix] = spearman(*series, independent=False)
    rows = analysis.get("corruption", [])
    for name in dict.fromkeys(r["name"] for r in rows if r["name"]):
      own = [r for r in rows if r["name"] in (name, "")]
      series = [r["strength"] for r in own], [r[part] for r in own]
      out[f"strength, {name}{suffix}"] = spearman(*series, independent=False)
  return out


def verdict(found: Mapping[str, Any]) -> str:
  """One correlation as text; it "appears" if it is negative with p < 0.05."""
  rho, p, n = found["rho"], found["p"], found["n"]
  if rho is None:
    return f"cannot be computed from {n} points"
  if p is None:
    return f"Spearman {rho:+.2f} ({n} points that are not independent, or few: no p)"
  value = f"Spearman {rho:+.2f}, p {p:.2g}, {n} points"
  if p >= LEVEL:
    return f"no correlation ({value})"
  return f"negative correlation appears ({value})" if rho < 0 else f"POSITIVE correlation ({value})"
