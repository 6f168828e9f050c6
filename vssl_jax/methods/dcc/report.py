"""Writes the report of a run besides its scores: predictions, pictures and measurements."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from vssl_jax.localization import outcome
from vssl_jax.localization import timelines as timelines_lib
from vssl_jax.localization.annotations import Prediction
from vssl_jax.localization.observe import Look, observe
from vssl_jax.localization.source import SequenceSource
from vssl_jax.methods.dcc import snippet_spaces
from vssl_jax.methods.dcc.pseudo_quality import PseudoQuality

SPACES = ("input features", "trunk", "contrasted embedding")  # from input to output
TSNE = "tsne.png"


def write(
  folder: pathlib.Path,
  look: Look,
  train: SequenceSource,
  test: SequenceSource,
  predictions: Mapping[str, Sequence[Prediction]],
  *,
  batch_size: int,
  videos: int,
  count: int,
) -> dict[str, Any]:
  """Writes predictions, timelines and t-SNE of the test split, and measures pseudo-labels.

  Args:
    folder: the run's folder; gets `predictions.json`, `truth.json`, `timelines/<video>.png` and
      `tsne.png`.
    look: the network.
    train: the training split, on which pseudo-labels are measured.
    test: the test split, which is drawn.
    predictions: predictions for the test split.
    batch_size: videos at a time.
    videos: number of timelines to draw, of evenly spaced videos.
    count: number of snippets to draw and to measure the spaces with; 0 for none.

  Returns:
    `pseudo_labels` of the training split (see `pseudo_quality`), and `snippets` of the test split,
    by space (see `snippet_spaces.quality`).
  """
  found: dict[str, Any] = {}
  quality = PseudoQuality()
  for seen in observe(look, train, batch_size=batch_size):
    quality.add(seen)
  found["pseudo_labels"] = quality.result()
  writes = jax.process_index() == 0
  if writes:
    outcome.write(folder, predictions, test)
  timelines_lib.timelines(folder, look, test, predictions, batch_size=batch_size, videos=videos)
  if not count:
    return found
  sample = snippet_spaces.draw(observe(look, test, batch_size=batch_size), count)
  found["snippets"] = snippet_spaces.quality(sample)
  if writes and len(sample.label) > 2:
    names = sorted(sample.spaces, key=lambda n: SPACES.index(n) if n in SPACES else len(SPACES))
    planes = {name: snippet_spaces.embed(sample.spaces[name]) for name in names}
    timelines_lib.scatter(folder / TSNE, planes, sample.label, test.label_names, _notes(found))
  return found


def _notes(found: Mapping[str, Any]) -> dict[str, str]:
  return {
    name: f"silhouette {q['silhouette']:.3f}, kNN purity {q['knn_purity']:.2f} "
    f"(chance {q['chance']:.2f}),\naction or not {q['action_purity']:.2f}"
    for name, q in found["snippets"].items()
  }
