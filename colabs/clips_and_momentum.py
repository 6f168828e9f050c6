# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How many clips, how far apart, how slow a target
#
# **Question.** To learn from videos without labels, a network sees ρ clips of each video and learns
# to give them similar features. How many clips should it see, from how long a part of the video,
# and how long and dense should each clip be? And if the target features come from a second, slowly
# moving network, how slow should it be?
#
# **What is known.** *A Large-Scale Study on Unsupervised Spatiotemporal Representation Learning*
# (Feichtenhofer et al., CVPR 2021; the ρ-study) asked this for SimCLR, MoCo, BYOL and SwAV. Its
# published linear top-1 on Kinetics-400, with Slow-R50 after 200 epochs:
#
# | | ρ = 1 | ρ = 2 | ρ = 3 | ρ = 4 |
# |---|---|---|---|---|
# | SimCLR | 36.1 | 60.5 | 62.0 | |
# | SwAV | 38.6 | 61.6 | | |
# | MoCo | | 65.8 | 67.3 | |
# | BYOL | | | 68.3 | 68.9 |
#
# The largest gain comes from two different clips instead of two crops of one clip; more clips help
# further. In its ablation of the time span, taking all clips from one instant costs about five
# points (ρ = 1 in the table costs far more), and all longer spans are about equally good. An
# annealed momentum is about one point better than a fixed one.
#
# **Here.** Each section has one question: first the exact mechanism, computed with the functions
# that training uses; then, for most questions, a tiny run. The runs take seconds: networks of width
# 8, videos of handwritten digits, 1 % of a real schedule. **They show the mechanism and that the
# code does what the section says. They cannot reproduce the table; if they differ from it, trust
# the table.**

# %%
import importlib.util
import os
import pathlib
import subprocess
import sys

REPOSITORY = ""  # what `git clone` takes, where the library is neither installed nor here
here = [p for p in (".", "..", "vssl_jax") if pathlib.Path(p, "vssl_jax", "losses").is_dir()]
if not here and REPOSITORY:
  subprocess.run(["git", "clone", "--depth=1", REPOSITORY, "vssl_jax"], check=True)
  here = ["vssl_jax"]
if here:  # a checkout
  os.chdir(here[0])
  sys.path.insert(0, os.getcwd())
elif importlib.util.find_spec("vssl_jax") is None:
  raise RuntimeError(
    "The library is not here: upload a checkout of it (or mount a drive that has one) as the "
    "folder vssl_jax beside this notebook, install it with pip, or set REPOSITORY above."
  )
if importlib.util.find_spec("ml_collections") is None:  # a fresh machine, such as Colab's
  subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", ".[data]"], check=True)
FAST = os.environ.get("VSSL_FAST") == "1"  # a rehearsal: everything runs, figures mean nothing

# %%
# %matplotlib inline
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import contextlib
import io
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from data_pipelines.clips import sampler
from data_pipelines.digits import render
from vssl_jax import config_file, figure, methods, models, parallel
from vssl_jax.evaluation import end_of_run
from vssl_jax.evaluation import splits as splits_lib
from vssl_jax.methods.base import value_and_grad
from vssl_jax.models import cost
from vssl_jax.ops import ema
from vssl_jax.probes import calibrate
from vssl_jax.training import loop, metrics_log, sources

logging.set_verbosity(logging.ERROR)
RUN = pathlib.Path("runs/colab_clips_and_momentum")
shutil.rmtree(RUN, ignore_errors=True)
if not jax.config.jax_compilation_cache_dir:  # a program that comes twice is compiled once
  jax.config.update("jax_compilation_cache_dir", str((RUN / "cache").absolute()))
jax.config.update("jax_disable_most_optimizations", FAST)

# %% [markdown]
# ## 1. Where ρ clips lie
#
# In a video of $L$ frames, a clip of $T$ frames with stride $s$ has $m = L - (T - 1)s$ possible
# starts. The study draws the ρ starts independently and uniformly. With a bound on the time span,
# $t_\max$, only those draws are kept whose first and last start are at most $t_\max$ apart; the
# library draws from this distribution directly, without rejection. $t_\max = 0$ gives all clips the
# same start. In the study this is also the meaning of ρ = 1: two crops of the same clip. The
# example has ten seconds at 30 frames per second, as in Kinetics, and clips of 8 × 8 (eight frames
# with stride eight).

# %%
FPS, LENGTH, FRAMES, STRIDE = 30, 300, 8, 8
COVERED = (FRAMES - 1) * STRIDE + 1  # frames from a clip's first to its last
m = int(sampler.num_starts(np.int64(LENGTH), FRAMES, STRIDE))


def starts(count: int, clips: int, seconds: float | None = None, seed: int = 0) -> np.ndarray:
  """First frames of the clips of so many videos `[count, clips]`; None leaves the span free."""
  law = "same" if seconds == 0 else "independent"
  u = np.random.default_rng(seed).random((count, sampler.num_uniforms(clips)))
  return sampler.starts(
    u,
    np.full(count, LENGTH),
    frames=FRAMES,
    stride=STRIDE,
    clips=clips,
    fps=FPS,
    interval=sampler.Interval(distribution=law, max_seconds=seconds or 0.0),
  )


# %%
SPANS = {"one instant": 0.0, "within 1 s": 1.0, "within 4 s": 4.0, "anywhere": None}
fig = figure.new(10, 3)
axes = fig.subplots(1, len(SPANS), sharey=True)
for axis, (name, seconds) in zip(axes, SPANS.items(), strict=True):
  for video, row in enumerate(starts(7, 4, seconds, seed=1)):
    for clip, first in enumerate(row):
      place = video + 0.2 * (clip - 1.5)
      axis.barh(place, COVERED / FPS, 0.17, first / FPS, color=f"C{clip}")
  axis.set(title=name, xlabel="second of the video", xlim=(0, LENGTH / FPS), yticks=[])
axes[0].set_ylabel("seven videos")
axes[0].invert_yaxis()
fig

# %% [markdown]
# *Figure 1. ρ = 4 clips (colors) of seven videos under each bound on the time span, drawn by the
# library's sampler. A bar is the time that a clip covers.*
#
# Note: without a bound, more clips also span more time. The range $r$ of ρ uniform draws, as a
# fraction of the video, has the density $\rho(\rho - 1)\,r^{\rho - 2}(1 - r)$ and the mean
# $(\rho - 1)/(\rho + 1)$. So a comparison of different ρ is also a comparison of different time
# spans.

# %%
fig = figure.new(9, 2.8)
left, right = fig.subplots(1, 2)
r = np.linspace(0, 1, 101)
for rho, color in zip((2, 3, 4, 8), ("C0", "C2", "C1", "C3"), strict=True):
  drawn = starts(20_000, rho)
  span = np.ptp(drawn, axis=1) / m
  edges = (np.arange(0, m + 1, 9) - 0.5) / m
  left.hist(span, edges, density=True, histtype="step", color=color, alpha=0.6)
  law = rho * (rho - 1) * r ** (rho - 2) * (1 - r)
  left.plot(r, law, color=color, label=f"ρ = {rho}: mean {span.mean():.3f}")
  seen = np.zeros((len(drawn), LENGTH), bool)
  for first in drawn.T:
    seen |= np.abs(np.arange(LENGTH) - first[:, None] - COVERED // 2) <= COVERED // 2
  right.bar(f"ρ = {rho}", 100 * seen.mean(), color=color)
left.set(xlabel="first to last start, share of m", ylabel="density")
left.legend(frameon=False, fontsize=8)
right.set(ylabel="% of the video covered", ylim=(0, 100))
fig

# %% [markdown]
# *Figure 2. Left: time from the first to the last of ρ independent starts, 20,000 draws (steps) and
# the density above (lines). Right: the mean fraction of the video that at least one clip covers.*
# The means equal $(\rho - 1)/(\rho + 1)$: 1/3, 1/2, 3/5 and 7/9. Two clips of two seconds cover a
# third of a ten-second video, eight clips cover three quarters of it.
#
# ## 2. Tiny runs: how they are done
#
# The methods are the library's recipes (`configs/rho_*.py:demo`) with few updates, two clips of four
# frames in color, and clips from anywhere in a video, so that each section can vary one of these. After training the encoder is frozen, and probes use labels on its features: logistic
# regression, kNN and retrieval (R@1). For comparison the same network is probed at random
# initialization.
#
# The videos of digits last four seconds (32 frames) and consist of shots of half a second to one
# second. The handwriting stays the same for the whole video; place, slant, colors and background
# change at each cut.

# %%
STEPS, CLIPS = (3, 16) if FAST else (100, 128)  # updates; clips in each


def rows(table: dict) -> dict:
  """A table's rows, or its first two in a rehearsal."""
  return dict(list(table.items())[: 2 if FAST else None])


def small(method, name: str, **fields):
  """A shipped recipe made tiny; `fields` by their dotted names."""
  c = config_file.load(f"{method}:demo")
  c.name, c.data.path, c.steps, c.log_every = name, str(RUN / "data"), STEPS, 10
  c.data.eval.clips, c.probe.calibrate = 2, 4
  c.data.clips, c.data.frames, c.data.eval.frames, c.probe.frames = 2, 4, 4, 4
  c.data.interval.max_seconds, c.augment.gray_p, c.augment.invert_p = 0.0, 0.2, 0.0
  c.optim.lr, c.head.out_bn = 2e-3, method == "rho_simclr"
  if method != "rho_byol":
    c[method].temperature = 0.1
  c.optim.warmup_epochs, c.save.every = 0.5, 0
  if FAST:
    c.data.source, c.optim.warmup_epochs = "synthetic", 0.0
    c.data.synthetic.videos, c.data.synthetic.eval_videos, c.data.synthetic.classes = 24, 8, 2

    fields = {**fields, "rho_moco.queue": 32} if method == "rho_moco" else fields
  c.update_from_flattened_dict(fields)
  c.batch_size = CLIPS // c.data.clips
  return c


# %%
splits = splits_lib.splits(small("rho_simclr", "data"))  # both are decoded once
mesh = parallel.make_mesh()


def probe(config, variables) -> dict[str, float]:
  """Three scores of a frozen encoder on the test videos, in %."""
  s = end_of_run.scores(end_of_run.QUICK, config, variables, *splits, mesh=mesh)
  found = s["logistic"]["top1"], s["knn"]["top1"], s["retrieval"]["R@1"]
  return {k: 100 * x for k, x in zip(("logistic", "kNN", "R@1"), found, strict=True)}


def run(config) -> dict:
  """Trains, then probes: scores, the log and the last state."""
  source = sources.load_source(config, config.data.train_split)
  config = methods.resolve(config, source)
  method = methods.load(config.method).build(config, mesh)
  with contextlib.redirect_stdout(io.StringIO()):
    result = loop.train(config, RUN / config.name, source, method, mesh, tensorboard=False)
  variables = jax.device_get(method.encoder(result.state.params, result.state.method))
  scores = probe(config, variables)
  told = "  ".join(f"{k} {v:4.1f}" for k, v in scores.items())
  print(f"{config.name:22} {result.seconds:3.0f} s   {told}", flush=True)
  return {"scores": scores, "log": metrics_log.read(RUN / config.name), "state": result.state}


# %%
config = small("rho_simclr", "random initialization")
source = sources.load_source(config, "train")
untrained = calibrate.random_variables(config, models.build_encoder(config.encoder), source)
random = probe(config, untrained)
print(config.name, {k: round(v, 1) for k, v in random.items()})


def draw(found: dict[str, dict]):
  """Scores of runs as dots, with one standard error, beside random initialization."""
  fig, videos = figure.new(8.5, 2.7), splits[1].num_videos
  for axis, name in zip(fig.subplots(1, 3), random, strict=True):
    y = np.array([r["scores"][name] for r in found.values()])
    axis.errorbar(range(len(y)), y, np.sqrt(y * (100 - y) / videos), fmt="o", capsize=4)
    level, error = random[name], np.sqrt(random[name] * (100 - random[name]) / videos)
    axis.axhspan(level - error, level + error, color="0.9")
    axis.axhline(level, color="0.5", label="random initialization")
    axis.axhline(10, color="black", linestyle=":", linewidth=1, label="chance")
    axis.set_xticks(range(len(y)), [k.replace(", ", "\n") for k in found], fontsize=8)
    axis.set(title=name, xlim=(-0.5, len(y) - 0.5), ylim=(0, None))
  fig.axes[0].set_ylabel("% of test videos")
  fig.axes[0].legend(frameon=False, fontsize=8)
  return fig


# %% [markdown]
# All runs have one seed. With 382 test videos, an accuracy has a standard error of up to 2.6
# points, and another seed changes a score by several more points. So a difference of a few points
# below means nothing.
#
# ## 3. How many clips?
#
# Each clip is a query $q$; the other ρ − 1 clips of its video are its positives $k^+$, all clips of
# other videos are its negatives $k^-$. Equation 1 of the study, with temperature α, is
#
# $$\mathcal{L}_q = -\log \frac{\sum_{k \in \{k^+\}} \exp(\mathrm{sim}(q, k)/\alpha)}
# {\sum_{k \in \{k^+, k^-\}} \exp(\mathrm{sim}(q, k)/\alpha)},$$
#
# averaged over the ρ queries. Here ρ-SimCLR computes the loss with one positive for each pair of
# clips and takes the mean over all pairs. `config.rho_simclr.pairs` also offers the formula above
# and the choice of the released code. A video of ρ clips gives ρ(ρ − 1) ordered pairs for ρ passes
# through the network.
#
# The published comparison has equal epochs, so ρ = 4 costs twice as much as ρ = 2. Here all runs
# see **equally many clips**: the same number of updates with the same number of clips. So a batch
# has 64 videos for ρ ≤ 2 and 32 for ρ = 4.

# %%
CASES = {
  "ρ = 1": {"data.interval.distribution": "same"},
  "ρ = 2": {},
  "ρ = 4": {"data.clips": 4},
}
clips = {name: run(small("rho_simclr", name, **fields)) for name, fields in rows(CASES).items()}

# %%
draw(clips)

# %% [markdown]
# *Figure 3. Probes after equally many clips of each kind; error bars are one standard error for
# this number of test videos.*
#
# With two crops of one clip the network stays about where it started. Two different clips lift two
# of the three probes above that by more than one standard error: this is the study's largest gain,
# in a run of a hundredth of its length. The run shows no difference between ρ = 2 and ρ = 4; with
# equally many clips, ρ = 4 sees half as many videos per batch. docs/results.md has longer runs of
# the same kind: with equal epochs ρ = 4 is clearly better; with equally many clips (one seed) it is
# better by two of these probes and worse by R@1.
#
# ## 4. From how long a part of the video?
#
# Clips that are far apart have less in common. The network can learn to keep what clips share, and
# learns to drop what differs. In the videos of digits this can be measured: the correlation between
# the mean colors of two frames falls with their distance in time. For the handwriting this
# correlation is 1 at any distance.

# %%
films = np.stack([render.video(i, "train")[0] for i in range(20 if FAST else 300)]) / 255
color = films.mean(axis=(2, 3))  # [videos, frames, 3]
color = (color - color.mean(axis=(0, 1))) / color.std(axis=(0, 1))
total = color.shape[1]
alike = [np.mean(color[:, : total - d] * color[:, d:]) for d in range(26)]
fig = figure.new(9, 2.8)
left, right = fig.subplots(1, 2, sharex=True)
left.plot(alike, "o-", markersize=3, label="mean color")
left.axhline(1, color="C2", label="handwriting")
left.set(xlabel="frames apart", ylabel="correlation", ylim=(-0.1, 1.1))
left.legend(frameon=False, fontsize=8)
for seconds, name in ((0, "one instant"), (1, "within 1 s"), (0, "anywhere")):
  law = sampler.Interval(
    distribution="same" if name == "one instant" else "independent", max_seconds=seconds
  )
  u = np.random.default_rng(0).random((20_000, sampler.num_uniforms(2)))
  pair = sampler.starts(u, np.full(20_000, 32), frames=4, stride=2, interval=law, fps=render.FPS)
  gap = np.bincount(np.abs(np.diff(pair))[:, 0], minlength=26) / 20_000
  right.step(range(26), 100 * np.cumsum(gap), where="mid", label=name)
  print(f"{name:12} mean correlation of the clips' first frames {np.dot(gap, alike):.2f}")
right.set(xlabel="frames apart", ylabel="% of pairs, at most so far", ylim=(0, 105))
right.legend(frameon=False, fontsize=8)
fig

# %% [markdown]
# *Figure 4. Left: how similar the mean colors of two frames of a video are, by their distance.
# Right: how far apart the two clips of a pair start, under three bounds.* At one instant the color
# identifies the video as well as the handwriting does, and is easier to find. Within one second it
# says less, and from anywhere even less, as the means printed above show. Color jitter hides part
# of it: this is how augmentation and time span depend on each other.
#
# The runs: *one instant* is ρ = 1 of the previous section, *anywhere* is its ρ = 2, and a third run
# has a bound of one second.

# %%
near = run(small("rho_simclr", "within 1 s", **{"data.interval.max_seconds": 1.0}))
spans = {"one instant": clips["ρ = 1"], "within 1 s": near, "anywhere": clips["ρ = 2"]}
fig = figure.new(4.6, 2.6)
axis = fig.subplots()
for name, result in spans.items():
  x, y = zip(*[(r["step"], 100 * r["contrast_accuracy"]) for r in result["log"]], strict=True)
  axis.plot(x, y, label=name)
axis.axhline(100 / (CLIPS - 1), color="black", linestyle=":", linewidth=1, label="chance")
axis.set(xlabel="update", ylabel="contrastive accuracy, %", ylim=(0, None))
axis.legend(frameon=False, fontsize=8)
fig

# %%
draw(spans)

# %% [markdown]
# *Figure 5. How often the nearest clip in the batch is the other clip of the same video, during
# training. Figure 6. Probes of the three runs.*
#
# The nearer the clips, the easier the pretext task. At one instant it is soon mostly solved, and
# the probes stay near random initialization. The two harder tasks are mostly not solved, but after
# them logistic regression and kNN are higher; R@1 is higher only for the bound of one second.
# Between these two runs most error bars overlap. The study also finds that all spans longer than
# zero are about equally good.
#
# ## 5. How long and how dense should a clip be?
#
# Clips of 4 × 16, 8 × 8 and 16 × 4 (frames × stride) cover about the same two seconds with 4, 8 and
# 16 frames. The difference is the cost of a clip and the time resolution of motion. Slow-R50 never
# strides the time axis, so its multiply-adds are proportional to $T$:

# %%
SHAPES = ((4, 16), (8, 8), (16, 4))
fig = figure.new(9, 2.2)
left, right = fig.subplots(1, 2, width_ratios=(2, 1))
config = config_file.load("rho_byol:k400")
encoder = models.build_encoder(config.encoder)
for row, (frames, stride) in enumerate(SHAPES):
  times = np.arange(frames) * stride / FPS
  left.plot(times, np.full(frames, row), "|", markersize=22, color=f"C{row}")
  macs = cost.count(encoder, (frames, 224, 224, 3)).macs / 1e9
  right.barh(row, macs, color=f"C{row}")
  right.text(macs, row, f" {macs:.1f}", va="center", fontsize=8)
left.set_yticks(range(3), [f"{t} × {s}" for t, s in SHAPES])
left.set(xlabel="second from the clip's start", ylim=(2.6, -0.6))
right.set(xlabel="G multiply-adds of a clip", yticks=[], ylim=(2.6, -0.6), xlim=(0, 105))
fig

# %% [markdown]
# *Figure 7. Left: when the frames of a clip are taken. Right: the cost of a clip for the forward
# pass of Slow-R50 at 224 × 224 pixels.* The same question on the digits, at equal cost: four frames
# with stride two (7 of 32 frames, mostly within one or two shots) or stride six (19 frames, from
# several shots). The probes use clips of the same kind.

# %%
wide = {"data.stride": 6, "data.eval.stride": 6}
lengths = {"4 × 2": clips["ρ = 2"], "4 × 6": run(small("rho_simclr", "4 × 6", **wide))}
draw(lengths)

# %% [markdown]
# *Figure 8. Probes for clips of four frames with stride two and six.*
#
# The longer clips bring no gain here; kNN is lower, by less than two standard errors of one seed.
# There are two reasons to expect no gain. Shots last four to eight frames, so a clip of 19 frames
# mixes several shots. And longer clips could only add motion, which does not identify a digit. Clip
# length is also not the only difference: long clips have 14 possible starts instead of 26, so the
# two clips of a pair are nearer to each other.
#
# ## 6. How slow should the target be?
#
# MoCo and BYOL compare the network θ with a copy $\theta_m$ that follows it:
#
# $$\theta_m \leftarrow m\,\theta_m + (1 - m)\,\theta, \qquad
# m(k) = 1 - (1 - m_\text{base})\,\frac{\cos(\pi k / K) + 1}{2}.$$
#
# $m$ rises from $m_\text{base}$ at the first update to 1 at the last update, $K$. Unrolled, the
# target is a weighted mean of all past networks. To get the weights, we feed unit vectors instead
# of networks to the library's own update.


# %%
def weights(base: float, total: int, anneal: bool, last: int) -> jax.Array:
  """Share of each network, the initial one first, in the target after `last` of `total` updates."""

  def update(target, k):
    coefficient = ema.momentum(base, k - 1, total, anneal)
    return ema.update(target, jax.nn.one_hot(k, last + 1), coefficient), None

  start = jax.nn.one_hot(0, last + 1)
  return jax.lax.scan(update, start, jnp.arange(1, last + 1))[0]


K = 400
RULES = {
  "0.9 fixed": (0.9, False),
  "0.9 annealed": (0.9, True),
  "0.99 fixed": (0.99, False),
  "0.99 annealed": (0.99, True),
}

# %%
fig = figure.new(10, 2.9)
axes = fig.subplots(1, 3)
for i, (name, (base, anneal)) in enumerate(RULES.items()):
  style = {"color": f"C{i // 2}", "linestyle": "-" if anneal else ":", "label": name}
  k = jnp.arange(K + 1)
  axes[0].plot(k, jnp.broadcast_to(ema.momentum(base, k, K, anneal), k.shape), **style)
  for axis, last in zip(axes[1:], (K // 2, K), strict=True):
    axis.plot(np.asarray(weights(base, K, anneal, last)), **style)
axes[0].set(xlabel="update k", ylabel="momentum m", ylim=(0.895, 1.003))
axes[0].legend(frameon=False, fontsize=8)
axes[1].set(xlabel="online network after update …", ylabel="its weight in the target")
for axis, last in zip(axes[1:], (K // 2, K), strict=True):
  axis.set(title=f"target after {last} of {K}", xlim=(0, K), ylim=(1e-6, 1), yscale="log")
  axis.set_xlabel("online network after update …")
fig

# %% [markdown]
# *Figure 9. Left: momentum over a run of 400 updates. Middle and right: the weights of past
# networks in the target, half-way and at the end (logarithmic axis; the weights sum to 1).* A fixed
# momentum weights the past by $(1 - m)\,m^{\text{age}}$, with a mean age of $m / (1 - m)$ updates:
# 9 for 0.9, 99 for 0.99. With annealing, the target is at first as fast as with a fixed momentum,
# then slower and slower. At the end the latest networks have almost no weight, and the target stays
# at a mean of earlier networks.
#
# So a momentum value only has a meaning together with the length of the run. The next cell shows
# how much of the random initialization is left in the last target of a run:

# %%
print("K       " + "".join(f"  m_base {base:<6}" for base in (0.9, 0.99, 0.994, 0.996)))
for total in (100, 400, 2_000, 100_000):
  k = np.arange(total)
  left = [float(np.prod(ema.momentum(b, k, total), dtype=float)) for b in (0.9, 0.99, 0.994, 0.996)]
  print(f"{total:<8}" + "".join(f"  {100 * x:10.3g} %  " for x in left))

# %% [markdown]
# The study's 0.994 (MoCo) and 0.996 (BYOL) are for runs of about 100,000 updates. In a run of 100
# updates they would keep most of the random network until the end. So the recipes for small data
# start with lower values.
#
# ### Tiny runs
#
# These are runs of ρ-MoCo: the positives of a query are the target's features of the other clips of
# its video; the negatives are features of earlier batches, from a queue. There are four targets:
# none ($m = 0$: the online network itself), a fixed momentum of 0.9, 0.9 annealed, and the study's
# 0.994 annealed.

# %%
MOMENTA = {
  "none": (0.0, False),
  "0.9, fixed": (0.9, False),
  "0.9, annealed": (0.9, True),
  "0.994, annealed": (0.994, True),
}
targets = {}
for name, (base, anneal) in rows(MOMENTA).items():
  fields = {"rho_moco.momentum": base, "rho_moco.anneal": anneal}
  targets[name] = run(small("rho_moco", name, **fields))


def lag(state) -> float:
  """How far the target is from the network that it follows, as a share of the network's length."""
  online, target = state.params["encoder"], state.method.target.params["encoder"]
  return float(optax.global_norm(jax.tree.map(jnp.subtract, online, target))) / float(
    optax.global_norm(online)
  )


print({name: round(lag(r["state"]), 3) for name, r in targets.items()})

# %%
fig = figure.new(7, 2.7)
axes = fig.subplots(1, 2)
for name, result in targets.items():
  x, y = zip(*[(r["step"], r["loss"]) for r in result["log"]], strict=True)
  axes[0].plot(x, y, label=name)
axes[0].set(xlabel="update", ylabel="loss")
axes[0].legend(frameon=False, fontsize=8)
axes[1].bar([n.replace(", ", "\n") for n in targets], [lag(r["state"]) for r in targets.values()])
axes[1].set(ylabel="distance of target and network")
axes[1].tick_params(axis="x", labelsize=8)
fig

# %%
draw(targets)

# %% [markdown]
# *Figure 10. Left: the loss. Right: the distance between the weights of the target and of the
# network at the end, divided by the norm of the network's weights. Figure 11. Probes.*
#
# The loss starts low because the queue begins with random vectors, which are easy to distinguish
# from keys. It rises while keys of videos replace them (no weight is updated until the queue is
# full). The distance is as expected. Without a target it is 0. With a fixed 0.9 the target has
# caught up with the network, which hardly moves at the end because the learning rate is low.
# Annealed, the target is a little behind. With 0.994 it is still mostly the initial network (see
# the table above). The probes do not agree on an order: 0.994 is lowest by logistic regression and
# kNN and equal to the best by R@1; 0.9 annealed is best by kNN and no better than random
# initialization by R@1.
#
# ## 7. What ρ clips cost in memory
#
# In *parallel* mode the activations of all ρ queries are stored until the backward pass. But with a
# momentum network, the keys of all clips can be computed first, without gradients. Then the losses
# of the queries are independent, and the gradient can be summed clip by clip: the *sequential*
# mode. XLA reports the memory that a compiled step needs, without running it.


# %%
def temporary_bytes(rho: int, sequential: bool) -> int:
  """Working memory of one step's loss and gradients, by XLA's own analysis."""
  c = small("rho_byol", "memory", **{"data.clips": rho, "rho_byol.sequential": sequential})
  c.batch_size = 8 if FAST else 32  # videos: as many for every ρ
  method = methods.load("rho_byol").build(c)
  step = value_and_grad(method, accumulate=1)
  batch = jax.eval_shape(lambda: method.example(c.batch_size))
  params, state = jax.eval_shape(method.init, jax.random.key(0), batch)
  # On a CPU the effort that is left out here goes into instructions, not into buffers.
  options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  whole = jax.jit(
    lambda p, s, b: step(p, s, b, jax.random.key(0), jnp.int32(0)), compiler_options=options
  )
  return whole.lower(params, state, batch).compile().memory_analysis().temp_size_in_bytes


CLIPS_OF_A_VIDEO = (2,) if FAST else (2, 4, 8)
memory = {
  mode: [temporary_bytes(rho, mode == "sequential") / 1e6 for rho in CLIPS_OF_A_VIDEO]
  for mode in ("parallel", "sequential")
}

# %%
fig = figure.new(4.6, 2.8)
axis = fig.subplots()
for mode, megabytes in memory.items():
  axis.plot(CLIPS_OF_A_VIDEO, megabytes, "o-", label=mode)
  print(f"{mode:12}" + "".join(f"{x:8.1f} MB" for x in megabytes))
axis.set(xlabel="ρ", ylabel="MB", ylim=(0, None), xticks=CLIPS_OF_A_VIDEO)
axis.legend(frameon=False)
fig

# %% [markdown]
# *Figure 12. Temporary memory of a step's loss and gradients for ρ-BYOL, with the same number of
# videos for each ρ. The uint8 clips, which are arguments of the step, are not included in either
# mode.*
#
# In parallel mode memory grows linearly with the number of clips. In sequential mode it stays at
# what one query needs. The gradients are the same up to rounding, so the choice only trades speed
# against memory; the library's tests compare the two.
#
# ## Limits
#
# The runs have one seed, a hundred updates, a network of width 8, and videos in which one thing
# stays the same from start to end. So none of the accuracies above applies to real training. The
# mechanisms do (where clips lie, what a target consists of, how memory grows), because the full
# recipes use the same functions. The recipes are `configs/rho_moco.py`, `rho_byol.py`,
# `rho_simclr.py` and `rho_swav.py`; each question of this page is a suffix there, such as
# `rho_byol:k400,rho4,span4,16x4,fixed,sequential`.
