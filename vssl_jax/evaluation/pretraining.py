"""Describes how an encoder was pre-trained, as far as its checkpoint says, and warns of overlap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import methods
from vssl_jax.evaluation.task import Result


def describe(trained: ConfigDict, info: Mapping[str, Any]) -> Result:
  """The data and the kind of training that produced the encoder.

  Args:
    trained: the checkpoint's config.
    info: facts about the checkpoint, see `encoder.load_encoder`.

  Returns:
    `method`; `supervised`, whether the encoder was trained with labels; `data`, the source, path,
    name, split, fraction and fingerprint of its training videos; `started_from`, the checkpoint
    that its training started from, "" for random weights. `supervised` and `data` are None if the
    checkpoint does not say (converted weights, or a classifier on a frozen encoder).
  """
  from_here = info.get("step") != 0 and not methods.freezes_encoder(trained)
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
    "supervised": methods.learns_from_labels(trained) if from_here else None,
    "data": data if from_here else None,
    "started_from": trained.get("checkpoint", ""),
  }


def notes(pretraining: Result, data: Result) -> list[str]:
  """Warnings about overlapping data, which makes the scores look better than they are.

  Args:
    pretraining: the result of `describe`.
    data: the data of the evaluation; `train` and `eval` hold the fingerprints of their splits.

  Returns:
    One sentence per problem; empty if there is none.
  """
  seen, own = (pretraining["data"] or {}).get("fingerprint", ""), data["eval"]["fingerprint"]
  found = []
  if own and own == data["train"]["fingerprint"]:
    found.append(
      f"training and evaluation split hold the same videos: {data['eval']['name']!r} is scored by "
      "classifiers that learned its labels, and every query finds itself"
    )
  if not seen or seen != own:
    return found
  how = "with their labels" if pretraining["supervised"] else "without labels"
  return [
    *found,
    f"the encoder was trained on the videos that it is scored on, {how}: evaluation split "
    f"{data['eval']['name']!r} is its training split {pretraining['data']['split']!r}",
  ]
