"""What a method is to the train loop: a record of pure functions."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from data_pipelines.source import Source
from vssl_jax.errors import UserError
from vssl_jax.losses.provico import LossSettings
from vssl_jax.ops import grad_cache

Params = Any
State = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = tuple[jax.Array, tuple[State, Metrics]]
Variables = dict[str, Any]
_WHOLE = PartitionSpec()


def _same(params: Params, state: State, step: jax.Array) -> tuple[Params, State]:
  del step
  return params, state


@dataclasses.dataclass(frozen=True)
class Method:
  """A method's functions; N is the global batch, arrays are sharded over mesh axis `data`.

  The loss is given either whole (`loss`) or in two parts (`embed`, `objective`), which is
  what exact gradient accumulation needs: embeddings of all micro-batches first, then one
  objective over all of them. `batch` carries the entries of `batch_spec`, `label [N]` where the
  source has it, `video [N]` and `key [N]`, a PRNG key for each example that no sharding or
  micro-batching changes; `rng` is one key for the step.

  Attributes:
    init: (rng, batch) -> (params, state); the batch may be abstract zeros.
    encoder: (params, state) -> variables of the encoder that probes and exports use; None where
      there is no encoder of clips, and `evaluate` scores what is learnt.
    batch_spec: shape and dtype of one video's entries, e.g. clips [R, T, H, W, C] uint8.
    embed: (params, state, batch) -> (embeddings, state), embeddings a tree of [N, ...].
    objective: (params, state, embeddings, batch, rng, step) -> (loss, (state, metrics)).
    loss: (params, state, batch, rng, step) -> (loss, (state, metrics)), in place of the two.
    grads: (params, state, batch, rng, step) -> ((loss, (state, metrics)), gradients), for a
      method that computes its own (clip by clip, say).
    update_mask: (state, step) -> True to update, False to leave parameters, optimizer and schedule
      as they are, or a tree of booleans for parts of the parameters (frozen subsets): like them,
      or a prefix such as {"encoder": True, "prototypes": step > 10}.
    after_update: (params, state, updates) -> (params, state) after each applied update
      (momentum encoders); `updates` counts them, from 1.
    on_epoch_start: (params, state, source) -> (params, state) on the host, before each epoch.
    state_spec: how the state lies on the devices: PartitionSpecs in the shape of the state, or of
      its upper part (a prefix). A whole copy on each by default.
    frozen_steps: steps at the start that update nothing: the schedules are that much
      shorter, and end with the run.

  Metrics are float32 scalars, but for the optional entry `embeddings` [M, D], from which the
  loop computes collapse statistics when it logs.
  """

  init: Callable[[jax.Array, Batch], tuple[Params, State]]
  encoder: Callable[[Params, State], Variables] | None
  batch_spec: dict[str, jax.ShapeDtypeStruct]
  embed: Callable[[Params, State, Batch], tuple[Any, State]] | None = None
  objective: Callable[[Params, State, Any, Batch, jax.Array, jax.Array], Loss] | None = None
  loss: Callable[[Params, State, Batch, jax.Array, jax.Array], Loss] | None = None
  grads: Callable[..., tuple[Loss, Params]] | None = None
  update_mask: Callable[[State, jax.Array], Any] | None = None
  after_update: Callable[[Params, State, jax.Array], tuple[Params, State]] = _same
  on_epoch_start: Callable[[Params, State, Source], tuple[Params, State]] | None = None
  state_spec: Any = _WHOLE
  frozen_steps: int = 0

  def example(self, n: int) -> Batch:
    """A batch of n zero videos, for `init` and shape evaluation."""
    batch = {k: jnp.zeros((n, *s.shape), s.dtype) for k, s in self.batch_spec.items()}
    zeros = jnp.zeros((n,), jnp.int32)
    keys = jax.random.split(jax.random.key(0), n)
    return {"label": zeros, "video": zeros, "key": keys, **batch}


@dataclasses.dataclass(frozen=True)
class Localizer:
  """A method's parameters at work on untrimmed videos.

  Attributes:
    activate: (params) -> see `localization.scores.Activate`.
    look: (params, state) -> see `localization.observe.Look`.
    predict: keyword arguments of `localization.scores.predict`.
    protocol: of the scores, see `localization.scores.evaluate`.
    label_names: the classes, () where the run is of before they were kept.
    width: D of the features.
  """

  activate: Callable[[Params], Any]
  look: Callable[[Params, State], Any]
  predict: dict[str, Any]
  protocol: str
  label_names: tuple[str, ...]
  width: int


@dataclasses.dataclass(frozen=True)
class Gaussians:
  """The Gaussian embeddings that a method learns.

  Attributes:
    apply: (variables, clips uint8 `[B, T, H, W, C]`) -> `[B, 2D]`, μ, then log σ².
    variables: (params, state) -> what `apply` reads.
    settings: of the loss that the pairs are mined for.
  """

  apply: Callable[[Mapping[str, Any], jax.Array], jax.Array]
  variables: Callable[[Params, State], Variables]
  settings: LossSettings


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """What a method is worth beside the probes of its encoder; a method without such has none.

  Attributes:
    scores: (params, state, training split, evaluation split) -> JSON-able scores, their `headline`
      among them; after training, where probes are asked for and the data has labels, or always
      where the method has no encoder.
    write_report: as `scores`, and the run's folder: writes files there and gives further scores.
    validate: (params, held-out training videos) -> figures to log, and to choose a checkpoint by.
    localizer: of a method that finds actions in untrimmed videos.
    gaussians: of a method whose embeddings are Gaussian.
  """

  scores: Callable[[Params, State, Source, Source], dict[str, Any]] | None = None
  write_report: Callable[[Params, State, Source, Source, pathlib.Path], dict[str, Any]] | None = (
    None
  )
  validate: Callable[[Params, Source], dict[str, float]] | None = None
  localizer: Localizer | None = None
  gaussians: Gaussians | None = None


def value_and_grad(method: Method, accumulate: int) -> Callable[..., tuple[Loss, Params]]:
  """The function that gives a step's loss and gradients, in `accumulate` micro-batches.

  Returns:
    (params, state, batch, rng, step) -> ((loss, (state, metrics)), gradients).

  Raises:
    UserError: the method's loss cannot be accumulated.
  """
  if method.grads is not None:
    if accumulate > 1:
      raise UserError(
        f"config.accumulate is {accumulate}: this method takes its gradients clip by clip; use "
        "config.accumulate=1."
      )
    return method.grads
  if method.embed is None:
    if accumulate > 1:
      raise UserError(
        f"config.accumulate is {accumulate}: this method's loss is not an objective over "
        "embeddings; use config.accumulate=1."
      )
    assert method.loss is not None
    return jax.value_and_grad(method.loss, has_aux=True)
  embed, given = method.embed, method.objective
  assert given is not None

  def whole(params: Params, state: State, batch: Batch, rng: jax.Array, step: jax.Array) -> Loss:
    embeddings, state = embed(params, state, batch)
    return given(params, state, embeddings, batch, rng, step)

  if accumulate == 1:
    return jax.value_and_grad(whole, has_aux=True)

  def cached(
    params: Params, state: State, batch: Batch, rng: jax.Array, step: jax.Array
  ) -> tuple[Loss, Params]:
    def objective(params: Params, state: State, embeddings: Any, batch: Batch) -> Loss:
      return given(params, state, embeddings, batch, rng, step)

    return grad_cache.value_and_grad(embed, objective, params, state, batch, accumulate)

  return cached
