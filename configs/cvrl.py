"""CVRL (Qian et al., CVPR 2021): contrast two clips of a video, R3D-50.

  python -m vssl_jax.main --config=configs/cvrl.py --config.data.path=RECORDS

Variants, after a colon:
  (none), k400   Kinetics-400, 200 epochs, batch 1,024. K400 linear top-1 63.8 (66.1 at 800
                 epochs, --config.epochs=800): *published*. Estimated cost, at 40 % of the bf16
                 peak: 17 H100-hours (240k videos x 200 epochs x 2 clips x 273 GFLOP). *not run*.
                 On 64 TPU v5e chips a step needs 11.2 GiB of a chip's 15.8, on 64 v5p 11.3 of 95;
                 on 8 H100 51.8 GiB of a GPU with --config.accumulate=2, else 73.7 and
                 XLA_PYTHON_CLIENT_MEM_FRACTION=0.95: *compiled only*, docs/pods.md
  k600           Kinetics-600, 800 epochs: 68.5 on K400, 70.4 on K600: *published*. *not run*. A
                 step needs what that of k400 needs
  r3d152x2       R3D-152 with twice the width on K600: 72.9 on K600: *published*. *not run*. On 64
                 TPU v5p chips a step needs 18.9 GiB of a chip's 95, on 64 v5e 14.9 of 15.8 with
                 --config.accumulate=2, on 64 H100 41.9 GiB of a GPU; on 8 H100 it would need 327:
                 *compiled only*, docs/pods.md
  demo           digit videos (no download), then probes: minutes on 2 CPU cores. Linear top-1 74.2
                 (random weights 18.2), logistic 78.0 (19.8), R@1 66.3 (12.0), three seeds:
                 *measured by us*
  ucf6           six classes of UCF101, R3D-18 of width 16, then probes: 17 minutes on 2 shared CPU
                 cores. Logistic 80.2 (random weights 67.8), R@1 76.7 (61.4), three seeds:
                 *measured by us*
  demo_supervised  the network of demo trained with labels from scratch on the same number of clips
  motion         videos of digits of which only the movement tells the class (no download); probes
                 include the protocol motion
  motion_supervised  the network of motion trained with labels from scratch
  ucf6_supervised  the network of ucf6 trained with labels from scratch: its own classifier 80.5,
                 logistic 81.4, R@1 80.2, three seeds: *measured by us*

Add the paper's ablations after a comma, e.g. configs/cvrl.py:k400,uniform
  uniform, increasing, constant   distribution of the interval between the clips (constant: 2 s)
  same_time      both clips start at the same time (no temporal augmentation)
  no_spatial     no spatial augmentation: central crops, no color, blur or flips
  per_frame      spatial augmentation is drawn separately for each frame (inconsistent)
  rotation       also rotates by random multiples of 90 degrees
  plain          blur with probability 0.5 on both views and no solarization
  half, tenth    a fraction of the training videos (any: --config.data.fraction=0.25)
  inflated       a 2-D network trained on single frames, inflated to 3-D for the probe
  single_frames  the same network; the probe averages its features of a clip's frames
"""

from vssl_jax import augment, recipes
from vssl_jax import config as config_lib


def k400(c):
  """The paper's Kinetics-400 recipe; all other values are the defaults."""
  recipes.published_probe(c)


def k600(c):
  """Kinetics-600, the headline schedule."""
  k400(c)
  c.epochs = 800.0


def r3d152x2(c):
  """R3D-152 with twice the channels, 327.7 M parameters."""
  k600(c)
  c.encoder.depth, c.encoder.width, c.encoder.remat = 152, 2.0, True


def demo(c):
  """The digit videos: two clips per video, and three times the epochs of the methods with four."""
  recipes.demo(c)
  recipes.batch_normalized(c)
  c.epochs, c.cvrl.temperature = 120.0, 0.3


def motion(c):
  """As `demo`, with videos whose movement is the class."""
  demo(c)
  recipes.motion(c)


def ucf6(c):
  """Six classes of UCF101 with the mean over all anchors as the loss."""
  recipes.ucf6(c)
  c.cvrl.loss_scale = 1.0


def ucf6_supervised(c):
  """The ucf6 network trained with labels from scratch: crops and flips, 40 epochs."""
  recipes.ucf6(c)
  c.batch_size, c.epochs, c.data.clips, c.data.interval.distribution = 64, 40.0, 1, "independent"
  augment.presets.none(c.augment)
  c.augment.flip = 0.5
  o = c.optim
  o.name, o.lr, o.lr_batch, o.weight_decay = "sgd", 0.1, 64, 1e-4
  c.classify.frozen = c.classify.normalize = False


def demo_supervised(c):
  """The demo's network trained with labels from scratch: crops alone, one clip per video."""
  recipes.demo(c)
  c.epochs, c.data.clips, c.data.interval.distribution = 160.0, 1, "independent"
  augment.presets.none(c.augment)
  c.classify.frozen = c.classify.normalize = False


def motion_supervised(c):
  """The network of motion trained with labels from scratch: crops alone, one clip per video."""
  demo_supervised(c)
  recipes.motion(c)


VARIANTS = {
  "k400": k400,
  "k600": k600,
  "r3d152x2": r3d152x2,
  "demo": demo,
  "demo_supervised": demo_supervised,
  "motion": motion,
  "motion_supervised": motion_supervised,
  "ucf6": ucf6,
  "ucf6_supervised": ucf6_supervised,
}
METHODS = dict.fromkeys(("demo_supervised", "motion_supervised", "ucf6_supervised"), "classify")


def _interval(name):
  def change(c):
    c.data.interval.distribution = name
    if name == "constant":
      c.data.interval.gap, c.data.interval.unit = 2.0, "seconds"

  return change


def no_spatial(c):
  """No random crops, color, blur or flips."""
  c.probe.flip = config_lib.probe_flip(c)  # those of the probes stay
  augment.presets.none(c.augment)
  c.augment.flip, c.data.crop.random = 0.0, False


def per_frame(c):
  """Draws spatial augmentation per frame, to measure the effect of temporal consistency."""
  c.augment.consistent = c.data.crop.consistent = False


def inflated(c):
  """SimCLR on single frames with a 2-D network; for the probe its kernels are repeated in time."""
  c.encoder.temporal = False
  c.data.frames = 1


def single_frames(c):
  """SimCLR on single frames with a 2-D network, whose features of frames the probe averages."""
  inflated(c)
  c.encoder.inflate = False


ABLATIONS = {
  "uniform": _interval("uniform"),
  "increasing": _interval("increasing"),
  "constant": _interval("constant"),
  "same_time": _interval("same"),
  "no_spatial": no_spatial,
  "per_frame": per_frame,
  "rotation": lambda c: c.augment.update({"rotation_p": 0.5}),
  "plain": lambda c: augment.presets.plain(c.augment),
  "half": lambda c: c.data.update({"fraction": 0.5}),
  "tenth": lambda c: c.data.update({"fraction": 0.1}),
  "inflated": inflated,
  "single_frames": single_frames,
}


def get_config(variant: str = ""):
  """The config of a variant, with ablations after commas."""
  return recipes.compose(
    variant or "k400", VARIANTS, ABLATIONS, prefix="cvrl", method="cvrl", methods=METHODS
  )
