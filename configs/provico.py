"""ProViCo (Park et al., CVPR 2022): contrast videos as Gaussians, with mined positive pairs.

  python -m vssl_jax.main --config=configs/provico.py --config.data.path=RECORDS

The paper publishes the loss and β = 1e-4, and says that batch and input are smaller than those of
other methods. Clips, samples, width, λ, τ, network, optimizer, schedule and augmentation are
*ours*.

Variants, after a colon:
  (none), k400   Kinetics-400, Slow-R50 on 8 x 112 x 112, N = 4 clips, K = 8, D = 256, 200 epochs,
                 batch 256, SGD. Estimated cost, at 40 % of the bf16 peak: 8 H100-hours (240k videos
                 x 200 epochs x 4 clips x 63 GFLOP). *not run*. On 16 TPU v5e chips a step needs
                 6.3 GiB of a chip's 15.8, on 64 v5p 3.4 of 95, on 8 H100 11.0 GiB of a GPU:
                 *compiled only*, docs/pods.md. Mines the nearest 0.25 % of the batch's pairs, since
                 of 400 classes no more are of one class (below)
  demo           digit videos (no download), then probes; 2 minutes on 2 CPU cores.
                 docs/results.md: *measured by us*
  motion         videos of digits of which only the movement tells the class (no download); probes
                 include the protocol motion
  ucf6           six classes of UCF101, R3D-18 of width 16, then probes; the same number of clips as
                 CVRL in half the epochs, 8 minutes on 2 CPU cores. docs/results.md:
                 *measured by us*

The command below repeats the paper's analysis of uncertainty. The runs keep a checkpoint every
other epoch for it. It adds two ablations that are not in the paper: `no_kl` removes the KL
divergence (which pushes the uncertainty up); `soft` removes ½ log s (which pushes it down) and the
weights (which keep it above zero).
  python -m vssl_jax.uncertainty --output=DIR --checkpoint runs/provico_demo \
    runs/provico_demo_no_kl runs/provico_demo_soft
docs/uncertainty.md has the results.

Mining scales with the number of classes. With C balanced classes a share of 1 / C of a batch's
pairs is of one class, whatever the size of the batch. Of the nearest share q, therefore, at most
1 / (C q) can be right: all of 0.25 % with 400 classes, but one in 20 of the 5 % that suits 10
classes. `k400` takes q = 1 / 400; for data with other classes set --config.provico.threshold to at
most 1 / C, or use `top1`, which chooses fewer and needs no C.

The most important value is the distance at which p = ½ at the start. With a = 30 and b = 45 it is
1.5, a little more than the distance of two draws of one video (√2 at first; unrelated videos are 2
apart). Cross-validation of the features over the digits' training videos, 6 epochs, seed 0: b = 45
logistic 48.1, R@1 24.0; b = 37.5 logistic 30.7, R@1 12.5: *measured by us*.

Add ablations after a comma, e.g. configs/provico.py:k400,n8,no_kl
  n2, n4, n8     N, number of clips per video
  k1, k4, k16    K, number of samples per video
  d64, d512      width of the embedding
  lambda0, lambda1   weight of the quadratic term of the distance (default ¼)
  tau1, tau10    positives are the nearest 1 or 10 % of the batch's pairs (default 5 %, of k400
                 0.25 %)
  absolute       positives are all pairs of distributions with D_B < 4
  top_k          positives are the 5 nearest videos of each video
  mutual         as top_k, but both videos must choose each other
  top1           positives are pairs of videos that are each other's nearest
  own            the only positive of a video is the video itself: no mining
  moments        distances between distributions, not between samples
  reviewed       the one-dimensional formula that a review of the paper prints
  halves         a video's pair with itself: two halves of its clips, not two draws
  no_kl, kl_video    no KL divergence; or that of videos instead of clips
  geometric, mean    how σ² becomes one number (default: the trace)
  soft           L_soft without uncertainties: neither weights nor ½ log s
  classes        positives and negatives make up half of the loss each, whatever their numbers
  log            the optimizer moves log a and log b, for AdamW: its steps hardly move b = 45
  margin         p = ½ at a distance of 1.2 for positives and of 1.6 for negatives; both are 1.5 by
                 default. *Ours*
  softmax        the distributions of the batch compete for each video, as in InfoNCE, instead of a
                 threshold per pair; a = 10. *Ours*
  span0 … span30, no_temporal, no_spatial, no_color, joint    as in configs/rho_simclr.py
Set epochs, τ, a and b with flags: --config.epochs, --config.provico.threshold, ….slope, ….offset
"""

from vssl_jax import recipes


def _common(c):
  """Heads of one layer, as published, and four clips per video."""
  c.head.hidden = ()
  c.data.clips = 4


def share_of_one_class(classes):
  """The expected share of a batch's pairs that are of one class, if classes are balanced."""
  return 1 / classes


def k400(c):
  """Kinetics-400 as in the ρ-study, but with a smaller batch and input.

  Mines no larger share of the pairs than can be of one class.
  """
  recipes.rho_k400(c)
  _common(c)
  c.provico.threshold = share_of_one_class(400)
  c.head.out = 256
  c.batch_size = 256
  c.data.size = c.data.eval.size = c.probe.size = 112
  c.data.eval.resize = 128
  o = c.optim
  o.lr, o.weight_decay = 0.4, 1e-4


def demo(c):
  """The digit videos."""
  recipes.rho_demo(c)
  _common(c)
  c.save.every, c.save.keep = 44, 9


def motion(c):
  """As `demo`, with videos whose movement is the class."""
  demo(c)
  recipes.motion(c)


def ucf6(c):
  """Six classes of UCF101."""
  recipes.ucf6(c)
  _common(c)
  c.epochs = 20.0
  c.save.every, c.save.keep = 66, 10


def fields(**values):
  """A change that sets fields of `config.provico`."""
  return lambda c: c.provico.update(values)


def width(dim):
  """A change that sets D, the width of the embedding."""
  return lambda c: c.head.update({"out": dim})


_INHERITED = ("no_temporal", "no_spatial", "no_color", "joint")
VARIANTS = {"k400": k400, "demo": demo, "motion": motion, "ucf6": ucf6}
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
  "top1": fields(mining="top_k", threshold=1.0, combine="mutual"),
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
  "log": fields(parametrization="log"),
  "margin": fields(offset=36.0, margin=12.0),
  "softmax": fields(match="softmax", slope=10.0),
}


def get_config(variant: str = ""):
  """The config of a variant, with changes after commas."""
  return recipes.compose(variant or "k400", VARIANTS, CHANGES, prefix="provico", method="provico")
