"""Measures the batch-norm statistics of an untrained network on training clips."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax import augment, parallel
from vssl_jax.errors import UserError
from vssl_jax.probes import features

Variables = Mapping[str, Any]

Path = tuple[str, ...]  # the keys that lead to a leaf


def calibrate(
  encoder: nn.Module,
  variables: Variables,
  batches: Iterable[Mapping[str, np.ndarray]],
  *,
  preprocess: Callable[[jax.Array], jax.Array],
  mesh: Mesh | None = None,
) -> dict[str, Any]:
  """Replaces the running batch-norm statistics by those of the clips; parameters do not change.

  In a new network the running mean 0 and variance 1 are wrong for all layers but the first, so a
  probe in inference mode would underestimate the network. Here each layer's statistics are pooled
  over all clips with equal weight (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, §3,
  population statistics): mean = E[mean_b], var = E[var_b + mean_b²] − mean². For the first layer
  this equals the moments of all clips together. During the forward pass, a batch's activations are
  still normalized by the statistics of that batch.

  The momentum m of each layer is measured: the updates of running statistics 0 and 1 differ by
  exactly m, for any layer. This gives the batch's own statistics without any knowledge of how the
  network is built.

  Args:
    encoder: module called as `encoder.apply(variables, clips [N, T, H, W, C], train=True)`,
      whose `batch_stats` hold leaves `mean` and `var` side by side.
    variables: `params` and `batch_stats`.
    batches: dicts with clips uint8 [N, R, T, H, W, C]; all clips have equal weight. With several
      processes, each passes its own rows, and the statistics are over the rows of all.
    preprocess: maps uint8 clips to the network's input, e.g. `augment.eval_preprocess`.
    mesh: the devices to run on; None takes all devices of all processes.

  Returns:
    The variables with new float32 `batch_stats`; a copy of `variables` if it has none.

  Raises:
    UserError: there is no batch.
  """
  if not variables.get("batch_stats"):
    return dict(variables)
  mesh = mesh or parallel.make_mesh()

  @partial(jax.jit, out_shardings=parallel.replicated(mesh))
  def update(params: Any, stats: Any, clips: jax.Array) -> dict[Path, jax.Array]:
    inputs = preprocess(clips)
    _, new = encoder.apply(
      {"params": params, "batch_stats": stats}, inputs, train=True, mutable=["batch_stats"]
    )
    return traverse_util.flatten_dict(new["batch_stats"])

  host = jax.device_get((variables["params"], variables["batch_stats"]))
  params, stats = parallel.put_replicated(mesh, host)
  zeros, ones = jax.tree.map(jnp.zeros_like, stats), jax.tree.map(jnp.ones_like, stats)
  momentum: dict[Path, float] | None = None
  total: dict[Path, np.ndarray] | None = None
  seen = 0
  for batch in batches:
    views = np.asarray(batch["clips"])
    clips = _global(views.reshape(-1, *views.shape[2:]), mesh)
    from_zero = jax.device_get(update(params, zeros, clips))
    if momentum is None:
      from_one = jax.device_get(update(params, ones, clips))
      momentum = {key: _decimal(from_one[key] - x) for key, x in from_zero.items()}
    own = {key: np.asarray(x, np.float64) / (1.0 - momentum[key]) for key, x in from_zero.items()}
    moments: dict[Path, np.ndarray] = {
      key: len(clips) * (x + _mean_squared(own, key)) for key, x in own.items()
    }
    total = moments if total is None else {key: x + moments[key] for key, x in total.items()}
    seen += len(clips)
  if total is None:
    raise UserError("no clips to calibrate batch norm on: probe.calibrate must be at least 1")
  mean = {key: x / seen for key, x in total.items()}
  pooled = {
    key: np.maximum(x - _mean_squared(mean, key), 0.0) if key[-1] == "var" else x
    for key, x in mean.items()
  }
  flat = {key: jnp.asarray(x, jnp.float32) for key, x in pooled.items()}
  return {**variables, "batch_stats": traverse_util.unflatten_dict(flat)}


def _mean_squared(stats: Mapping[Path, np.ndarray], key: Path) -> np.ndarray:
  """mean², to convert between a variance and the second moment; 0 if `key` is a mean."""
  return stats[(*key[:-1], "mean")] ** 2 if key[-1] == "var" else np.zeros(())


def _global(clips: np.ndarray, mesh: Mesh) -> jax.Array:
  """The rows of all processes as one array, split over the devices if their number divides it."""
  if jax.process_count() == 1 and len(clips) % mesh.size:
    return jax.device_put(clips, parallel.replicated(mesh))
  return parallel.put_batch(mesh, {"clips": clips})["clips"]


def _decimal(momentum: np.ndarray) -> float:
  # A momentum has few decimals; rounding removes the float32 error of the difference.
  return round(float(np.median(momentum)), 6)


def check(config: ConfigDict) -> None:
  """Checks that a random encoder can be calibrated.

  Raises:
    UserError: `config.probe.calibrate` is below 1.
  """
  if config.probe.calibrate < 1:
    raise UserError(
      f"config.probe.calibrate is {config.probe.calibrate}: a random encoder needs at least 1 "
      "batch for its batch-norm statistics."
    )


def random_variables(
  config: ConfigDict,
  encoder: nn.Module,
  source: Source,
  variables: features.Variables | None = None,
) -> dict[str, Any]:
  """A randomly initialized encoder with batch-norm statistics measured on training clips.

  Args:
    config: the fields `seed`, `augment` and `probe.calibrate` (number of batches) are read.
    encoder: the module.
    source: gives the training clips (training crops, shuffled, no color augmentation).
    variables: the initial variables; None draws them with `config.seed`.

  Raises:
    UserError: `config.probe.calibrate` is below 1.
  """
  check(config)
  with contextlib.closing(source.train_batches()) as stream:
    batches = itertools.islice(stream, config.probe.calibrate)
    first = next(batches)
    if variables is None:
      clip = jax.ShapeDtypeStruct((1, *np.shape(first["clips"])[2:]), jnp.float32)
      variables = _init(encoder, config.seed, clip)
    preprocess = augment.eval_preprocess(config.augment, config.data.channels)
    whole = itertools.chain([first], batches)
    return calibrate(encoder, variables, whole, preprocess=preprocess)


def _init(encoder: nn.Module, seed: int, clip: jax.ShapeDtypeStruct) -> dict[str, Any]:
  draw = jax.jit(lambda key: encoder.lazy_init(key, clip), compiler_options=parallel.run_once(None))
  return draw(jax.random.key(seed))
