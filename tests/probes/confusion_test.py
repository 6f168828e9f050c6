"""Tables and pictures of where a classifier errs."""

import numpy as np
import pytest
from PIL import Image

from vssl_jax.probes import confusion as confusion_lib
from vssl_jax.probes import metrics


def test_class_table():
  scores = np.eye(3)[[0, 0, 1, 1, 0]]
  found = metrics.accuracy(scores, np.array([0, 0, 0, 1, 1]))
  assert confusion_lib.class_table(found, ("run", "jump", "swim")).splitlines() == [
    "| class | videos | top-1 | taken for |",
    "|---|---:|---:|---|",
    "| run | 3 | 66.7 % | jump (1) |",
    "| jump | 2 | 50.0 % | run (1) |",
    "| swim | 0 | – |  |",
    "| **mean over classes** | 5 | 58.3 % | |",
  ]
  assert "| 2 | 0 |" in confusion_lib.class_table(found, ())


def _confusion(classes):
  rng = np.random.default_rng(0)
  return 20 * np.eye(classes, dtype=int) + rng.poisson(3.0 / classes, (classes, classes))


@pytest.mark.parametrize("classes", [2, 6, 30, 400])
def test_confusion_picture(tmp_path, classes):
  names = [f"a rather long class name {i}" for i in range(classes)]
  confusion_lib.confusion_png(tmp_path / "c.png", _confusion(classes), names, "title")
  with Image.open(tmp_path / "c.png") as image:
    pixels = np.asarray(image.convert("RGB"))
  assert min(pixels.shape[:2]) > 400
  # The diagonal of Blues is there, and the picture is mostly light.
  dark_blue = (pixels[..., 2] > 80) & (pixels[..., 0] < 60) & (pixels[..., 2] > pixels[..., 0] + 40)
  assert 0 < dark_blue.mean() < 0.5


def test_confusion_words_name_the_worst(tmp_path, monkeypatch):
  from matplotlib.axes import Axes

  texts = []
  monkeypatch.setattr(Axes, "text", lambda self, x, y, s, **_: texts.append(s))
  confusion = 10 * np.eye(70, dtype=int)
  confusion[3] = 0
  confusion[3, [8, 3]] = (7, 2)
  confusion_lib.confusion_png(tmp_path / "c.png", confusion)
  assert "   7 of 9     3 3 → 8 8" in texts[0]
  weakest = texts[0].partition("weakest classes")[2].splitlines()
  assert weakest[2] == "   2 of 9     3 3"


def test_few_classes_have_their_counts_in_the_cells(tmp_path, monkeypatch):
  from matplotlib.axes import Axes

  cells = {}
  monkeypatch.setattr(Axes, "text", lambda self, x, y, s, **_: cells.__setitem__((y, x), s))
  confusion_lib.confusion_png(tmp_path / "c.png", np.array([[5, 1], [0, 4]]), ("a", "b"))
  assert cells == {(0, 0): "5", (0, 1): "1", (1, 1): "4"}  # true class by row


NAMES = ("a|b", "<script>alert(1)</script>", "**$x^{$ [y](z)\n")


def test_names_of_classes_are_no_markup():
  found = metrics.accuracy(np.eye(3)[[0, 0, 1]], np.array([0, 1, 2]))
  lines = confusion_lib.class_table(found, NAMES).splitlines()
  assert len(lines) == 6
  assert all(line.replace("\\|", "").count("|") == 5 for line in lines)
  assert "<" not in "".join(lines)
  assert r"\*\*\$x^{\$ \[y\](z)\\n" in lines[4]


def test_names_of_classes_are_no_formulas(tmp_path):
  """Matplotlib takes what stands between dollar signs for a formula, and stops at a bad one."""
  confusion_lib.confusion_png(tmp_path / "c.png", _confusion(3), ["$x^{$", "$$", "a"], "$_$")
  assert (tmp_path / "c.png").is_file()
