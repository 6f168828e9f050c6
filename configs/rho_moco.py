"""ρ-MoCo (Feichtenhofer et al., CVPR 2021): ρ clips of a video against a queue, Slow-R50.

  python -m vssl_jax.main --config=configs/rho_moco.py --config.data.path=RECORDS

Variants, after a colon:
  (none), k400   Kinetics-400, 200 epochs, batch 512, ρ = 2. K400 linear top-1 65.8 for ρ = 2,
                 67.3 for ρ = 3, 69.0 for ρ = 4 with aug+: *published*. Estimated cost, at 40 % of
                 the bf16 peak: 22 H100-hours, 45 for ρ = 4 (240k videos x 200 epochs x ρ clips x
                 (250 GFLOP for the query + 83 for the key)). *not run*. On 64 TPU v5e chips
                 a step needs 6.6 GiB of a chip's 15.8, on 64 v5p 6.6 of 95, on 8 H100 63.2 GiB of a
                 GPU: set XLA_PYTHON_CLIENT_MEM_FRACTION=0.82. *compiled only*, docs/pods.md
  demo           digit videos (no download), then probes; minutes on 2 CPU cores. docs/results.md:
                 *measured by us*
  motion         videos of digits of which only the movement tells the class (no download); probes
                 include the protocol motion
  ucf6           six classes of UCF101, R3D-18 of width 16, then probes; about 15 minutes on 2 CPU
                 cores. docs/results.md: *measured by us*

Add the study's ablations after a comma, e.g. configs/rho_moco.py:k400,rho4,aug_plus
  rho1 … rho4    number of clips per video; rho1 is two crops of one clip
                 (the released code doubles the learning rate for ρ = 4: --config.optim.lr=0.8)
  span0 … span30 all clips of a video start within 0, 1, 2, 4, 10 or 30 seconds
                 (any span: --config.data.interval.max_seconds, and min_seconds)
  4x16, 16x4     frames x stride of a clip
  aug_plus       stronger crops, color of strength 0.75
  no_spatial     no random crops or flips
  no_temporal    all clips of a video at the same time
  no_color       no color augmentation
  fixed          the momentum is constant, not annealed
  momentum0      the momentum is 0: the key network equals the query network
  sum            positives are summed inside the log (eq. 1)
  query_sum      gradients of the ρ queries are summed, not averaged
  sequential     activations of only one clip in memory at a time
  joint          batch norm over all ρ clips together
Set epochs, queue and temperature with flags: --config.epochs, --config.rho_moco.queue,
….temperature
"""

from vssl_jax import recipes


def k400(c):
  """The paper's Kinetics-400 recipe: MLP without batch norm, keys shuffled over groups of 8.

  PySlowFast shuffles the 64 videos of a machine. Here 8 neighboring groups exchange rows.
  """
  recipes.rho_k400(c)
  c.head.hidden, c.head.out, c.head.bn = (2048, 2048), 128, False
  c.encoder.bn_groups, c.rho_moco.shuffle_block = 64, 8
  c.optim.name, c.optim.lr, c.optim.weight_decay = "sgd", 0.4, 1e-4


def demo(c):
  """The digit videos: keys of the last step, a fast target, a high temperature.

  With a temperature of 0.1 the loss starts above that of guessing, and the shortest way down is to
  crowd together. A queue as long as an epoch would contain the query's own video.
  """
  recipes.rho_demo(c)
  recipes.batch_normalized(c)
  c.rho_moco.queue, c.rho_moco.momentum, c.rho_moco.temperature = 256, 0.9, 0.3


def motion(c):
  """As `demo`, with videos whose movement is the class."""
  demo(c)
  recipes.motion(c)


def ucf6(c):
  """Six classes of UCF101: keys of the last four steps; see `demo`."""
  recipes.ucf6(c)
  c.rho_moco.queue, c.rho_moco.momentum = 128, 0.97


VARIANTS = {"k400": k400, "demo": demo, "motion": motion, "ucf6": ucf6}
CHANGES = {
  **recipes.RHO_CHANGES,
  **recipes.MOMENTUM_CHANGES,
  "sum": recipes.field("positives", "sum"),
}


def get_config(variant: str = ""):
  """The config of a variant, with changes after commas."""
  return recipes.compose(variant or "k400", VARIANTS, CHANGES, prefix="rho_moco", method="rho_moco")
