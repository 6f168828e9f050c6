"""How good the features are while they are being learnt: nearest neighbours every few epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import models
from vssl_jax.errors import UserError
from vssl_jax.probes import features, knn
from vssl_jax.probes import views as views_lib

Monitor = Callable[[features.Variables], dict[str, float]]


def neighbours(config: ConfigDict, train: Any, test: Any, *, mesh: Mesh | None = None) -> Monitor:
  """Weighted nearest neighbours on backbone features, as `knn_top1`.

  The bank is the training split and the queries are the evaluation split, each video seen as
  `config.data.eval` says but from `config.knn.clips` evenly spaced clips and their central squares;
  batch norm in inference mode, features averaged over the clips.

  Args:
    config: `knn`, `encoder`, `augment` and `data.eval` are read.
    train: source of the training split.
    test: source of the evaluation split.
    mesh: where to run; by default every device.

  Returns:
    A function of the encoder's variables that gives `{"knn_top1": share in [0, 1]}`.

  Raises:
    UserError: the data has no labels, or a field of `config.knn` is impossible.
  """
  c, e = config.knn, config.data.eval
  if not train.label_names or not test.label_names:
    raise UserError(
      "config.knn.every_epochs is positive but the data has no labels: set it to 0, or give "
      "labelled videos."
    )
  if c.clips < 1 or c.k < 1 or not c.temperature > 0:
    raise UserError(
      f"config.knn: clips ({c.clips}), k ({c.k}) and temperature ({c.temperature}) must be "
      "positive."
    )
  apply = views_lib.feature_fn(models.build_encoder(config.encoder), config)
  views = {k: e[k] for k in ("frames", "stride", "resize", "size")}

  def extract(variables: features.Variables, source: Any) -> features.Features:
    batches = source.eval_batches(e.batch_size, clips=c.clips, crops=1, **views)
    return features.extract(apply, variables, batches, mesh=mesh, average=True)

  def monitor(variables: features.Variables) -> dict[str, float]:
    bank, queries = extract(variables, train), extract(variables, test)
    top1 = knn.evaluate(
      bank.mean(), bank.label, queries.mean(), queries.label, k=c.k, temperature=c.temperature
    )
    return {"knn_top1": top1}

  return monitor
