"""Does uncertainty tell which videos a representation gets right? ProViCo's analysis in numbers.

Park et al., CVPR 2022, show that while training goes on the uncertainty of videos falls and their
retrieval rises, that certain videos are retrieved better, and that corrupted ones are less certain.
Correlations are Spearman's: how the two are scaled does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vssl_jax.errors import UserError
from vssl_jax.probes import gaussian

LEVEL = 0.05  # p of a correlation that is called one
_PARTS = ("predicted", "spread")  # of an uncertainty


def scores(bank: gaussian.Videos, queries: gaussian.Videos) -> dict[str, float]:
  """How uncertain the queries are and how many find their class, all labelled.

  Returns:
    `uncertainty`, the mean Σ_d σ_d² of the queries, and its parts `predicted` and `spread` (see
    `gaussian.Videos`); `R@1` by μ(V), in [0, 1].
  """
  found = gaussian.hits(bank, queries)
  parts = {k: float(getattr(queries, k).mean()) for k in ("uncertainty", "predicted", "spread")}
  return parts | {"R@1": float(found.mean())}


def spearman(x: Sequence[float], y: Sequence[float], *, independent: bool = True) -> dict[str, Any]:
  """Rank correlation of two series, ties sharing their mean rank.

  Args:
    x: the one.
    y: the other, as long.
    independent: whether the points are: checkpoints of one run and corruptions of the same videos
      are not, and what chance would give says nothing of them.

  Returns:
    `rho` in [−1, 1], None where a series is constant or has fewer than 3 points; `p`, two-sided, of
    none (Student's t), None of fewer than 10 points too, and of dependent ones; `n`, the number of
    points.
  """
  from scipy import stats

  a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
    return {"rho": None, "p": None, "n": len(x)}
  found = stats.spearmanr(a, b)
  told = independent and len(x) >= 10
  p = float(found.pvalue) if told else None
  return {"rho": float(found.statistic), "p": p, "n": len(x)}


def by_quantile(
  uncertainty: np.ndarray, hit: np.ndarray, groups: int = 5
) -> list[dict[str, float]]:
  """R@1 of videos sorted by uncertainty into groups of equal size, the most certain first.

  Args:
    uncertainty: float `[Q]`.
    hit: bool `[Q]`, found at 1.
    groups: how many, from 2 to Q.

  Returns:
    A row a group: `videos`; `uncertainty`, its mean, and `from` and `to`, its range; `R@1` and its
    standard error `error`, √(r (1 − r) / videos).

  Raises:
    UserError: there are not as many videos.
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
  """Raises `UserError` where so many videos don't make so many groups."""
  if not 2 <= groups <= videos:
    raise UserError(f"quantiles: {groups} groups of {videos} videos; give 2 to {videos}")


def correlations(analysis: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Spearman's correlations of uncertainty and R@1 in one run's analysis.

  Args:
    analysis: `videos`: `uncertainty` and `hit` of each query; `training`: scores by checkpoint;
      `corruption`: rows with `name`, `strength` and the scores, the uncorrupted one with strength 0
      and no name.

  Returns:
    `videos`: of uncertainty and hit over single videos. `training`: of the means over checkpoints,
    as far as there are any, and `corruption` over all corruptions and strengths. For each
    corruption alone `strength, NAME`: of strength and uncertainty. Each also of the uncertainty's
    two parts, as `…, predicted`, which the head has learnt, and `…, spread`, which is of the means.
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
  """One correlation in words: "appears" where it is negative at p < 0.05, if p means anything."""
  rho, p, n = found["rho"], found["p"], found["n"]
  if rho is None:
    return f"cannot be told from {n} points"
  if p is None:
    return f"Spearman {rho:+.2f} ({n} points that are not independent, or few: no p)"
  said = f"Spearman {rho:+.2f}, p {p:.2g}, {n} points"
  if p >= LEVEL:
    return f"no correlation ({said})"
  return f"negative correlation appears ({said})" if rho < 0 else f"POSITIVE correlation ({said})"
