"""Converts PySlowFast's checkpoints (`.pyth`): Slow, C2D and SlowFast, supervised or contrastive.

Names are those of `slowfast/models/video_model_builder.py`, `head_helper.py` and `contrastive.py`
(github.com/facebookresearch/SlowFast). A contrastive model has a `backbone`, with its projection in
`head.projection` and BYOL's predictor in `head.predictors`; `backbone_hist`, the momentum encoder;
MoCo's `queue_x` and `ptr`; SwAV's `swav_prototypes` and `queue_swav`. Depth, width and heads are
derived from the shapes of the tensors. Temperature, momentum, preprocessing and sampling come from
the text `cfg` that PySlowFast saves with the tensors, or from its defaults.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import yaml
from ml_collections import ConfigDict

from vssl_jax.errors import UserError
from vssl_jax.models.r3d import DEPTHS
from vssl_jax.weights import contrastive, converted
from vssl_jax.weights.converted import Converted
from vssl_jax.weights.table import TORCH, Ledger, Tensors, Variables, write

KNOWN = (50, 101)  # depths; not 18: PySlowFast's basic blocks are four times as wide as usual
MEAN, STD = (0.45,) * 3, (0.225,) * 3  # PySlowFast's defaults
ARCHS = {"slow": "slow", "slow_c2d": "c2d", "c2d": "c2d", "slowfast": "slowfast"}
# Length of the lateral kernels -> α, if all models of the zoo with this length have the same α.
# Length 5 is ambiguous: SLOWFAST_4x16_R50 has α 8, SLOWFAST_8x8_R101_101_101 has α 4.
ALPHA_BY_LATERAL = {7: 4}
# The sections of a cfg that are read here.
SECTIONS = ("BN", "CONTRASTIVE", "DATA", "MODEL", "RESNET", "SLOWFAST", "SOLVER", "TEST")
# The supervised classifier, and the memory of PySlowFast's nearest-neighbor monitor.
LEFT_OUT = (
  "*head.projection.weight",
  "*head.projection.bias",
  "*.num_batches_tracked",
  "knn_mem.*",
  "memory.*",
)


def encoder_names(name: str, depth: int) -> dict[str, str]:
  """Our module names of `slow`, `c2d` or `slowfast` -> PySlowFast's names."""
  names = {}
  pathways = ("slow_", "fast_") if name == "slowfast" else ("",)
  for p, ours in enumerate(pathways):
    names[f"{ours}stem_conv"] = f"s1.pathway{p}_stem.conv"
    names[f"{ours}stem_norm"] = f"s1.pathway{p}_stem.bn"
    for stage, count in enumerate(DEPTHS[depth][0], 2):
      for i in range(count):
        block, theirs = f"{ours}res{stage}_{i}", f"s{stage}.pathway{p}_res{i}"
        for x in "abc":
          names[f"{block}/conv_{x}"] = f"{theirs}.branch2.{x}"
          names[f"{block}/norm_{x}"] = f"{theirs}.branch2.{x}_bn"
        names[f"{block}/conv_shortcut"] = f"{theirs}.branch1"
        names[f"{block}/norm_shortcut"] = f"{theirs}.branch1_bn"
  if name == "slowfast":
    for stage, ours in enumerate(("stem", "res2", "res3", "res4"), 1):
      names[f"{ours}_lateral_conv"] = f"s{stage}_fuse.conv_f2s"
      names[f"{ours}_lateral_norm"] = f"s{stage}_fuse.bn"
  return names


def read(
  tensors: Tensors,
  rest: Mapping[str, Any],
  where: str,
  *,
  arch: str = "",
  alpha: int = 0,
  encoder_only: bool = False,
) -> Converted:
  """Converts a checkpoint of PySlowFast.

  Args:
    tensors: the checkpoint's `model_state`.
    rest: the other values of the checkpoint; `cfg` is read.
    where: the checkpoint's name, for messages.
    arch: `slow`, `slow_c2d`, `c2d` or `slowfast`; by default taken from `cfg` or the tensors.
    alpha: frames of SlowFast's fast pathway per frame of the slow one; by default taken from `cfg`,
      or from the length of the lateral kernels if that determines it.
    encoder_only: leave out the heads and the momentum encoder of a contrastive model.

  Raises:
    UserError: the checkpoint holds another network, or its tensors do not determine the network.
  """
  cfg = parse(rest.get("cfg"), where)
  prefix = "backbone." if any(k.startswith("backbone.") for k in tensors) else ""
  encoder = describe(tensors, prefix, cfg, where, arch, alpha)
  whole = bool(prefix) and not encoder_only
  if whole:
    c = contrastive.config(tensors, cfg, pathlib.Path(where).stem, encoder, where)
  else:
    c = converted.config("classify", pathlib.Path(where).stem, encoder)
  preprocessing(c, cfg)

  ledger = Ledger(tensors, where)
  if cfg.get("DATA", {}).get("REVERSE_INPUT_CHANNEL"):
    tensors = _reversed(tensors)
    ledger = Ledger(tensors, where)
  ledger.leave(LEFT_OUT)
  names = encoder_names(c.encoder.name, c.encoder.depth)
  like = converted.shapes(c)

  def network(prefix: str) -> Variables:
    return ledger.network(like, {k: prefix + v for k, v in names.items()}, TORCH)

  variables, model = network(prefix), None
  if whole:
    model = contrastive.read(c, ledger, variables, network)
  elif prefix:
    ledger.leave(contrastive.BESIDE_ENCODER)
  left_out = ledger.settle(f"PySlowFast's {c.encoder.name} of depth {c.encoder.depth}")
  facts = {"format": "pyslowfast", "epoch": rest.get("epoch")}
  return Converted(c, variables, model, left_out, facts)


def parse(text: Any, where: str) -> dict[str, Any]:
  """PySlowFast's config as nested dicts, without null fields; empty if there is no config.

  Raises:
    UserError: it is not YAML, or a section that is read here is not a mapping of fields.
  """
  if not isinstance(text, str):
    return {}
  try:
    cfg = yaml.safe_load(text)
  except yaml.YAMLError as e:
    raise UserError(f"{where}: its cfg is not YAML ({str(e).splitlines()[0]}).") from None
  cfg = cfg if isinstance(cfg, dict) else {}
  for section in SECTIONS:
    if not isinstance(cfg.get(section, {}), dict):
      raise UserError(
        f"{where}: its cfg has {section}: {cfg[section]!r}; this section must hold fields; leave "
        "it out to use PySlowFast's defaults."
      )
  given = {k: cfg[k] for k in SECTIONS if k in cfg}
  return {k: {f: x for f, x in fields.items() if x is not None} for k, fields in given.items()}


def describe(
  tensors: Tensors, prefix: str, cfg: Mapping[str, Any], where: str, arch: str = "", alpha: int = 0
) -> dict[str, Any]:
  """The fields of `config.encoder` from tensors and cfg; for `arch` and `alpha` see `read`."""

  def shape(name: str) -> tuple[int, ...]:
    if prefix + name not in tensors:
      raise UserError(
        f"{where}: has no {prefix}{name}: it is not a Slow, C2D or SlowFast of PySlowFast."
      )
    return tensors[prefix + name].shape

  def has(name: str) -> bool:
    return prefix + name in tensors

  def count(stage: int) -> int:
    return next(i for i in range(99) if not has(f"s{stage}.pathway0_res{i}.branch2.a.weight"))

  stem = shape("s1.pathway0_stem.conv.weight")[0]
  blocks = tuple(count(stage) for stage in range(2, 6))
  kind = (blocks, has("s2.pathway0_res0.branch2.c.weight"))
  depth = next((k for k in KNOWN if DEPTHS[k] == kind), 0)
  if not depth:
    raise UserError(
      f"{where}: has {list(blocks)} {'bottleneck' if kind[1] else 'basic'} blocks per stage: only "
      f"bottleneck networks of depths {', '.join(map(str, KNOWN))} can be converted."
    )
  _require_known(cfg, where)
  out: dict[str, Any] = {"depth": depth, "width": stem / 64}
  arch = arch or cfg.get("MODEL", {}).get("ARCH", "")
  if not arch:
    flat = shape("s4.pathway0_res0.branch2.a.weight")[2] == 1
    arch = "slowfast" if has("s1.pathway1_stem.conv.weight") else "" if flat else "slow"
  if arch not in ARCHS:
    reason = (
      f"has architecture {arch!r}" if arch else "is c2d or slow_c2d, which have the same tensors"
    )
    raise UserError(
      f"{where} {reason}: give --arch, one of {', '.join(ARCHS)} (the model zoo has c2d, which "
      "pools pairs of frames after res2)."
    )
  out["name"] = ARCHS[arch]
  if arch == "c2d":
    out["time_pool"] = 2
  if arch == "slowfast":
    lateral = shape("s1_fuse.conv_f2s.weight")[2]
    alpha = _alpha(cfg.get("SLOWFAST", {}).get("ALPHA"), lateral, alpha, where)
    fast = shape("s1.pathway1_stem.conv.weight")[0]
    out |= {"lateral": lateral, "alpha": alpha, "beta": stem // fast, "slow_to_last": True}
  elif alpha:
    raise UserError(f"--alpha={alpha} is only for slowfast, but {where} is {arch}; leave it out.")
  return out


def _alpha(stored: int | None, lateral: int, given: int, where: str) -> int:
  """SlowFast's α from its config, the command line, or the length of the lateral kernels."""
  if given < 0:
    raise UserError(f"--alpha={given}: give 1 or more.")
  if stored and given and stored != given:
    raise UserError(f"--alpha={given}, but the cfg of {where} says {stored}; leave --alpha out.")
  alpha = stored or given or ALPHA_BY_LATERAL.get(lateral)
  if not alpha:
    raise UserError(
      f"{where}: has no cfg with SLOWFAST.ALPHA, and lateral kernels of length {lateral} are used "
      "with several: give --alpha (8 for SLOWFAST_4x16_R50, 4 for SLOWFAST_8x8_R101_101_101)."
    )
  return alpha


def _require_known(cfg: Mapping[str, Any], where: str) -> None:
  """Raises `UserError` for cfg fields that change the network but not its tensors."""
  resnet = cfg.get("RESNET", {})
  flat = lambda name: [x for row in resnet.get(name, []) for x in row]  # noqa: E731
  each = len(flat("SPATIAL_STRIDES")) // 4 or 1  # number of pathways
  usual = {
    "RESNET.SPATIAL_STRIDES": (flat("SPATIAL_STRIDES"), [1] * each + [2] * 3 * each),
    "RESNET.SPATIAL_DILATIONS": (flat("SPATIAL_DILATIONS"), [1] * len(flat("SPATIAL_DILATIONS"))),
    "RESNET.STRIDE_1X1": ([resnet.get("STRIDE_1X1", False)], [False]),
    "BN.EPSILON": ([cfg.get("BN", {}).get("EPSILON", 1e-5)], [1e-5]),
  }
  for field, (value, known) in usual.items():
    if value and value != known:
      raise UserError(
        f"{where}: its cfg has {field} {value}, which our networks do not support; only {known} "
        "can be converted."
      )


def preprocessing(c: ConfigDict, cfg: Mapping[str, Any]) -> None:
  """Sets normalization and clips from PySlowFast's config: (RGB in [0, 1] − mean) / std."""
  d, test = cfg.get("DATA", {}), cfg.get("TEST", {})
  c.augment.mean, c.augment.std = tuple(d.get("MEAN", MEAN)), tuple(d.get("STD", STD))
  eval_size = d.get("TEST_CROP_SIZE", 256)
  converted.views(
    c,
    frames=d.get("NUM_FRAMES", 32 if c.encoder.name == "slowfast" else 8),
    stride=d.get("SAMPLING_RATE", 2 if c.encoder.name == "slowfast" else 8),
    size=d.get("TRAIN_CROP_SIZE", 224),
    resize=eval_size,
    eval_size=eval_size,
  )
  c.data.eval.clips = test.get("NUM_ENSEMBLE_VIEWS", 10)
  c.data.eval.crops = test.get("NUM_SPATIAL_CROPS", 3)


def _reversed(tensors: Tensors) -> Tensors:
  """The tensors with the stems' input channels reversed: from BGR to RGB."""
  stems = [k for k in tensors if k.endswith("_stem.conv.weight")]
  return {**tensors, **{k: tensors[k][:, ::-1].copy() for k in stems}}


def to_theirs(
  c: ConfigDict, variables: Variables, whole: tuple[Any, Any] | None
) -> tuple[Tensors, str]:
  """Converts our weights to PySlowFast's `model_state` and `cfg`.

  Args:
    c: the run's config.
    variables: variables of the encoder.
    whole: (params, state) of the method, for a contrastive model; None for only the encoder.

  Returns:
    The tensors, and a config (YAML) with the fields that these tensors need.

  Raises:
    UserError: PySlowFast has no such encoder or method.
  """
  e = c.encoder
  if e.name not in ("slow", "c2d", "slowfast"):
    raise UserError(
      f"config.encoder.name is {e.name}: PySlowFast has only slow, c2d and slowfast (r3d has "
      "another stem and other padding)."
    )
  if (e.depth or 50) not in KNOWN:
    raise UserError(
      f"config.encoder.depth is {e.depth}: only depths 50 and 101 are the same in PySlowFast."
    )
  if e.name == "slow" and not e.temporal:
    raise UserError("config.encoder.temporal is False: inflate the network, or train c2d.")
  if e.name == "slowfast" and not e.slow_to_last:
    print(
      "Note: PySlowFast spreads the slow frames evenly from the first to the last frame; this "
      "network was trained with every alpha-th frame."
    )
  names = encoder_names(e.name, e.depth or 50)

  def network(variables: Variables, prefix: str) -> Tensors:
    return write(variables, {k: prefix + v for k, v in names.items()}, TORCH)

  cfg = _cfg(c)
  if whole is None:
    tensors = network(variables, "")
  else:
    tensors = contrastive.to_theirs(c, whole, network)
    cfg |= contrastive.cfg(c)
    cfg["MODEL"] |= {"MODEL_NAME": "ContrastiveModel", "LOSS_FUNC": "contrastive_loss"}
    cfg["MODEL"] |= {"NUM_CLASSES": c.head.out, "HEAD_ACT": "none", "DROPOUT_RATE": 0.0}
  return tensors, yaml.safe_dump(cfg)


def _cfg(c: ConfigDict) -> dict[str, Any]:
  e, d = c.encoder, c.data
  arch = {"c2d": "c2d" if e.time_pool == 2 else "slow_c2d"}.get(e.name, e.name)
  pathways = 2 if e.name == "slowfast" else 1
  blocks = [[n] * pathways for n in DEPTHS[e.depth or 50][0]]
  strides = [[s] * pathways for s in (1, 2, 2, 2)]
  cfg = {
    "MODEL": {"ARCH": arch, "MODEL_NAME": "SlowFast" if pathways == 2 else "ResNet"},
    "RESNET": {
      "DEPTH": e.depth or 50,
      "WIDTH_PER_GROUP": round(64 * e.width),
      "TRANS_FUNC": "bottleneck_transform",
      "NUM_BLOCK_TEMP_KERNEL": blocks,
      "SPATIAL_STRIDES": strides,
      "SPATIAL_DILATIONS": [[1] * pathways] * 4,
    },
    "DATA": {
      "MEAN": [float(x) for x in c.augment.mean],
      "STD": [float(x) for x in c.augment.std],
      "NUM_FRAMES": d.frames,
      "SAMPLING_RATE": d.stride,
      "TRAIN_CROP_SIZE": d.size,
      "TEST_CROP_SIZE": d.eval.size,
      "INPUT_CHANNEL_NUM": [3] * pathways,
    },
    "TEST": {"NUM_ENSEMBLE_VIEWS": d.eval.clips, "NUM_SPATIAL_CROPS": d.eval.crops},
  }
  if pathways == 2:
    cfg["SLOWFAST"] = {
      "ALPHA": e.alpha,
      "BETA_INV": e.beta,
      "FUSION_KERNEL_SZ": e.lateral,
      "FUSION_CONV_CHANNEL_RATIO": 2,
    }
  return cfg
