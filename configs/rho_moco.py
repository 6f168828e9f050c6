"""ρ-MoCo (Feichtenhofer et al., CVPR 2021): ρ clips of a video against a queue, Slow-R50.

  python -m vssl_jax.main --config=configs/rho_moco.py --config.data.path=RECORDS

Variants, after a colon:
  (none), k400   Kinetics-400, 200 epochs, batch 512, ρ = 2. K400 linear top-1 65.8 for ρ = 2,
                 67.3 for ρ = 3, 69.0 for ρ = 4 with aug+: *published*. About 22 H100-hours at 40 %
                 of the bf16 peak by arithmetic, 45 for ρ = 4: 240k videos x 200 epochs x ρ clips x
                 (250 GFLOP of the query + 83 of the key). *not run*
  demo           embedded digit videos, then probed; minutes on 2 CPU cores. docs/results.md:
                 *measured by us*
  ucf6           six classes of UCF101, R3D-18 of width 16, then probed; about a quarter of an hour
                 on 2 CPU cores. docs/results.md: *measured by us*

The study's questions are added after a comma, e.g. configs/rho_moco.py:k400,rho4,aug_plus
  rho1 … rho4    clips of a video; rho1 is two crops of one clip
                 (the released code doubles the rate for ρ = 4: --config.optim.lr=0.8)
  span0 … span30 all clips of a video start within 0, 1, 2, 4, 10 or 30 seconds
                 (any span: --config.data.interval.max_seconds, and min_seconds)
  4x16, 16x4     frames x stride of a clip
  aug_plus       harder crops, color of strength 0.75
  no_spatial, no_temporal, no_color    without crops and flips, clips apart, or color
  fixed, momentum0   momentum not annealed, or none: the key network is the query network
  sum            positives summed inside the log (eq. 1)
  query_sum      gradients of the ρ queries summed, not averaged
  sequential     one clip's activations in memory at a time
  joint          batch norm over all ρ clips together
Epochs, queue and temperature are flags: --config.epochs, --config.rho_moco.queue, ….temperature
"""

from vssl_jax import recipes


def k400(c):
  """The paper's Kinetics-400 recipe: MLP without batch norm, keys shuffled over groups of 8."""
  recipes.rho_k400(c)
  c.head.hidden, c.head.out, c.head.bn = (2048, 2048), 128, False
  c.encoder.bn_groups = 64
  c.optim.name, c.optim.lr, c.optim.weight_decay = "sgd", 0.4, 1e-4


def demo(c):
  """The embedded digits: the last two steps' keys, a quick target, a head with batch norm.

  Chosen within the training split (seed 0) among momenta of 0 to 0.99, 256 to 1,024 keys and rates
  of 0.5e-3 to 2e-3, which ended within a few points of one another. A queue as long as an epoch
  would hold the query's own video.
  """
  recipes.rho_demo(c)
  c.rho_moco.queue, c.rho_moco.momentum = 256, 0.9


def ucf6(c):
  """Six classes of UCF101: the last four steps' keys; see `demo`."""
  recipes.ucf6(c)
  c.rho_moco.queue, c.rho_moco.momentum = 128, 0.97


VARIANTS = {"k400": k400, "demo": demo, "ucf6": ucf6}
CHANGES = {
  **recipes.RHO_CHANGES,
  **recipes.MOMENTUM_CHANGES,
  "sum": recipes.field("positives", "sum"),
}


def get_config(variant: str = ""):
  """The config of a variant, with changes after commas."""
  return recipes.compose(variant or "k400", VARIANTS, CHANGES, prefix="rho_moco", method="rho_moco")
