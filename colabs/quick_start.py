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
# # Quick start: from a folder of videos to features
#
# **Question.** You have a folder of videos. What does a network learn from them without labels, and
# how do you know that it learned something?
#
# **What is known.** CVRL (*Spatiotemporal Contrastive Video Representation Learning*, Qian et al.,
# CVPR 2021) draws two clips of each of $N$ videos, crops each clip and changes its colors, and
# trains an encoder so that the two clips of a video are closer to each other than to the other
# $2N - 2$ clips of the batch.
#
# **Here.** Five steps of a few lines each: records from the folder, a look at the model's input,
# pre-training, probes compared with an untrained network, and retrieval in pictures. Everything
# takes a few minutes on two CPU cores, so the network and the videos are small.

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

import av
import jax
import numpy as np
import PIL.Image
from absl import logging
from IPython.display import Image, Markdown

import vssl_jax
from data_pipelines import inspect
from data_pipelines.digits import render
from data_pipelines.prepare import prepare
from data_pipelines.records import manifest
from vssl_jax import config_file, figure
from vssl_jax.results import result_line
from vssl_jax.training import metrics_log

logging.set_verbosity(logging.ERROR)
RUN = pathlib.Path("runs/colab_quick_start")
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
# ## 1. A folder of videos
#
# **Put your own folder here**: `VIDEOS = pathlib.Path("/content/my_videos")`, and skip the next
# cell. The tool accepts class folders (`archery/a.mp4`), class folders within `train` and `test`
# (as below), or a flat folder without labels (pre-training needs no labels, probes do).
#
# So that this page runs anywhere, the next cell writes such a folder: a few hundred MP4 files of 32
# × 32 pixels and four seconds, made from the handwritten digits in scikit-learn. The handwriting
# stays the same for a whole video. At every cut (after half a second to one second) the digit's
# place, size, slant, motion, colors and background change. So only the shape identifies the class,
# and two clips of one video have the handwriting in common.

# %%
VIDEOS, RECORDS = RUN / "videos", RUN / "records"
CLASSES = {n: f"digit_{n}" for n in range(5)}
COUNT = {"train": 8 if FAST else 120, "test": 3 if FAST else 36}  # videos of each class


def write_video(path: pathlib.Path, frames: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), "w") as file:
    stream = file.add_stream("mpeg4", rate=int(render.FPS))
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
    for frame in frames:
      file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    file.mux(stream.encode())


# %%
for split, count in COUNT.items():
  written = dict.fromkeys(CLASSES, 0)
  for i in range(render.num_videos(split)):
    if min(written.values()) == count:
      break
    frames, label = render.video(i, split)
    if written.get(label, count) < count:
      write_video(VIDEOS / split / CLASSES[label] / f"{i:04d}.mp4", frames)
      written[label] += 1
files = sorted(VIDEOS.rglob("*.mp4"))
print(f"{len(files)} files, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB; the first three:")
print(*files[:3], sep="\n")

# %% [markdown]
# ## 2. Records
#
# Decoding single frames from compressed video is slow. So the folder is read once, and each video
# is stored as a sequence of JPEG images. On the command line this is `python -m
# data_pipelines.prepare VIDEOS RECORDS`. It skips files that cannot be read and names them.

# %%
made = prepare.prepare(VIDEOS, RECORDS)
print(manifest.summary(made))

# %% [markdown]
# ## 3. What the model sees
#
# A config holds all settings; `vssl_jax/config.py` lists their defaults and meanings. The variant
# `demo` is the smallest: an R3D-18 of width 8, clips of two frames with stride 2, 24 × 24 pixels, in
# gray. Here the network has width 16, and the clips have four frames and colors. For real videos start from `ucf6` (56 × 56) or from the published recipe, `k400`.

# %%
config = config_file.load("cvrl:demo")
config.name = "quick_start"
config.data.source, config.data.path = "tfrecord", str(RECORDS)
config.encoder.width, config.optim.lr, config.cvrl.temperature = 0.25, 2e-3, 0.1
config.data.frames = config.data.eval.frames = config.probe.frames = 4
config.data.interval.max_seconds, config.augment.gray_p, config.augment.invert_p = 0.0, 0.2, 0.0
config.batch_size, config.epochs, config.log_every = 60, 30.0, 5
config.data.eval.clips = 3
config.knn.every_epochs = 5.0  # nearest neighbors during training; needs labels
config.probe.run = config.probe.linear = (
  False  # probed below, by logistic regression and nearest neighbors
)
if FAST:
  config.batch_size, config.epochs, config.optim.warmup_epochs = 8, 1.0, 0.0
  config.probe.calibrate, config.data.eval.clips, config.knn.every_epochs = 1, 1, 1.0

# %% [markdown]
# Look at the data before you train on it. These are the first two videos of the first batch of the
# run: two clips of each after clip sampling and cropping (*cut*), and the same clips as they enter
# the network, after the augmentation on the device (*seen*).

# %%
source, batch, _ = inspect.training_rows(config, step=0, videos=2)
cut = batch["clips"] / np.float32(255)
seen = inspect.augmented(config, batch["clips"], 0)
words = inspect.captions(batch, source.label_names)
words = [[f"{kind}\n{w}" for kind in ("cut", "seen") for w in pair] for pair in words]
inspect.contact_sheet(np.concatenate([cut, seen], axis=1), words, RUN / "clips.png")
show(RUN / "clips.png", 560)

# %% [markdown]
# *Figure 1. Rows: clips, with the number of the video, its class and the clip's first frame;
# columns: their four frames. The two clips of a video differ in place, color and background (unless
# they overlap in time). Crop and color change once per clip, not once per frame, so motion stays
# the same.* If you cannot see here which clips belong together, the network cannot either.
#
# ## 4. Pre-training
#
# Let $z_i$ be the projected features of clip $i$ on the unit sphere, $z_i'$ those of the other clip
# of its video, and $\tau$ the temperature. The loss of an anchor is
#
# $$\ell_i = -\log \frac{\exp(z_i \cdot z_i' / \tau)}{\sum_{k \ne i} \exp(z_i \cdot z_k / \tau)},$$
#
# where the sum is over all other $2N - 1$ clips of the batch. On the command line: `vssl train
# --config=cvrl:demo --config.data.path=RECORDS …`. The same command
# resumes an interrupted run.

# %%
log = io.StringIO()  # a line a logged step; they are drawn below from the run's own file
with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
  result = vssl_jax.pretrain(config, workdir=RUN / "cvrl")
lines = log.getvalue().splitlines()
print(*lines[:4], "…", lines[-1], result_line(result), sep="\n")

# %%
rows = metrics_log.read(RUN / "cvrl")
others = 2 * config.batch_size - 1  # clips that an anchor is compared with
panels = {
  "info_nce": ("loss of an anchor", np.log(others), None),
  "contrast_accuracy": ("contrastive accuracy", 1 / others, 0),
  "effective_rank": (f"effective rank (of {config.head.out})", None, 0),
  "knn_top1": ("kNN on test videos", 1 / len(CLASSES), 0),
}
fig = figure.new(9, 2.5)
for axis, (name, (title, chance, low)) in zip(fig.subplots(1, 4), panels.items(), strict=True):
  steps, values = np.array([(r["step"], r[name]) for r in rows if name in r]).T
  axis.plot(steps, values, "o" if name == "knn_top1" else "-", color="C0", alpha=0.4)
  width = 1 if name == "knn_top1" else min(9, len(values))
  smooth = np.convolve(values, np.ones(width) / width, mode="valid")
  axis.plot(steps[width // 2 :][: len(smooth)], smooth, color="C0")
  if chance is not None:
    axis.axhline(chance, color="black", linestyle="--", linewidth=1)
  axis.set(xlabel="step", title=title)
  axis.title.set_fontsize(9)
  axis.set_ylim(bottom=low)
fig

# %% [markdown]
# *Figure 2. The run's log (`metrics.jsonl`, also written for TensorBoard). Pale: the logged values
# (in the first three panels each from one batch); dark: mean of nine rows; dashed: chance. From the
# left: the loss, where the dashed line is $\log(2N - 1)$, its value if all similarities are equal;
# how often the clip nearest to an anchor is the other clip of its video; how many dimensions the
# projected clips use; accuracy of nearest neighbors on the features, with labels that training
# does not see.*
#
# The pretext task is hard here: a fifth of the clips that an anchor is compared with show the same
# digit in another handwriting, so recognizing the digit is not enough. A loss above the dashed line
# is no error: equal similarities are a safe answer, and a confident wrong answer costs more. Such
# curves only show whether training works at all. A collapsed network, which maps all videos to one
# point, has an effective rank near 1, contrastive accuracy at chance and its loss on the dashed
# line; the library warns of it automatically. Whether the features are good is another question.
# The last panel gives a first answer.
#
# ## 5. Probes, compared with an untrained network
#
# Contrastive accuracy shows how well the pretext task was learned, not whether the features are
# useful. So now labels are used for the first time. The encoder is frozen. A logistic regression is
# fitted on the features of the training videos and tested on test videos, and each test video gets
# a class from its nearest training videos. The same is done with the network at random
# initialization (with batch-norm statistics measured on training clips), and with a logistic
# regression on pixels. Without these two baselines a number says little.

# %%
probe = config_file.load("linear_probe:demo")
probe.checkpoint, probe.data, probe.probe = str(RUN / "cvrl"), config.data, config.probe
with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):  # progress bars
  result = vssl_jax.pretrain(probe, workdir=RUN / "probe")
scores = result["headline"]
for name, values in scores.items():
  print(f"{name:14}", "   ".join(f"{k} {100 * v:.1f}" for k, v in values.items()))

# %%
count = result["data"]["eval"]["videos"]
shown = {"logistic_top1": "logistic", "knn_top1": "kNN", "R@1": "R@1"}
rivals = {"trained": ("pre-trained", "C0"), "random_init": ("random initialization", "0.7")}
fig = figure.new(6.4, 3)
axis = fig.subplots()
for i, (rival, (label, color)) in enumerate(rivals.items()):
  share = np.array([scores[name][rival] for name in shown])
  error = 100 * np.sqrt(share * (1 - share) / count)
  place = np.arange(len(shown)) + 0.36 * i - 0.18
  axis.bar(place, 100 * share, 0.34, yerr=error, capsize=4, label=label, color=color)
for level, text, style in ((1 / len(CLASSES), "chance", ":"), (None, "pixels, logistic", "--")):
  level = scores["logistic_top1"]["pixels"] if level is None else level
  axis.axhline(100 * level, color="black", linestyle=style, linewidth=1, label=text)
axis.set_xticks(range(len(shown)), shown.values())
axis.set(ylabel=f"% of {count} test videos", ylim=(0, 100))
axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
fig

# %% [markdown]
# *Figure 3. Accuracy on test videos, by probe; error bars are one standard error for this number of
# videos (the spread over seeds is not included).* The handwritings of the test videos do not occur
# in the training videos. (The values are higher than in the last panel of figure 2, which uses one
# clip per video; these probes use three.)
#
# ## 6. Retrieval in pictures
#
# One number does not show which classes are confused. `vssl evaluate` runs nine
# protocols on one checkpoint and writes a table and pictures. Here are three of them.

# %%
protocols = ("retrieval", "knn", "logistic")
with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
  vssl_jax.evaluate(RUN / "cvrl", protocols=protocols, output=RUN / "evaluation", gallery=5)
Markdown((RUN / "evaluation" / "table.md").read_text().replace("# Eval", "#### Eval"))

# %%
show(RUN / "evaluation" / "records" / "retrieval.png", 720)

# %% [markdown]
# *Figure 4. Left: a random test video of each class; right: the training videos with the nearest
# features, green with a tick if the class is the same. Each video is shown by its middle frame.*
# Look at the colors: if the neighbors in a row differ in color and background but not in shape,
# the network has learned to ignore color and background. And look at the red ones: are they digits
# of similar shape?

# %%
show(RUN / "evaluation" / "records" / "per_class.png", 560)

# %% [markdown]
# *Figure 5. Accuracy within each class.*
#
# ## 7. The encoder in your own code
#
# Three lines; preprocessing is included. The input is uint8 RGB, with any number of clips.

# %%
encoder = vssl_jax.load(RUN / "cvrl")
clips = np.stack([batch["clips"][0, 0], batch["clips"][0, 1], batch["clips"][1, 0]])
features = encoder.apply(encoder.params, clips)
print(clips.dtype, clips.shape, "→", features.dtype, features.shape)

# %% [markdown]
# A last experiment, directly from video files: we take the first and the last clip of every test
# video, subtract the mean feature, and compute the cosine between the features of any two clips.


# %%
def clips_of(path: pathlib.Path, count: int = 2) -> np.ndarray:
  """Clips of a video file, evenly spaced, uint8 `[count, T, H, W, 3]`."""
  frames, size, _, _ = encoder.clip_shape
  with av.open(str(path)) as file:
    video = [f.to_ndarray(format="rgb24", width=size, height=size) for f in file.decode(video=0)]
  span = 2 * frames  # stride 2
  starts = np.linspace(0, len(video) - span, count).astype(int)
  return np.stack([video[s : s + span : 2] for s in starts])


paths = sorted((VIDEOS / "test").rglob("*.mp4"))
x = np.array(encoder.apply(encoder.params, np.concatenate([clips_of(p) for p in paths])))
x -= x.mean(axis=0)
x /= np.linalg.norm(x, axis=1, keepdims=True)

# %%
owner = np.repeat(np.arange(len(paths)), 2)
name = np.repeat([p.parent.name for p in paths], 2)
one, two = np.triu_indices(len(x), 1)
cosine = np.sum(x[one] * x[two], axis=1)
video, of_class = owner[one] == owner[two], name[one] == name[two]
groups = {
  "two clips of one video": video,
  "two videos of one class": of_class & ~video,
  "two classes": ~of_class,
}
fig = figure.new(5.4, 2.8)
axis = fig.subplots()
for label, of in groups.items():
  label = f"{label}: mean {cosine[of].mean():+.2f}"
  axis.hist(cosine[of], np.linspace(-1, 1, 31), density=True, histtype="step", label=label)
axis.set(xlabel="cosine of centered features", ylabel="density")
fig.legend(loc="outside upper center", frameon=False, fontsize=8)
fig

# %% [markdown]
# *Figure 6. Similarity of the features of clips of test videos.* Training pulled together pairs of
# the first kind (of the training videos); it did not know of the second kind. The means have the
# desired order, but the three kinds overlap strongly.
#
# ## Summary
#
# - The same steps work for any folder: `prepare`, `inspect`, `train`, the probe, `evaluate`, `load`.
#   The README has them as command lines.
# - Look at the clips before training, and compare every number with random initialization and
#   pixels.
# - **Limits.** One seed, 180 test videos (a standard error of up to 4 points), five classes, and
#   videos in which only shape identifies the class. In real videos scene and color also identify
#   the class, and an untrained network or pixels alone already reach high accuracy: docs/results.md
#   has such figures for six classes of UCF101.
# - **Next.** `sampling_and_augmentation`: which two clips to draw, and how to augment them.
#   `clips_and_momentum`: how many clips, and the effect of a momentum encoder. `provico`: what the
#   uncertainty of a clip means. `localization`: when something happens in a long video.
