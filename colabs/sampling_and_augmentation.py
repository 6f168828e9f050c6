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
# # Which two clips, and how to augment them
#
# **Question.** Contrastive learning on videos has two choices that images do not have. How far
# apart in time are the two clips that should get similar features? And is a clip augmented as a
# whole, or each frame separately?
#
# **What is known.** CVRL (Qian et al., CVPR 2021) gives two answers. Clips should mostly be near
# each other, because the content of a video changes: the interval is drawn from a decreasing
# density. And the augmentation should be one draw per clip, because one draw per frame destroys
# motion. On Kinetics-400 the paper finds that both help a linear probe.
#
# **Here.** We look at both mechanisms exactly (densities against draws, pictures of clips, frames
# before and after). Then we repeat the two comparisons at a size that takes minutes: videos of
# handwritten digits, a network of width 8, a few epochs. The mechanisms are those of the paper. The
# results may differ from it, and this page shows why.

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
import numpy as np
import PIL.Image
from absl import logging
from IPython.display import Image

import vssl_jax
from data_pipelines import inspect, source
from data_pipelines.clips import sampler
from data_pipelines.digits import render
from vssl_jax import config_file, figure
from vssl_jax.training import metrics_log

logging.set_verbosity(logging.ERROR)
RUN = pathlib.Path("runs/colab_sampling_and_augmentation")
shutil.rmtree(RUN, ignore_errors=True)
if not jax.config.jax_compilation_cache_dir:  # a program that comes twice is compiled once
  jax.config.update("jax_compilation_cache_dir", str((RUN / "cache").absolute()))


def show(path: pathlib.Path, width: int) -> Image:
  """A picture that the library drew, made small enough for this page."""
  picture, small = PIL.Image.open(path).convert("RGB"), io.BytesIO()
  picture.thumbnail((width, 10 * width))
  picture.save(small, "JPEG", quality=85)
  return Image(small.getvalue())


# %% [markdown]
# ## Part A: the interval between two clips
#
# ### The density
#
# In a video of $L$ frames, a clip of $n$ frames with stride $s$ has $m = L - (n - 1)s$ possible
# starts. CVRL draws the interval $\delta$ between the two starts from a density on $[0, m)$,
#
# $$f(\delta) \propto 1 - (\delta / m)^p, \qquad
# F(x m) = \frac{(p + 1)\,x - x^{p+1}}{p}, \quad x \in [0, 1],$$
#
# then the earlier start uniformly among the $m - \delta$ starts that leave room for the later one,
# and finally which of the two clips is the earlier one. The paper's ablation compares this with a
# uniform and an increasing density ($\propto (\delta/m)^p$), a constant interval (`constant`), and
# no interval at all (`same`). `independent`, which the other methods of this library use, draws the
# starts independently.
#
# The videos of digits have 32 frames. A clip of four frames with stride two has 26 possible starts.

# %%
LENGTH, FRAMES, STRIDE, GAP = 32, 4, 2, 8
m = int(sampler.num_starts(np.int64(LENGTH), FRAMES, STRIDE))
laws = {name: sampler.Interval(distribution=name) for name in sampler.DISTRIBUTIONS}
laws["constant"] = sampler.Interval(distribution="constant", gap=GAP)


def starts(law: sampler.Interval, count: int, seed: int = 0) -> np.ndarray:
  """First frames of so many pairs of clips, `[count, 2]`."""
  u = np.random.default_rng(seed).random((count, sampler.num_uniforms(2)))
  return sampler.starts(u, np.full(count, LENGTH), frames=FRAMES, stride=STRIDE, interval=law)


def probability(name: str) -> np.ndarray:
  """Of each interval from 0 to m − 1, by arithmetic."""
  k = np.arange(m)
  if name == "independent":  # pairs of starts so far apart, among all m²
    return np.where(k > 0, 2 * (m - k), m) / m**2
  if name in ("constant", "same"):
    return (k == (GAP if name == "constant" else 0)).astype(float)
  return np.diff(sampler.cdf(np.arange(m + 1) / m, 1.0, name))


# %%
drawn = {name: np.abs(np.diff(starts(law, 20_000)))[:, 0] for name, law in laws.items()}
fig = figure.new(9, 4.2)
for axis, (name, gaps) in zip(fig.subplots(2, 3).flat, drawn.items(), strict=True):
  share = np.bincount(gaps, minlength=m) / len(gaps)
  axis.bar(range(m), share, color="0.75", label="20,000 draws")
  marker = {"marker": "o", "linestyle": "none"} if name in ("constant", "same") else {}
  axis.plot(range(m), probability(name), color="C3", markersize=3, label="law", **marker)
  axis.set_title(f"{name}: mean {gaps.mean():.1f}", fontsize=10)
  axis.set(xlabel="interval, frames", ylabel="probability")
fig.axes[0].legend(frameon=False, fontsize=8)
fig

# %% [markdown]
# *Figure 1. Intervals between the two starts: computed probabilities (red) and 20,000 draws of the
# library's sampler (gray), p = 1.*
#
# Compare the first panel with the last: the paper's density with $p = 1$ **is** that of two
# independent starts. The distance of two points drawn uniformly from $[0, m]$ has the density
# $\frac{2}{m}(1 - \delta/m)$, and for a given distance the earlier point is also uniform. With
# whole frames there is a small difference: `decreasing` rounds the interval down, `independent`
# rounds each start down. So equal starts are half as likely with `independent`, and its mean
# interval is half a frame longer. So "decreasing" with its default $p$ is the simplest possible
# choice; other powers $p$ change it:

# %%
x = np.linspace(0, 1, 201)
fig = figure.new(5, 2.8)
axis = fig.subplots()
for power in (0.25, 1.0, 3.0, 20.0):
  density = np.diff(sampler.cdf(x, power)) / np.diff(x)
  axis.plot(x[1:] - 0.0025, density, label=f"p = {power:g}")
axis.set(xlabel="interval as a share of m", ylabel="density", ylim=(0, None))
axis.legend(frameon=False)
fig

# %% [markdown]
# *Figure 2. The decreasing density for several powers. Small powers keep clips near each other; as
# p grows, the density approaches the uniform one.*
#
# Does a training run draw the same? Its clips come from the input pipeline, with random numbers
# that depend on seed, epoch and video. So we read whole batches and look at the `offset` of each
# clip.

# %%
config = config_file.load("cvrl:demo")
config.data.path, config.data.frames = str(RUN / "data"), 4
config.data.interval.max_seconds = 0.0  # no bound
mean = {name: probability(name) @ np.arange(m) for name in sampler.DENSITIES}
for name in sampler.DENSITIES:
  config.data.interval.distribution = name
  batches = source.load(config.data, split="train", batch_size=64, seed=0).train_batches()
  offsets = np.concatenate([next(batches)["offset"] for _ in range(2 if FAST else 12)])
  gaps = np.abs(np.diff(offsets))
  error = gaps.std() / np.sqrt(len(gaps))
  print(f"{name:11} mean of {len(gaps)} intervals {gaps.mean():5.2f} ± {error:.2f}", end="")
  print(f" frames; of the law {mean[name]:5.2f}")

# %% [markdown]
# ### The clips
#
# Now a video. Each video of digits is a sequence of short shots, half a second to one second long.
# The handwriting stays the same; place, slant, colors and background change at each cut.

# %%
video, label = render.video(7, "train")
names = ("decreasing", "uniform", "increasing", "same")
pairs = {name: starts(laws[name], 9, seed=3) for name in names}
fig = figure.new(9.5, 5.6)
grid = fig.add_gridspec(len(names) + 1, 9, width_ratios=[6] + [1] * 8)
film = fig.add_subplot(grid[0, :])
film.imshow(np.concatenate(video[::2], axis=1), extent=(0, LENGTH, 0, 2))
film.set(yticks=[], xlabel="frame", title=f"a video of class {label}, every second frame")
for row, name in enumerate(names, start=1):
  axis = fig.add_subplot(grid[row, 0])
  for y, pair in enumerate(pairs[name]):
    axis.plot(np.sort(pair), [y, y], color="0.85", linewidth=1, zorder=0)
    for start, color in zip(pair, ("C0", "C1"), strict=True):
      axis.barh(y, FRAMES * STRIDE - 1, left=start, height=0.6, color=color, alpha=0.8)
  axis.set(xlim=(0, LENGTH), yticks=[], ylabel=name, ylim=(len(pairs[name]) - 0.5, -0.5))
  for column, t in enumerate((pairs[name][0][:, None] + np.arange(FRAMES) * STRIDE).ravel()):
    frame = fig.add_subplot(grid[row, column + 1])
    frame.imshow(video[t])
    frame.set(xticks=[], yticks=[])
    for side in frame.spines.values():
      side.set(color="C0" if column < FRAMES else "C1", linewidth=2)
axis.set_xlabel("frame")
fig

# %% [markdown]
# *Figure 3. Top: the video. Below, for each density: on the left nine draws, one per line, the
# first clip blue and the second orange; on the right the two clips of the first line.* With `same`,
# both clips show the same frames, including colors and background. The further apart the clips are,
# the less they have in common besides the handwriting. In these videos the handwriting is the same
# from the first frame to the last. This differs from the videos that the paper considers: there,
# clips that are far apart may show another scene.
#
# ### Small runs
#
# Three densities with two seeds each, everything else equal: the `demo` recipe with clips of
# four frames in color, from anywhere in a video, and a fraction of its epochs. Then probes use labels on the frozen features:
# logistic regression, kNN and retrieval (R@1).

# %%
SEEDS = (0,) if FAST else (0, 1)
STEPS = 4 if FAST else 110


def small(variant: str, seed: int):
  """The config of a small run; `variant` as on the command line, e.g. "uniform"."""
  c = config_file.load(f"cvrl:demo,{variant}" if variant else "cvrl:demo")
  c.data.path, c.seed, c.steps, c.log_every = str(RUN / "data"), seed, STEPS, 10
  c.data.frames, c.data.eval.frames, c.probe.frames = 4, 4, 4
  c.data.interval.max_seconds, c.augment.gray_p, c.augment.invert_p = 0.0, 0.2, 0.0
  c.optim.lr, c.cvrl.temperature = 2e-3, 0.1
  c.data.eval.clips, c.probe.calibrate = 3, 4
  c.probe.linear = c.probe.baselines = False
  c.probe.random_init = variant == ""
  if FAST:
    c.batch_size, c.data.eval.clips, c.optim.warmup_epochs = 8, 1, 0.0
    c.data.train_split, c.data.eval_split = "train[:64]", "test[:32]"
  return c


def run(variant: str, seed: int) -> dict:
  """Pre-trains and probes; scores and the training curve."""
  folder, log = RUN / f"{variant or 'decreasing'}_{seed}", io.StringIO()
  with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
    result = vssl_jax.pretrain(small(variant, seed), workdir=folder)
  print(f"{folder.name:15} {result['seconds']:.0f} s", flush=True)
  return result | {"rows": metrics_log.read(folder)}


# %%
LAWS = {"decreasing": "", "uniform": "uniform", "same time": "same_time"}
found = {name: [run(variant, seed) for seed in SEEDS] for name, variant in LAWS.items()}
random = [r["headline"] for r in found["decreasing"]]

# %% [markdown]
# In the figures below, each dot is a run and each line is the mean of the runs in a row. In gray:
# the standard error of an accuracy on 382 test videos, at most 2.6 points.

# %%
PROBES = {"logistic_top1": "logistic regression", "knn_top1": "kNN", "R@1": "R@1"}
COLORS = {"decreasing": "C0", "uniform": "C2", "same time": "C1", "one per clip": "C0"}


def scores(results: list[dict], probe: str, who: str = "trained") -> np.ndarray:
  """In %, a number a seed."""
  return 100 * np.array([r["headline"][probe][who] for r in results])


def draw_probes(axes, results: dict[str, list[dict]]) -> None:
  """Dots, means and standard errors of every row, and random initialization."""
  rows = {"random": found["decreasing"], **results}
  for axis, (probe, title) in zip(axes, PROBES.items(), strict=True):
    for x, (name, of) in enumerate(rows.items()):
      values = scores(of, probe, "random_init" if name == "random" else "trained")
      mean, videos = values.mean(), of[0]["data"]["eval"]["videos"]
      error = np.sqrt(mean * (100 - mean) / videos)
      axis.bar(x, 2 * error, 0.7, bottom=mean - error, color="0.9")
      axis.hlines(mean, x - 0.35, x + 0.35, color="0.3")
      axis.plot([x] * len(values), values, "o", color=COLORS.get(name, "C3" if x > 1 else "0.3"))
    axis.axhline(10, color="black", linestyle=":", linewidth=1)
    names = [n.replace(" ", "\n", 1) for n in rows]
    axis.set_xticks(range(len(rows)), names, fontsize=7, rotation=30)
    axis.set(title=title, ylim=(0, None))
  axes[0].set_ylabel("% of test videos")


def tell(results: dict[str, list[dict]]) -> None:
  """Mean and, where there are two seeds, their half difference."""
  for name, of in results.items():
    print(f"{name:12}", end="")
    for probe, title in PROBES.items():
      values = scores(of, probe)
      print(f"  {title} {values.mean():.1f} ± {np.ptp(values) / 2:.1f}", end="")
    last = [100 * r["rows"][-1]["contrast_accuracy"] for r in of]
    print(f"  contrastive accuracy {np.mean(last):.0f}")


# %%
fig = figure.new(9.5, 3)
axes = fig.subplots(1, 4)
for name, results in found.items():
  for i, result in enumerate(results):
    rows = result["rows"]
    x, y = [r["step"] for r in rows], [100 * r["contrast_accuracy"] for r in rows]
    axes[0].plot(x, y, color=COLORS[name], alpha=0.8, label=None if i else name)
axes[0].set(xlabel="step", ylabel="contrastive accuracy, %", ylim=(0, 100), title="pretext")
axes[0].legend(frameon=False, fontsize=8)
draw_probes(axes[1:], found)
tell(found)
fig

# %% [markdown]
# *Figure 4. Left: how often the nearest clip in the batch is the other clip of the same video,
# during training. Right: three probes of the frozen features.*
#
# The curves show the mechanism. If both clips are from the same time, the pretext task is easy:
# color and background identify the video. Clips from different times mostly have only the
# handwriting in common, and a hundred updates are hardly enough to find it. The probes have the
# opposite order. The features of the easy task are the worst for digits, by kNN and R@1 no better
# than random initialization. The hard tasks teach more, although they are mostly not solved. So the
# accuracy of the pretext task says nothing if the task itself changes.
#
# There is no visible difference between the decreasing and the uniform density: two seeds of one
# density differ as much as the two densities. A difference is not to be expected either. The
# paper's reason for near clips is that the content of a video changes; here the relevant content
# never changes.
#
# ## Part B: one draw per clip, or one per frame
#
# ### What it does to a clip
#
# A crop window, a color jitter and a flip can be drawn once per clip or once per frame. In the
# config these are two fields, `data.crop.consistent` and `augment.consistent` (crops are made while
# images are decoded, colors change on the device); the ablation `per_frame` sets both.

# %%
VARIANTS = {"none": "no_spatial", "one per clip": "", "one per frame": "per_frame"}


def views(variant: str, videos: int) -> tuple[np.ndarray, np.ndarray]:
  """First clips of the first batch as the network sees them, `[N, T, H, W, 3]`; their classes."""
  c = small(variant, seed=0)
  _, batch, _ = inspect.training_rows(c, step=0, videos=videos)
  return inspect.augmented(c, batch["clips"], 0)[:, 0], batch["label"]


count = 4 if FAST else 32
seen = {name: views(variant, count) for name, variant in VARIANTS.items()}
clips = np.stack([c for c, _ in seen.values()], axis=1)
words = [[f"class {label}\n{name}" for name in VARIANTS] for label in seen["none"][1]]
inspect.contact_sheet(clips[:3], words[:3], RUN / "views.png")
show(RUN / "views.png", 520)

# %% [markdown]
# *Figure 5. Three clips of four frames, each without augmentation (`no_spatial`: the central
# square), with one draw per clip, and with one draw per frame.* In the second row of a clip the
# digit moves as in the first row, with other colors. In the third row, place, size and color jump
# at every frame, and the augmentation hides the motion of the video.
#
# By how much? The mean change of a pixel from one frame to the next:

# %%
change = {n: np.abs(np.diff(c, axis=1)).mean(axis=(1, 2, 3, 4)) for n, (c, _) in seen.items()}
fig = figure.new(4.6, 2.8)
axis = fig.subplots()
axis.boxplot(change.values(), tick_labels=change.keys(), widths=0.5)
axis.set(ylabel="change of a pixel, of 1", ylim=(0, None))
fig

# %% [markdown]
# *Figure 6. Change from one frame to the next, averaged over each clip: median, quartiles, whiskers
# and outliers of 32 clips.* With one draw per clip the change is near that of the video; with one
# draw per frame the change by augmentation is added.
#
# ### Small runs
#
# The runs with one draw per clip are those of part A with the decreasing density.

# %%
augmented = {"one per clip": found["decreasing"]}
augmented["one per frame"] = [run("per_frame", seed) for seed in SEEDS]
fig = figure.new(7.5, 3)
draw_probes(fig.subplots(1, 3), augmented)
tell(augmented)
fig

# %% [markdown]
# *Figure 7. Probes after training with one draw per clip and one draw per frame; dots are seeds.*
#
# One draw per frame is lower in all three means, but by less than two seeds of one recipe differ,
# so this shows nothing. Little difference is to be expected: the shape of a digit identifies its
# class, any single frame shows it, and motion says nothing about it. The paper is about videos in
# which motion is part of the class.
#
# ## Limits
#
# The runs have two seeds, a network of width 8, 110 updates, and videos in which one thing stays
# the same from the first frame to the last. The densities and the pictures are exact and hold in
# general; the differences between probes do not. For the same questions at full size, one recipe
# has suffixes: `cvrl:k400,uniform`, `…,increasing`, `…,same_time`, `…,per_frame`.
