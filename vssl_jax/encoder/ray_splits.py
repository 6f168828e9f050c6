"""Features of prepared splits on a Ray cluster: each accelerator takes parts of a split.

A part is a range of whole batches. So every batch has the videos that it has on one machine.
"""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from data_pipelines import source as source_lib
from data_pipelines.videos import ray_cluster, ray_workers
from data_pipelines.videos.workers import Crash
from vssl_jax import files
from vssl_jax.cli import progress
from vssl_jax.encoder import features_file, ray_share
from vssl_jax.errors import UserError

_PARTS = 4  # per encoder at least, so that they end at about the same time
_BATCHES = 64  # in a part at most: what is computed again if a node is lost


class Part(NamedTuple):
  """Videos of a split, in the order of their numbers: those from `begin` to `end` - 1."""

  split: str
  begin: int
  end: int


def divide(split: str, videos: int, batch_size: int, encoders: int) -> list[Part]:
  """Cuts a split into parts of whole batches; the last batch may be smaller.

  Args:
    split: its name.
    videos: how many it has.
    batch_size: videos per batch.
    encoders: how many work at the same time.
  """
  batches = -(-videos // batch_size)
  step = batch_size * max(1, min(batches // (_PARTS * encoders), _BATCHES))
  return [Part(split, i, min(i + step, videos)) for i in range(0, videos, step)]


def outputs(
  address: str,
  config: ConfigDict,
  variables: Mapping[str, Any],
  sources: Mapping[str, source_lib.Source],
) -> dict[str, list[features_file.Found]]:
  """What `features.forward` yields for every view of every video of some splits, in any order.

  Args:
    address: of the cluster, see `ray_cluster.joined`.
    config: the fields `encoder`, `augment`, `data` and `seed` are read.
    variables: the encoder's variables.
    sources: the splits' videos as this machine sees them, by the splits' names.

  Raises:
    UserError: there is no cluster, its nodes have other software or other videos, or the same part
      was lost twice.
  """
  prints = {split: source.fingerprint for split, source in sources.items()}
  lost: set[Part] = set()
  found: dict[str, list[features_file.Found]] = collections.defaultdict(list)
  config = config.copy_and_resolve_references()
  if config.data.path and "://" not in config.data.path:
    with config.unlocked():  # a worker has another current folder than this process
      config.data.path = files.absolute(config.data.path)
  kinds = ray_share.Kinds()

  def on_ready(facts: Mapping[str, Any]) -> str:
    if problem := ray_workers.problem(facts):
      return problem
    if facts["error"]:
      return f"{facts['host']}: {facts['error']}"
    if other := [split for split in prints if facts["prints"][split] != prints[split]]:
      return (
        f"{facts['host']}: has other videos in split {other[0]!r} than this machine: all nodes "
        "must have the same storage, under the same path"
      )
    kinds.add(facts["host"], facts["device"])
    return ""

  def on_crash(part: Part, crash: Crash) -> list[Part]:
    if part in lost:
      raise UserError(
        f"videos {part.begin} to {part.end - 1} of split {part.split!r}: {crash.reason}, twice: "
        "run the same command again"
      )
    lost.add(part)
    return [part]

  with ray_cluster.joined(address) as ray:
    share = ray_share.of(ray)
    size = config.data.eval.batch_size
    parts = [
      part
      for split, source in sources.items()
      for part in divide(split, source.num_videos, size, share.encoders)
    ]
    actor = ray.remote(SplitEncoder).options(**share.options())
    weights = ray.put(jax.device_get(variables))
    results = ray_cluster.drive(
      ray,
      functools.partial(actor.remote, config, weights, list(sources), share.accelerator),
      share.encoders,
      parts,
      on_report=lambda part, message: None,
      on_crash=on_crash,
      on_ready=on_ready,
    )
    total = sum(source.num_videos for source in sources.values())
    bar = progress.bar("features", total)
    with contextlib.closing(results), bar:
      for part, rows in results:
        found[part.split] += rows
        bar.update(part.end - part.begin)
  return dict(found)


class SplitEncoder:
  """The actor of one accelerator: an encoder and the splits' videos."""

  def __init__(
    self, config: ConfigDict, variables: Mapping[str, Any], splits: list[str], accelerator: str
  ):
    self._config, self._variables = config, variables
    self._sources: dict[str, source_lib.Source] = {}
    self._facts: dict[str, Any] = {"error": "", "device": ""}
    try:
      self._facts["device"] = ray_share.device(accelerator)
      for split in splits:
        self._sources[split] = source_lib.load(
          config.data, split=split, batch_size=1, seed=config.seed
        )
    except UserError as e:
      self._facts["error"] = str(e)

  def ready(self) -> dict[str, Any]:
    """What `ray_workers.describe` says, `device`, `error`, and fingerprints of the splits."""
    prints = {split: source.fingerprint for split, source in self._sources.items()}
    return {**ray_workers.describe({}), **self._facts, "prints": prints}

  def work(self, part: Part) -> Iterator[tuple[str, Any]]:
    """Encodes a part; yields what `ray_cluster.drive` expects."""
    videos = range(part.begin, part.end)
    source = self._sources[part.split].only(videos)
    rows: list[features_file.Found] = []
    try:
      for made, facts in features_file.outputs(self._config, self._variables, source):
        rows.append((made, {**facts, "video": facts["video"] + part.begin}))
    except Exception as error:
      yield "error", error
    else:
      yield "result", rows
