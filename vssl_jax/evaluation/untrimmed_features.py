"""Extracts snippet features of untrimmed videos; `configs/dcc.py` learns localization on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vssl_jax import parallel
from vssl_jax.encoder import snippet_features
from vssl_jax.errors import UserError
from vssl_jax.evaluation.task import Protocol, Result, Task
from vssl_jax.files import local

if TYPE_CHECKING:
  from data_pipelines.videos.snippets import SnippetSettings

FOLDER = "localization_features"  # a subfolder of the evaluation's output


def _settings(task: Task) -> SnippetSettings:
  """16 frames at 25 frames per second, as in `extract_features`, at the size of the eval views."""
  from data_pipelines import pixels
  from data_pipelines.videos.snippets import SnippetSettings

  d = task.config.data
  bounds = pixels.value_range(d.value_range, d.channels)
  how = {"channels": d.channels, "value_range": bounds, "stream_fps": d.videos.stream_fps}
  return SnippetSettings(resize=d.eval.resize, size=d.eval.size, **how)


def _describe(task: Task) -> Result:
  from data_pipelines.records import fingerprint
  from data_pipelines.videos import decode

  if not task.options.untrimmed:
    raise UserError(f"--protocols={FOLDER}: give the untrimmed videos, --untrimmed=DIR.")
  folder = local(task.options.untrimmed)
  videos = fingerprint.of_files(snippet_features.find(folder, "--untrimmed"), folder)
  return {"snippets": decode.described(_settings(task)), "videos_fingerprint": videos}


def _run(task: Task) -> Result:
  checkpoint: tuple[Any, Any, Any] = (task.config, task.variables, {})
  assert task.features_folder is not None
  out = task.features_folder.parent / FOLDER
  made = snippet_features.extract(checkpoint, task.options.untrimmed, out, _settings(task))
  for lost in made["unreadable"]:
    parallel.say(f"  unreadable: {lost['path']}: {lost['reason']}")
  kept = ("counts", "width", "step_seconds")
  return {k: made[k] for k in kept} | {"folder": FOLDER, "headline": {}}


LOCALIZATION_FEATURES = Protocol(
  "snippet features of untrimmed videos, one file per video, for configs/dcc.py", _describe, _run
)
