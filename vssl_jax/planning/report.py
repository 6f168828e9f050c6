"""The plan as a table to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MOST_COLLECTIVES = 6  # rows; the smaller ones share one


def table(plans: Sequence[Mapping[str, Any]]) -> str:
  """One column per plan, one row per figure; see `plan.plan`."""
  columns = [_column(p) for p in plans]
  names = list(dict.fromkeys(name for column in columns for name in column))
  rows = [["", *(f"{p['config']['name']}, {p['machine']['topology']}" for p in plans)]]
  rows += [[n, *values] for n in names if any(values := [c.get(n, "") for c in columns])]
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = ["  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows]
  return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _column(p: Mapping[str, Any]) -> dict[str, str]:
  shown = {"settings": ", ".join(f"{k}={v}" for k, v in p.get("settings", {}).items())}
  if reason := p.get("aborted"):
    return shown | {"memory": f"the compiler aborted: {reason}"}
  if reason := p.get("refused"):
    return shown | {"memory": f"refused: {reason}"}
  config, machine = p["config"], p["machine"]
  shown |= {key: p[key] for key in ("stage", "work") if key in p}
  of_step = "clips_per_chip" in p
  if of_step:
    shown |= {
      "batch": f"{config['batch_size']:,} videos, {config['clips']:,} clips",
      "micro-batches": str(config["accumulate"]),
      "clips per chip": f"{p['clips_per_chip']:g}",
    }
  shown["chips, hosts"] = f"{machine['chips']}, {machine['hosts']}"
  if of_step:
    shown["parameters"] = f"{p['parameters']:,}"
    shown["checkpoint"] = size(p["checkpoint_bytes"])
  else:
    shown["devices that work"] = str(machine["devices"])
    if "device_bytes" in p:
      shown["checkpoint"] = size(p["checkpoint_bytes"])
      shown["  of it on a device"] = size(p["device_bytes"])
  shown["memory"] = _memory(p["memory"])
  if "compile_seconds" not in p:
    return shown
  m, flops = p["memory"], p["flops"]
  shown |= {
    "  arguments": size(m["arguments"]),
    "  temporaries": size(m["temporaries"]),
    "  results, code": f"{size(m['results'])}, {size(m['code'])}",
    "FLOPs per device": f"{flops['compiled']:.3g} compiled, {flops['program']:.3g} written",
    "  by dtype": ", ".join(f"{k} {v:.3g}" for k, v in _largest(flops["by_dtype"])),
    "memory traffic": size(p["bytes"]),
  }
  shown |= _collectives(p["collectives"])
  if seconds := p.get("seconds"):
    shown |= {
      "step, arithmetic": milliseconds(seconds["arithmetic"]),
      "step, memory traffic": milliseconds(seconds["memory"]),
      "step, XLA's estimate": milliseconds(seconds["xla"]) if seconds["xla"] else "none",
    }
    if "clips_per_second" in p:
      shown["clips/s at the larger"] = f"{p['clips_per_second']:,.0f}"
    if of_step:
      shown["steps of the run"] = f"{p['steps']:,}"
      shown["chip-hours of the run"] = f"{p['chip_hours']:,.0f}"
    if (cores := p.get("host_cores")) and cores["needed"] is not None:
      shown["host cores for decoding"] = f"{cores['needed']:,.0f} of {cores['has']} per host"
  if p["unknown_loops"]:
    shown["loops counted once"] = str(p["unknown_loops"])
  shown["compiled in"] = f"{p['compile_seconds']:.0f} s"
  return shown


def _largest(numbers: Mapping[str, float]) -> list[tuple[str, float]]:
  return sorted(numbers.items(), key=lambda item: -item[1])


def _memory(m: Mapping[str, Any]) -> str:
  if m["total"] is None:
    return "does NOT fit"
  if m["limit"] is None:
    return size(m["total"])
  shown = f"{size(m['total'])} of {size(m['limit'])}"
  if m["fits"]:
    return f"fits: {shown}"
  if fraction := m.get("fraction"):
    return f"{shown}: fits with XLA_PYTHON_CLIENT_MEM_FRACTION={fraction + 0.02:.2f}"
  return f"does NOT fit: {shown}"


def _collectives(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """The collectives of one kind and dtype together, the largest first."""
  groups: dict[tuple[str, str], list[int]] = {}
  for row in rows:
    group = groups.setdefault((row["kind"], row["dtype"]), [0, 0])
    group[0] += row["bytes"] * row["times"]
    group[1] += row["times"]
  ordered = sorted(groups.items(), key=lambda item: -item[1][0])
  shown = {
    f"{kind}, {dtype}": f"{size(total)} in {count}"
    for (kind, dtype), (total, count) in ordered[:MOST_COLLECTIVES]
  }
  if rest := ordered[MOST_COLLECTIVES:]:
    shown["other collectives"] = size(sum(total for _, (total, _) in rest))
  return shown or {"collectives": "none"}


def size(count: float) -> str:
  """Bytes in the largest binary unit, such as `1.5 GiB`."""
  units = ("B", "KiB", "MiB", "GiB", "TiB")
  power = min(int(math.log(abs(count), 1024)), len(units) - 1) if count else 0
  return f"{count / 1024**power:.3g} {units[power]}"


def milliseconds(seconds: float) -> str:
  """Seconds as milliseconds, such as `36.6 ms`."""
  return f"{seconds * 1000:.3g} ms"
