"""Pictures of the uncertainty analysis: they appear, and show what they are given."""

import io

import numpy as np
import pytest
from PIL import Image

from vssl_jax.uncertainty import figures


def shades(path):
  """Distinct colors of a PNG that are not grey, coarsely."""
  x = (
    np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")).reshape(-1, 3).astype(int)
  )
  x = x[x.max(axis=1) - x.min(axis=1) > 60]
  return {tuple(c) for c in np.unique(x // 32, axis=0)}


def thumbnail(label="one", **more):
  frame = np.full((6, 8, 3), 90, np.uint8)
  return {"frame": frame, "video": 3, "uncertainty": 0.5, "label": label, **more}


def test_pairs_frame_right_labels_in_green_and_wrong_ones_in_red(tmp_path):
  file = tmp_path / "made" / "pairs.png"
  row = {"anchor": thumbnail(), "negatives": [], "positives": [thumbnail(distance=1.5)]}
  figures.pairs(file, [row], "title")
  right = shades(file)
  row["positives"] = [thumbnail("two", distance=1.5)]
  figures.pairs(file, [row], "title")
  wrong = shades(file)
  assert right
  assert wrong
  assert not right & wrong
  row["positives"] = [thumbnail("", distance=1.5)]
  figures.pairs(file, [row], "title")
  assert not shades(file)


def test_pairs_draw_rows_of_any_length_and_dollars(tmp_path):
  many = [thumbnail("$x$ a long name of a class", distance=float(d)) for d in range(4)]
  rows = [
    {"anchor": thumbnail(), "positives": [], "negatives": many},
    {"anchor": thumbnail(), "positives": many[:2], "negatives": []},
  ]
  figures.pairs(tmp_path / "a.png", rows, "")
  figures.pairs(tmp_path / "b.png", rows[:1], "")
  a, b = (Image.open(tmp_path / f"{x}.png").size for x in "ab")
  assert a[0] > b[0]
  assert a[1] > b[1]


def rows(**columns):
  return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize("runs", [1, 2])
def test_curves_of_one_run_and_of_several(tmp_path, runs):
  training = rows(epoch=[1, 2], uncertainty=[2.0, 1.0], predicted=[1.0, 0.5], **{"R@1": [0.1, 0.4]})
  names = [f"run {i}" for i in range(runs)]
  figures.training(
    tmp_path / "training.png", {n: {"training": training, "logged": [[0, 2.5]]} for n in names}
  )
  groups = rows(uncertainty=[1, 2, 3], error=[0.1, 0.1, 0.1], **{"R@1": [0.5, 0.4, 0.2]})
  figures.quantiles(tmp_path / "quantiles.png", dict.fromkeys(names, groups))
  worse = rows(
    name=["", "blur", "blur", "noise"],
    strength=[0.0, 0.2, 0.1, 0.3],
    uncertainty=[1.0, 2.0, 3.0, 4.0],
    predicted=[0.5, 0.5, 0.5, 0.5],
    **{"R@1": [0.5, 0.1, 0.2, 0.3]},
  )
  figures.corruption(tmp_path / "corruption.png", dict.fromkeys(names, worse))
  sizes = {x.name: Image.open(x).size for x in tmp_path.iterdir()}
  assert set(sizes) == {"training.png", "quantiles.png", "corruption.png"}
  seen = {x.name: shades(x) for x in tmp_path.iterdir()}
  assert len(seen["training.png"]) > 1  # one color for uncertainty, another for R@1
  orange = any(red > blue + 2 for red, _, blue in seen["quantiles.png"])
  assert orange == (runs == 2)  # the second run's


def test_no_run_leaves_the_shared_axis(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(figures.figure_lib, "save", lambda figure, path: drawn.append(figure))
  low, high = (
    rows(epoch=[1, 2], uncertainty=[1.0, x], predicted=[0.5, 0.5], **{"R@1": [0.1, 0.4]})
    for x in (0.8, 7.0)
  )
  figures.training(tmp_path / "t.png", {"a": {"training": low}, "b": {"training": high}})
  for axis in drawn[0].axes[:2]:
    assert axis.get_ylim()[0] == 0
    assert axis.get_ylim()[1] > 7
