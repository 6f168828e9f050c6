"""Features of raw videos, made exactly as those that a localizer was trained on."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from data_pipelines.videos.snippets import SnippetSettings
from vssl_jax import files, results
from vssl_jax.encoder import encoder as encoder_lib
from vssl_jax.encoder import snippet_features
from vssl_jax.encoder.hub import repository
from vssl_jax.errors import UserError

_INSTEAD = "extract their features as those of training were (vssl extract) and give --data"
# What features depend on. The rest of the preprocessing is of the encoder's checkpoint.
_CUT = (
  *("frames", "step", "stride", "fps", "resize", "size"),
  *("raw_aspect", "stream_fps", "max_gap", "channels", "value_range"),
)


def extract(
  config: ConfigDict,
  videos: str | os.PathLike[str],
  output: pathlib.Path,
  *,
  encoder: str | os.PathLike[str] = "",
) -> dict[str, Any]:
  """Extracts features of videos with the encoder and the snippets of a localizer's training data.

  Args:
    config: the config of the localizer's run; its features' folder has the manifest.
    videos: a video, or a folder of videos.
    output: folder for the features.
    encoder: folder of the encoder, if it no longer lies where the manifest says.

  Returns:
    The manifest of the new features.

  Raises:
    UserError: the training features are not of `extract_features`, or of another encoder than the
      one that is there; or no video can be read.
  """
  made = _manifest(config)
  if not encoder and repository.is_address(made["checkpoint"]["checkpoint"]):  # only users download
    raise UserError("--encoder: the encoder of the training features is on the Hub; name it.")
  given = files.path(repository.local(encoder or made["checkpoint"]["checkpoint"]))
  which: Any = "last" if encoder else made["checkpoint"].get("step", "last")
  if not encoder and not given.is_dir():
    raise UserError(
      f"--encoder: the encoder of the training features is no longer in {given}; say where it is."
    )
  loaded = _load(given, which)
  cut = {k: v for k, v in made["preprocessing"].items() if k in _CUT}
  cut = {k: tuple(v) if isinstance(v, list) else v for k, v in cut.items()}
  settings = SnippetSettings(**cut)
  if results.tree_hash(loaded[1]) != made["encoder_sha256"]:
    raise UserError(
      f"--encoder: {given} has other weights than the encoder of the training features; give the "
      "checkpoint that they were extracted with."
    )
  found = snippet_features.extract(loaded, videos, output, settings, progress=True)
  if not found["videos"]:
    lost = found["unreadable"][0]
    raise UserError(f"{lost['path']}: {lost['reason']}; no video could be read.")
  for lost in found["unreadable"]:
    print(f"left out: {lost['path']}: {lost['reason']}", flush=True)
  return found


def _load(folder: pathlib.Path, which: str | int) -> tuple[Any, Any, dict[str, Any]]:
  try:
    return encoder_lib.load_encoder(folder, which)
  except UserError:
    if which == "last":
      raise
    return encoder_lib.load_encoder(folder)  # an export has no steps; the weights are compared


def _manifest(config: ConfigDict) -> Mapping[str, Any]:
  """The manifest of the features that the localizer was trained on."""
  place = files.path(config.data.path) / snippet_features.MANIFEST
  kind = config.data.source
  if kind != "localization" or not place.is_file():
    raise UserError(
      f"VIDEO: {place} is missing, so how the features of training were made is not known; "
      f"{_INSTEAD}."
    )
  made = files.parse_json(files.read_text(place))
  shape = {"encoder_sha256": str, "preprocessing": dict, "checkpoint": dict}
  if not isinstance(made, dict) or any(
    not isinstance(made.get(k), kind) for k, kind in shape.items()
  ):
    raise UserError(f"{place}: is not a manifest of vssl extract; {_INSTEAD}.")
  if not isinstance(made["checkpoint"].get("checkpoint"), str):
    made["checkpoint"]["checkpoint"] = ""
  return made
