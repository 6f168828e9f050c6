"""CVRL's figures (Qian et al., CVPR 2021)."""

from vssl_jax.studies.study import Setting, Study

STUDIES = {
  "cvrl_fig7_interval": Study(
    "CVRL, figure 7: distribution of the interval between a video's clips",
    "cvrl",
    {
      "interval": {
        "decreasing": Setting(),
        "uniform": Setting("uniform"),
        "increasing": Setting("increasing"),
        "constant": Setting("constant"),
      }
    },
  ),
  "cvrl_fig8_augmentation": Study(
    "CVRL, figure 8: temporal and spatial augmentation, and its consistency, on and off",
    "cvrl",
    {
      "augmentation": {
        "all": Setting(),
        "not temporal": Setting("same_time"),
        "not spatial": Setting("no_spatial"),
        "not consistent": Setting("per_frame"),
        "spatial alone": Setting("same_time,per_frame"),  # and not consistent
      }
    },
  ),
  "cvrl_fig9_frames": Study(
    "CVRL, figure 9: SimCLR on single frames, the same inflated, and CVRL",
    "cvrl",
    {
      "method": {
        "SimCLR per frame": Setting("single_frames"),
        "SimCLR inflated": Setting("inflated"),
        "CVRL": Setting(),
      }
    },
  ),
  # Equal epochs: fewer videos mean fewer updates, too.
  "cvrl_fig11_data": Study(
    "CVRL, figure 11: 25, 50 and 100 % of the training videos, at equal epochs",
    "cvrl",
    {
      "% of the videos": {
        "25": Setting(fields={"data.fraction": 0.25}),
        "50": Setting(fields={"data.fraction": 0.5}),
        "100": Setting(),
      }
    },
    line="% of the videos",
  ),
}
