"""The table of protocols by name, fast ones first.

A protocol is three functions of a `Task`. `describe` returns its settings and checks them, without
any training. `check` checks that the data is sufficient. `run` returns its scores; among them are
`headline`, the figures of the table, and `read`, the number of videos read from each split.
"""

from __future__ import annotations

from vssl_jax import results
from vssl_jax.evaluation import frozen, tuned, untrimmed_features
from vssl_jax.evaluation.motion.protocol import MOTION
from vssl_jax.evaluation.task import Result, Task

PROTOCOLS = {
  "logistic": frozen.LOGISTIC,
  "cross_validation": frozen.CROSS_VALIDATION,
  "knn": frozen.KNN,
  "retrieval": frozen.RETRIEVAL,
  "few_shot": frozen.FEW_SHOT,
  "motion": MOTION,
  "embedding": frozen.EMBEDDING,
  "localization_features": untrimmed_features.LOCALIZATION_FEATURES,
  "linear": frozen.LINEAR,
  "semi_supervised": tuned.SEMI_SUPERVISED,
  "finetune": tuned.FINETUNE,
}


def scores(name: str, task: Task) -> Result:
  """Describes, checks and runs one protocol, and returns its settings and scores together.

  Raises:
    UserError: a setting is impossible, or the data is not sufficient.
    RuntimeError: a protocol of the frozen encoder changed it, which would be a bug.
  """
  settings = PROTOCOLS[name].describe(task)
  PROTOCOLS[name].check(task)
  return settings | run(name, task)


def run(name: str, task: Task) -> Result:
  """Runs one protocol whose settings and data have been checked, and returns its scores.

  Raises:
    RuntimeError: a protocol of the frozen encoder changed it, which would be a bug.
  """
  before = task.encoder_sha256
  found = PROTOCOLS[name].run(task)
  if PROTOCOLS[name].frozen:
    results.unchanged(task.variables, before)
  return found
