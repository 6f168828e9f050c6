"""ρ-SwAV (Feichtenhofer et al., CVPR 2021): predict the other clips' prototype codes, Slow-R50.

  python -m vssl_jax.main --config=configs/rho_swav.py --config.data.path=RECORDS

Variants, after a colon:
  (none), k400   Kinetics-400, 200 epochs, batch 512, ρ = 2. K400 linear top-1 38.6 for ρ = 1, 61.6
                 for ρ = 2: *published*. About 17 H100-hours at 40 % of the bf16 peak by
                 arithmetic, 34 for ρ = 4: 240k videos x 200 epochs x ρ clips x 250 GFLOP. *not run*
  demo           embedded digit videos, then probed; minutes on 2 CPU cores. docs/results.md:
                 *measured by us*
  ucf6           six classes of UCF101, R3D-18 of width 16, then probed; 7 to 10 minutes on 2 CPU
                 cores. docs/results.md: *measured by us*

The study's questions are added after a comma, e.g. configs/rho_swav.py:k400,rho4,aug_plus
  rho1 … rho4    clips of a video; rho1 is two crops of one clip
                 (the released code doubles the rate for ρ = 4: --config.optim.lr=9.6)
  span0 … span30 all clips of a video start within 0, 1, 2, 4, 10 or 30 seconds
                 (any span: --config.data.interval.max_seconds, and min_seconds)
  4x16, 16x4     frames x stride of a clip
  aug_plus       harder crops, color of strength 0.75
  no_spatial, no_temporal, no_color    without crops and flips, clips apart, or color
  all_codes      codes of all clips (eq. 3), not of the first two
  queue          3,840 embeddings of earlier batches join the codes' batch after 15 epochs (SwAV)
  joint          batch norm over all ρ clips together
  remat          recompute the blocks in the backward pass: less memory, which grows with ρ
Epochs, prototypes and ε are flags: --config.epochs, --config.rho_swav.prototypes, ….epsilon
"""

from vssl_jax import recipes


def k400(c):
  """The paper's Kinetics-400 recipe: three layers of 2,048, 2,048 and 128 with batch norm."""
  recipes.rho_k400(c)
  recipes.lars(c)
  c.head.hidden, c.head.out = (2048, 2048), 128


def demo(c):
  """The embedded digits, with more prototypes than the embedding's 64 dimensions.

  With fewer there is a direction at right angles to all of them, where equal scores make the loss
  log K for good; the paper has 1,000 in 128. Batches are small, so the codes are sharper.
  """
  recipes.rho_demo(c)
  c.rho_swav.prototypes, c.rho_swav.epsilon = 100, 0.03


def ucf6(c):
  """Six classes of UCF101, as `demo`. No queue: at this rate its embeddings are soon stale."""
  recipes.ucf6(c)
  c.rho_swav.prototypes, c.rho_swav.epsilon = 100, 0.03


VARIANTS = {"k400": k400, "demo": demo, "ucf6": ucf6}
CHANGES = {
  **recipes.RHO_CHANGES,
  "all_codes": recipes.field("codes_from", 0),
  "queue": recipes.field("queue", 3840),
  "remat": lambda c: c.encoder.update({"remat": True}),
}


def get_config(variant: str = ""):
  """The config of a variant, with changes after commas."""
  return recipes.compose(variant or "k400", VARIANTS, CHANGES, prefix="rho_swav", method="rho_swav")
