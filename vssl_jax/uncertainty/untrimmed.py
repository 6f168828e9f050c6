"""Uncertainty and mining along untrimmed videos: in actions, background, and between them.

Park et al. (CVPR 2022) leave untrimmed videos to future work. Here a *moment* is a number of clips
that follow each other closely, whose Gaussians are mixed as those of a trimmed video are. It is an
action if the middles of all its clips lie in annotated actions of one class, background if none
does, and a change otherwise.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from data_pipelines import pixels
from data_pipelines.videos.snippets import SnippetSettings
from data_pipelines.videos.workers import cores
from vssl_jax import files, methods, results
from vssl_jax.encoder import slide, snippet_features
from vssl_jax.errors import UserError
from vssl_jax.files import StrPath
from vssl_jax.localization import annotations as annotations_lib
from vssl_jax.localization.annotations import Annotations
from vssl_jax.methods.base import Gaussians, PairMining
from vssl_jax.ops import gaussian
from vssl_jax.probes.gaussian import Videos
from vssl_jax.training import run_folder
from vssl_jax.uncertainty import mined_pairs

RESULT = "untrimmed.json"
PARTS = ("uncertainty", "predicted", "spread")
BACKGROUND, CHANGE = -1, -2  # instead of a class
OVERLAP = 4  # clips that show each frame
MINED = 512  # moments that pairs are mined among
_BATCH, _TIMEOUT = 16, 600.0


class Moments(NamedTuple):
  """M moments of untrimmed videos.

  Attributes:
    gaussians: the mixture of each; `label` is its class, `BACKGROUND` or `CHANGE`, and `video` the
      number of its video.
    label_names: the classes.
  """

  gaussians: Videos
  label_names: tuple[str, ...]


def analyze_runs(
  checkpoint: StrPath | Sequence[StrPath],
  output: StrPath,
  *,
  untrimmed: StrPath,
  annotations: StrPath = "",
  which: str | int = run_folder.LAST,
) -> dict[str, dict[str, Any]]:
  """Analyzes one or several runs on the same untrimmed videos, and writes `untrimmed.json`.

  Args:
    checkpoint: one or several run folders of ProViCo.
    output: output folder, created if missing.
    untrimmed: see `moments`.
    annotations: see `moments`.
    which: checkpoint of each run: "last", "best" (by its `config.save.best`), or a step.

  Returns:
    What `analyze` returns, by the name of the run's folder.

  Raises:
    UserError: see `moments`; or a run learns no uncertainties.
  """
  found = {}
  for folder in map(files.path, files.listed(checkpoint)):
    config, _, state = run_folder.load_state(folder, which)
    gaussians = methods.evaluator(config).gaussians
    if gaussians is None:
      raise UserError(
        f"{folder}: this is a run of {config.method}, which learns no uncertainties; give a run of "
        "configs/provico.py."
      )
    variables = jax.device_get(gaussians.variables(state.params, state.method))
    seen = moments(config, gaussians, variables, untrimmed, annotations)
    found[folder.absolute().name] = analyze(seen, gaussians.settings, config.seed)
  results.write_json(found, files.make_folder(output) / RESULT)
  return found


def describe(name: str, found: Mapping[str, Any]) -> str:
  """The numbers of one run as text."""
  lines = [f"{name:24} {'moments':>8} {'Σσ²':>8} {'predicted':>10} {'spread':>8}"]
  show = lambda x: "none" if x is None else f"{x:.3f}"  # noqa: E731
  for kind, row in found["kinds"].items():
    three = [show(row[k]) for k in PARTS]
    lines.append(f"  {kind:22} {row['count']:8,} {three[0]:>8} {three[1]:>10} {three[2]:>8}")
  for kind, row in found["auc"].items():
    three = [show(row[k]) for k in PARTS]
    lines.append(
      f"  {'AUC, ' + kind.replace('_', ' '):31} {three[0]:>8} {three[1]:>10} {three[2]:>8}"
    )
  pairs = found["pairs"]
  for kind in pairs["chance"]:
    here, everywhere = show(pairs[kind]), show(pairs["chance"][kind])
    title = f"pairs, {kind.replace('_', ' ')}"
    lines.append(f"  {title:31} {here} of {pairs['mined']:,} mined, {everywhere} of all")
  return "\n".join(lines)


def moments(
  config: ConfigDict,
  gaussians: Gaussians,
  variables: Any,
  folder: StrPath,
  annotations: StrPath = "",
) -> Moments:
  """Slides the network over annotated videos.

  Args:
    config: the run's; clips are as in its evaluation (`data.eval`), moments of `data.clips` clips.
    gaussians: how the method turns clips into Gaussians.
    variables: what `gaussians.apply` reads.
    folder: the videos, or a folder with `videos/` and `annotations.json`.
    annotations: ActivityNet's JSON; "" for `annotations.json` in or beside the folder.

  Raises:
    UserError: there are no videos or annotations, or none fit together.
  """
  root = files.path(folder)
  videos = root / "videos" if (root / "videos").is_dir() else root
  truth = _truth(root, annotations)
  paths = [p for p in snippet_features.find(videos, "--untrimmed") if p.stem in truth]
  if not paths:
    raise UserError(f"--untrimmed: no video in {videos} is annotated.")
  data, e = config.data, config.data.eval
  settings = SnippetSettings(
    frames=e.frames,
    step=e.stride,
    stride=max(1, e.frames * e.stride // OVERLAP),
    fps=0.0,
    resize=e.resize,
    size=e.size,
    channels=data.channels,
    value_range=pixels.value_range(data.value_range, data.channels),
  )
  apply, held = jax.jit(gaussians.apply), jax.device_put(variables)
  found: dict[str, tuple[Mapping[str, Any], np.ndarray]] = {}

  def finish(path: pathlib.Path, facts: dict[str, Any], x: np.ndarray) -> None:
    found[path.stem] = facts, x

  lost = slide.slide(
    lambda x: np.asarray(apply(held, x), np.float32),
    paths,
    finish,
    settings=settings,
    batch_size=_BATCH,
    workers=cores(),
    timeout=_TIMEOUT,
  )
  for path, why in lost.items():
    print(f"left out: {path}: {why}", flush=True)
  if not found:
    raise UserError("--untrimmed: no video could be read.")
  names = annotations_lib.label_names(truth)
  parts = []
  for number, name in enumerate(sorted(found)):
    facts, x = found[name]
    middles = (np.arange(len(x)) * settings.stride + settings.span / 2) / facts["fps"]
    classes = _classes(middles, truth, name, names)
    parts.append((x, classes, np.full(len(x), number)))
  return Moments(_mixed(parts, data.clips), names)


def _truth(root: pathlib.Path, given: StrPath) -> Annotations:
  places = [files.path(given)] if given else [p / "annotations.json" for p in (root, root.parent)]
  for place in places:
    if place.is_file():
      return annotations_lib.read_annotations(place)
  raise UserError(
    f"--annotations: {' and '.join(map(str, places))} are missing; name the ground truth."
  )


def _classes(
  middles: np.ndarray, truth: Annotations, name: str, names: tuple[str, ...]
) -> np.ndarray:
  """The class at each time, or `BACKGROUND`; of overlapping actions the one that starts last."""
  classes = np.full(len(middles), BACKGROUND)
  for s in sorted(truth[name].segments):
    classes[(s.start <= middles) & (middles < s.end)] = names.index(s.label)
  return classes


def _mixed(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], clips: int) -> Videos:
  """The mixture of every `clips` successive clips; shorter videos have one moment of all."""
  means, variances, labels, numbers = [], [], [], []
  for x, classes, number in parts:
    count = min(clips, len(x))
    starts = np.arange(0, len(x) - count + 1, count)
    rows = starts[:, None] + np.arange(count)
    mean, log_variance = np.split(x[rows], 2, axis=-1)
    mixed = gaussian.mixture(jnp.asarray(mean), jnp.asarray(log_variance))
    means.append(np.asarray(mixed[0]))
    variances.append(np.asarray(mixed[1]))
    inside = classes[rows]
    same = (inside == inside[:, :1]).all(axis=1)
    labels.append(np.where(same, inside[:, 0], CHANGE))
    numbers.append(number[starts])
  mean, variance, label, number = map(np.concatenate, (means, variances, labels, numbers))
  return Videos(mean, variance, label.astype(np.int32), number)


def analyze(found: Moments, mining: PairMining, seed: int = 0) -> dict[str, Any]:
  """The numbers: uncertainty by kind of moment, how well it tells them apart, and mined pairs.

  Args:
    found: the moments.
    mining: how the loss of the run mines pairs.
    seed: seed of the moments that pairs are mined among.

  Returns:
    `kinds`: by `action`, `background` and `change`, their `count` and the means of `uncertainty`,
    `predicted` and `spread`. `auc`: by the same three, the probability that background has more of
    it than an action has, and that a change has more than what lasts; None without either.
    `pairs`: of the mined pairs of `moments` moments of different videos, how many there are
    (`mined`), and their shares of `same_action`, `both_background`, `action_and_background` and
    `other_actions`; with the same shares of all pairs, `chance`.
  """
  g = found.gaussians
  label = np.asarray(g.label)
  kinds = {"action": label >= 0, "background": label == BACKGROUND, "change": label == CHANGE}
  parts = {k: np.asarray(getattr(g, k)) for k in PARTS}
  mean = lambda x: float(x.mean()) if len(x) else None  # noqa: E731
  lasts = kinds["action"] | kinds["background"]
  return {
    "kinds": {
      kind: {"count": int(of.sum())} | {k: mean(x[of]) for k, x in parts.items()}
      for kind, of in kinds.items()
    },
    "auc": {
      "background_over_action": {
        k: _auc(x[kinds["background"]], x[kinds["action"]]) for k, x in parts.items()
      },
      "change_over_lasting": {k: _auc(x[kinds["change"]], x[lasts]) for k, x in parts.items()},
    },
    "pairs": _pairs(g.take(np.flatnonzero(lasts)), mining, seed),
  }


def _auc(more: np.ndarray, less: np.ndarray) -> float | None:
  """The probability that a value of `more` is above one of `less`, ties counting half."""
  if not len(more) or not len(less):
    return None
  return float(stats.mannwhitneyu(more, less).statistic / (len(more) * len(less)))


def _pairs(lasting: Videos, mining: PairMining, seed: int) -> dict[str, Any]:
  count = min(MINED, len(lasting.mean))
  chosen = np.sort(np.random.default_rng(seed).permutation(len(lasting.mean))[:count])
  some = lasting.take(chosen)
  _, positive = mined_pairs.mine(some, mining, seed)
  label, video = np.asarray(some.label), some.numbers
  apart = video[:, None] != video[None, :]
  a, b = label[:, None], label[None, :]
  kinds = {
    "same_action": (a == b) & (a >= 0),
    "both_background": (a < 0) & (b < 0),
    "action_and_background": (a < 0) != (b < 0),
    "other_actions": (a != b) & (a >= 0) & (b >= 0),
  }
  share = lambda of: {  # noqa: E731
    k: float((kind & of).sum() / of.sum()) if of.any() else None for k, kind in kinds.items()
  }
  mined = positive & apart
  return {"moments": count, "mined": int(mined.sum()), **share(mined), "chance": share(apart)}
