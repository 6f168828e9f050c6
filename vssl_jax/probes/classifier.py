"""Evaluates a trained classifier on an evaluation split, with softmax averaged over views."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax import augment, results
from vssl_jax.probes import confusion, features, metrics
from vssl_jax.probes.views import BN_MODE, eval_batches


def evaluate_classifier(
  config: ConfigDict,
  logits: Callable[[Any, jax.Array], jax.Array],
  variables: Any,
  source_eval: Source,
  *,
  mesh: Mesh | None = None,
  picture: str | pathlib.Path | None = None,
  progress: str = "evaluation",
) -> dict[str, Any]:
  """Multi-view test of a classifier: softmax averaged over clips × crops (CVRL §4.1).

  Args:
    config: the fields `data.eval` and `augment` are read.
    logits: `(variables, clips float32 [B, T, H, W, C]) -> [B, K]`, in inference mode.
    variables: any tree of arrays that `logits` reads; checked by hash not to change.
    source_eval: the evaluation split.
    mesh: see `features.forward`.
    picture: path of a PNG for the confusion matrix; the table of classes is written next to it as
      `.md`. None writes neither.
    progress: text of the progress bar; "" for none.

  Returns:
    A JSON-able dict: `top1`, `top5`, `mean_class_top1`, `videos` (number read), `labelled` (number
    with a label; only these are scored), `per_class` (top-1 by class name), `views`, `bn_mode`,
    `variables_sha256`, `seconds`, `clips_per_second`. Accuracies are fractions.

  Raises:
    UserError: the split is empty or has no labels.
    RuntimeError: the variables changed, which would be a bug.
  """
  start = time.perf_counter()
  before = results.tree_hash(variables)
  preprocess = augment.eval_preprocess(config.augment, config.data.channels)

  def probabilities(variables: Any, clips: jax.Array) -> jax.Array:
    return jax.nn.softmax(logits(variables, preprocess(clips)).astype(jnp.float32))

  found = features.extract(
    probabilities,
    variables,
    eval_batches(source_eval, config),
    mesh=mesh,
    average=True,
    split=config.data.eval_split,
    progress=progress,
    total=source_eval.num_videos,
  )
  scored = metrics.accuracy(found.features[:, 0], found.label)
  if picture is not None:
    confusion.write_classes(picture, progress, scored, source_eval.label_names)
  seconds = time.perf_counter() - start
  e = config.data.eval
  names = confusion.class_names(source_eval.label_names, len(scored.per_class))
  return {
    "top1": scored.top1,
    "top5": scored.top5,
    "mean_class_top1": scored.mean_class,
    "videos": len(found.label),
    "labelled": int(np.sum(found.label >= 0)),
    "per_class": dict(zip(names, scored.per_class.tolist(), strict=True)),
    "views": f"softmax averaged over {e.clips} clips x {e.crops} crops",
    "bn_mode": BN_MODE,
    "variables_sha256": results.unchanged(variables, before),
    "seconds": seconds,
    "clips_per_second": len(found.label) * e.clips * e.crops / seconds,
  }
