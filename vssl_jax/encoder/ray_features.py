"""Snippet features on a Ray cluster: each accelerator loads the encoder once and takes videos.

The nodes send features, which are small, to the process that was started; it alone writes files.
So a run goes on where it stopped, with whatever cluster or without one.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from data_pipelines.videos import ray_cluster, ray_workers
from data_pipelines.videos.workers import Crash
from vssl_jax import files
from vssl_jax.encoder import ray_share, snippet_encoder
from vssl_jax.encoder import slide as slide_lib
from vssl_jax.encoder.snippet_encoder import Made
from vssl_jax.errors import UserError

_COMPARED = 3  # videos whose size each node compares
_TASKS = 4  # per encoder at least, so that they end at about the same time


@contextlib.contextmanager
def encoders(
  address: str,
  checkpoint: str | os.PathLike[str],
  which: str | int,
  cut: Mapping[str, Any],
  paths: Sequence[pathlib.Path],
  *,
  batch_size: int,
  workers: int,
  timeout: float,
) -> Iterator[tuple[Made, Callable[..., dict[pathlib.Path, str]]]]:
  """Joins a cluster and loads the encoder on a first node.

  Args:
    address: of the cluster, see `ray_cluster.joined`.
    checkpoint: see `snippet_features.extract_features`.
    which: see `snippet_features.extract_features`.
    cut: fields of `SnippetSettings`; None for the checkpoint's.
    paths: all videos.
    batch_size: snippets per call of the encoder.
    workers: number of decoding processes of each encoder; 0 for one per CPU of its share.
    timeout: see `snippet_features.extract_features`.

  Yields:
    What features are made from, and `slide(paths, finish)`, as `slide.slide` on all nodes.

  Raises:
    UserError: there is no cluster, no node can load the encoder, or the nodes differ in software or
      files.
  """
  folder = files.path(checkpoint)
  compared = {files.absolute(p): p.stat().st_size for p in paths[:_COMPARED]}
  with ray_cluster.joined(address) as ray:
    share = ray_share.of(ray)
    actor = ray.remote(NodeEncoder).options(**share.options())
    given = (files.absolute(folder), which, dict(cut), batch_size, workers or share.cpus)

    def start() -> Any:
      return actor.remote(*given, timeout, compared, share.accelerator)

    first, facts = ray_cluster.first(ray, start)
    check = _Check(facts)
    if problem := check(facts):
      raise UserError(problem)
    made: Made = facts["made"]
    origin = dict(made.origin["checkpoint"])
    if origin.get("checkpoint") == given[0]:
      origin["checkpoint"] = str(folder)  # as it was given
    made = Made(made.settings, made.width, {**made.origin, "checkpoint": origin})
    ready = [first]

    def slide(left: Sequence[pathlib.Path], finish: slide_lib.Finish) -> dict[pathlib.Path, str]:
      run = _Run(left, finish)
      size = max(1, min(len(left) // (_TASKS * share.encoders), 4 * given[-1]))
      names = list(run.paths)
      results = ray_cluster.drive(
        ray,
        lambda: ready.pop() if ready else start(),
        share.encoders,
        [tuple(names[i : i + size]) for i in range(0, len(names), size)],
        on_report=run.on_report,
        on_crash=run.on_crash,
        on_ready=check,
      )
      with contextlib.closing(results):
        for _, unreadable in results:
          run.unreadable |= {run.paths[name]: why for name, why in unreadable.items()}
      return run.unreadable

    try:
      yield made, slide
    finally:
      for unused in ready:
        ray.kill(unused)


class _Check:
  """Compares what nodes say about themselves with what the first one said."""

  def __init__(self, first: Mapping[str, Any]):
    self._first, self._kinds = first, ray_share.Kinds()

  def __call__(self, facts: Mapping[str, Any]) -> str:
    """Why a node cannot take part; "" if it can."""
    if problem := ray_workers.problem(facts):
      return problem
    if facts["error"]:
      return f"{facts['host']}: {facts['error']}"
    if facts["made"].origin != self._first["made"].origin:
      return (
        f"{facts['host']}: finds another encoder in the checkpoint's folder than "
        f"{self._first['host']}: all nodes must have the same storage; of a run that still trains, "
        "give --which=STEP"
      )
    self._kinds.add(facts["host"], facts["device"])
    return ""


class _Run:
  """What has come of the videos so far.

  Attributes:
    paths: the videos by the absolute path that nodes know them by.
    unreadable: reasons by video.
  """

  def __init__(self, left: Sequence[pathlib.Path], finish: slide_lib.Finish):
    self.paths = {files.absolute(p): p for p in left}
    self.unreadable: dict[pathlib.Path, str] = {}
    self._finish = finish
    self._finished: set[str] = set()
    self._lost_alone: set[str] = set()

  def on_report(self, task: tuple[str, ...], report: tuple[str, dict[str, Any], Any]) -> None:
    """A video is done: its name, facts and features."""
    name, facts, features = report
    if name not in self._finished:
      self._finished.add(name)
      self._finish(self.paths[name], facts, features)

  def on_crash(self, task: tuple[str, ...], crash: Crash) -> list[tuple[str, ...]]:
    """An encoder is lost: its videos are tried again one by one, since any may be the cause."""
    left = [name for name in task if name not in self._finished]
    if len(task) == 1 and left:
      if task[0] in self._lost_alone:
        self.unreadable[self.paths[task[0]]] = crash.reason
        return []
      self._lost_alone.add(task[0])
    return [(name,) for name in left]


class NodeEncoder:
  """The actor of one accelerator: an encoder with its decoding processes."""

  def __init__(
    self,
    checkpoint: str,
    which: str | int,
    cut: dict[str, Any],
    batch_size: int,
    workers: int,
    timeout: float,
    shared: dict[str, int],
    accelerator: str,
  ):
    self._shared = shared
    self._facts: dict[str, Any] = {"error": "", "made": None, "device": ""}
    try:
      self._load(checkpoint, which, cut, batch_size, accelerator)
    except UserError as e:
      self._facts["error"] = str(e)
    self._how: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "timeout": timeout}

  def _load(
    self, checkpoint: str, which: str | int, cut: dict[str, Any], batch_size: int, accelerator: str
  ) -> None:
    from vssl_jax.encoder import encoder

    device = ray_share.device(accelerator)
    loaded = encoder.load_encoder(checkpoint, which)
    self._settings = snippet_encoder.settings_of(loaded, cut)
    self._encode, made = snippet_encoder.build(loaded, self._settings, batch_size)
    self._facts |= {"made": made, "device": device}

  def ready(self) -> dict[str, Any]:
    """What `ray_workers.describe` says, and `made`, `device` and `error` of the encoder."""
    return {**ray_workers.describe(self._shared), **self._facts}

  def work(self, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Encodes videos; yields what `ray_cluster.drive` expects.

    Messages are `(name, facts, features)`, the result has reasons by the names of unreadable
    videos.
    """

    def go(send: Callable[[str, Any], None]) -> None:
      unreadable = slide_lib.slide(
        self._encode,
        [files.path(name) for name in names],
        lambda path, facts, features: send("report", (str(path), facts, features)),
        settings=self._settings,
        **self._how,
      )
      send("result", {str(path): reason for path, reason in unreadable.items()})

    yield from ray_workers.stream(go)
