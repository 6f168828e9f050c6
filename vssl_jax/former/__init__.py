"""Names from before modules moved into packages, which users' programs import, for one version.

A module with former names has `__getattr__ = former.names(__name__)`. What a name means is imported
when it is asked for, so that this table may name any layer.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

# By module: a former name, and the module that it is now, or "module:name".
_MOVED: dict[str, dict[str, str]] = {
  "data_pipelines": {
    "manifest": "data_pipelines.records.manifest",
    "sampler": "vssl_jax.former.sampler",
  },
  "data_pipelines.clips": {
    name: f"data_pipelines.clips.steps:{name}"
    for name in (
      "ARRAY",
      "JPEG",
      "PNG",
      "Codec",
      "add_eval_steps",
      "add_parsing",
      "add_train_steps",
    )
  },
  "data_pipelines.digits": {
    name: f"data_pipelines.digits.render:{name}"
    for name in ("CLASSES", "FPS", "DigitsConfig", "images", "num_videos", "video")
  },
  "data_pipelines.prepare": {"prepare": "data_pipelines.prepare.prepare"},
  "vssl_jax": {
    "probing": "vssl_jax.former.probing",
    "train": "vssl_jax.training.loop",
  },
  "vssl_jax.config": {
    "base": "vssl_jax.methods:base_config",
    "complete": "vssl_jax.methods:complete",
    "compose": "vssl_jax.recipes:compose",
  },
  "vssl_jax.former.probes": {
    "eval_batches": "vssl_jax.probes.views:eval_batches",
    "random_variables": "vssl_jax.probes.calibrate:random_variables",
  },
  "vssl_jax.former.probing": {
    "load_source": "vssl_jax.training.sources:load_source",
    "splits": "vssl_jax.evaluation.splits:splits",
  },
  "vssl_jax.io": {
    "checkpoints": "vssl_jax.training.checkpoints",
    "writers": "vssl_jax.training.metrics_log",
  },
  "vssl_jax.jobs": {
    "linear_probe": "vssl_jax.jobs.linear_probe",
    "pretrain": "vssl_jax.jobs.pretrain",
  },
  "vssl_jax.localization": {
    "evaluate": "vssl_jax.localization.scores",
    "infer": "vssl_jax.methods.dcc.inference",
    "pictures": "vssl_jax.localization.timelines",
    "snippets": "vssl_jax.methods.dcc.snippet_spaces",
  },
  "vssl_jax.localization.pseudo_quality": {
    "PseudoQuality": "vssl_jax.methods.dcc.pseudo_quality:PseudoQuality",
  },
  "vssl_jax.losses.provico": {"Settings": "vssl_jax.losses.provico:LossSettings"},
  "vssl_jax.ops.sphere": {"unit": "vssl_jax.ops.sphere:l2_normalize"},
  "vssl_jax.probes": {
    "mined": "vssl_jax.uncertainty.mined_pairs",
    "run": "vssl_jax.former.probes",
    "uncertainty": "vssl_jax.uncertainty.correlation",
    "uncertainty_figures": "vssl_jax.uncertainty.figures",
  },
  "vssl_jax.uncertainty": {"Frames": "vssl_jax.uncertainty.analysis:Frames"},
  "vssl_jax.uncertainty.mined_pairs": {
    "neighbours": "vssl_jax.uncertainty.mined_pairs:neighbors",
    "spread_out": "vssl_jax.uncertainty.mined_pairs:evenly_spaced",
  },
}


def names(module: str) -> Callable[[str], Any]:
  """The `__getattr__` of a module that has former names.

  Args:
    module: its whole name.
  """
  moved = _MOVED[module]

  def find(name: str) -> Any:
    if name not in moved:
      raise AttributeError(f"module {module!r} has no attribute {name!r}")
    where, _, attribute = moved[name].partition(":")
    found = importlib.import_module(where)
    return getattr(found, attribute) if attribute else found

  return find


def callable_module(module: str, function: str) -> None:
  """Lets a module be called as its function, which stood in the package under the module's name.

  `from data_pipelines import prepare; prepare.prepare(...)` called the function of a module
  `prepare`, which is a package now, with a module `prepare` in it.

  Args:
    module: the module's whole name.
    function: the name of the function in it.
  """

  class Callable(types.ModuleType):
    """A module and a function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
      """Calls the function."""
      return getattr(self, function)(*args, **kwargs)

  sys.modules[module].__class__ = Callable


def add_main(function: Any, command: str) -> None:
  """Gives a function the `main(flags)` of the module whose name it took over.

  Args:
    function: such as `vssl_jax.evaluate`.
    command: the module of its command.
  """
  function.main = lambda argv=None: importlib.import_module("vssl_jax.cli").run(command, argv)
