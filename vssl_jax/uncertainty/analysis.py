"""Analyzes ProViCo's uncertainty as in the paper, for one run or several runs side by side.

Two terms of the loss push the uncertainty of all videos, whatever they show: ½ log s pushes it
down, the divergence from N(0, I) pushes it up. A correlation over training cannot separate this
from learning. So compare the runs `demo`, `demo,soft` (without ½ log s) and `demo,no_kl` (without
the divergence) side by side.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.source import Batches, Source, Wrapped
from vssl_jax import files as files_lib
from vssl_jax import methods, parallel, results
from vssl_jax.errors import UserError
from vssl_jax.files import StrPath, listed
from vssl_jax.methods.base import PairMining
from vssl_jax.probes import gaussian
from vssl_jax.probes import views as views_lib
from vssl_jax.training import metrics_log, peers, run_config, run_folder, sources
from vssl_jax.training import step as step_lib
from vssl_jax.uncertainty import correlation, corruptions, figures, mined_pairs

RESULT = "analysis.json"
_NEIGHBORS = 4  # number of positives and of negatives shown per video


class Frames(Wrapped):
  """A source that stores the middle frame of some videos while it is read.

  Attributes:
    kept: uint8 `[H, W, C]`, keyed by the index of the video.
  """

  def __init__(self, source: Source, videos: Iterable[int]):
    super().__init__(source)
    self._wanted = frozenset(map(int, videos))
    self.kept: dict[int, np.ndarray] = {}

  def eval_batches(self, *args: Any, **kwargs: Any) -> Batches:
    """The batches of the wrapped source."""
    for batch in self._source.eval_batches(*args, **kwargs):
      valid = batch.get("valid", np.ones(len(batch["video"]), bool))
      for video, views, real in zip(batch["video"], batch["clips"], valid, strict=True):
        if real and int(video) in self._wanted:
          clip = views[len(views) // 2]
          self.kept[int(video)] = np.array(clip[len(clip) // 2])
      yield batch


def analyze_runs(
  checkpoint: StrPath | Sequence[StrPath],
  output: StrPath,
  *,
  which: str | int = run_folder.LAST,
  data: StrPath = "",
  videos: Sequence[int] = (),
  quantiles: int = 5,
  distributed: Mapping[str, Any] | None = None,
) -> tuple[dict[str, dict[str, Any]], list[pathlib.Path]]:
  """Analyzes one or several runs; writes pictures of them side by side and `analysis.json`.

  Args:
    checkpoint: one or several run folders of ProViCo.
    output: output folder, created if missing.
    which: see `analyze`.
    data: folder of prepared records; "" for that of each run.
    videos: indices of the training videos whose pairs are shown.
    quantiles: number of groups of videos by uncertainty.
    distributed: fields of `config.distributed` for several processes, which all make the same call;
      None for one process, or if the processes are connected already. Process 0 writes.

  Returns:
    The numbers of each run, keyed by its folder's name, and the paths of the written files.

  Raises:
    UserError: see `analyze`; or two folders have the same name.
  """
  folders = [files_lib.path(f) for f in listed(checkpoint)]
  names = [f.absolute().name for f in folders]
  if len(set(names)) < len(names):
    raise UserError(
      "--checkpoint: two folders have the same name, but pictures are named by it; rename one."
    )
  with peers.joined(distributed, lambda: "run the same command on every host again."):
    runs = {
      name: analyze(folder, which=which, data=data, videos=videos, quantiles=quantiles)
      for name, folder in zip(names, folders, strict=True)
    }
    written = write(runs, files_lib.path(output)) if parallel.first() else []
    return runs, [files_lib.path(f) for f in parallel.from_first(lambda: list(map(str, written)))]


def analyze(
  folder: StrPath,
  *,
  which: str | int = run_folder.LAST,
  data: StrPath = "",
  videos: Sequence[int] = (),
  quantiles: int = 5,
) -> dict[str, Any]:
  """The numbers of one run, over all its kept checkpoints, and the rows of its picture of pairs.

  Args:
    folder: the run's folder.
    which: the checkpoint to analyze in detail (videos, pairs, corruption): "last", "best" (by the
      run's `config.save.best`), or a step.
    data: folder of prepared records; "" for that of the run.
    videos: indices of the training videos whose pairs are shown; () for six, evenly spaced by
      uncertainty.
    quantiles: number of groups of videos by uncertainty.

  Raises:
    UserError: there is no such run or no checkpoint, or something that was asked for is missing.
  """
  folder = files_lib.path(folder)
  config = methods.from_file(run_config.load_config(folder), folder / run_config.CONFIG)
  if methods.evaluator(config).gaussians is None:
    raise UserError(
      f"{folder}: this is a run of {config.method}, which learns no uncertainties; give a run of "
      "configs/provico.py."
    )
  with run_folder.open_run(folder) as kept:
    chosen = run_folder.choose(kept, folder, which)
    return _analyze(folder, kept, chosen, str(data), tuple(videos), quantiles)


def _analyze(
  folder: pathlib.Path,
  kept: run_folder.Run,
  chosen: tuple[int, step_lib.TrainState],
  data: str,
  wanted: tuple[int, ...],
  groups: int,
) -> dict[str, Any]:
  config = kept.config
  config.data.fraction = 1.0
  if data:
    config.data.source, config.data.path = views_lib.prepared(config), data
  count = jax.process_count()
  opened = lambda split: views_lib.Cached(sources.load_source(config, split, batch_size=count))  # noqa: E731
  train = opened(config.data.train_split)
  labeled = bool(train.label_names)
  test = opened(config.data.eval_split) if labeled else None
  if test is not None:
    correlation.check_groups(test.num_videos, groups)
  gaussians = methods.evaluator(config).gaussians
  assert gaussians is not None  # checked by `analyze`

  def extract(source: Source, variables: Any, what: str) -> gaussian.Videos:
    progress = f"{folder.name}, {what}"
    return gaussian.extract(gaussians.apply, variables, source, config, progress=progress)

  places = _batch(train.num_videos, config, wanted)
  frames = Frames(train, places)
  epoch = config.steps_per_epoch or max(1, train.num_videos // config.batch_size)
  out: dict[str, Any] = {"training": []}
  step = chosen[0]
  others = [x for x in kept.reader.steps if x != step] if labeled else []
  for at in [*others, step]:  # the chosen one last: its videos are looked at below
    state = kept.reader.read(at, kept.like) if at != step else chosen[1]
    variables = jax.device_get(gaussians.variables(state.params, state.method))
    bank = extract(frames, variables, f"step {at}, training split")
    if test is not None:
      queries = extract(test, variables, f"step {at}, evaluation split")
      row = correlation.scores(bank.labeled("training"), queries.labeled("evaluation"))
      out["training"].append({"step": at, "epoch": at / epoch, **row})
  out["training"].sort(key=lambda row: row["step"])
  frames.kept = parallel.gather_numbered(frames.kept)
  out["step"] = step
  out["pairs"] = _pairs(config, gaussians.settings, bank, places, frames, wanted)
  out["distance_on"] = gaussians.settings.distance_on
  if test is None:
    return {k: out[k] for k in ("step", "pairs", "distance_on")}

  bank, queries = bank.labeled("training"), queries.labeled("evaluation")
  hit = gaussian.hits(bank, queries)
  out["logged"] = _logged(folder)
  parts = ("uncertainty", "predicted", "spread")
  out["videos"] = {"hit": hit, **{k: getattr(queries, k) for k in parts}}
  out["quantiles"] = correlation.by_quantile(queries.uncertainty, hit, groups)
  out["corruption"] = [{"name": "", "strength": 0.0, **correlation.scores(bank, queries)}]
  for name, (_, strengths) in corruptions.CORRUPTIONS.items():
    for strength in strengths:
      worse = corruptions.Corrupted(test, name, strength, config.seed)
      seen = extract(worse, variables, f"{name} {strength:g}").labeled("evaluation")
      row = correlation.scores(bank, seen)
      out["corruption"].append({"name": name, "strength": strength, **row})
  out["correlations"] = correlation.correlations(out)
  return out


def _batch(videos: int, config: ConfigDict, chosen: Iterable[int]) -> np.ndarray:
  """The indices of a batch of videos as in training; the chosen ones come first."""
  chosen = list(dict.fromkeys(chosen))
  if bad := [v for v in chosen if not 0 <= v < videos]:
    raise UserError(f"--videos: no training video {bad[0]}; there are {videos}, counted from 0.")
  rest = np.random.default_rng(config.seed).permutation(videos)
  rest = rest[~np.isin(rest, chosen)]
  count = max(len(chosen), min(config.batch_size, videos))
  return np.concatenate([np.array(chosen, int), rest])[:count]


def _pairs(
  config: ConfigDict,
  settings: PairMining,
  bank: gaussian.Videos,
  places: np.ndarray,
  frames: Frames,
  wanted: tuple[int, ...],
) -> list[dict[str, Any]]:
  at = {video: place for place, video in enumerate(bank.numbers.tolist())}
  if lost := [v for v in wanted if v not in at]:
    raise UserError(f"--videos: training video {lost[0]} could not be read.")
  places = np.array([v for v in places if int(v) in at], int)
  few = bank.take(np.array([at[int(v)] for v in places], int))
  apart, positive = mined_pairs.mine(few, settings, config.seed)
  names = frames.label_names

  def item(place: int, **more: float) -> dict[str, Any]:
    label, video = few.label[place], int(places[place])
    return {
      "frame": frames.kept[video],
      "video": video,
      "uncertainty": float(few.uncertainty[place]),
      "label": names[label] if 0 <= label < len(names) else "",
      **more,
    }

  rows = []
  anchors = range(len(wanted)) if wanted else mined_pairs.evenly_spaced(few.uncertainty, 6)
  for anchor in anchors:
    near, far = mined_pairs.neighbors(apart, positive, anchor, _NEIGHBORS)
    listed = lambda pairs: [item(p.video, distance=p.distance) for p in pairs]  # noqa: E731
    rows.append({"anchor": item(anchor), "positives": listed(near), "negatives": listed(far)})
  return rows


def _logged(folder: pathlib.Path) -> list[list[float]]:
  file = folder / metrics_log.FILE
  rows = metrics_log.read(folder) if file.is_file() else []
  return [[r["epoch"], r["uncertainty"]] for r in rows if "uncertainty" in r and "epoch" in r]


def write(runs: dict[str, dict[str, Any]], output: pathlib.Path) -> list[pathlib.Path]:
  """Writes the pictures and `analysis.json`; returns the paths of all files."""
  for name, found in runs.items():
    title = (
      f"{name}, step {found['step']}: pairs mined among a batch of training videos\n"
      f"D: distance of {found['distance_on']}; Σσ²: uncertainty; #: number of the video; border: "
      "the same label (green) or another (red)"
    )
    figures.pairs(output / f"pairs_{_safe(name)}.png", found["pairs"], title)
  files = [output / f"pairs_{_safe(name)}.png" for name in runs]
  full = {name: found for name, found in runs.items() if "videos" in found}
  if full:
    pictures: dict[str, tuple[Callable[[pathlib.Path, Any], None], Any]] = {
      "training.png": (figures.training, full),
      "quantiles.png": (
        figures.quantiles,
        {k: v["quantiles"] for k, v in full.items()},
      ),
      "corruption.png": (
        figures.corruption,
        {k: v["corruption"] for k, v in full.items()},
      ),
    }
    for file, (draw, rows) in pictures.items():
      draw(output / file, rows)
      files.append(output / file)
  results.write_json({name: _numbers(found) for name, found in runs.items()}, output / RESULT)
  return [*files, output / RESULT]


def _numbers(value: Any) -> Any:
  """The value without its thumbnails, so that only numbers and text are left."""
  if isinstance(value, dict):
    return {k: _numbers(v) for k, v in value.items() if k != "frame"}
  return [_numbers(v) for v in value] if isinstance(value, list) else value


def _safe(name: str) -> str:
  return re.sub(r"[^\w.-]", "_", name)


def describe(name: str, found: dict[str, Any]) -> str:
  """The correlations of one run as text, one line each."""
  titles = {
    "videos": "uncertainty and hit, by video",
    "training": "uncertainty and R@1, by checkpoint",
    "corruption": "uncertainty and R@1, by corruption",
  }
  parts = {
    "": "",
    ", predicted": "  only the part that the head predicts",
    ", spread": "  only the spread of the clips' means",
  }
  lines = [f"{name}, step {found['step']}"]
  correlations = found.get("correlations", {})
  for key, words in titles.items():
    for suffix, of_part in parts.items():
      if key + suffix in correlations:
        lines.append(f"  {of_part or words:40} {correlation.verdict(correlations[key + suffix])}")
  kinds = dict.fromkeys(r["name"] for r in found.get("corruption", []) if r["name"])
  for suffix, of_part in parts.items():
    alone = {k: correlations.get(f"strength, {k}{suffix}", {}).get("rho") for k in kinds}
    if alone:
      rho = ", ".join(f"{k} {'none' if v is None else f'{v:+.2f}'}" for k, v in alone.items())
      lines.append(f"  {of_part or 'strength and uncertainty':40} Spearman {rho}")
  return "\n".join(lines)
