"""ρ-BYOL (Feichtenhofer et al., CVPR 2021): predict the other clips' targets, Slow-R50.

  python -m vssl_jax.main --config=configs/rho_byol.py --config.data.path=RECORDS

Variants, after a colon:
  (none), k400   Kinetics-400, 200 epochs, batch 512, ρ = 2. K400 linear top-1 68.3 for ρ = 3,
                 68.9 for ρ = 4 and 70.0 with aug+: *published*. About 22 H100-hours at 40 % of the
                 bf16 peak by arithmetic, 45 for ρ = 4: 240k videos x 200 epochs x ρ clips x
                 (250 GFLOP of the query + 83 of the key). *not run*
  demo           embedded digit videos, then probed; minutes on 2 CPU cores. docs/results.md:
                 *measured by us*
  ucf6           six classes of UCF101, R3D-18 of width 16, then probed; about a quarter of an hour
                 on 2 CPU cores. docs/results.md: *measured by us*

The study's questions are added after a comma, e.g. configs/rho_byol.py:k400,rho4,aug_plus
  rho1 … rho4    clips of a video; rho1 is two crops of one clip
                 (the released code doubles the rate for ρ = 4: --config.optim.lr=9.6)
  span0 … span30 all clips of a video start within 0, 1, 2, 4, 10 or 30 seconds
                 (any span: --config.data.interval.max_seconds, and min_seconds)
  4x16, 16x4     frames x stride of a clip
  aug_plus       harder crops, color of strength 0.75
  no_spatial, no_temporal, no_color    without crops and flips, clips apart, or color
  no_target      keys from the online network itself: BYOL without a momentum network
  fixed, momentum0   momentum not annealed, or none
  sum            cosines summed over the other clips, not averaged (eq. 2)
  query_sum      gradients of the ρ queries summed, not averaged
  sequential     one clip's activations in memory at a time
  joint          batch norm over all ρ clips together
Epochs and predictor are flags: --config.epochs, --config.rho_byol.predictor
"""

from vssl_jax import recipes


def k400(c):
  """The paper's Kinetics-400 recipe: two layers of 4,096 and 256, and the predictor alike."""
  recipes.rho_k400(c)
  recipes.lars(c)
  c.head.hidden, c.head.out = (4096,), 256
  c.rho_byol.predictor = (4096,)


def demo(c):
  """The embedded digits: a quicker target."""
  recipes.rho_demo(c)
  c.rho_byol.predictor, c.rho_byol.momentum = (256,), 0.9


def ucf6(c):
  """Six classes of UCF101: a quicker target."""
  recipes.ucf6(c)
  c.rho_byol.predictor, c.rho_byol.momentum = (256,), 0.97


VARIANTS = {"k400": k400, "demo": demo, "ucf6": ucf6}
CHANGES = {
  **recipes.RHO_CHANGES,
  **recipes.MOMENTUM_CHANGES,
  "no_target": recipes.field("target", False),
  "sum": recipes.field("positives", "sum"),
}


def get_config(variant: str = ""):
  """The config of a variant, with changes after commas."""
  return recipes.compose(variant or "k400", VARIANTS, CHANGES, prefix="rho_byol", method="rho_byol")
