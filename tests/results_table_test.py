"""README's tables against the files under results/."""

import importlib.util
import json
import pathlib
import statistics

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def table():
  spec = importlib.util.spec_from_file_location("table", ROOT / "results" / "table.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _result(seed, top1, **more):
  part = {"logistic": {"top1": top1}, "knn": {"top1": top1 / 2}, "retrieval": {"R@1": top1 / 4}}
  data = {"train": {"videos": 1200}, "eval": {"videos": 30}}
  return {"seed": seed, "data": data, "trained": part, **more}


def _write(folder, row, *results):
  folder.mkdir(exist_ok=True)
  for result in results:
    (folder / f"{row}_s{result['seed']}.json").write_text(json.dumps(result))


def test_readme_agrees_with_the_files(table):
  text = table.README.read_text(encoding="utf-8")
  assert table.replace(text) == text


def test_every_file_has_a_row(table):
  known = {files for one in table.TABLES for _, files, _ in one.rows}
  for path in table.HERE.glob("*/*.json"):
    assert f"{path.parent.name}/{path.stem.rpartition('_s')[0]}" in known, path


def test_mean_and_deviation_over_seeds(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  values = (0.5, 0.6, 0.8)
  _write(tmp_path / "ucf6", "cvrl", *(_result(i, v) for i, v in enumerate(values)))
  _write(tmp_path / "ucf6", "rho_moco", _result(3, 0.25))
  _write(tmp_path / "ucf6", "rho_swav", _result(0, 0.25), _result(2, 0.25))
  mean, deviation = statistics.mean(values), statistics.stdev(values)
  lines = table.tables().splitlines()
  assert lines[0] == (
    "| six classes of UCF101, split 1 (1,200 train, 30 test) | logistic | kNN | R@1 |"
  )
  expected = [f"{100 * mean / k:.1f} ± {100 * deviation / k:.1f}" for k in (1, 2, 4)]
  assert lines[2] == f"| CVRL | {' | '.join(expected)} |"
  assert lines[3] == "| ρ-MoCo, ρ = 2 (seed 3 alone) | 25.0 | 12.5 | 6.2 |"
  assert lines[4] == "| ρ-SwAV, ρ = 2 (seeds 0, 2) | 25.0 | 12.5 | 6.2 |"


def test_random_and_baseline_rows_come_from_cvrl_s_files(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  random = {"logistic": {"top1": 0.2}, "linear": {"top1": 0.1}}
  baselines = {"pixels": {"top1": 0.4}}
  _write(tmp_path / "digits", "cvrl", _result(0, 0.5, random_init=random, baselines=baselines))
  lines = table.tables().splitlines()
  assert lines[2] == "| middle frame's pixels (seed 0 alone) |  | 40.0 |  |  |"
  assert lines[3] == "| random initialization (seed 0 alone) | 10.0 | 20.0 |  |  |"


def test_localization_has_columns_of_its_own(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  action = {"before": {"precision": 0.7}, "after": {"precision": 0.8}}
  for row, kept in (("bas_net", ("before",)), ("dcc", ("before", "after"))):
    _write(
      tmp_path / "stitched",
      row,
      {
        "seed": 1,
        "train_videos": 160,
        "headline": {"mAP@0.1:0.7": {"trained": 0.4}},
        "dcc": {"videos": 100, "pseudo_labels": {"action": {k: action[k] for k in kept}}},
      },
    )
  lines = table.tables().splitlines()
  assert lines[0].startswith("| stitched from real features (160 train, 100 test) | mAP 0.1:0.7, l")
  assert lines[2] == "| BaS-Net (seed 1 alone) | 40.0 | 70.0 |  |"
  assert lines[3] == "| DCC: + contrast, denoised (seed 1 alone) | 40.0 | 70.0 | 80.0 |"


def test_protocols_of_one_checkpoint_are_rows(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  mean = {
    "linear": {"top-1": {"mean": 0.5, "splits": 1}},
    "retrieval": {"R@1": {"mean": 0.25}},
    "semi_supervised": {"10 % of labels, top-1": {"mean": 0.75}},
  }
  data = {"ucf6": {"train": {"videos": 1200}, "eval": {"videos": 30}}}
  _write(
    tmp_path / "evaluation", "cvrl", {"job": "evaluate", "seed": 0, "mean": mean, "data": data}
  )
  assert table.tables().splitlines() == [
    "| every protocol on CVRL's checkpoints (1,200 train, 30 test) | % |",
    "|---|---|",
    "| linear probe (seed 0 alone) | 50.0 |",
    "| fine-tuned, 10 % of the labels (seed 0 alone) | 75.0 |",
    "| retrieval, R@1 (seed 0 alone) | 25.0 |",
  ]


def test_rankings_of_one_run_are_rows(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  own = {"retrieval": {"mean": {"R@1": 0.5, "R@5": 0.75}, "bhattacharyya": {"R@1": 0.25}}}
  _write(tmp_path / "digits", "provico", _result(0, 0.4, provico=own))
  lines = next(t for t in table.tables().split("\n\n") if "ProViCo's retrieval" in t).splitlines()
  assert lines[0] == "| ProViCo's retrieval, digits (1,200 train, 30 test) | R@1 | R@5 |"
  assert lines[2:] == [
    "| backbone features (seed 0 alone) | 10.0 |  |",
    "| μ(V) (seed 0 alone) | 50.0 | 75.0 |",
    "| Bhattacharyya distance (seed 0 alone) | 25.0 |  |",
  ]
  _write(tmp_path / "digits", "provico_soft", _result(1, 0.8))  # a name that begins alike
  again = next(t for t in table.tables().split("\n\n") if "ProViCo's retrieval" in t).splitlines()
  assert again[:5] == lines
  assert again[5].startswith("| backbone features, L_soft alone (seed 1 alone)")


def test_a_misnamed_file_and_lost_markers_are_told(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  _write(tmp_path / "ucf6", "cvrl", _result(0, 0.5))
  (tmp_path / "ucf6" / "cvrl_s0.json").rename(tmp_path / "ucf6" / "cvrl_s4.json")
  with pytest.raises(SystemExit, match="its seed is 0"):
    table.tables()
  with pytest.raises(SystemExit, match="missing"):
    table.replace("no markers here")
