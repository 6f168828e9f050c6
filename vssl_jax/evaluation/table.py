"""One Markdown table of all protocols: a row per figure, a column per split, then the mean."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from vssl_jax import files

Headline = Mapping[str, Mapping[str, float]]


def averages(headlines: Sequence[Headline]) -> dict[str, dict[str, dict[str, float]]]:
  """Mean and standard deviation over splits, for each figure that all splits have.

  Args:
    headlines: one mapping per split: protocol -> figure -> value.

  Returns:
    protocol -> figure -> `mean`, `splits` and, with two or more splits, `std` (n − 1).
  """
  out: dict[str, dict[str, dict[str, float]]] = {}
  for protocol, figures in headlines[0].items():
    for name in figures:
      every = [h.get(protocol, {}).get(name) for h in headlines]
      values = [v for v in every if v is not None]
      if len(values) < len(every):
        continue
      row = {"mean": statistics.fmean(values), "splits": len(values)}
      if len(values) > 1:
        row["std"] = statistics.stdev(values)
      out.setdefault(protocol, {})[name] = row
  return out


def _order(figure: str) -> list[tuple[int, str]]:
  """A sort key that orders numbers in a name by value: R@5 before R@10, both before mAP."""
  parts = re.split(r"(\d+)", figure)
  return [(int(x), "") if x.isdigit() else (0, x) for x in parts]


def markdown(
  title: str,
  facts: Mapping[str, Any],
  headlines: Mapping[str, Headline],
  protocols: Mapping[str, str],
  notes: Sequence[str] = (),
) -> str:
  """The table, with the shared facts above it and one line per protocol below it.

  Args:
    title: the heading.
    facts: facts about the encoder and the evaluation, by name.
    headlines: split name -> protocol -> figure -> fraction in [0, 1].
    protocols: a description of each protocol.
    notes: notes that a reader must know, one line each, above the table.
  """
  many = len(headlines) > 1
  lines = [f"# {files.markdown(title)}", ""]
  lines += [f"- {name}: {files.markdown(str(value))}" for name, value in facts.items()]
  lines += [f"- **note**: {files.markdown(note)}" for note in notes]
  heads = [*map(files.markdown, headlines), *(["mean ± std"] if many else [])]
  lines += ["", f"| protocol | figure | {' | '.join(heads)} |", f"|---|---|{'---:|' * len(heads)}"]
  mean = averages(list(headlines.values()))
  pairs = [(p, f) for h in headlines.values() for p, own in h.items() for f in own]
  protocol_order = list(dict.fromkeys(p for p, _ in pairs))
  rows = sorted(set(pairs), key=lambda row: (protocol_order.index(row[0]), _order(row[1])))
  for protocol, figure in rows:
    values = [h.get(protocol, {}).get(figure) for h in headlines.values()]
    cells = ["–" if v is None else f"{100 * v:.1f}" for v in values]
    if many:
      m = mean.get(protocol, {}).get(figure)
      cells.append("–" if m is None else f"{100 * m['mean']:.1f} ± {100 * m['std']:.1f}")
    lines.append(f"| {protocol} | {figure} | {' | '.join(cells)} |")
  lines += ["", "All figures in %.", ""]
  lines += [f"- **{name}**: {text}" for name, text in protocols.items()]
  return "\n".join(lines) + "\n"
