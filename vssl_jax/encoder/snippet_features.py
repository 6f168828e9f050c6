"""Slides an encoder over untrimmed videos: one `.npy` file of snippet features `[T, D]` per video.

`config.data.source = "localization"` reads these files, with an `annotations.json` in the same
folder or in another place. `manifest.json` describes how they were made. Files are written
atomically, so an interrupted run continues when it is started again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from data_pipelines import arrays
from data_pipelines.listing import finding
from data_pipelines.videos import ray_cluster
from data_pipelines.videos import workers as workers_lib
from data_pipelines.videos.snippets import SnippetSettings
from vssl_jax import files, parallel
from vssl_jax import results as results_lib
from vssl_jax.encoder import ray_features, snippet_encoder
from vssl_jax.encoder import slide as slide_lib
from vssl_jax.encoder.snippet_encoder import Checkpoint
from vssl_jax.errors import UserError
from vssl_jax.files import lock, make_folder, replacing

MANIFEST, JOURNAL = "manifest.json", "progress.jsonl"
TIMEOUT = 600.0  # seconds
_EVERY = 30.0  # seconds between two writes of the journal to a bucket


def extract_features(
  checkpoint: str | os.PathLike[str],
  videos: str | os.PathLike[str],
  output: str | os.PathLike[str],
  *,
  which: str | int = "last",
  frames: int = 16,
  step: int = 1,
  stride: int = 16,
  fps: float = 25.0,
  resize: int | None = None,
  size: int | None = None,
  raw_aspect: bool = False,
  stream_fps: float = 0.0,
  max_gap: float = 0.0,
  batch_size: int = 16,
  workers: int = 0,
  timeout: float = TIMEOUT,
  engine: str = "local",
  address: str = "",
  progress: bool = False,
) -> dict[str, Any]:
  """Writes `<output>/<video's name>.npy`, float32 `[T, D]`, and the manifest.

  Args:
    checkpoint: folder of a run or an export, of any method with an encoder of clips.
    videos: a video, or a folder of videos, or of arrays (`.npy`), whose frame rate is
      `stream_fps`; its subfolders are read too.
    output: created if missing; a folder has features of one encoder with one group of settings.
    which: checkpoint of a run: "last", "best" (by its `config.save.best`), or a step.
    frames: frames per snippet.
    step: distance between neighboring frames of a snippet, in frames.
    stride: distance between the starts of neighboring snippets, in frames.
    fps: frame rate at which videos are read; 0 for the frame rate of each video.
    resize: short side, pixels; None for the value that the checkpoint is evaluated with.
    size: side of the central square, pixels; None as for `resize`.
    raw_aspect: keep frames as they are stored if their pixels are not square.
    stream_fps: frames per second of arrays, and of streams without time stamps; 0 for the rate that
      streams state.
    max_gap: longest gap between two frames, seconds; a video with a longer one counts as
      unreadable. 0 sets no limit.
    batch_size: snippets per call of the encoder.
    workers: number of decoding processes, with Ray for each encoder; 0 for one per core.
    timeout: seconds that decoding a video may take before it counts as unreadable; a video of more
      than two minutes may take this time for each two minutes of it. 0 for no limit, in which case
      a single worker decodes in this process.
    engine: "local" runs on one device of this machine, "ray" on all accelerators of a Ray cluster,
      or on its processors if it has none. All nodes must have `checkpoint` and `videos` on shared
      storage under the same path, and the same software.
    address: of the Ray cluster: "HOST:PORT" of its head node, or "auto" on one of its nodes; by
      default the environment's RAY_ADDRESS, else a new cluster on this machine.
    progress: print one line per video.

  Returns:
    The manifest. Set `config.data.localization.step_seconds` to its `step_seconds`; `unreadable`
    lists the videos that are left out.

  Raises:
    UserError: bad arguments, no such checkpoint, no videos, two videos with one name, `output` has
      features of something else or another process extracts into it, or the cluster cannot do the
      work.
  """
  from vssl_jax.encoder import encoder

  if batch_size < 1 or workers < 0 or not 0 <= timeout <= 1e9:
    raise UserError("--batch_size must be positive, --workers and --timeout not negative.")
  ray_cluster.check(engine, address)
  cut = {
    "frames": frames, "step": step, "stride": stride, "fps": fps, "resize": resize, "size": size,
    "raw_aspect": raw_aspect, "stream_fps": stream_fps, "max_gap": max_gap,
  }  # fmt: skip
  how: Any = {"batch_size": batch_size, "workers": workers, "timeout": timeout}
  if engine == "ray":
    out, paths = files.path(output), find(files.path(videos))
    with ray_features.encoders(address, checkpoint, which, cut, paths, **how) as (made, slide):
      return _write(out, paths, made, slide, progress)
  loaded = encoder.load_encoder(checkpoint, which)
  return extract(
    loaded, videos, output, snippet_encoder.settings_of(loaded, cut), **how, progress=progress
  )


def extract(
  checkpoint: Checkpoint,
  videos: str | os.PathLike[str],
  out: str | os.PathLike[str],
  settings: SnippetSettings,
  *,
  batch_size: int = 16,
  workers: int = 0,
  timeout: float = TIMEOUT,
  progress: bool = False,
) -> dict[str, Any]:
  """Writes `<out>/<video's name>.npy`, float32 `[T, D]`, and the manifest.

  Args:
    checkpoint: folder of a run or an export, or what `encoder.load_encoder` returns for it.
    videos: a folder of videos; its subfolders are read too.
    out: created if missing; a folder has features of one checkpoint with one group of settings.
    settings: how snippets are cut.
    batch_size: snippets per call of the encoder.
    workers: number of decoding processes; 0 for one per core.
    timeout: seconds that decoding a video may take before it counts as unreadable; a video of more
      than two minutes may take this time for each two minutes of it. 0 for no limit, in which case
      a single worker decodes in this process.
    progress: print one line per video.

  Returns:
    The manifest.

  Raises:
    UserError: bad arguments, no videos, two videos with one name, or `out` has features of
      something else or another process extracts into it.
  """
  out = files.path(out)
  paths = find(files.path(videos))
  encode, made = snippet_encoder.build(checkpoint, settings, batch_size)
  slide = functools.partial(
    slide_lib.slide,
    encode,
    settings=settings,
    batch_size=batch_size,
    workers=workers or workers_lib.cores(),
    timeout=timeout,
  )
  return _write(out, paths, made, slide, progress)


def _write(
  out: pathlib.Path,
  paths: list[pathlib.Path],
  made: snippet_encoder.Made,
  slide: Callable[..., dict[pathlib.Path, str]],
  progress: bool,
) -> dict[str, Any]:
  """Extracts what is not there yet, file by file, and writes the manifest.

  With several processes, each extracts every n-th video.

  Args:
    out: folder for the features.
    paths: all videos.
    made: what the features are made from.
    slide: `slide(paths, finish)`, as `slide.slide` with its other arguments given.
    progress: print one line per video.

  Returns:
    The manifest.
  """
  if not made.settings.stream_fps and any(map(arrays.is_array, paths)):
    raise UserError("--stream_fps: arrays have no frame rate; give it, frames per second.")
  make_folder(out)
  with _sole_writer(out):
    before = parallel.from_first(lambda: _merge(out, made.origin).rows)
    journal = _Journal(out / _journal_of(jax.process_index()), made.origin, before)
    share = paths[jax.process_index() :: jax.process_count()]
    left = [p for p in share if not journal.has(p)]
    if progress:
      print(f"{len(share)} videos, {len(share) - len(left)} of them done before", flush=True)

    def finish(path: pathlib.Path, facts: dict[str, Any], features: np.ndarray) -> None:
      _save(out / f"{path.stem}.npy", features)
      journal.add(path, facts)
      if progress:
        print(f"{path.stem}: {len(features)} snippets", flush=True)

    try:
      unreadable = slide(left, finish)
    finally:
      if not lock.is_lost():  # else the journal is another process's
        journal.write()
    lost = parallel.gather_text({str(p): reason for p, reason in unreadable.items()})
    return parallel.from_first(lambda: _finish(out, paths, made, lost))


@contextlib.contextmanager
def _sole_writer(out: pathlib.Path) -> Iterator[None]:
  """Holds the lock of the folder; of several processes of one extraction, the first one does."""
  with contextlib.ExitStack() as held:

    def acquire() -> None:
      try:
        held.enter_context(lock.hold(out / ".lock"))
      except lock.Held:
        raise UserError(
          f"--output: another process extracts features into {out}; wait for it to end, or give "
          "another folder."
        ) from None

    parallel.from_first(acquire)
    yield


def _merge(out: pathlib.Path, origin: dict[str, Any]) -> _Journal:
  """Makes one journal of those of all processes, of this run or of one that was broken off."""
  journal = _Journal(out / JOURNAL, origin)
  if others := files.matching(out, _journal_of("*")):
    for file in others:
      journal.take(_Journal(file, origin))
    journal.write()
    for file in others:
      files.unlink(file)
  return journal


def _journal_of(process: int | str) -> str:
  """The name of a process's journal; each has its own, as lines of several would mix."""
  stem, _, suffix = JOURNAL.partition(".")
  return f"{stem}-{process}.{suffix}" if process else JOURNAL


def _finish(
  out: pathlib.Path,
  paths: list[pathlib.Path],
  made: snippet_encoder.Made,
  unreadable: dict[str, str],
) -> dict[str, Any]:
  """Writes the manifest and returns it."""
  journal = _merge(out, made.origin)
  settings = made.settings
  entries = {p.stem: journal.facts(p) for p in paths if str(p) not in unreadable}
  manifest = {
    **made.origin,
    "step_seconds": settings.stride / settings.fps if settings.fps else None,
    "width": made.width,
    "counts": {
      "videos": len(entries),
      "unreadable": len(unreadable),
      "snippets": sum(e["snippets"] for e in entries.values()),
      "seconds": sum(e["seconds"] for e in entries.values()),
    },
    "videos": entries,
    "unreadable": [{"path": p, "reason": unreadable[p]} for p in sorted(unreadable)],
  }
  results_lib.write_json(manifest, out / MANIFEST)
  return manifest


def find(folder: pathlib.Path, flag: str = "--videos") -> list[pathlib.Path]:
  """Videos at any depth, sorted by name, or arrays where there are no videos.

  Which files are videos is as in `prepare`.

  Args:
    folder: where they lie; or a single video.
    flag: which named the folder, for errors.

  Raises:
    UserError: there are none, or two have one name, so their features would have one file.
  """
  if folder.is_file():
    if folder.suffix.lower() not in finding.EXTENSIONS | finding.ARRAYS:
      raise UserError(f"{flag}: {folder} is no video that is known by its extension.")
    return [folder]
  if not folder.is_dir():
    raise UserError(f"{flag}: {folder} is no folder and no video.")
  try:
    found = finding.find(folder)
  except UserError as error:
    try:
      found = finding.find(folder, finding.ARRAYS)
    except UserError:
      raise UserError(f"{flag}: {error}.") from None
  if found.lost:
    print(f"note: {files.printable(found.lost)}", file=sys.stderr, flush=True)
  by_name: dict[str, pathlib.Path] = {}
  for path in found.files():
    if path.stem in by_name:
      raise UserError(f"{flag}: {by_name[path.stem]} and {path} have one name; rename either.")
    by_name[path.stem] = path
  return [by_name[name] for name in sorted(by_name)]


class _Journal:
  """The list of finished videos, one per line, after a line about what all were made from."""

  def __init__(
    self, path: pathlib.Path, made_from: dict[str, Any], before: Iterable[dict[str, Any]] = ()
  ):
    self._path = path
    self._facts: dict[str, dict[str, Any]] = {row["name"]: row for row in before}
    # The checkpoint's path and number of steps do not matter, only its weights.
    head = {k: v for k, v in made_from.items() if k != "checkpoint"}
    lines = files.read_text(path).splitlines() if path.exists() else []
    rows = [row for row in map(_parse, lines) if row is not None]
    if rows and rows[0] != json.loads(json.dumps(head)):
      changed = sorted(k for k in head if rows[0].get(k) != json.loads(json.dumps(head[k])))
      raise UserError(
        f"--output: {path.parent} holds features of another {' and '.join(changed)}; give another "
        "folder, or remove this one."
      )
    for row in rows[1:]:
      if _is_finished(row):
        self._facts[row["name"]] = row
    # Rewritten, so that a line cut short by a kill does not merge with the next one.
    self._head = head
    self.write()

  @property
  def rows(self) -> list[dict[str, Any]]:
    """The lines of all finished videos."""
    return list(self._facts.values())

  def take(self, other: _Journal) -> None:
    """Adds the videos of another journal."""
    self._facts |= other._facts

  def has(self, path: pathlib.Path) -> bool:
    row = self._facts.get(path.stem)
    made = self._path.parent / f"{path.stem}.npy"
    return row is not None and row["bytes"] == path.stat().st_size and made.is_file()

  def add(self, path: pathlib.Path, facts: dict[str, Any]) -> None:
    row = {"name": path.stem, "bytes": path.stat().st_size, **facts}
    self._facts[path.stem] = row
    if files.is_remote(self._path):  # nothing can be appended to an object
      if time.monotonic() - self._written > _EVERY:
        self.write()
      return
    with open(self._path, "a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")

  def write(self) -> None:
    """Writes the whole list."""
    _write_lines(self._path, [self._head, *self._facts.values()])
    self._written = time.monotonic()

  def facts(self, path: pathlib.Path) -> dict[str, Any]:
    return {k: v for k, v in self._facts[path.stem].items() if k != "name"}


def _parse(line: str) -> dict[str, Any] | None:
  """A line of the journal; None if it was cut short or damaged."""
  try:
    row = files.parse_json(line)
  except ValueError:
    return None
  return row if isinstance(row, dict) else None


def _is_finished(row: dict[str, Any]) -> bool:
  """Whether a line has what the manifest tells of a video; without it the video is done again."""
  counts = [row.get(k) for k in ("bytes", "snippets", "seconds")]
  numbers = all(isinstance(n, int | float) and math.isfinite(n) for n in counts)
  return numbers and isinstance(row.get("name"), str)


def _write_lines(path: pathlib.Path, rows: Iterable[dict[str, Any]]) -> None:
  with replacing(path) as file:
    file.write("".join(json.dumps(row) + "\n" for row in rows).encode())


def _save(path: pathlib.Path, features: np.ndarray) -> None:
  with replacing(path) as file:
    np.save(file, features)
