"""Slides an encoder over untrimmed videos: one `.npy` file of snippet features `[T, D]` per video.

`config.data.source = "localization"` reads these files, with an `annotations.json` in the same
folder or in another place. `manifest.json` describes how they were made. Files are written
atomically, so an interrupted run continues when it is started again.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from vssl_jax import files
from vssl_jax import results as results_lib
from vssl_jax.errors import UserError
from vssl_jax.files import make_folder, replacing

if TYPE_CHECKING:
  from data_pipelines.videos.snippets import SnippetSettings

MANIFEST, JOURNAL = "manifest.json", "progress.jsonl"
Checkpoint = str | os.PathLike[str] | tuple[Any, Any, dict[str, Any]]
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
  batch_size: int = 16,
  workers: int = 0,
  timeout: float = TIMEOUT,
  progress: bool = False,
) -> dict[str, Any]:
  """Writes `<output>/<video's name>.npy`, float32 `[T, D]`, and the manifest.

  Args:
    checkpoint: folder of a run or an export, of any method with an encoder of clips.
    videos: a folder of videos; its subfolders are read too.
    output: created if missing; a folder has features of one encoder with one group of settings.
    which: checkpoint of a run: "last", "best" (by its `config.save.best`), or a step.
    frames: frames per snippet.
    step: distance between neighboring frames of a snippet, in frames.
    stride: distance between the starts of neighboring snippets, in frames.
    fps: frame rate at which videos are read; 0 for the frame rate of each video.
    resize: short side, pixels; None for the value that the checkpoint is evaluated with.
    size: side of the central square, pixels; None as for `resize`.
    batch_size: snippets per call of the encoder.
    workers: number of decoding processes; 0 for one per core.
    timeout: seconds to wait for the next snippet of a video before the video counts as unreadable;
      0 for no limit, in which case a single worker decodes in this process.
    progress: print one line per video.

  Returns:
    The manifest. Set `config.data.localization.step_seconds` to its `step_seconds`; `unreadable`
    lists the videos that are left out.

  Raises:
    UserError: bad arguments, no such checkpoint, no videos, two videos with one name, or `output`
      has features of something else.
  """
  from data_pipelines.videos.snippets import SnippetSettings
  from vssl_jax.encoder import encoder

  if batch_size < 1 or workers < 0 or not 0 <= timeout <= 1e9:
    raise UserError("--batch_size must be positive, --workers and --timeout not negative.")
  loaded = encoder.load_encoder(checkpoint, which)
  views = loaded[0].data.eval
  settings = SnippetSettings(
    frames=frames,
    step=step,
    stride=stride,
    fps=fps,
    resize=views.resize if resize is None else resize,
    size=views.size if size is None else size,
  )
  return extract(
    loaded,
    videos,
    output,
    settings,
    batch_size=batch_size,
    workers=workers,
    timeout=timeout,
    progress=progress,
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
    timeout: seconds to wait for the next snippet of a video before the video counts as unreadable;
      0 for no limit, in which case a single worker decodes in this process.
    progress: print one line per video.

  Returns:
    The manifest.

  Raises:
    UserError: bad arguments, no videos, two videos with one name, or `out` has features of
      something else.
  """
  from data_pipelines.videos import snippets
  from data_pipelines.videos import workers as workers_lib

  out = files.path(out)
  paths = find(files.path(videos))
  encode, width, made_from = _encoder(checkpoint, settings, batch_size)
  make_folder(out)
  journal = _Journal(out / JOURNAL, made_from)
  left = [p for p in paths if not journal.has(p)]
  if progress:
    print(f"{len(paths)} videos, {len(paths) - len(left)} of them done before", flush=True)
  unreadable: dict[pathlib.Path, str] = {}
  killed: set[pathlib.Path] = set()  # whose worker was killed before

  def finish(path: pathlib.Path, facts: dict[str, Any], features: np.ndarray) -> None:
    _save(out / f"{path.stem}.npy", features)
    journal.add(path, facts)
    if progress:
      print(f"{path.stem}: {len(features)} snippets", flush=True)

  def crashed(task: snippets.Task, crash: workers_lib.Crash) -> snippets.Task | None:
    batches.drop(task.path)
    if crash.outside and task.path not in killed:
      killed.add(task.path)
      return task
    unreadable[task.path] = crash.reason
    return None

  batches = _Batches(encode, batch_size, finish)
  tasks = [snippets.Task(p, settings) for p in left]
  results = workers_lib.run(
    snippets.send,
    tasks,
    workers=workers or _cores(),
    timeout=timeout,
    on_crash=crashed,
    on_report=lambda task, snippet: batches.add(task.path, snippet),
  )
  for task, facts in results:
    if "error" in facts:
      unreadable[task.path] = facts["error"]
      batches.drop(task.path)
    else:
      batches.end(task.path, facts)
  batches.flush()
  journal.write()
  entries = {p.stem: journal.facts(p) for p in paths if p not in unreadable}
  manifest = {
    **made_from,
    "step_seconds": settings.stride / settings.fps if settings.fps else None,
    "width": width,
    "counts": {
      "videos": len(entries),
      "unreadable": len(unreadable),
      "snippets": sum(e["snippets"] for e in entries.values()),
      "seconds": sum(e["seconds"] for e in entries.values()),
    },
    "videos": entries,
    "unreadable": [{"path": str(p), "reason": unreadable[p]} for p in sorted(unreadable)],
  }
  results_lib.write_json(manifest, out / MANIFEST)
  return manifest


def find(folder: pathlib.Path, flag: str = "--videos") -> list[pathlib.Path]:
  """Videos at any depth, sorted by name.

  Args:
    folder: where they lie.
    flag: which named the folder, for errors.

  Raises:
    UserError: there are none, or two have one name, so their features would have one file.
  """
  from data_pipelines.videos.video_list import EXTENSIONS

  if not folder.is_dir():
    raise UserError(f"{flag}: {folder} is no folder.")
  if files.is_remote(folder):
    found = [folder / name for name in files.tree(folder)]
  else:
    found = [p for p in folder.rglob("*") if p.is_file()]
  inside = (p for p in found if p.suffix.lower() in EXTENSIONS)
  by_name: dict[str, pathlib.Path] = {}
  for path in sorted(inside):
    if path.stem in by_name:
      raise UserError(f"{flag}: {by_name[path.stem]} and {path} have one name; rename either.")
    by_name[path.stem] = path
  if not by_name:
    raise UserError(f"{flag}: {folder} holds no videos ({', '.join(sorted(EXTENSIONS))}).")
  return [by_name[name] for name in sorted(by_name)]


def _encoder(
  checkpoint: Checkpoint, settings: SnippetSettings, batch_size: int
) -> tuple[Callable[[np.ndarray], np.ndarray], int, dict[str, Any]]:
  """The encoder as a function of uint8 `[batch_size, T, H, W, 3]`, its D, and its origin."""
  import jax

  from vssl_jax import models
  from vssl_jax.encoder import encoder
  from vssl_jax.models import inflate
  from vssl_jax.probes import views as views_lib

  loaded = checkpoint if isinstance(checkpoint, tuple) else encoder.load_encoder(checkpoint)
  config, variables, info = loaded
  digest = results_lib.tree_hash(variables)
  config, variables = inflate.inflated(config, variables)
  apply = jax.jit(views_lib.feature_fn(models.build_encoder(config.encoder), config))
  clips = jax.ShapeDtypeStruct(
    (batch_size, settings.frames, settings.size, settings.size, 3), np.uint8
  )
  width = jax.eval_shape(apply, variables, clips).shape[1]
  variables = jax.device_put(variables)
  a = config.augment
  made_from = {
    "encoder_sha256": digest,
    "checkpoint": {k: str(v) if isinstance(v, os.PathLike) else v for k, v in info.items()},
    "encoder": config.encoder.to_dict(),
    "preprocessing": {
      **dataclasses.asdict(settings),
      "mean": list(a.mean),
      "std": list(a.std),
      "crop": "central square",
      "scale": "0 to 1, minus mean, over std",
    },
  }
  return lambda x: np.asarray(apply(variables, x), np.float32), width, made_from


class _Batches:
  """Gathers snippets of several videos into full batches, and returns features by video."""

  def __init__(self, encode: Callable[[np.ndarray], np.ndarray], size: int, finish: Callable):
    self._encode, self._size, self._finish = encode, size, finish
    self._waiting: list[tuple[pathlib.Path, np.ndarray]] = []
    self._features: dict[pathlib.Path, list[np.ndarray]] = collections.defaultdict(list)
    self._ended: dict[pathlib.Path, dict[str, Any]] = {}

  def add(self, path: pathlib.Path, snippet: np.ndarray) -> None:
    self._waiting.append((path, snippet))
    if len(self._waiting) == self._size:
      self.flush()

  def end(self, path: pathlib.Path, facts: dict[str, Any]) -> None:
    self._ended[path] = facts
    self._settle()

  def drop(self, path: pathlib.Path) -> None:
    self._waiting = [row for row in self._waiting if row[0] != path]
    self._features.pop(path, None)

  def flush(self) -> None:
    """Encodes the waiting snippets, in a batch padded with zeros so that its shape is constant."""
    if self._waiting:
      clips = np.stack([snippet for _, snippet in self._waiting])
      empty = np.zeros((self._size - len(clips), *clips.shape[1:]), clips.dtype)
      rows = self._encode(np.concatenate([clips, empty]))
      for (path, _), row in zip(self._waiting, rows, strict=False):
        self._features[path].append(row)
      self._waiting = []
    self._settle()

  def _settle(self) -> None:
    for path in [p for p, f in self._ended.items() if len(self._features[p]) == f["snippets"]]:
      self._finish(path, self._ended.pop(path), np.stack(self._features.pop(path)))


class _Journal:
  """The list of finished videos, one per line, after a line about what all were made from."""

  def __init__(self, path: pathlib.Path, made_from: dict[str, Any]):
    self._path, self._facts = path, {}
    # The checkpoint's path and number of steps do not matter, only its weights.
    head = {k: v for k, v in made_from.items() if k != "checkpoint"}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [row for row in map(_parse, lines) if row is not None]
    if rows and rows[0] != json.loads(json.dumps(head)):
      changed = sorted(k for k in head if rows[0].get(k) != json.loads(json.dumps(head[k])))
      raise UserError(
        f"--output: {path.parent} holds features of another {' and '.join(changed)}; give another "
        "folder, or remove this one."
      )
    for row in rows[1:]:
      self._facts[row["name"]] = row
    # Rewritten, so that a line cut short by a kill does not merge with the next one.
    self._head = head
    self.write()

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
  try:
    return json.loads(line)
  except ValueError:
    return None


def _write_lines(path: pathlib.Path, rows: Iterable[dict[str, Any]]) -> None:
  with replacing(path) as file:
    file.write("".join(json.dumps(row) + "\n" for row in rows).encode())


def _save(path: pathlib.Path, features: np.ndarray) -> None:
  with replacing(path) as file:
    np.save(file, features)


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
