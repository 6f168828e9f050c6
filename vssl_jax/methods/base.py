"""The interface between a method and the train loop: a record of pure functions."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from data_pipelines.source import Source
from vssl_jax.errors import UserError
from vssl_jax.ops import grad_cache, mining

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
  """The functions of a method. N is the global batch size; arrays are sharded over axis `data`.

  A method gives its loss either whole (`loss`) or in two parts (`embed` and `objective`). Exact
  gradient accumulation needs the two parts: it first computes the embeddings of all micro-batches,
  then one objective over all of them. `batch` holds the entries of `batch_spec`, `label [N]` if the
  source has labels, `video [N]`, and `key [N]`, one PRNG key per example, which does not depend on
  sharding or micro-batches. `rng` is one key for the whole step.

  Attributes:
    init: (rng, batch) -> (params, state); the batch may be abstract zeros.
    encoder: (params, state) -> variables of the encoder, for probes and exports. None if the
      method has no encoder of clips; its `Evaluator` then scores the trained network itself.
    batch_spec: shape and dtype of the entries of one video, e.g. clips [R, T, H, W, C] uint8.
    embed: (params, state, batch) -> (embeddings, state); embeddings are a tree of [N, ...].
    objective: (params, state, embeddings, batch, rng, step) -> (loss, (state, metrics)).
    loss: (params, state, batch, rng, step) -> (loss, (state, metrics)); replaces `embed` and
      `objective`.
    grads: (params, state, batch, rng, step) -> ((loss, (state, metrics)), gradients), for a
      method that computes its own gradients (clip by clip, for example).
    update_mask: (state, step) -> True to update; False to leave parameters, optimizer and schedule
      unchanged; or a tree of booleans that freezes parts of the parameters. The tree has the
      structure of the parameters or is a prefix, e.g. {"encoder": True, "prototypes": step > 10}.
    after_update: (params, state, updates) -> (params, state), called after each applied update
      (for momentum encoders); `updates` is the number of updates so far, starting at 1.
    on_epoch_start: (params, state, source) -> (params, state), on the host, before each epoch.
    state_spec: how the state is sharded over the devices: a tree of PartitionSpecs with the
      structure of the state, or a prefix of it. By default every device has a whole copy.
    frozen_steps: number of steps at the start that update nothing. The schedules are shorter by
      this number and still end with the run.
    guess: the loss of guessing, if the method has one; the loop warns of a loss that stays there.

  Metrics are float32 scalars. The optional entry `embeddings` [M, D] is the exception: the loop
  computes collapse statistics from it when it logs.
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
  guess: Guess | None = None

  def example(self, n: int) -> Batch:
    """A batch of n videos of zeros, for `init` and for shape evaluation."""
    batch = {k: jnp.zeros((n, *s.shape), s.dtype) for k, s in self.batch_spec.items()}
    zeros = jnp.zeros((n,), jnp.int32)
    keys = jax.random.split(jax.random.key(0), n)
    return {"label": zeros, "video": zeros, "key": keys, **batch}


@dataclasses.dataclass(frozen=True)
class Guess:
  """The loss of a network that tells no video from another: all its embeddings are equal.

  Attributes:
    loss: in the units of the method's loss.
    name: the formula.
    cures: what helps a network that does not get below it, for the user.
  """

  loss: float
  name: str
  cures: str


@dataclasses.dataclass(frozen=True)
class Localizer:
  """How a trained method finds actions in untrimmed videos.

  Attributes:
    activate: (params) -> a function, see `localization.scores.Activate`.
    look: (params, state) -> a function, see `localization.observe.Look`.
    predict: keyword arguments for `localization.scores.predict`.
    protocol: name of the scoring protocol, see `localization.scores.evaluate`.
    label_names: the classes; () for old runs, which did not save them.
    width: D, the width of the features.
  """

  activate: Callable[[Params], Any]
  look: Callable[[Params, State], Any]
  predict: dict[str, Any]
  protocol: str
  label_names: tuple[str, ...]
  width: int


class PairMining(Protocol):
  """How a loss on Gaussians mines pairs of videos.

  Attributes:
    rule: which distance, and below which threshold a pair counts as positive.
    distance_on: "samples" of the Gaussians | their "moments".
    samples: number of samples per video, where distances are between samples.
  """

  @property
  def rule(self) -> mining.Rule: ...  # noqa: D102

  @property
  def distance_on(self) -> str: ...  # noqa: D102

  @property
  def samples(self) -> int: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class Gaussians:
  """The Gaussian embeddings that a method learns.

  Attributes:
    apply: (variables, clips uint8 `[B, T, H, W, C]`) -> `[B, 2D]`: μ, then log σ².
    variables: (params, state) -> the variables that `apply` takes.
    settings: how the loss mines pairs.
  """

  apply: Callable[[Mapping[str, Any], jax.Array], jax.Array]
  variables: Callable[[Params, State], Variables]
  settings: PairMining


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """A method's own evaluation, in addition to the probes of its encoder. All parts are optional.

  Attributes:
    scores: (params, state, training split, evaluation split) -> scores that can be written as
      JSON, with an entry `headline`. Called after training if probes are requested and the data
      has labels; always called if the method has no encoder.
    write_report: takes the arguments of `scores` and the run's folder; writes files there and
      returns further scores.
    validate: (params, held-out training videos) -> metrics to log and to choose a checkpoint by.
    choose: (params, held-out training videos) -> this evaluator, with settings of its inference
      that are chosen on these videos for these parameters. `scores` then tells which.
    localizer: for a method that finds actions in untrimmed videos.
    gaussians: for a method with Gaussian embeddings.
  """

  scores: Callable[[Params, State, Source, Source], dict[str, Any]] | None = None
  write_report: Callable[[Params, State, Source, Source, pathlib.Path], dict[str, Any]] | None = (
    None
  )
  validate: Callable[[Params, Source], dict[str, float]] | None = None
  choose: Callable[[Params, Source], Evaluator] | None = None
  localizer: Localizer | None = None
  gaussians: Gaussians | None = None


def value_and_grad(method: Method, accumulate: int) -> Callable[..., tuple[Loss, Params]]:
  """The function that computes the loss and gradients of a step, in `accumulate` micro-batches.

  Returns:
    (params, state, batch, rng, step) -> ((loss, (state, metrics)), gradients).

  Raises:
    UserError: the method's loss cannot be accumulated.
  """
  if method.grads is not None:
    if accumulate > 1:
      raise UserError(
        f"config.accumulate is {accumulate}: this method computes gradients clip by clip; use "
        "config.accumulate=1."
      )
    return method.grads
  if method.embed is None:
    if accumulate > 1:
      raise UserError(
        f"config.accumulate is {accumulate}: this method's loss is not computed from embeddings; "
        "use config.accumulate=1."
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
