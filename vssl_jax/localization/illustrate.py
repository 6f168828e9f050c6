"""What a run leaves besides its scores: predictions, pictures and the numbers behind them."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vssl_jax.localization import annotations, pictures, snippets
from vssl_jax.localization.annotations import Prediction
from vssl_jax.localization.observe import Look, observe
from vssl_jax.localization.pseudo_quality import PseudoQuality

SPACES = ("input features", "trunk", "contrasted embedding")  # from what is given to what is learnt
PREDICTIONS, TIMELINES, TSNE = "predictions.json", "timelines", "tsne.png"


def write(
  folder: pathlib.Path,
  look: Look,
  train: Any,
  test: Any,
  predictions: Mapping[str, Sequence[Prediction]],
  *,
  batch_size: int,
  videos: int,
  count: int,
) -> dict[str, Any]:
  """Writes predictions, timelines and t-SNE of the test split, and measures pseudo-labels.

  Args:
    folder: of the run: `predictions.json`, `timelines/<video>.png`, `tsne.png`.
    look: the network.
    train: the training split, whose pseudo-labels taught it.
    test: the split that is drawn.
    predictions: of the test split.
    batch_size: videos at a time.
    videos: timelines to draw, of evenly spaced videos.
    count: snippets to draw and to measure spaces by; 0 for none.

  Returns:
    `pseudo_labels` of the training split (`pseudo_quality`), and `snippets` of the test split, by
    space (`snippets.quality`).
  """
  found: dict[str, Any] = {}
  quality = PseudoQuality()
  for seen in observe(look, train, batch_size=batch_size):
    quality.add(seen)
  found["pseudo_labels"] = quality.result()
  writes = jax.process_index() == 0
  if writes:
    annotations.write_predictions(folder / PREDICTIONS, predictions)
  timelines(folder, look, test, predictions, batch_size=batch_size, videos=videos)
  if not count:
    return found
  sample = snippets.draw(observe(look, test, batch_size=batch_size), count)
  found["snippets"] = snippets.quality(sample)
  if writes and len(sample.label) > 2:
    names = sorted(sample.spaces, key=lambda n: SPACES.index(n) if n in SPACES else len(SPACES))
    planes = {name: snippets.embed(sample.spaces[name]) for name in names}
    pictures.scatter(folder / TSNE, planes, sample.label, test.label_names, _notes(found))
  return found


def timelines(
  folder: pathlib.Path,
  look: Look,
  source: Any,
  predictions: Mapping[str, Sequence[Prediction]],
  *,
  batch_size: int,
  videos: int,
) -> None:
  """Draws `timelines/<video>.png` of so many evenly spaced videos of a split."""
  count = min(videos, source.num_videos)
  if count < 1:
    return
  few = source.only(np.linspace(0, source.num_videos - 1, count).astype(int))
  for seen in observe(look, few, batch_size=batch_size):
    if jax.process_index() == 0:
      path = folder / TIMELINES / (re.sub(r"[^\w.-]", "_", seen.name) + ".png")
      video, own = few.videos[seen.video], predictions[seen.name]
      pictures.timeline(path, seen, video, own, few.label_names)


def _notes(found: Mapping[str, Any]) -> dict[str, str]:
  return {
    name: f"silhouette {q['silhouette']:.3f}, kNN purity {q['knn_purity']:.2f} "
    f"(chance {q['chance']:.2f}),\naction or not {q['action_purity']:.2f}"
    for name, q in found["snippets"].items()
  }
