"""ρ-SwAV (Feichtenhofer et al., CVPR 2021): predict the other clips' prototype codes, Slow-R50.

  python -m vssl_jax.main --config=configs/rho_swav.py --config.data.path=RECORDS

Variants, after a colon:
  (none), k400   Kinetics-400, 200 epochs, batch 512, ρ = 2. K400 linear top-1 38.6 for ρ = 1, 61.6
                 for ρ = 2: *published*. Estimated cost, at 40 % of the bf16 peak: 17 H100-hours,
                 34 for ρ = 4 (240k videos x 200 epochs x ρ clips x 250 GFLOP). *not run*. On 64
                 TPU v5e chips a step needs 6.3 GiB of a chip's 15.8, on 64 v5p 6.4 of 95, on 8 H100
                 48.1 GiB of a GPU: *compiled only*, docs/pods.md
  demo           digit videos (no download), then probes; minutes on 2 CPU cores. docs/results.md:
                 *measured by us*
  motion         videos of digits of which only the movement tells the class (no download); probes
                 include the protocol motion
  ucf6           six classes of UCF101, R3D-18 of width 16, then probes; 7 to 10 minutes on 2 CPU
                 cores. docs/results.md: *measured by us*

Add the study's ablations after a comma, e.g. configs/rho_swav.py:k400,rho4,aug_plus
  rho1 … rho4    number of clips per video; rho1 is two crops of one clip
                 (the released code doubles the learning rate for ρ = 4: --config.optim.lr=9.6)
  span0 … span30 all clips of a video start within 0, 1, 2, 4, 10 or 30 seconds
                 (any span: --config.data.interval.max_seconds, and min_seconds)
  4x16, 16x4     frames x stride of a clip
  aug_plus       stronger crops, color of strength 0.75
  no_spatial     no random crops or flips
  no_temporal    all clips of a video at the same time
  no_color       no color augmentation
  all_codes      codes for all clips (eq. 3), not only for the first two
  queue          after 15 epochs, codes also use 3,840 embeddings of earlier batches (SwAV)
  joint          batch norm over all ρ clips together
  remat          recompute the blocks in the backward pass to save memory, which grows with ρ
Set epochs, prototypes and ε with flags: --config.epochs, --config.rho_swav.prototypes, ….epsilon
"""

from vssl_jax import recipes


def k400(c):
  """The paper's Kinetics-400 recipe: three layers of 2,048, 2,048 and 128 with batch norm."""
  recipes.rho_k400(c)
  recipes.lars(c)
  c.head.hidden, c.head.out = (2048, 2048), 128


def demo(c):
  """The digit videos, with more prototypes (300) than a batch has videos (64).

  With 60 prototypes the look of a shot is enough to predict a code, and nothing else is learned.
  Codes are sharp (small ε) and all clips have one; predictions have a high temperature.
  """
  recipes.rho_demo(c)
  recipes.batch_normalized(c)
  s = c.rho_swav
  s.prototypes, s.epsilon, s.temperature, s.codes_from = 300, 0.03, 0.3, 0


def motion(c):
  """As `demo`, with videos whose movement is the class."""
  demo(c)
  recipes.motion(c)


def ucf6(c):
  """Six classes of UCF101, with more prototypes than the embedding has dimensions (64).

  With fewer, some direction is orthogonal to all of them: there all scores are equal, and the loss
  stays at log K. No queue: at this rate old embeddings are soon outdated.
  """
  recipes.ucf6(c)
  c.rho_swav.prototypes, c.rho_swav.epsilon = 100, 0.03


VARIANTS = {"k400": k400, "demo": demo, "motion": motion, "ucf6": ucf6}
CHANGES = {
  **recipes.RHO_CHANGES,
  "all_codes": recipes.field("codes_from", 0),
  "queue": recipes.field("queue", 3840),
  "remat": lambda c: c.encoder.update({"remat": True}),
}


def get_config(variant: str = ""):
  """The config of a variant, with changes after commas."""
  return recipes.compose(variant or "k400", VARIANTS, CHANGES, prefix="rho_swav", method="rho_swav")
