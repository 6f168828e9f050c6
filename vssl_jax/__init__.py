"""Self-supervised video representation learning in JAX.

result = vssl_jax.pretrain("cvrl:demo", workdir="runs/mine")      # or your own config
summary = vssl_jax.evaluate("runs/mine", protocols="linear,knn")  # every protocol by default
encoder = vssl_jax.load("runs/mine")              # a run, an export or converted weights
features = encoder.apply(encoder.params, clips)   # uint8 [N, T, H, W, 3] to float32 [N, F]

Functions return plain data, and raise `UserError` with a one-line message if their input is bad.
Every name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vssl_jax import former
from vssl_jax._version import __version__

if TYPE_CHECKING:  # the same as `_PLACES`, for editors and type checkers
  from vssl_jax import augment, losses, methods, models, ops, probes
  from vssl_jax.encoder.encoder import Encoder, load
  from vssl_jax.encoder.export import export
  from vssl_jax.encoder.snippet_features import extract_features
  from vssl_jax.encoder.video_encoder import VideoEncoder
  from vssl_jax.errors import UserError
  from vssl_jax.evaluation.run import evaluate
  from vssl_jax.jobs.localize import localize
  from vssl_jax.jobs.run import pretrain
  from vssl_jax.planning.run import plan
  from vssl_jax.reports.report import report
  from vssl_jax.studies.run import study

# Modules, and the names to import from them; "" is the module itself. `evaluate`, `export`,
# `extract_features`, `localize`, `plan` and `study` are also modules, but only for `python -m`:
# nothing may import them, because the module would then replace the function of the same name.
_PLACES = {
  "Encoder": ("vssl_jax.encoder.encoder", "Encoder"),
  "UserError": ("vssl_jax.errors", "UserError"),
  "VideoEncoder": ("vssl_jax.encoder.video_encoder", "VideoEncoder"),
  "augment": ("vssl_jax.augment", ""),
  "evaluate": ("vssl_jax.evaluation.run", "evaluate"),
  "export": ("vssl_jax.encoder.export", "export"),
  "extract_features": ("vssl_jax.encoder.snippet_features", "extract_features"),
  "load": ("vssl_jax.encoder.encoder", "load"),
  "localize": ("vssl_jax.jobs.localize", "localize"),
  "losses": ("vssl_jax.losses", ""),
  "methods": ("vssl_jax.methods", ""),
  "models": ("vssl_jax.models", ""),
  "ops": ("vssl_jax.ops", ""),
  "plan": ("vssl_jax.planning.run", "plan"),
  "pretrain": ("vssl_jax.jobs.run", "pretrain"),
  "probes": ("vssl_jax.probes", ""),
  "report": ("vssl_jax.reports.report", "report"),
  "study": ("vssl_jax.studies.run", "study"),
}

__all__ = [
  "Encoder",
  "UserError",
  "VideoEncoder",
  "__version__",
  "augment",
  "evaluate",
  "export",
  "extract_features",
  "load",
  "localize",
  "losses",
  "methods",
  "models",
  "ops",
  "plan",
  "pretrain",
  "probes",
  "report",
  "study",
]

_former = former.names(__name__)


def __getattr__(name: str) -> Any:
  """Imports a name when it is first used (PEP 562)."""
  if name not in _PLACES:
    return _former(name)
  module, attribute = _PLACES[name]
  found = importlib.import_module(module)
  globals()[name] = getattr(found, attribute) if attribute else found
  if name == "evaluate":
    former.add_main(globals()[name], "vssl_jax.commands.evaluate")
  return globals()[name]


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
