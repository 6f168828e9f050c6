"""What an encoder was trained on before it is evaluated, as far as its checkpoint tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vssl_jax.evaluation.task import Result


def describe(trained: ConfigDict, info: Mapping[str, Any]) -> Result:
  """Data and kind of the training that made the encoder.

  Args:
    trained: the checkpoint's config.
    info: facts of the checkpoint, see `encoder.load_encoder`.

  Returns:
    `method`; `supervised`: whether it learnt from labels, None where the checkpoint does not tell
    (weights from elsewhere, or a classifier on a frozen encoder); `data`: source, path, name,
    split, share and fingerprint of its videos, None likewise; `started_from`: the checkpoint that
    it began with, "" for random weights.
  """
  from_here = info.get("step") != 0 and not (trained.method == "classify" and _frozen(trained))
  d = trained.data
  data = {
    "source": d.source,
    "path": d.path,
    "name": d.name,
    "split": d.train_split,
    "fraction": d.fraction,
    "fingerprint": d.get("fingerprint", ""),
  }
  return {
    "method": trained.method,
    "supervised": trained.method == "classify" if from_here else None,
    "data": data if from_here else None,
    "started_from": trained.get("checkpoint", ""),
  }


def _frozen(trained: ConfigDict) -> bool:
  return bool(trained.classify.frozen)


def notes(pretraining: Result, data: Result) -> list[str]:
  """What makes the scores look better than they are.

  Args:
    pretraining: what `told` says.
    data: of the evaluation; `train` and `eval` have the fingerprints of their splits.

  Returns:
    Sentences, none where nothing is amiss.
  """
  seen, own = (pretraining["data"] or {}).get("fingerprint", ""), data["eval"]["fingerprint"]
  found = []
  if own and own == data["train"]["fingerprint"]:
    found.append(
      f"training and evaluation split hold the same videos: {data['eval']['name']!r} is scored by "
      "what was learnt from its own labels, and every query finds itself"
    )
  if not seen or seen != own:
    return found
  how = "with their labels" if pretraining["supervised"] else "without labels"
  return [
    *found,
    f"the encoder was trained on the videos that it is scored on, {how}: evaluation split "
    f"{data['eval']['name']!r} is its training split {pretraining['data']['split']!r}",
  ]
