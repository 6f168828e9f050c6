"""Classification: a linear probe on a frozen encoder, fine-tuning, or training from scratch.

One method does all three, so that a probe uses the same train loop as everything else. A frozen
encoder is part of the state: its batch norm runs in inference mode and its weights never change
(CVRL §4.1: L2-normalized features, one dense layer). Otherwise the encoder is trained too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax import augment, models
from vssl_jax.errors import UserError
from vssl_jax.methods import network
from vssl_jax.methods.base import Batch, Evaluator, Loss, Method, Params, Variables
from vssl_jax.models import heads
from vssl_jax.probes import classifier as classifier_lib

STARTS_FROM_ENCODER = LEARNS_FROM_LABELS = True


class State(flax.struct.PyTreeNode):
  """The frozen encoder's variables, or the trained encoder's running statistics."""

  encoder: Variables


def defaults() -> ConfigDict:
  """Fields of `config.classify`."""
  c = ConfigDict()
  c.classes = 0  # number of classes; 0 takes it from the data
  c.frozen = True  # True: linear probe, the encoder does not change | False: train the encoder too
  c.normalize = True  # L2-normalize the features before the classifier
  c.dropout = 0.0
  c.label_smoothing = 0.0
  # Hash of the frozen encoder. The linear probe fills it in, so that its run cannot be resumed with
  # another encoder.
  c.encoder_sha256 = ""
  return c


def resolve(config: ConfigDict, source: Source | None) -> ConfigDict:
  """Fills in the number of classes from the data; without data (a dry run), two classes.

  Raises:
    UserError: `classes` is 0 and the data has no labels.
  """
  if config.classify.classes:
    return config
  names = ("one", "other") if source is None else source.label_names
  if not names:
    raise UserError(
      "config.classify.classes is 0 and the data has no label names: set config.classify.classes."
    )
  config = config.copy_and_resolve_references()
  config.classify.classes = len(names)
  return config


def freezes_encoder(config: ConfigDict) -> bool:
  """Whether only the classifier is trained."""
  return bool(config.classify.frozen)


def logits_fn(config: ConfigDict) -> Callable[[Params, State, jax.Array], jax.Array]:
  """(params, state, clips float32 [B, T, H, W, C]) -> logits float32 [B, K], inference mode."""
  encoder = models.build_encoder(config.encoder)
  classifier = heads.Classifier(config.classify.classes, normalize=config.classify.normalize)

  def apply(params: Params, state: State, clips: jax.Array) -> jax.Array:
    features = encoder.apply(_encoder(config, params, state), clips, train=False)
    logits: Any = classifier.apply({"params": params["classifier"]}, features)
    return logits

  return apply


def _encoder(config: ConfigDict, params: Params, state: State) -> Variables:
  if config.classify.frozen:
    return state.encoder
  return {"params": params["encoder"], "batch_stats": state.encoder}


def build(
  config: ConfigDict, mesh: Mesh | None = None, encoder_variables: Variables | None = None
) -> Method:
  """The classifier for a resolved config.

  Args:
    config: `classify`, `encoder`, `augment` and `data` are read.
    mesh: the devices; in training every term is a mean over examples.
    encoder_variables: initial weights of the encoder; None initializes it at random.

  Raises:
    UserError: there are fewer than two classes, or a rate is outside [0, 1).
  """
  c = config.classify
  if c.classes < 2:
    raise UserError(f"config.classify.classes is {c.classes}: a classifier needs at least 2.")
  for field in ("dropout", "label_smoothing"):
    if not 0 <= c[field] < 1:
      raise UserError(f"config.classify.{field} is {c[field]}: it must lie in [0, 1).")
  encoder = models.build_encoder(config.encoder, mesh)
  classifier = heads.Classifier(c.classes, normalize=c.normalize)
  transform = augment.build(config.augment, config.data.size, mesh, channels=config.data.channels)

  def init(rng: jax.Array, batch: Batch) -> tuple[Params, State]:
    encoder_rng, classifier_rng = jax.random.split(rng)
    variables: Any = encoder_variables
    if variables is None:
      clips = batch["clips"][:, 0].astype(jnp.float32)
      variables = encoder.init(encoder_rng, clips, train=False)
    features = jnp.zeros((1, encoder.features_dim))
    params = {"classifier": classifier.init(classifier_rng, features)["params"]}
    if c.frozen:
      return params, State(dict(variables))
    return {**params, "encoder": variables["params"]}, State(variables.get("batch_stats", {}))

  def embed(params: Params, state: State, batch: Batch) -> tuple[jax.Array, State]:
    clips = transform(batch["key"], batch["clips"])  # [N, R, T, H, W, C]
    n, views = clips.shape[:2]
    x = clips.reshape(n * views, *clips.shape[2:])
    variables = _encoder(config, params, state)
    features: Any
    if c.frozen:
      features = encoder.apply(variables, x, train=False)
    else:
      features, stats = network.train(encoder, params["encoder"], state.encoder, x)
      state = State(stats)
    if c.dropout > 0:
      features = _dropout(features.reshape(n, views, -1), batch["key"], c.dropout)
      features = features.reshape(n * views, -1)
    logits: Any = classifier.apply({"params": params["classifier"]}, features)
    return logits.reshape(n, views, -1), state

  def objective(
    params: Params, state: State, logits: jax.Array, batch: Batch, rng: jax.Array, step: jax.Array
  ) -> Loss:
    del params, rng, step
    labels = jnp.broadcast_to(batch["label"][:, None], logits.shape[:2])
    targets = optax.smooth_labels(jax.nn.one_hot(labels, c.classes), c.label_smoothing)
    known = labels >= 0  # videos without a label are left out of the mean
    count = jnp.maximum(jnp.sum(known), 1)
    loss = jnp.sum(jnp.where(known, optax.softmax_cross_entropy(logits, targets), 0.0)) / count
    accuracy = jnp.sum((jnp.argmax(logits, -1) == labels) & known) / count
    return loss, (state, {"accuracy": accuracy})

  def variables_of(params: Params, state: State) -> Variables:
    return _encoder(config, params, state)

  d = config.data
  clip = jax.ShapeDtypeStruct((d.clips, d.frames, d.size, d.size, d.channels), jnp.uint8)
  return Method(
    init,
    variables_of,
    {"clips": clip},
    embed=embed,
    objective=objective,
  )


def evaluator(config: ConfigDict, mesh: Mesh | None = None) -> Evaluator:
  """The accuracy of the trained classifier; none for a frozen encoder, which the probes score."""
  if config.classify.frozen:
    return Evaluator()
  logits = logits_fn(config)

  def scores(params: Params, state: State, train: Source, test: Source) -> dict[str, Any]:
    del train
    found = classifier_lib.evaluate_classifier(
      config,
      lambda trained, clips: logits(trained[0], trained[1], clips),
      (params, state),
      test,
      mesh=mesh,
    )
    return found | {"headline": {"classify_top1": {"trained": found["top1"]}}}

  return Evaluator(scores=scores)


def _dropout(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
  """Inverted dropout on x [N, R, F], with one key per example."""

  def one(key: jax.Array, row: jax.Array) -> jax.Array:
    keep = jax.random.bernoulli(jax.random.fold_in(key, 1), 1 - rate, row.shape)
    return jnp.where(keep, row / (1 - rate), 0.0)

  return jax.vmap(one)(keys, x)
