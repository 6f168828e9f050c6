"""The protocols put together: what a frozen encoder, or a classifier, is worth on two splits."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import augment, results
from vssl_jax.errors import UserError
from vssl_jax.probes import baselines as baselines_lib
from vssl_jax.probes import calibrate, confusion, features, knn, logistic, metrics, retrieval

VIEWS = ("clips", "crops", "frames", "stride", "resize", "size")  # of config.data.eval
BN_MODE = "inference: stored statistics, unchanged by the probe"


class Source(Protocol):
  """What probes need of a data source; see `data_pipelines.source`."""

  num_videos: int
  label_names: tuple[str, ...]

  def train_batches(self, start: int = 0) -> Iterator[features.Batch]:
    """Shuffled batches without end."""

  def eval_batches(self, batch_size: int, **views: int) -> Iterator[features.Batch]:
    """One ordered pass; S = clips·crops views a video, crops running fastest."""


class Cached:
  """A source that keeps the last evaluation pass in memory, as far as it fits.

  Several encoders and baselines look at the same clips; a small split is then decoded once.
  """

  def __init__(self, source: Source, limit_bytes: int = 1 << 29):
    self._source = source
    self._limit = limit_bytes
    self._kept: tuple[Any, list[features.Batch]] | None = None

  def __getattr__(self, name: str) -> Any:
    return getattr(self._source, name)

  def eval_batches(self, *args: Any, **kwargs: Any) -> Iterator[features.Batch]:
    """As the source's own."""
    key = (args, tuple(sorted(kwargs.items())))
    if self._kept is not None and self._kept[0] == key:
      yield from self._kept[1]
      return
    kept, room = [], self._limit
    for batch in self._source.eval_batches(*args, **kwargs):
      room -= sum(np.asarray(x).nbytes for x in batch.values())
      if room >= 0:
        kept.append(batch)
      else:
        kept.clear()
      yield batch
    if room >= 0:
      self._kept = (key, kept)


def eval_batches(source: Source, config: ConfigDict) -> Iterator[features.Batch]:
  """The views that `config.data.eval` describes, of every video of a source."""
  e = config.data.eval
  return source.eval_batches(e.batch_size, **{k: e[k] for k in VIEWS})


def feature_fn(encoder: nn.Module, config: ConfigDict) -> features.Apply:
  """`(variables, clips uint8 [B, T, H, W, C]) -> features float32 [B, F]`, batch norm frozen."""
  preprocess = augment.eval_preprocess(config.augment)

  def apply(variables: features.Variables, clips: jax.Array) -> jax.Array:
    return encoder.apply(variables, preprocess(clips), train=False)

  return apply


def random_variables(
  config: ConfigDict,
  encoder: nn.Module,
  source: Source,
  variables: features.Variables | None = None,
) -> dict[str, Any]:
  """The encoder at initialisation, its batch-norm statistics measured on training clips.

  Args:
    config: `seed`, `augment` and `probe.calibrate` (batches) are read.
    encoder: the module.
    source: gives the training clips (its crops, shuffled, no colour augmentation).
    variables: an initialisation; None draws one from `config.seed`.

  Raises:
    UserError: `config.probe.calibrate` is below 1.
  """
  if config.probe.calibrate < 1:
    raise UserError(
      f"config.probe.calibrate is {config.probe.calibrate}: a random encoder needs at least 1 "
      "batch for its batch-norm statistics."
    )
  with contextlib.closing(source.train_batches()) as stream:
    batches = itertools.islice(stream, config.probe.calibrate)
    first = next(batches)
    if variables is None:
      clip = jax.ShapeDtypeStruct((1, *np.shape(first["clips"])[2:]), jnp.float32)
      variables = _init(encoder, config.seed, clip)
    preprocess = augment.eval_preprocess(config.augment)
    batches = itertools.chain([first], batches)
    return calibrate.calibrate(encoder, variables, batches, preprocess=preprocess)


def _init(encoder: nn.Module, seed: int, clip: jax.ShapeDtypeStruct) -> dict[str, Any]:
  # A program that runs once: on a CPU, optimising it takes five times as long as compiling it.
  cpu = jax.default_backend() == "cpu"
  options = {"xla_backend_optimization_level": 0} if cpu else None
  draw = jax.jit(lambda key: encoder.lazy_init(key, clip), compiler_options=options)
  return draw(jax.random.key(seed))


def quick(
  config: ConfigDict,
  encoder: nn.Module,
  variables: features.Variables,
  source_train: Source,
  source_eval: Source,
  *,
  mesh: Mesh | None = None,
  picture: str | pathlib.Path | None = None,
  progress: str = "features",
) -> dict[str, Any]:
  """Logistic regression and nearest neighbours on frozen features (mean over views).

  The training split's labels serve the classifiers only, the evaluation split the scores only.

  Args:
    config: `data.eval` (for both splits), `augment`, `knn` and `seed` are read.
    encoder: module called as `apply(variables, clips [N, T, H, W, C], train=False) -> [N, F]`.
    variables: of the encoder; proven unchanged by a hash before and after.
    source_train: the training split.
    source_eval: the evaluation split.
    mesh: see `features.forward`.
    picture: PNG of the logistic regression's confusion matrix; the table of classes stands beside
      it as `.md`. None writes neither.
    progress: text of the progress bars; "" for none.

  Returns:
    A JSON-able dict: `logistic` with `top1`, `top5`, `mean_class_top1` and how it was fitted,
    `knn` with `top1` and its votes' settings, `retrieval` with `R@k` and `mAP`, `videos` scored
    (unreadable ones are not), `feature`, `bn_mode`, `encoder_sha256`, `seconds` and
    `clips_per_second` (views through the network, reading and compilation included). Accuracies
    are fractions.

  Raises:
    UserError: a split is empty or has no labels.
    RuntimeError: the variables changed, which would be a bug.
  """
  start = time.perf_counter()
  before = results.tree_hash(variables)
  apply = feature_fn(encoder, config)

  def extract(source: Source, split: str) -> features.Features:
    return features.extract(
      apply,
      variables,
      eval_batches(source, config),
      mesh=mesh,
      average=True,
      split=split,
      names=getattr(source, "video_names", ()),
      progress=progress and f"{progress}, {split}",
      total=source.num_videos,
    )

  train = extract(source_train, config.data.train_split)
  test = extract(source_eval, config.data.eval_split)
  seconds = time.perf_counter() - start
  videos, _, dim = train.features.shape
  views = config.data.eval.clips * config.data.eval.crops
  given = (train.mean(), train.label, test.mean(), test.label)
  fitted = fit(config, source_train, *given, names=train.names)
  neighbours = retrieval.evaluate(*given)
  known = int(np.sum(train.label >= 0))
  votes = {"k": min(config.knn.k, known), "temperature": config.knn.temperature}
  if picture is not None:
    confusion.write_classes(
      picture, "logistic regression", fitted.accuracy, source_eval.label_names
    )
  return {
    "logistic": fitted.summary() | {"mean_class_top1": fitted.accuracy.mean_class},
    "knn": {"top1": knn.evaluate(*given, **votes), **votes},
    "retrieval": neighbours | {"similarity": "cosine", "bank": config.data.train_split},
    "videos": {"train": videos, "eval": len(test.label)},
    "feature": f"{dim} numbers a view after global average pooling, mean over views",
    "bn_mode": BN_MODE,
    "encoder_sha256": results.unchanged(variables, before),
    "seconds": time.perf_counter() - start,
    "clips_per_second": (videos + len(test.label)) * views / seconds,
  }


def baselines(config: ConfigDict, source_train: Source, source_eval: Source) -> dict[str, Any]:
  """The same logistic regression on pixels and colours of each video's middle view.

  Returns:
    For each of `baselines.BASELINES` `top1`, `top5`, how it was fitted, and `numbers`, the
    numbers a video that it sees.

  Raises:
    UserError: a split is empty or has no labels.
  """
  e = config.data.eval
  middle = (e.clips // 2) * e.crops + e.crops // 2
  train = baselines_lib.collect(eval_batches(source_train, config), middle)
  test = baselines_lib.collect(eval_batches(source_eval, config), middle)
  names = getattr(source_train, "video_names", ())
  names = [names[v] for v in train["video"]] if names else ()
  result = {}
  for name in baselines_lib.BASELINES:
    given = (train[name], train["label"], test[name], test["label"])
    fitted = fit(config, source_train, *given, names=names)
    result[name] = fitted.summary() | {"numbers": train[name].shape[1]}
  return result


def evaluate_classifier(
  config: ConfigDict,
  logits: Callable[[Any, jax.Array], jax.Array],
  variables: Any,
  source_eval: Source,
  *,
  mesh: Mesh | None = None,
  picture: str | pathlib.Path | None = None,
  progress: str = "evaluation",
) -> dict[str, Any]:
  """Multi-view test of a classifier: softmax averaged over clips × crops (CVRL §4.1).

  Args:
    config: `data.eval` and `augment` are read.
    logits: `(variables, clips float32 [B, T, H, W, C]) -> [B, K]`, in inference mode.
    variables: any tree of arrays that `logits` reads; proven unchanged.
    source_eval: the evaluation split.
    mesh: see `features.forward`.
    picture: PNG of the confusion matrix; the table of classes stands beside it as `.md`.
      None writes neither.
    progress: text of the progress bar; "" for none.

  Returns:
    A JSON-able dict: `top1`, `top5`, `mean_class_top1`, `videos` read and those of them `labelled`
    and so scored, `per_class` (top-1 by name), `views`,
    `bn_mode`, `variables_sha256`, `seconds`, `clips_per_second`. Accuracies are fractions.

  Raises:
    UserError: the split is empty or has no labels.
    RuntimeError: the variables changed, which would be a bug.
  """
  start = time.perf_counter()
  before = results.tree_hash(variables)
  preprocess = augment.eval_preprocess(config.augment)

  def probabilities(variables: Any, clips: jax.Array) -> jax.Array:
    return jax.nn.softmax(logits(variables, preprocess(clips)).astype(jnp.float32))

  found = features.extract(
    probabilities,
    variables,
    eval_batches(source_eval, config),
    mesh=mesh,
    average=True,
    split=config.data.eval_split,
    progress=progress,
    total=source_eval.num_videos,
  )
  scored = metrics.accuracy(found.features[:, 0], found.label)
  if picture is not None:
    confusion.write_classes(picture, progress, scored, source_eval.label_names)
  seconds = time.perf_counter() - start
  e = config.data.eval
  names = confusion.class_names(source_eval.label_names, len(scored.per_class))
  return {
    "top1": scored.top1,
    "top5": scored.top5,
    "mean_class_top1": scored.mean_class,
    "videos": len(found.label),
    "labelled": int(np.sum(found.label >= 0)),
    "per_class": dict(zip(names, scored.per_class.tolist(), strict=True)),
    "views": f"softmax averaged over {e.clips} clips x {e.crops} crops",
    "bn_mode": BN_MODE,
    "variables_sha256": results.unchanged(variables, before),
    "seconds": seconds,
    "clips_per_second": len(found.label) * e.clips * e.crops / seconds,
  }


def protocol(config: ConfigDict, source_train: Source, source_eval: Source) -> dict[str, Any]:
  """What every result line says of its data, views, network and config."""
  d = config.data

  manifest = pathlib.Path(d.path) / "manifest.json"
  return {
    "data": {
      "source": d.source,
      "name": d.name or pathlib.PurePath(d.path).name,
      "manifest_sha256": results.file_hash(manifest) if d.path and manifest.is_file() else None,
      "classes": len(source_eval.label_names),
      "train": {"name": d.train_split, "videos": source_train.num_videos},
      "eval": {"name": d.eval_split, "videos": source_eval.num_videos},
    },
    "views": {k: config.data.eval[k] for k in VIEWS},
    "encoder": {k: config.encoder[k] for k in ("name", "depth", "width", "dtype", "temporal")},
    "seed": config.seed,
    "config_sha256": results.config_hash(config),
  }


def fit(
  config: ConfigDict,
  source_train: Source,
  train: np.ndarray,
  train_label: np.ndarray,
  test: np.ndarray,
  test_label: np.ndarray,
  names: Sequence[str],
) -> logistic.Result:
  """Logistic regression on features, one row a video, C chosen by folds of whole recordings.

  Args:
    config: `seed` is read.
    source_train: gives the classes.
    train: float `[V, F]`.
    train_label: int `[V]`.
    test: float `[U, F]`.
    test_label: int `[U]`.
    names: of the V videos, or ().
  """
  return logistic.evaluate(
    train,
    train_label,
    test,
    test_label,
    num_classes=len(source_train.label_names),
    groups=logistic.recordings(names),
    seed=config.seed,
  )
