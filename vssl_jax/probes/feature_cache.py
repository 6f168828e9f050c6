"""A cache of features on disk; the file name is a hash of everything that determines them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_pipelines.source import Source
from vssl_jax import files as files_lib
from vssl_jax import models, parallel, results
from vssl_jax.errors import UserError
from vssl_jax.probes import features, views

_PART = 4096  # videos per part file; a kill or an unreadable video loses at most one part
_FORMAT = 2  # increase it when the features change or their `info` gets new facts


def names_hash(*label_names: Sequence[str]) -> str:
  """One hash over the class names of several splits, each in its order."""
  return hashlib.sha256(json.dumps([list(x) for x in label_names]).encode()).hexdigest()


def origin(config: ConfigDict, source: Source, split: str, encoder_sha256: str) -> dict[str, Any]:
  """Everything that determines the features of a split, as a JSON-able dict.

  Args:
    config: the fields `data.eval`, `augment` and `encoder` are read.
    source: the videos of the split, identified by the source's fingerprint.
    split: the split's name.
    encoder_sha256: `results.tree_hash` of the encoder's variables.
  """
  return results.plain(
    {
      "format": _FORMAT,
      "label_names_sha256": names_hash(source.label_names),
      "encoder_sha256": encoder_sha256,
      "encoder": json.loads(config.encoder.to_json()),
      "videos": source.fingerprint,
      "split": split,
      "views": views.settings(config),
      "mean": config.augment.mean,
      "std": config.augment.std,
      "layer": "global average pooling",
      "kept": "mean over views",
      "bn_mode": views.BN_MODE,
    },
    results.EXACT,
  )


def extract(
  folder: pathlib.Path,
  config: ConfigDict,
  variables: features.Variables,
  source: Source,
  split: str,
  *,
  mesh: Mesh | None = None,
  progress: str = "",
) -> features.Features:
  """The features of a split, averaged over the views of each video; read from the cache if present.

  With several processes, each extracts its share of each part, and gets the features of all: the
  probes of features need them in every process. In memory they take 2 GB per process for 240,000
  videos with 2,048 features. The parts are exchanged one by one, in blocks, so that devices hold 64
  MB of them at most. Files instead would be read by every process from a storage that may show them
  late.

  Args:
    folder: the cache folder, created if missing. The features are written to `<split>-<hash>.npz`
      (see `features.save`), by process 0. For a large split, part files hold the finished videos
      until all are done; an interrupted extraction continues from them, with any number of
      processes.
    config: see `origin`.
    variables: the encoder's variables; checked by hash not to change.
    source: the split's videos.
    split: the split's name.
    mesh: see `features.forward`.
    progress: text of the progress bar; "" for none.

  Raises:
    UserError: the split is empty, or features are not finite.
    RuntimeError: the variables changed, which would be a bug.
  """
  before = results.tree_hash(variables)
  facts = origin(config, source, split, before)
  key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
  safe = "".join(x if x.isalnum() or x in "-_." else "_" for x in split)
  file = files_lib.path(folder) / f"{safe}-{key[:16]}.npz"
  if (found := _kept_by_all(file, facts)) is not None:
    return found
  apply = views.feature_fn(models.build_encoder(config.encoder), config)
  names = source.video_names
  total = source.num_videos
  parts, files = [], []
  for start in range(0, max(1, total), _PART):
    stop = min(start + _PART, total)
    own = source if total <= _PART else source.only(range(start, stop))
    files.append(file.with_name(f"{file.stem}.part{start}.npz"))
    part = _kept_by_all(files[-1], facts)
    if part is None or len(part.label) < stop - start:
      part = features.extract(
        apply,
        variables,
        views.eval_batches(own, config),
        mesh=mesh,
        average=True,  # no protocol needs single views, which take up to 30 times the space
        split=split,
        names=names[start:stop],
        label_names=source.label_names,
        info=facts,
        progress=progress and f"{progress}{f' from {start} on' if total > _PART else ''}",
        total=stop - start,
      )
      results.unchanged(variables, before)
      part = dataclasses.replace(part, video=part.video + start)
      if parallel.first() and own is not source and len(part.label) == stop - start:
        features.save(files[-1], part)
    parts.append(part)
  found = _joined(parts)
  lost = total - len(found.label)
  if not parallel.first():
    return found
  if lost:  # the read error may be temporary: without a cached file, the next run tries again
    print(f"{lost} videos of {split} could not be read; its features are not cached", flush=True)
    return found
  features.save(file, found)
  for part_file in files:
    files_lib.unlink(part_file, missing_ok=True)
  return found


def _kept_by_all(file: pathlib.Path, facts: dict[str, Any]) -> features.Features | None:
  """As `_kept`, if every process can read them; otherwise all of them extract again."""
  found = _kept(file, facts)
  return found if parallel.everywhere(found is not None) else None


def _kept(file: pathlib.Path, facts: dict[str, Any]) -> features.Features | None:
  """The cached features with exactly these facts, or None if there are none or they are damaged."""
  if not file.is_file():
    return None
  try:
    found = features.load(file)
  except UserError as e:
    print(f"{e}: extracting again", flush=True)
    return None
  return found if found.info == facts else None


def _joined(parts: Sequence[features.Features]) -> features.Features:
  return dataclasses.replace(
    parts[0],
    features=np.concatenate([p.features for p in parts]),
    label=np.concatenate([p.label for p in parts]),
    video=np.concatenate([p.video for p in parts]),
    offset=np.concatenate([p.offset for p in parts]),
    names=tuple(name for p in parts for name in p.names),
  )
