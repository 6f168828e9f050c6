"""Locates actions in untrimmed videos with a trained BaS-Net or DCC: `vssl_jax.localize`.

The output is `predictions.json` (ActivityNet's format), `timelines/<video>.png` and, if there are
annotations, `truth.json` and `scores.json`. Of raw videos, also their `features/`, a page and, if
wanted, the videos with their timelines.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vssl_jax import files, methods, results
from vssl_jax.encoder import snippet_features
from vssl_jax.errors import UserError
from vssl_jax.evaluation.pictures import page
from vssl_jax.files import local, make_folder
from vssl_jax.jobs import overlay as overlay_lib
from vssl_jax.jobs import raw_videos
from vssl_jax.localization import feature_folders
from vssl_jax.localization import outcome as outcome_lib
from vssl_jax.localization import scores as scores_lib
from vssl_jax.localization import timelines as timelines_lib
from vssl_jax.localization.annotations import Predictions
from vssl_jax.localization.source import SequenceSource, sequences_of
from vssl_jax.methods.base import Localizer
from vssl_jax.training import run_folder, sources

SCORES, FEATURES = "scores.json", "features"  # in the output folder


def localize(
  checkpoint: str | os.PathLike[str],
  output: str | os.PathLike[str],
  *,
  which: str | int = run_folder.LAST,
  data: str | os.PathLike[str] = "",
  annotations: str | os.PathLike[str] = "",
  durations: str | os.PathLike[str] = "",
  split: str = "",
  thresholds: Sequence[float] = (),
  timelines: int = 8,
  videos: str | os.PathLike[str] = "",
  encoder: str | os.PathLike[str] = "",
  overlay: str | os.PathLike[str] = "",
) -> dict[str, Any]:
  """Locates actions in the test split of a run, in a folder of features, or in raw videos.

  If there are annotations, predictions are scored and drawn together with the ground truth. If
  there are none, actions are located in all videos of the folder.

  Args:
    checkpoint: folder of a run of `configs/dcc.py`.
    output: folder for predictions, pictures and scores.
    which: its checkpoint to use: "last", "best" (by its `config.save.best`), or a step.
    data: folder of `<video>.npy` or in another form of `localization.feature_folders`, with
      features of the kind that the run was trained on, such as `extract_features` writes; "" for
      the data of the run.
    annotations: ground truth, ActivityNet's JSON; "" for `annotations.json` or `gt.json` in `data`,
      if there is one.
    durations: CSV of video_id, duration_s, if the annotations have no durations.
    split: subset of the annotations; "" for the run's evaluation split.
    thresholds: thresholds of the proposals; () for those of the run.
    timelines: number of videos to draw, evenly spaced.
    videos: a video or a folder of videos, instead of `data`. Their features are extracted as those
      that the run was trained on, whose folder must still have its manifest.
    encoder: folder of the encoder for `videos`, if it is no longer where the manifest says.
    overlay: with `videos`, also write them with their timelines: the file to write for one video,
      a folder for several.

  Returns:
    `videos`, `segments` and, with annotations, `scores` as in `scores.json`; with `videos`, also
    `unreadable`, the paths of those that were left out.

  Raises:
    UserError: there is no such run, the run is of another method, there is no such data, or the
      data has another width or other classes.
  """
  folder = files.path(checkpoint)
  config, _, state = run_folder.load_state(folder, which)
  localizer = methods.evaluator(config).localizer
  if localizer is None:
    raise UserError(
      f"--checkpoint: {folder} is a run of {config.method}, which does not localize; give one of "
      "configs/dcc.py."
    )
  given = {"annotations": str(annotations), "durations": str(durations)}
  if videos and data:
    raise UserError("VIDEO and --data: give raw videos or features, not both.")
  if not videos and (encoder or overlay):
    raise UserError("--encoder and --overlay are for raw videos: give VIDEO.")
  output, made = files.path(output), {}
  if videos:
    made = raw_videos.extract(config, videos, output / FEATURES, encoder=encoder)
    data = output / FEATURES
  source = open_split(config, localizer, str(data), split=split, **given)
  output = make_folder(output)
  params = jax.device_get(state.params)
  options = dict(localizer.predict)
  if len(thresholds):  # an array has no truth of its own
    chosen = {"thresholds": tuple(thresholds)}
    options["settings"] = dataclasses.replace(options["settings"], **chosen)
  predictions, accuracy = scores_lib.predict(localizer.activate(params), source, **options)
  outcome_lib.write(output, predictions, source)
  drawn = localizer.look(params, state.method)
  timelines_lib.timelines(
    output, drawn, source, predictions, batch_size=options["batch_size"], videos=timelines
  )
  outcome: dict[str, Any] = {
    "videos": len(predictions),
    "segments": sum(map(len, predictions.values())),
  }
  if any(video.segments for video in source.videos):
    scores = scores_lib.score(source, predictions, accuracy, protocol=localizer.protocol)
    outcome["scores"] = scores
    results.write_json(scores, output / SCORES)
  if videos:
    outcome["unreadable"] = [lost["path"] for lost in made["unreadable"]]
    if overlay:
      seconds = {name: facts["seconds"] for name, facts in made["videos"].items()}
      _overlay(files.path(videos), files.path(overlay), source, predictions, seconds)
    page.write(output, output)
  return results.plain(outcome)


def _overlay(
  videos: pathlib.Path,
  target: pathlib.Path,
  source: SequenceSource,
  predictions: Predictions,
  seconds: Mapping[str, float],
) -> None:
  """Writes the videos of a source with their timelines; `target` is a folder for several."""
  one = videos.is_file()
  paths = {path.stem: path for path in snippet_features.find(videos)}
  make_folder(target.parent if one else target)
  for v, name in enumerate(source.names):
    overlay_lib.write(
      target if one else target / f"{name}.mp4",
      paths[name],
      predictions[name],
      seconds=seconds[name],
      truth=source.videos[v].segments,
    )


def open_split(
  config: ConfigDict,
  localizer: Localizer,
  data: str,
  *,
  annotations: str = "",
  durations: str = "",
  split: str = "",
) -> SequenceSource:
  """The videos to localize.

  Args:
    config: the config of a run.
    localizer: the localizer of its method.
    data: folder of features; "" for the data of the run.
    annotations: ground truth; "" for `annotations.json` or `gt.json` in the folder.
    durations: CSV of durations, if the annotations have none.
    split: subset of the annotated videos; by default the run's evaluation split.

  Raises:
    UserError: there is no such data, or it has another width or unknown classes.
  """
  from data_pipelines.untrimmed import sequences

  chosen, split = split, split or config.data.eval_split
  if not data:
    if annotations or durations:
      raise UserError("--annotations and --durations are of other videos: give their --data.")
    return sequences_of(sources.load_source(config, split))
  config = config.copy_and_resolve_references().unlock()
  fields = config.data.localization
  config.data.source, config.data.path = "localization", data
  fields.annotations, fields.durations = annotations, durations
  names = localizer.label_names
  if not names:
    raise UserError(
      "--data: the run is of before class names were kept; it knows its own data only."
    )
  where = {"batch_size": 1, "seed": 0, "process_index": 0, "process_count": 1}
  if annotations or feature_folders.find(local(data), tuple(fields.streams)).annotations():
    dataset = sequences.read(config.data, split, label_names=names)
  else:
    if chosen or durations:
      raise UserError(
        f"--split and --durations are of annotated videos: give --annotations, or put "
        f"annotations.json into {data}."
      )
    split = sequences.UNLABELED
    dataset = sequences.unlabeled(config.data, names)
  source = sequences.LocalizationSource(config.data, dataset, split=split, **where)
  width = source.sequence(0).shape[1]
  if width != localizer.width:
    raise UserError(
      f"--data: {data} has features of width {width}, the run was trained on {localizer.width}."
    )
  return source
