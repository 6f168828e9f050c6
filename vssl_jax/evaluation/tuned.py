"""The protocols that fine-tune the whole network, starting from the checkpoint."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.evaluation import classifier, subsets
from vssl_jax.evaluation import options as options_lib
from vssl_jax.evaluation.task import (
  Protocol,
  Result,
  Task,
  check_labels,
  describe_classifier,
  headline,
  training,
)


def _finetune_config(task: Task) -> ConfigDict:
  o = task.options
  return options_lib.finetuning(task.config, len(task.label_names), o, o.epochs)


def _describe_finetune(task: Task) -> Result:
  config = _finetune_config(task)
  devices(task.mesh, min(task.train.num_videos, config.batch_size))
  return training(config)


def _run_finetune(task: Task) -> Result:
  found = _tuned(task, _finetune_config(task), None, "finetune")
  return found | {"headline": headline(task, found["top1"], found["top5"])}


def _tuned(task: Task, config: ConfigDict, videos: Sequence[int] | None, name: str) -> Result:
  count = task.train.num_videos if videos is None else len(videos)
  found = classifier.classifier(
    config,
    task.variables,
    task.output,
    devices(task.mesh, min(count, config.batch_size)),
    task.train,
    task.test,
    name=name,
    videos=videos,
  )
  return describe_classifier(found) | {
    "bn_mode": "inference at test; batch statistics, moving, in training"
  }


def devices(mesh: Mesh, videos: int) -> Mesh:
  """All devices; if a batch has fewer videos, the first ones, as many of each process.

  Args:
    mesh: all devices.
    videos: the number of training videos or, if that is smaller, the batch size.

  Raises:
    UserError: there are fewer videos than processes.
  """
  if videos >= mesh.size:
    return mesh
  owned: dict[int, list[jax.Device]] = {}
  for device in mesh.devices.flat:
    owned.setdefault(device.process_index, []).append(device)
  if videos < len(owned) and len(owned) > 1:
    raise UserError(
      f"a classifier would be trained on {videos} videos at a time by {len(owned)} processes: "
      "start fewer processes, or give a larger --batch_size or fraction (--fractions)."
    )
  share = max(1, videos // len(owned))
  return parallel.make_mesh([d for own in owned.values() for d in own[:share]])


@dataclasses.dataclass(frozen=True)
class _Subset:
  group: str  # scores are averaged over subsets of one group, e.g. "1 %"
  tag: str  # part of file names, e.g. "1pct_seed0"
  videos: np.ndarray  # indices in the training split


def _chosen(task: Task) -> list[_Subset]:
  bank, options = task.bank, task.options
  if options.subsets:
    names = task.train.video_names
    listed = [subsets.read(f, names, task.train.num_videos) for f in options.subsets]
    stems = [pathlib.PurePath(f).stem for f in options.subsets]
    return [_Subset(s, s, v) for s, v in zip(stems, listed, strict=True)]
  chosen = []
  for f in options.fractions:
    for seed in options.subset_seeds:
      videos = bank.video[subsets.balanced(bank.label, f, seed)]
      chosen.append(_Subset(f"{100 * f:g} %", f"{100 * f:g}pct_seed{seed}", videos))
  return chosen


def _subset_config(task: Task) -> ConfigDict:
  o = task.options
  return options_lib.finetuning(
    task.config, len(task.label_names), o, o.semi_epochs or 5 * o.epochs
  )


def _describe_semi(task: Task) -> Result:
  chosen = [{"labels": s.group, "name": s.tag, "numbers": s.videos} for s in _chosen(task)]
  choice = "files given" if task.options.subsets else "class-balanced, at least one video per class"
  for subset in chosen:
    devices(task.mesh, min(len(subset["numbers"]), task.options.batch_size))
  return training(_subset_config(task)) | {"subsets": chosen, "choice": choice}


def _run_semi(task: Task) -> Result:
  bank = task.bank
  place = {int(v): i for i, v in enumerate(bank.video)}
  rows: list[Result] = []
  for subset in _chosen(task):
    own = [place[int(v)] for v in subset.videos if int(v) in place]
    label = bank.label[own]
    if missing := len(subset.videos) - len(own):
      parallel.say(f"  {subset.tag}: {missing} of its videos could not be read")
    if not len(own) or label.min() < 0:
      raise UserError(f"semi_supervised, {subset.tag}: a video of the subset has no label.")
    file = task.output / f"subset_{subset.tag}.tsv"
    names = [bank.names[i] for i in own] if bank.names else [""] * len(own)
    numbers = bank.video[own].tolist()
    if parallel.first():
      subsets.write(file, numbers, label.tolist(), names, task.label_names)
    found = _tuned(task, _subset_config(task), numbers, f"semi_supervised_{subset.tag}")
    counts = np.bincount(label, minlength=len(task.label_names))
    rows.append(
      found
      | {
        "labels": subset.group,
        "subset_file": file.name,
        "labelled_videos": len(own),
        "videos_a_class": dict(zip(task.label_names, counts.tolist(), strict=True)),
      }
    )
  groups = dict.fromkeys(r["labels"] for r in rows)
  top1 = {g: [r["top1"] for r in rows if r["labels"] == g] for g in groups}
  spread = {g: float(np.std(x, ddof=1)) for g, x in top1.items() if len(x) > 1}
  headline = {f"{g} of labels, top-1": float(np.mean(x)) for g, x in top1.items()}
  read = {"train": len(bank.label), "eval": min(r.pop("read")["eval"] for r in rows)}
  return {"subsets": rows, "std_over_subsets": spread, "read": read, "headline": headline}


SEMI_SUPERVISED = Protocol(
  "the whole network fine-tuned on a small class-balanced subset of the labels",
  _describe_semi,
  _run_semi,
  False,
  check_labels,
)
FINETUNE = Protocol(
  "the whole network fine-tuned with all labels of the training split",
  _describe_finetune,
  _run_finetune,
  False,
  check_labels,
)
