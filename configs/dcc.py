"""DCC (CVPR 2022) on BaS-Net (AAAI 2020): locate actions in time from video-level labels alone.

  python -m vssl_jax.main --config=configs/dcc.py --config.data.path=FEATURES

FEATURES holds one `[L, 2048]` array per video and annotations.json, or what BaS-Net's authors
distribute, features/{train,test}/{rgb,flow} and gt.json: see docs/localization.md. BaS-Net's values
are those of its released code. For DCC, M, d and the losses are published; K, τ, β, the warm-up and
the scope of the clusters are *ours* (no source states them).

Variants, after a colon:
  (none), thumos14   two-stream I3D, T = 750, 1,500 iterations of 16 videos, Adam. *published*, not
                 run: mAP at tIoU 0.1 … 0.7 of 69.0 63.8 55.9 45.9 35.7 24.3 13.7, average 44.0
                 (second-hand); BaS-Net 58.2 52.3 44.6 36.0 27.0 18.6 10.4, average 35.3.
                 On 8 TPU v5e chips a step needs 0.5 GiB of a chip's 15.8, on 8 v5p 0.6 of 95, on 8
                 H100 0.6 GiB of a GPU: *compiled only*, docs/pods.md
  activitynet    ActivityNet 1.3, T = 50, smoothed activations, tIoU 0.5 … 0.95. *published*, not
                 run: average 24.3 (second-hand); BaS-Net 22.2. Thresholds and schedule are ours.
                 On 8 H100, TPU v5e or v5p chips a step needs 1 GiB or less each: *compiled only*,
                 docs/pods.md
  demo           simulated features (no download), then scored: 75 s on 2 CPU cores.
  thumos14_simulated   simulated features on THUMOS14's real segments:
                 --config.data.localization.annotations=gt.json and ….durations=videos.csv
                 not yet calibrated to THUMOS14, see docs/recipes.md.
  stitched       sequences stitched together from real frame features of trimmed videos (.npz):
                 --config.data.path=features.npz and lengths of segments as above
                 *measured by us*, see docs/results.md.
Use simulated and stitched features to compare parts of the method with each other, not with papers.
The last three variants hold videos out: demo a fifth of the training videos, the other two 200 that
are made for it, on which they also choose thresholds. Their RESULT line has two scores: that of the
last iteration, and that of the checkpoint with the best average mAP on the held-out videos. The
published recipes train on all videos; there --config.data.localization.validation=0.1 holds some
out.

A run writes predictions.json (ActivityNet's format), timelines/ and tsne.png to its folder, and the
precision and recall of its pseudo-labels, before and after denoising, to result.json.

Add ablations after a comma, e.g. configs/dcc.py:demo,no_denoising
  bas_net        no contrast: only the two branches of BaS-Net
  no_denoising   contrast with S = 1
  intra_video, mini_batch, memory_bank    contrast within a video, a batch, all videos (default)
  dataset_clusters   cluster all training snippets together once per epoch, not each video
  input_clusters, embedding_clusters    cluster the input features, or the contrasted embeddings
  balanced       β is the ratio of the gradients of the contrast and of BaS-Net's losses, 1
  as_reviewed    β from 0.1 to 10,000, as a review of the paper has it
  query_only     no gradient to positives and negatives
  true_pseudo_labels   use the annotation as pseudo-labels, to measure the effect of perfect ones;
                 not a result of the method
"""

from vssl_jax import recipes


def _common(c):
  """Adam at a constant learning rate, with L2 in the gradient of all weights, as BaS-Net's code."""
  c.data.source, c.data.clips = "localization", 1
  c.probe.run = False
  c.batch_size, c.steps = 16, 1500
  o = c.optim
  o.name, o.lr, o.lr_batch, o.momentum = "adam", 1e-4, 16, 0.9
  o.weight_decay, o.decay_bias, o.warmup_epochs, o.final_lr = 5e-4, True, 0.0, 1.0
  c.save.every, c.log_every = 500, 50


def thumos14(c):
  """Two-stream I3D features, each of 16 frames at 25 frames per second."""
  _common(c)
  c.data.frames = 750
  c.dcc.classes, c.dcc.videos, c.dcc.width = 20, 200, 2048


def activitynet(c):
  """200 classes and long actions: few steps per video, smoothed activations."""
  _common(c)
  c.data.frames, c.batch_size, c.steps = 50, 64, 10_000
  c.data.train_split, c.data.eval_split = "training", "validation"
  d = c.dcc
  d.classes, d.videos, d.width, d.protocol, d.clusters = 200, 10_024, 2048, "activitynet", 10
  p = d.proposals
  p.class_threshold, p.smooth, p.nms = 0.1, 7, 0.8


def _small(c):
  """A narrow trunk for narrow features; other values were chosen on held-out videos of `stitched`.

  With the defaults the contrastive loss reaches zero before the network has learned from it.
  """
  _common(c)
  c.data.frames, c.steps = 256, 400
  c.dcc.hidden, c.dcc.filter, c.dcc.dim = 64, 32, 64
  c.dcc.temperature, c.dcc.beta, c.dcc.warmup = 0.5, (1.0, 10.0), 0.05
  c.dcc.cluster_on = "features"
  c.optim.lr = 3e-4
  c.save.every = 100
  c.data.localization.validation = 0.2


def _chosen(c):
  """200 more videos are made to choose a checkpoint and thresholds on."""
  c.data.localization.validation_videos = 200
  c.dcc.threshold_sets = tuple((first, first + 0.225, 0.025) for first in (0.0, 0.1, 0.2, 0.3))


def demo(c):
  """200 + 100 simulated videos of 8 classes."""
  _small(c)
  c.data.source = "untrimmed"


def thumos14_simulated(c):
  """The 200 + 210 videos and the segments of THUMOS14; only the features are simulated.

  Twice the iterations, because after 400 BaS-Net's score on held-out videos still rises.
  """
  _small(c)
  c.data.source, c.steps = "untrimmed", 800
  _chosen(c)
  u = c.data.localization.untrimmed
  u.width = 128


def stitched(c):
  """Half the classes of a .npz file are actions, the others are background between them."""
  _small(c)
  c.data.source = "stitched"
  _chosen(c)
  c.data.train_split, c.data.eval_split = "1", "2"


def balanced(c):
  """β is the ratio of the gradients of the contrast and of BaS-Net's losses, not a weight."""
  c.dcc.balance, c.dcc.beta = "gradients", (1.0, 1.0)


def true_pseudo_labels(c):
  """Training uses the annotated segments as pseudo-labels."""
  c.dcc.pseudo, c.data.localization.truth = "annotated", True


VARIANTS = {
  "thumos14": thumos14,
  "activitynet": activitynet,
  "demo": demo,
  "thumos14_simulated": thumos14_simulated,
  "stitched": stitched,
}
CHANGES = {
  "bas_net": recipes.field("contrast", "none"),
  "no_denoising": recipes.field("denoise", False),
  "intra_video": recipes.field("contrast", "video"),
  "mini_batch": recipes.field("contrast", "batch"),
  "memory_bank": recipes.field("contrast", "bank"),
  "dataset_clusters": recipes.field("cluster_scope", "dataset"),
  "input_clusters": recipes.field("cluster_on", "features"),
  "embedding_clusters": recipes.field("cluster_on", "embedding"),
  "as_reviewed": recipes.field("beta", (0.1, 10_000.0)),
  "balanced": balanced,
  "query_only": recipes.field("keys_learn", False),
  "true_pseudo_labels": true_pseudo_labels,
}


def get_config(variant: str = ""):
  """The config of a variant, with changes after commas."""
  return recipes.compose(variant or "thumos14", VARIANTS, CHANGES, prefix="dcc", method="dcc")
