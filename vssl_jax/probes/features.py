"""Feature extraction: runs a frozen network once over every view of every video of a source."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vssl_jax import files, parallel
from vssl_jax.cli import progress as progress_lib
from vssl_jax.errors import UserError

Batch = Mapping[str, np.ndarray]
Variables = Mapping[str, Any]
Apply = Callable[[Variables, jax.Array], jax.Array]

_ARRAYS = ("features", "label", "video", "offset")  # fields with one row per video


@dataclasses.dataclass(frozen=True)
class Features:
  """The outputs of a network for each video, sorted by video index.

  Attributes:
    features: float32 [V, S, F], F numbers for each of S views of V videos.
    label: int32 [V], class index; −1 if unknown.
    video: int64 [V], index of the video in its split, ascending.
    offset: int32 [V, S'], first frame of each view (S' > S if views were averaged).
    names: V names of the videos, or empty if the source knows none.
    label_names: name of each class.
    info: JSON-able facts about the origin (hashes of config and checkpoint, protocol).
  """

  features: np.ndarray
  label: np.ndarray
  video: np.ndarray
  offset: np.ndarray
  names: tuple[str, ...] = ()
  label_names: tuple[str, ...] = ()
  info: dict[str, Any] = dataclasses.field(default_factory=dict)

  def mean(self) -> np.ndarray:
    """Mean over the views, float32 [V, F] (accumulated in float64)."""
    return self.features.mean(axis=1, dtype=np.float64).astype(np.float32)


def part(found: Features, rows: np.ndarray) -> Features:
  """Some of the videos.

  Args:
    found: the features of all.
    rows: bool `[V]` or their positions, ascending.
  """
  names = tuple(np.asarray(found.names, object)[rows]) if found.names else ()
  arrays = {key: getattr(found, key)[rows] for key in _ARRAYS}
  return dataclasses.replace(found, names=names, **arrays)


def forward(
  apply: Apply,
  variables: Variables,
  batches: Iterable[Batch],
  *,
  mesh: Mesh | None = None,
  chunk: int = 0,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
  """Runs a network over evaluation batches; the outputs contain no padding rows.

  All calls of the network have the same shape, `[chunk, T, H, W, C]`: the views of all videos are
  flattened, cut into chunks and padded with zeros at the end. So `apply` must treat the rows of
  its batch independently, as batch norm does in inference mode. A chunk is split over the devices
  of this process; processes never wait for each other here. As many views go to a device at a time
  as with all devices in one process, so that the outputs are the same bits.

  Args:
    apply: `(variables, clips uint8 [chunk, T, H, W, C]) -> [chunk, F]`; jitted here.
    variables: collections that `apply` reads; never written.
    batches: dicts with clips uint8 [N, S, T, H, W, C], label [N], video [N], offset [N, S] and
      optionally valid bool [N].
    mesh: the devices to run on, of which only those of this process are used; None takes all.
    chunk: views per call, rounded up to a multiple of the devices; 0 takes the first batch's N.

  Yields:
    `(outputs float32 [n, S, F], rows)`, where n is the number of valid rows and `rows` holds
    their label, video and offset.
  """
  devices = mesh.local_devices if mesh else jax.local_devices()
  meshes = parallel.local_meshes(devices, jax.process_count())
  # Copy through the host: with several processes, arrays may also live on devices of the others.
  given = jax.device_get(variables)
  each = [
    (
      jax.jit(apply, out_shardings=parallel.split(m)),
      jax.device_put(given, parallel.replicated(m)),
      parallel.split(m),
    )
    for m in meshes
  ]

  def start(batch: Batch):
    nonlocal chunk
    clips = np.asarray(batch["clips"])
    chunk = -(-(chunk or len(clips)) // len(devices)) * len(devices)
    keep = np.asarray(batch.get("valid", np.ones(len(clips), bool)))
    rows = {key: np.asarray(batch[key])[keep] for key in ("label", "video", "offset")}
    clips = clips if keep.all() else clips[keep]
    views = clips.reshape(-1, *clips.shape[2:])
    outputs = []
    for part in (views[i : i + chunk] for i in range(0, len(views), chunk)):
      if len(part) < chunk:
        part = np.concatenate([part, np.zeros((chunk - len(part), *part.shape[1:]), part.dtype)])
      for (run, shared, split), rows_of in zip(each, np.split(part, len(each)), strict=True):
        outputs.append(run(shared, jax.device_put(rows_of, split)))
    return outputs, clips.shape[:2], rows

  def finish(outputs, shape, rows):
    flat = np.concatenate([np.asarray(x, np.float32) for x in outputs])[: shape[0] * shape[1]]
    return flat.reshape(*shape, -1), rows

  waiting = None  # the device computes one batch while the host reads the next
  for batch in batches:
    started = start(batch)
    if waiting and waiting[0]:
      yield finish(*waiting)
    waiting = started
  if waiting and waiting[0]:
    yield finish(*waiting)


def extract(
  apply: Apply,
  variables: Variables,
  batches: Iterable[Batch],
  *,
  mesh: Mesh | None = None,
  chunk: int = 0,
  average: bool = False,
  split: str = "",
  names: Sequence[str] = (),
  label_names: Sequence[str] = (),
  info: Mapping[str, Any] | None = None,
  progress: str = "",
  total: int = 0,
) -> Features:
  """`collect` of `forward`: a whole split, from all processes.

  Args:
    apply: see `forward`.
    variables: see `forward`.
    batches: see `forward`; with several processes, each passes its own share.
    mesh: see `forward`.
    chunk: see `forward`.
    average: see `collect`, as for the rest.
    split: the split's name.
    names: name of each video.
    label_names: name of each class.
    info: facts to store.
    progress: text before a progress bar.
    total: expected number of videos.

  Returns:
    Features sorted by video index, each video once.

  Raises:
    UserError: the batches hold no video, or an output is not finite.
  """
  return collect(
    forward(apply, variables, batches, mesh=mesh, chunk=chunk),
    average=average,
    split=split,
    names=names,
    label_names=label_names,
    info=info,
    progress=progress,
    total=total,
  )


def collect(
  found: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]],
  *,
  average: bool = False,
  split: str = "",
  names: Sequence[str] = (),
  label_names: Sequence[str] = (),
  info: Mapping[str, Any] | None = None,
  progress: str = "",
  total: int = 0,
) -> Features:
  """Collects outputs for a whole split, from all processes.

  Args:
    found: what `forward` yields, in any order.
    average: keep only the mean over the views, features [V, 1, F].
    split: the split's name, for messages.
    names: name of each video, indexed by `video`; empty if unknown.
    label_names: name of each class.
    info: facts to store with the features.
    progress: text before a progress bar with rate and remaining time; "" for none.
    total: expected number of videos, of all processes, for the bar.

  Returns:
    Features sorted by video index, each video once.

  Raises:
    UserError: the batches hold no video, or an output is not finite.
  """
  bar = progress_lib.bar(
    progress, -(-total // jax.process_count()), shown=bool(progress) and parallel.first()
  )
  parts = []
  with bar:
    for outputs, rows in found:
      if average:
        outputs = outputs.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
      parts.append((outputs, rows["label"], rows["video"], rows["offset"]))
      bar.update(len(outputs))
  rows = combine([dict(zip(_ARRAYS, part, strict=True)) for part in parts])
  _require_finite(rows["features"], split)
  return Features(
    features=rows["features"],
    label=rows["label"].astype(np.int32),
    video=rows["video"].astype(np.int64),
    offset=rows["offset"].astype(np.int32),
    names=tuple(str(names[v]) for v in rows["video"]) if len(names) else (),
    label_names=tuple(label_names),
    info=dict(info or {}),
  )


def _require_finite(outputs: np.ndarray, split: str) -> None:
  # Without this check, rankings and votes computed from NaN would look like valid scores.
  bad = np.sum([not np.isfinite(x).all() for x in outputs])
  if bad:
    raise UserError(
      f"{f'split {split!r}' if split else 'the split'}: the network's output is NaN or infinite "
      f"for {bad} of {len(outputs)} videos, so scores would be meaningless: check the weights and "
      "batch-norm statistics, or use an earlier checkpoint."
    )


def combine(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Joins the rows of all batches and all processes, sorted by `video`, each video once.

  Args:
    parts: one dict per batch; every array has one row per video, and `video` is the index.

  Raises:
    UserError: no process has a video.
  """
  own = [part for part in parts if len(part["video"])]
  rows = parallel.gather_rows(
    {key: np.concatenate([part[key] for part in own]) for key in own[0]} if own else {}
  )
  if not rows or not len(rows["video"]):
    raise UserError(
      "the split to evaluate holds no video that can be read: check data.path and the split's name"
    )
  _, first = np.unique(rows["video"], return_index=True)  # two processes may read the same video
  return {key: x[first] for key, x in rows.items()}


def save(path: str | os.PathLike[str], features: Features) -> None:
  """Writes an `.npz` file (no pickles): the arrays, names, and `info` as JSON text; atomic."""
  files.make_folder(files.path(path).parent)
  with files.replacing(path) as f:
    np.savez(
      f,
      **{key: getattr(features, key) for key in _ARRAYS},
      names=np.array(features.names, np.str_),
      label_names=np.array(features.label_names, np.str_),
      info=np.array(json.dumps(features.info, sort_keys=True)),
    )


def load(path: str | os.PathLike[str]) -> Features:
  """Reads what `save` wrote.

  Raises:
    UserError: the file is missing, damaged, or not a feature file.
  """
  try:
    f = files.read_npz(path)
    found = Features(
      **{key: f[key] for key in _ARRAYS},
      names=tuple(map(str, f["names"].ravel().tolist())),
      label_names=tuple(map(str, f["label_names"].ravel().tolist())),
      info=files.parse_json(str(f["info"].item())),
    )
    _require_rows(found)
    return found
  except FileNotFoundError:
    raise UserError(f"{path}: no such feature file; write one with vssl_jax.export") from None
  except (OSError, ValueError, KeyError) as e:
    raise UserError(f"{path}: not a complete feature file ({e}); export it again") from None


def _require_rows(found: Features) -> None:
  """Checks that the arrays have one row per video, in the types of `Features`."""
  count = len(found.features) if found.features.ndim else -1
  kinds = {"features": "f"} | dict.fromkeys(set(_ARRAYS) - {"features"}, "iu")
  for name in _ARRAYS:
    x = getattr(found, name)
    if x.dtype.kind not in kinds[name] or x.shape[:1] != (count,):
      raise ValueError(f"{name} is {x.dtype}{list(x.shape)}, of {count} videos")
  if len(found.names) not in (0, count) or not isinstance(found.info, dict):
    raise ValueError("its names or its info do not fit")
