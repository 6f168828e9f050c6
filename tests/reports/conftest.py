"""Folders as training and `evaluate` write them, with texts of a hostile user."""

import json
import zipfile

import numpy as np
import pytest

from vssl_jax import methods
from vssl_jax.probes import confusion, metrics
from vssl_jax.reports import page

EVIL = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def light_plotly(monkeypatch, request):
  """A stand-in for Plotly's 5 MB, except in a browser."""
  monkeypatch.setattr(confusion, "confusion_png", lambda *args: None)  # slow, and not the page's
  if "browser" not in request.fixturenames:
    monkeypatch.setattr(page, "plotly", lambda: "var Plotly = {};")


def write(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value), encoding="utf-8")


def make_run(folder, *, seed=0, finished=True, steps=6, **changes):
  """A run of CVRL whose loss is seed + 1 / step."""
  config = json.loads(methods.base_config("cvrl").to_json())
  config |= {"name": f"mine {EVIL}", "seed": seed, "batch_size": 48, **changes}
  write(folder / "config.json", config)
  rows = [
    {
      "step": 10 * i,
      "epoch": i / 2,
      "loss": seed + 1 / i,
      "loss_of_guessing": 0.1,
      "effective_rank": 2.0,
      "input_wait": 0.5,
      "odd one": float(i),
    }
    for i in range(1, steps + 1)
  ]
  text = "".join(json.dumps(r) + "\n" for r in rows)
  (folder / "metrics.jsonl").write_text(text + '{"step": 70, "lo', encoding="utf-8")
  if finished:
    headline = {"knn_top1": {"trained": 0.625, "random_init": 0.25}}
    write(folder / "result.json", {"headline": headline, "train_seconds": 75.0, "seconds": 99.0})
  return folder


@pytest.fixture
def run(tmp_path):
  return make_run(tmp_path / "run")


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def webp(rng, side=24, frames=3):
  from vssl_jax.evaluation.pictures import shown_videos

  return shown_videos.webp(rng.integers(0, 256, (frames, side, side, 3), np.uint8))


def make_evaluation(folder, rng, *, videos=6, classes=("<b>up</b>", "down", EVIL), clips=True):
  """An evaluation of one pair of splits: two protocols, confusions, motion, and videos."""
  case = folder / "mine"
  own = {name: 0.25 * i for i, name in enumerate(classes)}
  write(
    folder / "summary.json",
    {
      "job": "evaluate",
      "seed": 3,
      "checkpoint": {"method": "cvrl", "step": 30},
      "notes": [f"a note {EVIL}"],
      "splits": {"mine": {"knn": {"top-1": 0.375}, "motion": {"R@1": 0.5}}},
      "seconds": 4.0,
    },
  )
  write(case / "knn.json", {"protocol_name": "knn", "key": "k", "per_class": own})
  orders = {
    "normal": {"knn": {"top-1": 0.75}, "retrieval": {"R@1": 0.5, "R@5": 0.9}},
    "frozen": {"knn": {"top-1": 0.25}, "retrieval": {"R@1": 0.5, "R@5": 0.9}},
  }
  write(case / "motion.json", {"protocol_name": "motion", "key": "k", "orders": orders})
  found = np.arange(len(classes) ** 2).reshape(len(classes), -1)
  scored = metrics.Accuracy(0.5, 1.0, np.array([own[c] for c in classes]), found)
  confusion.write_classes(case / "knn.png", "knn", scored, classes)
  label = [i % len(classes) for i in range(videos)]
  query = [
    {
      "video": i,
      "name": f"v{i} {EVIL}",
      "label": label[i],
      "place": [float(i), i / 2],
      "vote": label[i] if i else 1,
      "near": [i, (i + 1) % videos],
      "cosine": [0.9, 0.125],
    }
    for i in range(videos)
  ]
  bank = [{"video": i, "name": f"b{i}", "label": label[i]} for i in range(videos)]
  told = {"label_names": classes, "split": "test", "bank_split": "train", "projection": "t-SNE"}
  write(case / "page" / "videos.json", told | {"query": query, "bank": bank})
  if clips:
    with zipfile.ZipFile(case / "page" / "clips.zip", "w") as file:
      for i in range(videos):
        for part in ("query", "bank"):
          file.writestr(f"{part}{i}.webp", webp(rng))
  return folder


@pytest.fixture
def evaluation(tmp_path, rng):
  return make_evaluation(tmp_path / "evaluation", rng)
