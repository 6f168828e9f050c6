"""ρ-SimCLR (Feichtenhofer et al., CVPR 2021): ρ clips of a video against the batch, Slow-R50.

  python -m vssl_jax.main --config=configs/rho_simclr.py --config.data.path=RECORDS

Variants, after a colon:
  (none), k400   Kinetics-400, 200 epochs, batch 512, ρ = 2. K400 linear top-1 36.1 for ρ = 1, 60.5
                 for ρ = 2, 62.0 for ρ = 3: *published*. Estimated cost, at 40 % of the bf16 peak:
                 17 H100-hours, 34 for ρ = 4 (240k videos x 200 epochs x ρ clips x 250 GFLOP).
                 *not run*. On 64 TPU v5e chips a step needs 6.3 GiB of a chip's 15.8, on 64 v5p 6.4
                 of 95, on 8 H100 48.0 GiB of a GPU: *compiled only*, docs/pods.md
  demo           digit videos (no download), then probes; minutes on 2 CPU cores. docs/results.md:
                 *measured by us*
  motion         videos of digits of which only the movement tells the class (no download); probes
                 include the protocol motion
  ucf6           six classes of UCF101, R3D-18 of width 16, then probes; about 15 minutes on 2 CPU
                 cores. docs/results.md: *measured by us*

Add the study's ablations after a comma, e.g. configs/rho_simclr.py:k400,rho4,aug_plus
  rho1 … rho4    number of clips per video; rho1 is two crops of one clip
                 (the released code doubles the learning rate for ρ = 4: --config.optim.lr=9.6)
  span0 … span30 all clips of a video start within 0, 1, 2, 4, 10 or 30 seconds
                 (any span: --config.data.interval.max_seconds, and min_seconds)
  4x16, 16x4     frames x stride of a clip
  aug_plus       stronger crops, color of strength 0.75
  no_spatial     no random crops or flips
  no_temporal    all clips of a video at the same time
  no_color       no color augmentation
  consecutive    only the pairs (1, 2), (2, 3), …, as in the released code
  sum            losses are summed over pairs, not averaged (released code)
  eq1            positives are summed inside the log (eq. 1)
  joint          batch norm over all ρ clips together
  remat          recompute the blocks in the backward pass to save memory, which grows with ρ
Set epochs and temperature with flags: --config.epochs, --config.rho_simclr.temperature
"""

from vssl_jax import recipes


def k400(c):
  """The paper's Kinetics-400 recipe: three layers of 2,048, 2,048 and 128 with batch norm."""
  recipes.rho_k400(c)
  recipes.lars(c)
  c.head.hidden, c.head.out = (2048, 2048), 128


def demo(c):
  """The digit videos, with batch norm on the embeddings and a high temperature, as ρ-MoCo's."""
  recipes.rho_demo(c)
  recipes.batch_normalized(c)
  c.rho_simclr.temperature = 0.3


def motion(c):
  """As `demo`, with videos whose movement is the class."""
  demo(c)
  recipes.motion(c)


VARIANTS = {"k400": k400, "demo": demo, "motion": motion, "ucf6": recipes.ucf6}
CHANGES = {
  **recipes.RHO_CHANGES,
  "consecutive": recipes.field("pairs", "consecutive"),
  "sum": recipes.field("over_pairs", "sum"),
  "eq1": recipes.field("pairs", "joint"),
  "remat": lambda c: c.encoder.update({"remat": True}),
}


def get_config(variant: str = ""):
  """The config of a variant, with changes after commas."""
  return recipes.compose(
    variant or "k400", VARIANTS, CHANGES, prefix="rho_simclr", method="rho_simclr"
  )
