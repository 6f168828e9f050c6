"""The ρ-study's tables (Feichtenhofer et al., CVPR 2021)."""

from vssl_jax.studies.study import Setting, Study

_METHODS = {
  "SimCLR": Setting(recipe="rho_simclr"),
  "MoCo": Setting(recipe="rho_moco"),
  "BYOL": Setting(recipe="rho_byol"),
  "SwAV": Setting(recipe="rho_swav"),
}
_MOMENTUM = {k: v for k, v in _METHODS.items() if k in ("MoCo", "BYOL")}
_RHO = {str(n): Setting(f"rho{n}") for n in (1, 2, 3, 4)}
# Two crops of one clip are two clips to the network.
_EQUAL = {str(n): Setting(f"rho{n}", times={"epochs": 2 / max(n, 2)}) for n in (1, 2, 3, 4)}
_SPAN = "data.interval.max_seconds"


def _length(frames: int, stride: int) -> Setting:
  parts = ("data", "data.eval", "probe")
  sizes = {"frames": frames, "stride": stride}
  return Setting(fields={f"{p}.{k}": n for p in parts for k, n in sizes.items()})


STUDIES = {
  "rho_clips_epochs": Study(
    "ρ-study: ρ = 1 to 4 clips per video at equal epochs, all four methods",
    "rho_simclr",
    {"method": _METHODS, "ρ": _RHO},
    line="ρ",
  ),
  "rho_clips_equal": Study(
    "ρ-study: ρ = 1 to 4 at an equal number of clips, so fewer epochs for a larger ρ",
    "rho_simclr",
    {"method": _METHODS, "ρ": _EQUAL},
    line="ρ",
  ),
  "rho_epochs": Study(
    "ρ-study: epochs × ρ, with half, the whole and twice the recipe's epochs",
    "rho_simclr",
    {
      "method": _METHODS,
      "ρ": {n: _RHO[n] for n in ("2", "4")},
      "epochs ×": {f"{x:g}": Setting(times={"epochs": x}) for x in (0.5, 1, 2)},
    },
    line="epochs ×",
  ),
  "rho_span": Study(
    "ρ-study: all clips of a video start within 0, 0.5, 1, 2, 4 s, or anywhere in it",
    "rho_simclr",
    {
      "method": _METHODS,
      "seconds": {
        "0": Setting("span0"),
        **{
          f"{s:g}": Setting(fields={"data.interval.distribution": "independent", _SPAN: s})
          for s in (0.5, 1.0, 2.0, 4.0)
        },
        "whole": Setting(fields={"data.interval.distribution": "independent", _SPAN: 0.0}),
      },
    },
    line="seconds",
  ),
  "rho_length": Study(
    "ρ-study: frames per clip × stride",
    "rho_simclr",
    {
      "method": _METHODS,
      "T × stride": {f"{t}×{s}": _length(t, s) for t, s in ((2, 4), (4, 2), (8, 1), (8, 2))},
    },
  ),
  "rho_momentum": Study(
    "ρ-study: momentum 0, constant, or annealed to 1",
    "rho_moco",
    {
      "method": _MOMENTUM,
      "momentum": {
        "0": Setting("momentum0"),
        "constant": Setting("fixed"),
        "annealed": Setting(),
      },
    },
  ),
  "rho_target": Study(
    "ρ-study: BYOL with and without its target network",
    "rho_byol",
    {"target": {"momentum network": Setting(), "none": Setting("no_target")}},
  ),
  "rho_augmentation": Study(
    "ρ-study: groups of augmentations left out one by one",
    "rho_simclr",
    {
      "method": _METHODS,
      "without": {
        "nothing": Setting(),
        "crops": Setting("no_spatial"),
        "all color": Setting("no_color"),
        "gray": Setting(fields={"augment.gray_p": 0.0}),
        "clips of other times": Setting("no_temporal"),
      },
    },
  ),
}
