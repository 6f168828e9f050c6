"""An encoder ready to use: `vssl_jax.load`."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from ml_collections import ConfigDict

from vssl_jax import augment, files, methods, models
from vssl_jax.encoder import exported as exported_lib
from vssl_jax.encoder.exported import CARD, WEIGHTS
from vssl_jax.encoder.hub import repository
from vssl_jax.errors import UserError
from vssl_jax.methods.base import Variables
from vssl_jax.models import inflate
from vssl_jax.training import run_config, run_folder

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A trained encoder with its preprocessing.

  Attributes:
    config: the run's: `encoder`, `augment.mean` and `.std`, `data.frames`, `.stride`, `.size`,
      `.channels`.
    params: the encoder's variables, {params, batch_stats}.
    info: where they came from.
    network: the Flax module.
  """

  config: ConfigDict
  params: Params
  info: dict[str, Any]
  network: nn.Module

  @property
  def features_dim(self) -> int:
    """F, the number of features."""
    return self.network.features_dim

  @property
  def clip_shape(self) -> tuple[int, int, int, int]:
    """`(T, H, W, C)` of the clips that it is evaluated with; which others do, `apply` says."""
    e = self.config.data.eval
    return e.frames, e.size, e.size, self.channels

  @property
  def channels(self) -> int:
    """C of its clips: 3 for RGB, 1 for gray."""
    return self.config.data.channels

  def preprocess(self, clips: npt.ArrayLike) -> jax.Array:
    """Uint8 clips `[..., C]` as the network was trained on them: scaled, less mean, by std.

    Raises:
      UserError: the clips are not uint8, or of other channels.
    """
    clips = self._array(clips)
    self._require_channels(clips)
    return augment.eval_preprocess(self.config.augment, self.channels)(jnp.asarray(clips))

  def apply(self, params: Params, clips: npt.ArrayLike) -> jax.Array:
    """Features of clips, batch norm in inference mode; compiled once for each shape of clips.

    Convolutional networks take clips of any T, H and W (`slowfast`: T in multiples of its alpha);
    how good their features are away from the sizes of training is for the caller to find out. A
    `vit` numbers the tokens of one shape of clip through, so it takes that of its training and
    `clip_shape` alone, unless its positions are rotary or `config.encoder.grid` says from which
    they are interpolated; T, H and W are multiples of its tubelet.

    Args:
      params: the encoder's variables.
      clips: uint8 `[N, T, H, W, C]`, RGB or of its `channels`; anything that `np.asarray` takes.

    Returns:
      float32 `[N, F]`.

    Raises:
      UserError: the clips are not uint8 of five axes, of other channels, are empty, or of a shape
        that the network has no place for.
    """
    clips = self._array(clips)
    if clips.ndim != 5:
      raise UserError(f"clips have {clips.ndim} axes: give [N, T, H, W, {self.channels}].")
    if any(isinstance(n, int) and n == 0 for n in clips.shape):
      raise UserError(f"clips are empty, {list(clips.shape)}: give one at least.")
    self._require_channels(clips)
    if getattr(self.network, "fixed_size", False):
      self._require_known(clips.shape[1:4])
    return self._compiled(params, clips)

  def _require_known(self, shape: tuple[int, ...]) -> None:
    d = self.config.data
    known = dict.fromkeys(((d.frames, d.size, d.size), self.clip_shape[:3]))
    if tuple(shape) not in known:
      told = " or ".join(str(list(k)) for k in known)
      raise UserError(
        f"clips are [T, H, W] = {list(shape)}: its positions are those of {told}; "
        "resize and crop them to that."
      )

  def _array(self, clips: npt.ArrayLike) -> jax.Array | np.ndarray:
    if isinstance(clips, jax.Array):  # traced ones too, which NumPy cannot have
      return clips
    try:
      return np.asarray(clips)
    except ValueError:
      raise UserError(
        f"clips differ in shape: give one array [N, T, H, W, {self.channels}]."
      ) from None

  def _require_channels(self, clips: jax.Array | np.ndarray) -> None:
    if clips.dtype != jnp.uint8 or clips.shape[-1:] != (self.channels,):
      what = "RGB as uint8" if self.channels == 3 else f"{self.channels} channels as uint8"
      raise UserError(
        f"clips are {clips.dtype}{list(clips.shape)}: give {what} [N, T, H, W, {self.channels}], "
        "values 0 to 255; the encoder scales and normalizes them itself."
      )

  @functools.cached_property
  def _compiled(self) -> Callable[[Params, jax.Array | np.ndarray], jax.Array]:
    return jax.jit(lambda params, x: self.network.apply(params, self.preprocess(x), train=False))


def load_encoder(
  path: str | os.PathLike[str], which: str | int = run_folder.LAST
) -> tuple[ConfigDict, Variables, dict[str, Any]]:
  """The encoder of one of a run's checkpoints, or of an exported folder.

  Args:
    path: a run folder, as `--workdir` names it, or what `vssl_jax.export` wrote; or its address
      on the Hugging Face Hub, see `hub.repository`.
    which: of a run's checkpoints, see `run_folder.load_state`.

  Returns:
    The run's config, with fields that later versions added at their defaults; the encoder's
    variables {params, batch_stats}, on the host; and
    {checkpoint, step}.

  Raises:
    UserError: no run, no checkpoint, none that can be read, or NaN or infinity in it.
  """
  folder = files.path(repository.local(path))
  exported, trained = (folder / x for x in (CARD, run_config.CONFIG))
  # What other programs read of a repository lies in the same folder of the cache.
  if exported.is_file() and trained.is_file() and not repository.is_address(path):
    raise UserError(
      f"{folder}: holds a run and an exported encoder ({CARD}), which may differ; move "
      f"{CARD} and {WEIGHTS} to a folder of their own."
    )
  if not exported.is_file() and not trained.is_file():
    raise UserError(
      f"{folder}: no {run_config.CONFIG} of a run (--workdir of training) and no {CARD} of "
      "an exported or converted encoder there."
    )
  if exported.is_file():
    if which != run_folder.LAST:
      raise UserError(f"--which={which}: {folder} is an export, which holds one encoder; leave it.")
    config, variables = exported_lib.load_exported(folder)
    run_folder.require_finite(variables, folder / WEIGHTS)
    config = methods.from_file(config, exported)
    return (
      config,
      variables,
      {"checkpoint": str(folder), **exported_lib.load_card(folder).get("checkpoint", {})},
    )
  config, method, state = run_folder.load_state(folder, which)
  if method.encoder is None:
    raise UserError(f"{folder}: a run of {config.method}, which has no encoder of clips.")
  variables = jax.device_get(method.encoder(state.params, state.method))
  return config, variables, {"checkpoint": str(folder), "step": int(state.step)}


def load(path: str | os.PathLike[str], which: str | int = run_folder.LAST) -> Encoder:
  """The encoder of a run folder, of an exported folder, or of converted weights.

  A network that was trained on single frames comes inflated, as probes see it.

  Args:
    path: what `--workdir`, `vssl_jax.export --output` or `vssl_jax.weights.convert --to` named; or
      `hf://owner/name[@revision][/subfolder]`, which is downloaded to huggingface_hub's cache.
    which: of a run's checkpoints: "last", "best" (by its `config.save.best`), or a step.

  Raises:
    UserError: no encoder there, none that can be read, or it cannot be downloaded.
  """
  config, variables, info = load_encoder(path, which)
  return build(*inflate.inflated(config, variables), info)


def build(config: ConfigDict, variables: Params, info: dict[str, Any]) -> Encoder:
  """The encoder that `config` describes, with its variables and where they came from."""
  variables = {k: variables.get(k) or {} for k in ("params", "batch_stats")}
  return Encoder(config, variables, info, models.build_encoder(config.encoder))
