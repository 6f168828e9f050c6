"""Our networks' outputs stage by stage, and their distance from the originals'."""

import json

import jax
import numpy as np

from tests.oracles import originals
from vssl_jax import models
from vssl_jax.methods import network

FAST = {"xla_backend_optimization_level": 0}  # compile in haste, for networks run once


def cases(name):
  """What `make_weights.py` wrote: tensors' names and shapes, clips, digests by stage."""
  return json.loads((originals.FOLDER / f"weights_{name}.json").read_text())


def compare(found, case):
  """Asserts that a converted network gives what the original gave, at every stage."""
  worst = deviations(
    outputs(found, originals.clips(*case["clips"]), case["stages"]), case["stages"]
  )
  assert len(worst) > 5
  assert max(worst.values()) < 1e-5, worst


def state_of(case):
  """The tensors of an oracle's case, drawn again from their names."""
  return {name: originals.draw(name, shape) for name, shape in case["tensors"].items()}


def outputs(found, clips, stages):
  """What a converted network gives at `stages`: modules by path, "" for the features, and of a
  method `head`, `predictor` and `target`."""
  encoder = models.build_encoder(found.config.encoder)

  def run(variables, whole, x):
    seen = {}
    y = _stages(encoder, variables, x, seen)
    seen[""] = y
    if whole is not None:
      params, state = whole
      net = network.build(found.config)
      stats = state.stats if hasattr(state, "stats") else {"head": state.head}
      seen["head"] = _apply(net.head, params, stats, "head", y)
      if "predictor" in params:
        mlp = network.mlp(found.config, found.config.rho_byol.predictor)
        seen["predictor"] = _apply(mlp, params, stats, "predictor", seen["head"])
      target = getattr(state, "target", None)
      if target is not None:
        y = _apply(encoder, target.params, target.stats, "encoder", x)
        seen["target"] = _apply(net.head, target.params, target.stats, "head", y)
    return {k: seen[k] for k in stages}

  run = jax.jit(run, compiler_options=FAST)
  return jax.device_get(run(found.variables, found.whole, clips))


def _apply(module, params, stats, part, x):
  return module.apply({"params": params[part], "batch_stats": stats[part]}, x)


def _stages(encoder, variables, x, seen):
  y, kept = encoder.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
  for path, value in jax.tree_util.tree_flatten_with_path(kept["intermediates"])[0]:
    seen["/".join(k.key for k in path[:-2])] = value
  return y


def deviations(seen, want):
  """By stage, the largest difference of what a digest holds, by the scale of each number.

  A sum over n places is compared by the scale of a random sum of n.
  """
  out = {}
  for name, expected in want.items():
    got = originals.digest(seen[name])
    assert got["shape"] == expected["shape"], name
    scale = np.full(len(got["numbers"]), expected["max"])
    scale[-1] *= np.prod(got["shape"]) ** 0.5
    differences = np.abs(np.subtract(got["numbers"], expected["numbers"])) / scale
    out[name] = max(*differences, abs(got["max"] - expected["max"]) / expected["max"])
  return out
