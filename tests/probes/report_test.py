"""Result lines that programs can compare, tables and pictures that people can read."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from vssl_jax.probes import metrics, report


def test_result_line_is_one_stable_line():
  a = {"top1": 0.123456, "b": {"z": (1, 2), "a": np.float32(0.5)}, "n": np.int64(3), "ok": True}
  b = {"ok": True, "n": 3, "b": {"a": 0.5, "z": [1, 2]}, "top1": 0.12346}
  line = report.result_line(a)
  assert line == report.result_line(b)
  assert line == 'RESULT {"b": {"a": 0.5, "z": [1, 2]}, "n": 3, "ok": true, "top1": 0.1235}'
  assert "\n" not in report.result_line({"text": "two\nlines"})


def test_per_class_is_for_the_file_only(tmp_path):
  result = {"top1": 0.5, "per_class": {"a": 0.5}, "linear": {"per_class": {}, "top1": 1.0}}
  assert json.loads(report.result_line(result)[7:]) == {"linear": {"top1": 1.0}, "top1": 0.5}
  report.write_json(result, tmp_path / "new" / "result.json")
  assert json.loads((tmp_path / "new" / "result.json").read_text()) == result


def test_plain_numbers():
  assert report.plain(np.array([[1.00004, 2.0]])) == [[1.0, 2.0]]
  assert report.plain(jnp.float32(0.25)) == 0.25
  assert report.plain(1.23456e-5) == 1.235e-5
  assert report.plain(123456.78918) == 123456.7892
  assert report.plain([math.nan, math.inf, -0.0]) == [None, None, 0.0]
  exact = [0.1 + 0.2, math.pi * 1e5, 1e-7 / 3, 1.0000000000000002]
  assert report.plain(exact, report.EXACT) == exact
  assert report.plain(ConfigDict({"x": (1, 2)})) == {"x": [1, 2]}
  assert report.plain(np.True_) is True
  assert report.plain({1: None}) == {"1": None}
  with pytest.raises(TypeError, match="object"):
    report.plain({"x": object()})


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
  file = tmp_path / "result.json"
  report.write_json({"top1": 1}, file)

  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr(report.os, "replace", fail)
  with pytest.raises(OSError, match="disk full"):
    report.write_json({"top1": 2}, file)
  assert json.loads(file.read_text()) == {"top1": 1}
  assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_tree_hash_sees_every_bit():
  tree = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.float32(0.0)}
  same = {"b": jnp.float32(0.0), "params": {"a": jnp.arange(6.0).reshape(2, 3)}}
  assert report.tree_hash(tree) == report.tree_hash(same)
  a = tree["params"]["a"]
  others = [
    {"params": {"a": np.nextafter(a, 9)}, "b": tree["b"]},
    {"params": {"a": a.reshape(3, 2)}, "b": tree["b"]},
    {"params": {"a": a.astype(np.float64)}, "b": tree["b"]},
    {"params": {"c": a}, "b": tree["b"]},
    {"params": {"a": a}, "b": np.float32(-0.0)},
    {"params": {"a": np.asfortranarray(a)[::-1]}, "b": tree["b"]},
  ]
  hashes = {report.tree_hash(x) for x in others}
  assert len(hashes) == len(others)
  assert report.tree_hash(tree) not in hashes


def test_config_hash_ignores_order_and_tuples_against_lists():
  a = ConfigDict({"x": (1, 2), "y": {"b": 1, "a": 2}})
  b = ConfigDict({"y": {"a": 2, "b": 1}, "x": [1, 2]})
  assert report.config_hash(a) == report.config_hash(b)
  b.x = (1, 3)
  assert report.config_hash(a) != report.config_hash(b)


def test_class_table():
  scores = np.eye(3)[[0, 0, 1, 1, 0]]
  found = metrics.accuracy(scores, np.array([0, 0, 0, 1, 1]))
  assert report.class_table(found, ("run", "jump", "swim")).splitlines() == [
    "| class | videos | top-1 | taken for |",
    "|---|---:|---:|---|",
    "| run | 3 | 66.7 % | jump (1) |",
    "| jump | 2 | 50.0 % | run (1) |",
    "| swim | 0 | – |  |",
    "| **mean over classes** | 5 | 58.3 % | |",
  ]
  assert "| 2 | 0 |" in report.class_table(found, ())


def _confusion(classes):
  rng = np.random.default_rng(0)
  return 20 * np.eye(classes, dtype=int) + rng.poisson(3.0 / classes, (classes, classes))


@pytest.mark.parametrize("classes", [2, 6, 30, 400])
def test_confusion_picture(tmp_path, classes):
  names = [f"a rather long class name {i}" for i in range(classes)]
  report.confusion_png(tmp_path / "c.png", _confusion(classes), names, "title")
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
  report.confusion_png(tmp_path / "c.png", confusion)
  assert "   7 of 9     3 3 → 8 8" in texts[0]
  weakest = texts[0].partition("weakest classes")[2].splitlines()
  assert weakest[2] == "   2 of 9     3 3"


def test_few_classes_have_their_counts_in_the_cells(tmp_path, monkeypatch):
  from matplotlib.axes import Axes

  cells = {}
  monkeypatch.setattr(Axes, "text", lambda self, x, y, s, **_: cells.__setitem__((y, x), s))
  report.confusion_png(tmp_path / "c.png", np.array([[5, 1], [0, 4]]), ("a", "b"))
  assert cells == {(0, 0): "5", (0, 1): "1", (1, 1): "4"}  # true class by row
