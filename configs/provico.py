"""ProViCo (Park et al., CVPR 2022): videos as Gaussians, mined pairs, stochastic contrast.

  python -m vssl_jax.main --config=configs/provico.py --config.data.path=RECORDS

The paper publishes the loss, β = 1e-4, and that batch and input are smaller than its rivals'.
Clips, samples, width, λ, τ, network, optimizer, schedule and augmentation are *ours*.

Variants, after a colon:
  (none), k400   Kinetics-400, Slow-R50 on 8 x 112 x 112, N = 4 clips, K = 8, D = 256, 200 epochs,
                 batch 256, SGD. About 8 H100-hours at 40 % of the bf16 peak by arithmetic: 240k
                 videos x 200 epochs x 4 clips x 63 GFLOP. *not run*
  demo           embedded digit videos, then probed; 2 minutes on 2 CPU cores. docs/results.md:
                 *measured by us*
  ucf6           six classes of UCF101, R3D-18 of width 16, then probed; as many clips as CVRL's, in
                 half the epochs, 8 minutes on 2 CPU cores. docs/results.md: *measured by us*

The paper's analysis of uncertainty (the runs keep a checkpoint every other epoch for it) beside two
ablations that it lacks: without the divergence, which pushes uncertainty up, and without ½ log s,
which pushes it down, and the weights that keep it from nothing:
  python -m vssl_jax.uncertainty --output=DIR --checkpoint runs/provico_demo \
    runs/provico_demo_no_kl runs/provico_demo_soft
docs/uncertainty.md has what came of it.

Where p = ½ starts matters most. a = 30 and b = 45 put it at the distance 1.5, just beyond a video's
own draws (√2 at first; unrelated videos 2). Cross-validation of features over the digits' training
videos, 6 epochs, seed 0: b = 45 logistic 48.1, R@1 24.0; b = 37.5 30.7 and 12.5: *measured by us*.

Questions are added after a comma, e.g. configs/provico.py:k400,n8,no_kl
  n2, n4, n8     N clips of a video
  k1, k4, k16    K samples of a video
  d64, d512      width of the embedding
  lambda0, lambda1   weight of the distance's quadratic term, ¼ by default
  tau1, tau10    positives: the nearest 1 or 10 % of the batch's pairs, 5 % by default
  absolute       all pairs with D_B < 4, between distributions
  top_k, mutual  each video's 5 nearest; of them those that chose each other
  own            a video's own pair alone: nothing is mined
  moments        distances between distributions, not samples
  reviewed       the one-dimensional formula as a review prints it
  halves         own pair: two halves of the clips, not two draws of all
  no_kl, kl_video    without the divergence, or of videos
  geometric, mean    σ² as one number; the trace by default
  soft           L_soft without uncertainties: neither weights nor ½ log s
  classes        positives and negatives half of the loss each, not by their numbers
  span0 … span30, no_temporal, no_spatial, no_color, joint    as in configs/rho_simclr.py
Epochs, τ, a and b are flags: --config.epochs, --config.provico.threshold, ….slope, ….offset
"""

from vssl_jax import recipes


def _common(c):
  """One layer a head, as published, and four clips."""
  c.head.hidden = ()
  c.data.clips = 4


def k400(c):
  """Kinetics-400 at a smaller batch and input than the ρ-study's, otherwise alike."""
  recipes.rho_k400(c)
  _common(c)
  c.head.out = 256
  c.batch_size = 256
  c.data.size = c.data.eval.size = c.probe.size = 112
  c.data.eval.resize = 128
  o = c.optim
  o.lr, o.weight_decay = 0.4, 1e-4


def demo(c):
  """The embedded digits."""
  recipes.rho_demo(c)
  _common(c)
  c.save.every, c.save.keep = 44, 9


def ucf6(c):
  """Six classes of UCF101."""
  recipes.ucf6(c)
  _common(c)
  c.epochs = 20.0
  c.save.every, c.save.keep = 66, 10


def fields(**values):
  """A change of the method's own fields."""
  return lambda c: c.provico.update(values)


def width(dim):
  """D."""
  return lambda c: c.head.update({"out": dim})


_INHERITED = ("no_temporal", "no_spatial", "no_color", "joint")
VARIANTS = {"k400": k400, "demo": demo, "ucf6": ucf6}
CHANGES = {
  **{k: v for k, v in recipes.RHO_CHANGES.items() if k.startswith("span") or k in _INHERITED},
  **{f"n{n}": recipes.rho(n) for n in (2, 4, 8)},
  **{f"k{k}": fields(samples=k) for k in (1, 4, 16)},
  **{f"d{d}": width(d) for d in (64, 512)},
  **{f"lambda{x}": fields(distance=float(x)) for x in (0, 1)},
  **{f"tau{x}": fields(threshold=x / 100) for x in (1, 10)},
  "absolute": fields(mining="absolute", threshold=4.0, distance_on="moments"),
  "top_k": fields(mining="top_k", threshold=5.0),
  "mutual": fields(mining="top_k", threshold=5.0, combine="mutual"),
  "own": fields(mining="none"),
  "moments": fields(distance_on="moments"),
  "reviewed": fields(form="reviewed"),
  "halves": fields(own="halves"),
  "no_kl": fields(beta=0.0),
  "kl_video": fields(kl_on="video"),
  "geometric": fields(scalar="geometric"),
  "mean": fields(scalar="mean"),
  "soft": fields(stochastic=False),
  "classes": fields(average="classes"),
}


def get_config(variant: str = ""):
  """The config of a variant, with changes after commas."""
  return recipes.compose(variant or "k400", VARIANTS, CHANGES, prefix="provico", method="provico")
