"""ρ-BYOL (Feichtenhofer et al., CVPR 2021): predict the other clips' targets, Slow-R50.

  python -m vssl_jax.main --config=configs/rho_byol.py --config.data.path=RECORDS

Variants, after a colon:
  (none), k400   Kinetics-400, 200 epochs, batch 512, ρ = 2. K400 linear top-1 68.3 for ρ = 3,
                 68.9 for ρ = 4 and 70.0 with aug+: *published*. Estimated cost, at 40 % of the
                 bf16 peak: 22 H100-hours, 45 for ρ = 4 (240k videos x 200 epochs x ρ clips x
                 (250 GFLOP for the query + 83 for the key)). *not run*. On 64 TPU v5e
                 chips a step needs 6.6 GiB of a chip's 15.8, on 64 v5p 6.6 of 95, on 8 H100 49.8
                 GiB of a GPU: *compiled only*, docs/pods.md
  demo           digit videos (no download), then probes; minutes on 2 CPU cores. docs/results.md:
                 *measured by us*
  motion         videos of digits of which only the movement tells the class (no download); probes
                 include the protocol motion
  ucf6           six classes of UCF101, R3D-18 of width 16, then probes; about 15 minutes on 2 CPU
                 cores. docs/results.md: *measured by us*

Add the study's ablations after a comma, e.g. configs/rho_byol.py:k400,rho4,aug_plus
  rho1 … rho4    number of clips per video; rho1 is two crops of one clip
                 (the released code doubles the learning rate for ρ = 4: --config.optim.lr=9.6)
  span0 … span30 all clips of a video start within 0, 1, 2, 4, 10 or 30 seconds
                 (any span: --config.data.interval.max_seconds, and min_seconds)
  4x16, 16x4     frames x stride of a clip
  aug_plus       stronger crops, color of strength 0.75
  no_spatial     no random crops or flips
  no_temporal    all clips of a video at the same time
  no_color       no color augmentation
  no_target      keys from the online network itself: BYOL without a momentum network
  fixed          the momentum is constant, not annealed
  momentum0      the momentum is 0: the target equals the online network
  sum            cosines are summed over the other clips, not averaged (eq. 2)
  query_sum      gradients of the ρ queries are summed, not averaged
  sequential     activations of only one clip in memory at a time
  joint          batch norm over all ρ clips together
Set epochs and predictor with flags: --config.epochs, --config.rho_byol.predictor
"""

from vssl_jax import recipes


def k400(c):
  """The paper's Kinetics-400 recipe: projection of two layers, 4,096 and 256; same predictor."""
  recipes.rho_k400(c)
  recipes.lars(c)
  c.head.hidden, c.head.out = (4096,), 256
  c.rho_byol.predictor = (4096,)


def demo(c):
  """The digit videos, with a target that follows faster."""
  recipes.rho_demo(c)
  recipes.batch_normalized(c)
  c.rho_byol.predictor, c.rho_byol.momentum = (256,), 0.97


def motion(c):
  """As `demo`, with videos whose movement is the class."""
  demo(c)
  recipes.motion(c)


def ucf6(c):
  """Six classes of UCF101, with a target that follows faster."""
  recipes.ucf6(c)
  c.rho_byol.predictor, c.rho_byol.momentum = (256,), 0.97


VARIANTS = {"k400": k400, "demo": demo, "motion": motion, "ucf6": ucf6}
CHANGES = {
  **recipes.RHO_CHANGES,
  **recipes.MOMENTUM_CHANGES,
  "no_target": recipes.field("target", False),
  "sum": recipes.field("positives", "sum"),
}


def get_config(variant: str = ""):
  """The config of a variant, with changes after commas."""
  return recipes.compose(variant or "k400", VARIANTS, CHANGES, prefix="rho_byol", method="rho_byol")
