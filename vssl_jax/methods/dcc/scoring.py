"""How a trained DCC or BaS-Net is scored, with thresholds as set or chosen on held-out videos."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax.localization import scores as scores_lib
from vssl_jax.localization.source import sequences_of
from vssl_jax.methods.base import Evaluator, Localizer, Params
from vssl_jax.methods.dcc import inference, report

VALIDATION = "validation_mAP"  # logged at each checkpoint if videos are held out


def evaluator(config: ConfigDict, mesh: Mesh | None = None) -> Evaluator:
  """Scores on a split and on held-out videos, pictures, and localization in new videos."""
  del mesh
  activate, sets = inference.activations(config), inference.threshold_sets(config)

  def try_sets(params: Params, held_out: Source) -> scores_lib.Choice:
    return scores_lib.choose(
      functools.partial(activate, params),
      sequences_of(held_out),
      sets or [tuple(config.dcc.proposals.thresholds)],
      protocol=config.dcc.protocol,
      **inference.options(config),
    )

  def validate(params: Params, held_out: Source) -> dict[str, float]:
    return {VALIDATION: max(try_sets(params, held_out).scores)}

  def choose(params: Params, held_out: Source) -> Evaluator:
    chosen = try_sets(params, held_out)
    options = inference.options(config)
    options["settings"] = dataclasses.replace(options["settings"], thresholds=chosen.thresholds)
    told = {
      "thresholds": list(chosen.thresholds),
      "held_out_videos": held_out.num_videos,
      "held_out_mAP": [
        {"first": s[0], "last": s[-1], "average": x}
        for s, x in zip(sets, chosen.scores, strict=True)
      ],
    }
    return _evaluator(config, activate, options, {"chosen": told})

  whole = _evaluator(config, activate, inference.options(config), {})
  return dataclasses.replace(whole, validate=validate, choose=choose if sets else None)


def _evaluator(
  config: ConfigDict, activate: inference.Activate, options: dict[str, Any], told: dict[str, Any]
) -> Evaluator:
  c = config.dcc

  def scores(params: Params, state: Any, train: Source, test: Source) -> dict[str, Any]:
    del state, train
    found = functools.partial(activate, params)
    return told | scores_lib.evaluate(found, sequences_of(test), protocol=c.protocol, **options)

  def write_report(
    params: Params, state: Any, train: Source, test: Source, folder: pathlib.Path
  ) -> dict[str, Any]:
    split = sequences_of(test)
    predictions, _ = scores_lib.predict(functools.partial(activate, params), split, **options)
    return report.write(
      folder,
      inference.look(config, params, state),
      sequences_of(train),
      split,
      predictions,
      batch_size=options["batch_size"],
      videos=c.timelines,
      count=c.snippets,
    )

  localizer = Localizer(
    activate=lambda params: functools.partial(activate, params),
    look=functools.partial(inference.look, config),
    predict=options,
    protocol=c.protocol,
    label_names=tuple(c.label_names),
    width=c.width,
  )
  return Evaluator(scores, write_report, localizer=localizer)
