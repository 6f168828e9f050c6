"""The command that scores a file of predictions: ActivityNet's figures, and what does not fit."""

import json
import pathlib

import pytest

from tests import small

ORACLE = pathlib.Path(__file__).parent.parent / "oracles" / "activitynet.json"


@pytest.fixture
def stored(tmp_path):
  tree = json.loads(ORACLE.read_text())
  for name in ("truth", "predictions"):
    (tmp_path / f"{name}.json").write_text(json.dumps(tree[name]))
  return tree


def call(folder, *flags, predictions="predictions.json"):
  paths = [f"--annotations={folder / 'truth.json'}", f"--predictions={folder / predictions}"]
  return small.vssl("score", *paths, *flags)


@pytest.mark.parametrize("protocol", ["thumos14", "activitynet"])
def test_a_file_is_scored_as_activitynet_does(stored, tmp_path, capsys, protocol):
  flags = ("--lenient", "--subset=validation", f"--protocol={protocol}")
  assert call(tmp_path, *flags, f"--json={tmp_path / 'out.json'}") == 0
  printed = capsys.readouterr().out
  want = stored[protocol]
  assert f": {100 * want['average']:.2f} %" in printed
  assert "| class 4 |" in printed
  figures = json.loads((tmp_path / "out.json").read_text())
  assert list(figures["mAP"].values()) == pytest.approx(want["mean"], rel=1e-12)
  assert figures["subset"] == "validation"


def test_thresholds_of_one_s_own(stored, tmp_path, capsys):
  flags = ("--lenient", "--subset=validation", f"--json={tmp_path / 'out.json'}")
  assert call(tmp_path, *flags, "--tious=0.7,.3") == 0
  assert "average of 0.3:0.7: " in capsys.readouterr().out
  figures = json.loads((tmp_path / "out.json").read_text())
  want = [stored["thumos14"]["mean"][i] for i in (2, 6)]
  assert list(figures["mAP"].items()) == [
    ("0.3", pytest.approx(want[0], rel=1e-12)),
    ("0.7", pytest.approx(want[1], rel=1e-12)),
  ]
  assert figures["average"] == {"0.3:0.7": pytest.approx(sum(want) / 2, rel=1e-12)}
  assert figures["protocol"] == ""
  for wrong in ("0", "0.5,1.5", "0.5,0.50", "nan"):
    assert call(tmp_path, *flags, f"--tious={wrong}") == 2
    assert "give different thresholds, above 0 and at most 1" in capsys.readouterr().err


def test_equal_scores_come_in_the_order_of_the_evaluator(tmp_path, capsys):
  """Of 40 predictions of one score, which are misses but for one, the hit's rank is NumPy's."""
  segment = lambda i: {"segment": [float(i), float(i + 1)], "label": "run"}
  truth = {"v": {"subset": "test", "duration": 50.0, "annotations": [segment(3)]}}
  found = {"v": [{**segment(i), "score": 0.5} for i in range(40)]}
  (tmp_path / "truth.json").write_text(json.dumps({"database": truth}))
  (tmp_path / "predictions.json").write_text(json.dumps({"results": found}))
  assert call(tmp_path, f"--json={tmp_path / 'out.json'}", "--tious=0.5") == 0
  precision = json.loads((tmp_path / "out.json").read_text())["mAP"]["0.5"]
  # np.argsort(np.full(40, 0.5)) of NumPy without vector instructions, see ranking_test.py
  assert precision == pytest.approx(1 / 17, rel=1e-12)


def test_predictions_elsewhere_are_named_and_may_be_allowed(stored, tmp_path, capsys):
  assert call(tmp_path, "--subset=validation") == 2
  assert "predictions for video 'v7', which is not in subset" in capsys.readouterr().err
  stored["predictions"]["results"] = {"v0": [{"segment": [0, 1], "label": "juggling", "score": 1}]}
  (tmp_path / "odd.json").write_text(json.dumps(stored["predictions"]))
  assert call(tmp_path, predictions="odd.json") == 2
  assert "class 'juggling' is nowhere annotated" in capsys.readouterr().err
  assert call(tmp_path, "--lenient", predictions="odd.json") == 0
  assert "1 predictions of classes that do not occur here" in capsys.readouterr().out


def test_what_does_not_fit_is_one_line(stored, tmp_path, capsys):
  assert call(tmp_path, "--subset=valid") == 2
  assert "of subset 'valid'; the annotations have training, validation" in capsys.readouterr().err
  assert call(tmp_path, predictions="gone.json") == 2
  assert "gone.json: cannot be read" in capsys.readouterr().err
  assert call(tmp_path, predictions="truth.json") == 2
  assert "has no 'results'" in capsys.readouterr().err


def test_times_that_no_video_has_are_told_and_count(tmp_path, capsys):
  """Times as text, as in BaS-Net's ground truth, whose durations are in a table."""

  def entry(start, end, **more):
    return [{"segment": [str(start), str(end)], "label": "run", **more}]

  videos = {"v": entry(-1, 2), "w": entry(1, 9.5), "x": entry(1, 2)}
  videos = {name: {"subset": "test", "annotations": listed} for name, listed in videos.items()}
  found = {name: entry(1, 2, score="0.5") for name in "wx"} | {"v": entry(-1, 2, score="1")}
  (tmp_path / "truth.json").write_text(json.dumps({"database": videos}))
  (tmp_path / "predictions.json").write_text(json.dumps({"results": found}))
  assert call(tmp_path) == 0
  first, second = capsys.readouterr().err.splitlines()
  assert first.startswith(f"note: {tmp_path / 'truth.json'}: 1 of 3 segments start before 0 s")
  assert second.startswith(f"note: {tmp_path / 'predictions.json'}: 1 of 3 segments")
  (tmp_path / "videos.csv").write_text("video_id,duration_s\nv,9\nw,9\nx,9\n")
  assert call(tmp_path, f"--durations={tmp_path / 'videos.csv'}") == 0
  told = capsys.readouterr()
  assert "2 of 3 segments" in told.err.splitlines()[0]
  assert "| run | 3 | 3 |" in told.out
