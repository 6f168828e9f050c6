"""`vssl_jax.probes.run` as it was."""

from __future__ import annotations

import importlib
from typing import Any

from vssl_jax import former


def quick(
  config: Any,
  encoder: Any,
  variables: Any,
  source_train: Any,
  source_eval: Any,
  *,
  mesh: Any = None,
  progress: str = "features",
) -> dict[str, Any]:
  """See `vssl_jax.evaluation.end_of_run.scores`, which builds the encoder from the config."""
  del encoder
  mesh = mesh or importlib.import_module("vssl_jax.parallel").make_mesh()
  now = importlib.import_module("vssl_jax.evaluation.end_of_run")
  splits = (source_train, source_eval)
  return now.scores(now.QUICK, config, variables, *splits, mesh=mesh, progress=progress)


__getattr__ = former.names(__name__)
