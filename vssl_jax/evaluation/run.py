"""Runs all evaluation protocols on one checkpoint.

The output folder contains table.md and summary.json, and for each pair of splits a folder with
<protocol>.json (the scores and all settings), pictures, and the subsets of the semi-supervised
protocol as lists of videos. Running again continues an interrupted evaluation. Finished protocols
are not repeated, unless some of their videos could not be read.

Several processes, as of a pod, share the work: each extracts features of its rows of each batch and
gets those of all, queries and the fits of classifiers are split, and what trains the network trains
as a run does. Process 0 writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import files, parallel, results
from vssl_jax.encoder import encoder
from vssl_jax.encoder.hub import repository
from vssl_jax.errors import UserError
from vssl_jax.evaluation import options as options_lib
from vssl_jax.evaluation import pretraining, splits, untrimmed_features
from vssl_jax.evaluation import protocols as protocols_lib
from vssl_jax.evaluation import summary as summary_lib
from vssl_jax.evaluation.pictures import class_bars, page
from vssl_jax.evaluation.protocols import PROTOCOLS
from vssl_jax.evaluation.task import Task
from vssl_jax.files import StrPath, listed, make_folder
from vssl_jax.models import inflate
from vssl_jax.probes import views as views_lib
from vssl_jax.probes.too_few_videos import TooFewVideos
from vssl_jax.training import peers, run_folder

ALL = "all"
_FEATURES = "features"
_RESERVED = {
  _FEATURES,
  untrimmed_features.FOLDER,
}  # folders of the output that are no pair of splits
_CONTINUE = (
  "finished protocols, features and checkpoints of classifiers are kept; run the same command on "
  "every host to continue."
)
_FORMAT = 2  # of the JSON files: raised where a protocol's numbers change


@dataclasses.dataclass(frozen=True)
class Case:
  """One pair of splits: the name of its folder, and the fields of `config.data` that differ."""

  name: str
  values: dict[str, str]


@dataclasses.dataclass
class Plan:
  """The work for one pair of splits: the settings of each protocol, and its outcome."""

  case: Case
  outcome: summary_lib.Outcome
  settings: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def evaluate(
  checkpoint: StrPath,
  *,
  data: StrPath | Sequence[StrPath] = (),
  protocols: str | Sequence[str] = ALL,
  output: StrPath | None = None,
  which: str | int = run_folder.LAST,
  source: str = "",
  data_dir: str = "",
  splits: str | Sequence[str] = (),
  again: bool = False,
  distributed: Mapping[str, Any] | None = None,
  **options: Any,
) -> dict[str, Any]:
  """Runs evaluation protocols on an encoder, and writes a table, scores and pictures.

  Data, views and clips are those of the checkpoint, unless arguments change them. Several folders,
  or several pairs of splits, are evaluated one after the other and averaged. If a protocol fails,
  the summary and the table still contain the protocols that were finished before.

  Args:
    checkpoint: folder of a run or an export, or an address `hf://owner/name`.
    data: folder or folders of prepared records; with `source="tfds"`, names of data sets.
    protocols: names from `vssl_jax.evaluation.protocols.PROTOCOLS`, as a list or separated by
      commas. "all" leaves out those that cannot run on the data.
    output: output folder; by default `evaluation` in the folder of the checkpoint, or
      `evaluation_WHICH` if the checkpoint is not the last.
    which: checkpoint of a run: "last", "best" (by its `config.save.best`), or a step.
    source: `config.data.source` of `data`; "" for "tfrecord", or "arrays" for a run on arrays.
    data_dir: with `source="tfds"`, the folder of TFDS's data.
    splits: pairs "TRAIN:TEST"; by default those of the run.
    again: run finished protocols again.
    distributed: fields of `config.distributed` for several processes, which all make the same call;
      None for one process, or if the processes are connected already.
    **options: fields of `vssl_jax.evaluation.options.Options`, such as `epochs` of fine-tuning.

  Returns:
    The contents of `summary.json`, in types of JSON.

  Raises:
    UserError: unknown protocols, no such checkpoint or data, no labels, or too few videos.
    Preempted: SIGTERM was received; the same call continues.
    PeerLost: the other processes did not come in time.
    TypeError: an unknown option.
  """
  chosen = options_lib.make(**options)
  options_lib.check(chosen)
  wanted = _protocols(protocols, bool(chosen.untrimmed))
  lenient = ALL in _names(protocols)
  if repository.is_address(checkpoint) and not output:
    raise UserError(f"--output: give a folder for the results of {checkpoint}.")
  with peers.joined(distributed, lambda: _CONTINUE):
    checkpoint = repository.local(checkpoint)
    trained, variables, info = encoder.load_encoder(checkpoint, which)
    suffix = "" if which == run_folder.LAST else f"_{which}"
    folder = make_folder(output or files.path(checkpoint) / f"{page.FOLDER}{suffix}")
    peers.require_shared(folder, "--output")
    mesh = parallel.make_mesh()
    cases = _cases(trained, listed(data), source, data_dir, listed(splits))
    tasks = [(case, _task(case, trained, variables, chosen, folder, mesh)) for case in cases]
    summary = _evaluate(tasks, wanted, lenient, folder, trained, info, again)
    if parallel.first() and page.wanted(chosen):
      page.write(files.path(checkpoint), folder)
    return summary


def _evaluate(
  tasks: list[tuple[Case, Task]],
  wanted: list[str],
  lenient: bool,
  output: pathlib.Path,
  trained: ConfigDict,
  info: dict[str, Any],
  again: bool,
) -> dict[str, Any]:
  if again:
    tasks = _forget(tasks, wanted)
  before = pretraining.describe(trained, info)
  told = {k: v for k, v in info.items() if k != "checkpoint"} | {"method": trained.method}
  plans = [_plan(case, task, wanted, before, again, lenient) for case, task in tasks]
  try:
    for plan in plans:
      _run_case(plan, wanted, told)
      page.write_videos(plan.outcome.task, plan.outcome.found, plan.outcome.facts)
  finally:  # process 0 alone, because only one process may have failed
    summary = _summarize(plans, told, output) if parallel.first() else {}
  return parallel.from_first(lambda: results.plain(summary))


def _summarize(plans: list[Plan], told: dict[str, Any], output: pathlib.Path) -> dict[str, Any]:
  for plan in plans:
    plan.outcome.found = _with_earlier(plan)
    if plan.outcome.found:
      _draw_classes(plan.case, plan.outcome)
  return summary_lib.write({plan.case.name: plan.outcome for plan in plans}, told, output)


def _forget(tasks: list[tuple[Case, Task]], wanted: list[str]) -> list[tuple[Case, Task]]:
  """Removes cached features and trained classifiers, which would otherwise be used again.

  Returns:
    New tasks, which have not read anything yet.

  Raises:
    UserError: a setting is impossible; then nothing is removed.
  """
  for _, task in tasks:
    for name in wanted:
      with contextlib.suppress(TooFewVideos):  # reported later
        PROTOCOLS[name].describe(task)
  parallel.from_first(lambda: _remove(tasks, wanted))
  return [(case, dataclasses.replace(task)) for case, task in tasks]


def _remove(tasks: list[tuple[Case, Task]], wanted: list[str]) -> None:
  for _, task in tasks:
    assert task.features_folder is not None
    files.remove_tree(task.features_folder)
    if untrimmed_features.FOLDER in wanted:
      files.remove_tree(task.features_folder.parent / untrimmed_features.FOLDER)
    for name in wanted:
      for run in files.matching(task.output, f"{name}*-*"):
        if run.is_dir():
          files.remove_tree(run)


def _names(given: str | Sequence[str]) -> list[str]:
  names = given.split(",") if isinstance(given, str) else given
  return [name.strip() for name in names if name.strip()]


def _protocols(given: str | Sequence[str], untrimmed: bool) -> list[str]:
  every = [p for p in PROTOCOLS if untrimmed or p != untrimmed_features.FOLDER]
  names = _names(given)
  asked = [*names, *every] if ALL in names else names
  asked = [p for p in asked if p != ALL]
  unknown = [p for p in asked if p not in PROTOCOLS]
  if unknown or not asked:
    what = f"no protocol {unknown[0]!r}" if unknown else "no protocol given"
    raise UserError(f"--protocols: {what}; there are {', '.join(PROTOCOLS)}.")
  return [p for p in PROTOCOLS if p in asked]  # fast protocols first


def _cases(
  trained: ConfigDict,
  folders: Sequence[str] = (),
  source: str = "",
  data_dir: str = "",
  named: Sequence[str] = (),
) -> list[Case]:
  d = trained.data
  if data_dir and source != "tfds":
    raise UserError("--data_dir: it is where TFDS keeps its data: give --source=tfds as well.")
  for folder in folders:
    if not (source or files.path(folder).is_dir() or views_lib.prepared(trained) == "arrays"):
      raise UserError(f"--data: {folder}: no such folder of prepared records.")
  if not (folders or source or d.path or d.name or d.source != "tfrecord"):
    raise UserError("--data: the checkpoint's config names no data; give folders of records.")
  # A colon within brackets belongs to a slice, train[80%:].
  pairs = [re.split(r":(?![^\[]*\])", x) for x in named]
  pairs = pairs or [[d.train_split, d.eval_split]]
  if bad := next((p for p in pairs if len(p) != 2 or not all(p)), None):
    raise UserError(f"--splits: {':'.join(bad)!r} is not TRAIN:TEST, two names of splits.")
  cases: list[Case] = []
  for folder in folders or [""]:
    for first, second in pairs:
      values = {"train_split": first, "eval_split": second}
      if source == "tfds":
        values |= {"source": "tfds", "path": data_dir} | ({"name": folder} if folder else {})
      elif folder or source:
        values |= {"source": source or views_lib.prepared(trained), "path": folder}
        values |= {} if source else {"name": ""}
      path = "" if source == "tfds" else folder or d.path
      name = pathlib.PurePath(os.path.abspath(path) if path else folder).name or d.name or d.source
      name = f"{name}_{first}_{second}" if len(pairs) > 1 else name
      # The checkpoint's own name or source may be a stranger's, and becomes a folder here.
      name = files.check_name(name, "--data, or config.data of the checkpoint")
      taken, count = {c.name for c in cases} | _RESERVED, 1
      while (own := f"{name}-{count}" if count > 1 else name) in taken:
        count += 1
      cases.append(Case(own, values))
  return cases


def _task(
  case: Case,
  trained: ConfigDict,
  variables: Any,
  options: options_lib.Options,
  output: pathlib.Path,
  mesh: Any,
) -> Task:
  config = options_lib.resolved(trained, options)
  config.data.update(case.values)
  config, inflated = inflate.inflated(config, variables)
  if lack := splits.missing(config, mesh):
    raise UserError(f"--data: {case.name}: {lack}.")
  first, second = splits.splits(config)
  folder = output / case.name
  return Task(config, options, inflated, first, second, folder, output / _FEATURES, mesh)


def _plan(
  case: Case,
  task: Task,
  wanted: list[str],
  before: dict[str, Any],
  again: bool,
  lenient: bool,
) -> Plan:
  """Computes all settings first, so that errors are found before anything is trained.

  Raises:
    UserError: a setting is impossible, or there is not enough data for a protocol that was
      requested by name.
  """
  facts = task.facts() | {"format": _FORMAT, "pretraining": before}
  facts["evaluated_sha256"] = _evaluated(facts)
  facts["notes"] = pretraining.notes(before, facts["data"]) + splits.unseen(task)
  for note in facts["notes"]:
    parallel.say(f"{case.name}: note: {note}")
  outcome = summary_lib.Outcome(task, facts)
  plan = Plan(case, outcome)
  for name in wanted:
    protocol = PROTOCOLS[name]
    try:
      plan.settings[name] = protocol.describe(task)
      kept = parallel.from_first(functools.partial(_stored, task.output / f"{name}.json"))
      finished = kept is not None and _finished(kept, _key(name, facts, plan.settings[name]))
      if kept is not None and finished and not again:
        outcome.found[name] = kept
      else:
        protocol.check(task)
    except TooFewVideos as e:
      if not lenient:
        raise
      outcome.skipped[name] = str(e)
      parallel.say(f"{case.name}: {name} is left out: {e}")
  return plan


def _run_case(plan: Plan, wanted: list[str], checkpoint: dict[str, Any]) -> None:
  """Runs the unfinished protocols; adds each result to `plan.outcome` at once."""
  task, case, outcome = plan.outcome.task, plan.case, plan.outcome
  facts = outcome.facts | {"checkpoint": checkpoint}
  make_folder(task.output)
  began = time.perf_counter()
  left = [name for name in wanted if name not in outcome.skipped]
  for i, name in enumerate(left, start=1):
    file = task.output / f"{name}.json"
    head = f"[{i}/{len(left)}] {case.name}: {name}"
    if name in outcome.found:
      parallel.say(f"{head}: finished before ({file})")
      continue
    parallel.say(f"{head} …")
    start = time.perf_counter()
    scores = protocols_lib.run(name, task)
    seconds = time.perf_counter() - start
    settings_told, key = plan.settings[name], _key(name, facts, plan.settings[name])
    data = summary_lib.with_read(facts["data"], scores.pop("read", {}))
    result = facts | {"key": key, "protocol_name": name, "settings": settings_told, "data": data}
    # For facts that the protocol shares with the others (views, BN mode), its own are more exact.
    result = results.plain(result | scores | {"seconds": seconds})
    if parallel.first():
      results.write_json(result, file)
    outcome.found[name] = result
    shown = ", ".join(f"{k} {100 * v:.1f}" for k, v in result["headline"].items())
    total = time.perf_counter() - began
    parallel.say(f"{head}: {shown or 'done'} ({seconds:.0f} s, {total:.0f} s in all)")
    if lost := summary_lib.lost(result):
      parallel.say(f"{head}: {lost} videos could not be read: run again to try them again")
  # Now features may have told what some sources do not: the classes of their videos.
  for note in splits.unseen(task):
    if note not in outcome.facts["notes"]:
      outcome.facts["notes"].append(note)
      parallel.say(f"{case.name}: note: {note}")


def _with_earlier(plan: Plan) -> dict[str, Any]:
  """The results of this call and, for the table, earlier ones of the same encoder and data.

  If a protocol was requested now and failed, an earlier result with other settings is not shown.
  """
  outcome, found = plan.outcome, plan.outcome.found
  for name in set(PROTOCOLS) - set(found) - set(plan.settings):
    earlier = _stored(outcome.task.output / f"{name}.json")
    if earlier and earlier.get("evaluated_sha256") == outcome.facts["evaluated_sha256"]:
      found[name] = earlier
  return {name: found[name] for name in PROTOCOLS if name in found}


def _hash(value: Any) -> str:
  """A hash of a tree of results, with exact numbers."""
  return hashlib.sha256(json.dumps(results.plain(value, results.EXACT)).encode()).hexdigest()


def _evaluated(facts: dict[str, Any]) -> str:
  """A hash of all inputs of a protocol except its settings; independent of file locations."""
  d = facts["data"]
  return _hash(
    [
      _FORMAT,
      facts["encoder_sha256"],
      facts["views"],
      facts["encoder"],
      facts["seed"],
      facts["normalization"],
      d["label_names_sha256"],
      d["train"],
      d["eval"],
    ]
  )


def _key(name: str, facts: dict[str, Any], described: dict[str, Any]) -> str:
  """A hash of everything that determines the numbers of a protocol."""
  return _hash([facts["evaluated_sha256"], name, described])


def _stored(file: pathlib.Path) -> dict[str, Any] | None:
  """A saved result, or None if there is no complete one."""
  try:
    result = files.read_json(file)
  except (OSError, ValueError):
    return None
  return result if isinstance(result, dict) and "key" in result else None


def _finished(result: dict[str, Any], key: str) -> bool:
  """Whether a result has this key and all videos; unreadable videos may be readable now."""
  return result["key"] == key and not summary_lib.lost(result)


def _per_class(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
  for name, result in found.items():
    if "per_class" in result:
      yield name, result["per_class"]
    first = {r["labels"]: r for r in reversed(result.get("subsets", []))}
    for labels, row in reversed(first.items()):
      yield f"semi-supervised, {labels}", row["per_class"]


def _draw_classes(case: Case, outcome: summary_lib.Outcome) -> None:
  task, found = outcome.task, outcome.found
  bars = {name: [row[c] for c in task.label_names] for name, row in _per_class(found)}
  if not bars:
    return
  counts = (r["videos_a_class"] for r in found.values() if "videos_a_class" in r)
  count: dict[str, int] = next(counts, {})
  videos = [count.get(c) for c in task.label_names]
  title = f"{case.name}: top-1 within each class (videos of {task.config.data.eval_split})"
  class_bars.draw(task.output / "per_class.png", bars, task.label_names, videos, title)
