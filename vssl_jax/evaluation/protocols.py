"""The protocols by name, what is quick first.

A protocol is three functions of a `Task`: `describe` gives its settings, checks them, and trains
nothing; `check` says whether the data suffices for it; `run` gives its scores, among them
`headline`, the figures of the table, and `read`, how many videos of each split it read.
"""

from __future__ import annotations

from vssl_jax import results
from vssl_jax.evaluation import frozen, tuned, untrimmed_features
from vssl_jax.evaluation.task import Result, Task

PROTOCOLS = {
  "logistic": frozen.LOGISTIC,
  "cross_validation": frozen.CROSS_VALIDATION,
  "knn": frozen.KNN,
  "retrieval": frozen.RETRIEVAL,
  "few_shot": frozen.FEW_SHOT,
  "embedding": frozen.EMBEDDING,
  "localization_features": untrimmed_features.LOCALIZATION_FEATURES,
  "linear": frozen.LINEAR,
  "semi_supervised": tuned.SEMI_SUPERVISED,
  "finetune": tuned.FINETUNE,
}


def scores(name: str, task: Task) -> Result:
  """Runs one protocol; its settings and its scores together.

  Raises:
    UserError: a setting is impossible, or the data does not suffice.
    RuntimeError: a protocol of the frozen encoder changed it, which would be a bug.
  """
  protocol, before = PROTOCOLS[name], task.encoder_sha256
  settings = protocol.describe(task)
  protocol.check(task)
  found = protocol.run(task)
  if protocol.frozen:
    results.unchanged(task.variables, before)
  return settings | found
