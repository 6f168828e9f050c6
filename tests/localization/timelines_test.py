"""Pictures: they are drawn, show what they say where they say it, and appear whole."""

import numpy as np
from PIL import Image

from vssl_jax.localization import timelines
from vssl_jax.localization.annotations import Prediction, Segment, Video
from vssl_jax.localization.observe import Observed

NAMES = ("jump", "throw", "a name that is far too long to stand there as it is")
T = 40


def seen(classes=(0, 1), trust=1.0):
  truth = np.zeros((T, 3), bool)
  truth[10:20, 0] = True
  pseudo = truth[:, list(classes)]
  cas = np.random.default_rng(0).normal(size=(T, 3)) + 3 * truth
  confidence = None if trust is None else np.full(pseudo.shape, trust)
  attention = np.linspace(0, 1, T)
  return Observed(0, "v/0", 0.5, truth, np.array(classes), attention, cas, pseudo, confidence, {})


VIDEO = Video("test", 20.0, (Segment(5.0, 10.0, "jump"), Segment(12.0, 14.0, "throw")))
FOUND = [Prediction(5.0, 9.0, "jump", 0.9), Prediction(1.0, 3.0, NAMES[2], 0.1)] * 40


def drawn(path, *args):
  timelines.timeline(path, *args)
  with Image.open(path) as image:
    return np.asarray(image.convert("RGB")).astype(int)


def test_timeline(tmp_path):
  full = drawn(tmp_path / "a.png", seen(), VIDEO, FOUND, NAMES)
  assert full.shape[1] == 12 * 130
  assert full.min() < 100 < 250 < full.max()
  # Less confidence is paler, and no prediction at all is drawn too.
  pale = drawn(tmp_path / "b.png", seen(trust=0.2), VIDEO, FOUND, NAMES)
  assert pale.mean() > full.mean()
  drawn(tmp_path / "c.png", seen(), VIDEO, [], NAMES)
  # Of an unknown video there are attention, activations and predictions alone.
  unknown = drawn(tmp_path / "d.png", seen(classes=()), Video("test", None, ()), [], NAMES)
  assert unknown.shape[0] < 0.75 * full.shape[0]
  # Without denoising there is no row of it.
  plain = drawn(tmp_path / "e.png", seen(trust=None), VIDEO, FOUND, NAMES)
  assert plain.shape[0] < full.shape[0]
  assert sorted(p.stem for p in tmp_path.iterdir()) == list("abcde")


def test_colors_of_twenty_classes_differ():
  assert len({timelines._color(c) for c in range(20)}) == 20
  assert timelines._color(20) == timelines._color(0)


def test_scatter(tmp_path):
  rng = np.random.default_rng(0)
  label = np.arange(90) % 4 - 1
  planes = {"before": rng.normal(size=(90, 2)), "after": rng.normal(size=(90, 2))}
  notes = {"before": "one line", "after": "two\nlines"}
  timelines.scatter(tmp_path / "t.png", planes, label, NAMES, notes)
  with Image.open(tmp_path / "t.png") as image:
    pixels = np.asarray(image.convert("RGB"))
  for color in (timelines._color(c)[:3] for c in range(3)):
    want = np.round(255 * np.array(color))
    assert (np.abs(pixels - want).max(axis=2) <= 2).sum() > 50  # the legend's patch at least
