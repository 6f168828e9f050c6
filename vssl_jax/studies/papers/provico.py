"""ProViCo's analysis and parts (Park et al., CVPR 2022)."""

from vssl_jax.studies.study import PROBED, UNCERTAINTY, Curve, Score, Setting, Study

_RANKED = PROBED | {
  "R@1 by distribution": Score(
    "provico/retrieval/bhattacharyya/R@1",
    about="retrieval by the Bhattacharyya distance of the videos' Gaussians",
  ),
}


def _last(key: str, about: str, scale: float = 100.0) -> Score:
  return Score(f"*/{key}", UNCERTAINTY, scale, about)


STUDIES = {
  # The regularizer pushes all uncertainties up and ½ log s of the stochastic loss pushes them down,
  # whatever a video shows; hence the runs without either.
  "provico_uncertainty": Study(
    "ProViCo: uncertainty against R@1 over training, and by level of uncertainty",
    "provico",
    {
      "loss": {
        "whole": Setting(),
        "no regularizer": Setting("no_kl"),
        "not stochastic": Setting("soft"),
      }
    },
    scores={
      "R@1": _last("training/-1/R@1", "R@1 of the evaluation videos, by μ(V)"),
      "R@1, most certain": _last("quantiles/0/R@1", "R@1 of the most certain group of videos"),
      "R@1, least certain": _last("quantiles/-1/R@1", "R@1 of the least certain group of videos"),
      "Σ σ²": _last("training/-1/uncertainty", "mean uncertainty of the evaluation videos", 1.0),
      "ρ by video": _last("correlations/videos/rho", "Spearman, uncertainty and hit by video", 1.0),
    },
    curves=(
      Curve("uncertainty over training", "*/training", "epoch", "uncertainty", UNCERTAINTY, 1.0),
      Curve("R@1 over training, %", "*/training", "epoch", "R@1", UNCERTAINTY),
      Curve("R@1 by level of uncertainty, %", "*/quantiles", "", "R@1", UNCERTAINTY),
    ),
    uncertainty=True,
  ),
  "provico_parts": Study(
    "ProViCo: regularizer, stochastic weight and mining, on and off",
    "provico",
    {
      "loss": {
        "whole": Setting(),
        "no regularizer": Setting("no_kl"),
        "not stochastic": Setting("soft"),
        "neither": Setting("no_kl,soft"),
      },
      "mining": {"on": Setting(), "off": Setting("own")},
    },
    scores=_RANKED,
  ),
  "provico_clips": Study(
    "ProViCo: N = 2, 4, 8 clips per video, at equal epochs",
    "provico",
    {"N": {str(n): Setting(f"n{n}") for n in (2, 4, 8)}},
    scores=_RANKED,
    line="N",
  ),
  "provico_samples": Study(
    "ProViCo: K = 1, 4, 8, 16 samples per video",
    "provico",
    {"K": {str(k): Setting(fields={"provico.samples": k}) for k in (1, 4, 8, 16)}},
    scores=_RANKED,
    line="K",
  ),
}
