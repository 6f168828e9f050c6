"""`data_pipelines.sampler` as it was: what is now a distribution was a law."""

from __future__ import annotations

import importlib
from typing import Any

_SAMPLER = "data_pipelines.clips.sampler"  # imported when it is used, as it lies above


def Interval(law: str = "decreasing", *args: Any, **fields: Any) -> Any:
  """An `Interval` by its former name of the distribution."""
  return importlib.import_module(_SAMPLER).Interval(law, *args, **fields)


def cdf(x: Any, power: float, law: str = "decreasing") -> Any:
  """See `data_pipelines.clips.sampler.cdf`."""
  return importlib.import_module(_SAMPLER).cdf(x, power, law)


def __getattr__(name: str) -> Any:
  """All else is as it is now."""
  if name.startswith("__"):
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(_SAMPLER), "DISTRIBUTIONS" if name == "LAWS" else name)
