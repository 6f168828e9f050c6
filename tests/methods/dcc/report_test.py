"""What a run leaves: files where they are said to be, and numbers of the right split."""

import numpy as np
import pytest

from tests.localization.observe_test import look
from tests.localization.scores_test import _oracle, _source
from vssl_jax.localization import annotations, scores
from vssl_jax.localization import timelines as timelines_lib
from vssl_jax.methods.dcc import report


@pytest.mark.parametrize(("videos", "count"), [(2, 24), (1, 0), (0, 0), (9, 24)])
def test_files_and_figures(tmp_path, videos, count):
  source = _source()
  predictions, _ = scores.predict(_oracle, source, batch_size=2)
  found = report.write(
    tmp_path, look, source, source, predictions, batch_size=2, videos=videos, count=count
  )
  assert annotations.read_predictions(tmp_path / "predictions.json").keys() == {
    "v0",
    "v1",
    "v2",
  }
  timelines = {p.name for p in (tmp_path / timelines_lib.TIMELINES).glob("*.png")}
  want = {2: {"v0.png", "v2.png"}, 1: {"v0.png"}, 0: set(), 9: {"v0.png", "v1.png", "v2.png"}}
  assert timelines == want[videos]
  action = found["pseudo_labels"]["action"]
  assert action["before"] == {"precision": 1.0, "recall": 1.0}  # the truth itself
  np.testing.assert_allclose(action["after"]["recall"], 0.5)
  assert (tmp_path / report.TSNE).exists() == ("snippets" in found) == bool(count)
  if count:
    assert found["snippets"]["input"].keys() >= {"silhouette", "knn_purity", "chance"}
    assert found["snippets"]["input"]["silhouette"] > 0.5
