"""Where `prepare` writes its shards: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from data_pipelines.listing import video_list
from data_pipelines.prepare.shards import STATE, Shard
from data_pipelines.videos import ray_cluster, ray_workers, workers
from vssl_jax import files
from vssl_jax.errors import UserError

Run = Callable[..., Generator[tuple[Any, Any]]]  # as `workers.run`, its number of workers given
_SEEN_IN = 180.0  # seconds until a file from another node must be seen; NFS remembers for a minute
_VIDEOS = 3  # whose size each node compares


def choose(engine: str, address: str, count: int, output: pathlib.Path) -> Run:
  """The function that runs the shards; nothing starts before it is called.

  Args:
    engine: "local" or "ray".
    address: of the Ray cluster, see `ray_cluster.joined`.
    count: number of workers; 0 for one per core.
    output: folder of the records.

  Raises:
    UserError: no such engine, an address without Ray, or Ray is not installed.
  """
  ray_cluster.check(engine, address)
  if engine == "local":
    return functools.partial(workers.run, workers=count or workers.cores())
  return functools.partial(_on_ray, address, count, output)


def _on_ray(
  address: str,
  count: int,
  output: pathlib.Path,
  function: Callable[..., Any],
  tasks: Sequence[Shard],
  **options: Any,
) -> Generator[tuple[Shard, Any]]:
  """`ray_workers.run` on storage that all nodes must share: they say whether they do."""
  # A worker has another current folder than this process.
  tasks = [
    dataclasses.replace(t, path=files.absolute(t.path), root=files.absolute(t.root)) for t in tasks
  ]
  written = []
  with _token(output) as shared:
    shared |= _videos(tasks)
    results = ray_workers.run(
      function, tasks, count=count, address=address, shared=shared, **options
    )
    with contextlib.closing(results):
      for task, result in results:
        written.append(task)
        yield task, result
  _await(written)


@contextlib.contextmanager
def _token(output: pathlib.Path) -> Iterator[dict[str, int]]:
  """A new file in OUTPUT, by which a node shows that it has the same OUTPUT."""
  file = files.path(files.absolute(output)) / STATE / f".tmp-shared-{secrets.token_hex(8)}"
  files.write_text(file, "shared\n")
  try:
    yield {str(file): len("shared\n")}
  finally:
    files.unlink(file, missing_ok=True)


def _videos(tasks: Sequence[Shard]) -> dict[str, int]:
  """Some videos and their sizes, by which a node shows that it has INPUT."""
  every = (
    (video_list.locate(task.root, entry.path), size)
    for task in tasks
    for entry, size in zip(task.entries, task.sizes, strict=True)
    if size >= 0
  )
  return dict(video for video, _ in zip(every, range(_VIDEOS), strict=False))


def _await(written: Sequence[Shard], patience: float = _SEEN_IN) -> None:
  """Waits until this machine sees what the nodes wrote, which takes a while on network storage.

  Raises:
    UserError: it does not see a shard.
  """
  until = time.monotonic() + patience
  for task in written:
    while task.result() is None:
      if time.monotonic() > until:
        raise UserError(
          f"{task.path}: written by a node, but not seen here: run the same command again later"
        )
      time.sleep(0.5)
