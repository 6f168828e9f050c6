"""The tables of README and docs/ against the files under results/."""

import importlib.util
import json
import pathlib
import statistics

import pytest

from vssl_jax import results

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


def test_pages_agree_with_the_files(table):
  found = table.tables()
  texts = [page.read_text(encoding="utf-8") for page in table.PAGES]
  assert texts == [table.replace(text, found) for text in texts]
  assert not table.missing(texts, found)
  assert table.BEGIN.format("summary") in texts[0]


def test_every_file_has_a_row(table):
  known = {files for one in table.TABLES for _, files, _ in one.rows}
  for path in table.HERE.glob("*/*.json"):
    if path.parent.name in ("plans", "studies"):
      continue
    assert f"{path.parent.name}/{path.stem.rpartition('_s')[0]}" in known, path


def test_a_study_has_its_table(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  (tmp_path / "studies").mkdir()
  score = {"mean": 0.5, "std": 0.25, "seeds": 2, "values": {"0": 0.25, "1": 0.75}}
  found = {
    "axes": ["ρ", "method"],
    "columns": [{"name": "R@1", "scale": 100.0}, {"name": "Σ σ²", "scale": 1.0}],
    "random": {"R@1": {"mean": 0.125, "seeds": 1}},
    "rows": [
      {"settings": {"method": "MoCo", "ρ": "2"}, "scores": {"R@1": score, "Σ σ²": score}},
      {"settings": {"method": "MoCo", "ρ": "4"}, "scores": {}},
    ],
  }
  (tmp_path / "studies" / "rho_x.json").write_text(json.dumps(found))
  assert table.tables()["rho_x"].splitlines() == [
    "| ρ | method | R@1 | Σ σ² | seeds |",
    "|---|---|---|---|---|",
    "| 2 | MoCo | 50.0 ± 25.0 | 0.500 ± 0.250 | 2 |",
    "| 4 | MoCo |  |  | 0 |",
    "| random initialization |  | 12.5 |  | 1 |",
  ]


def test_every_plan_has_a_row(table):
  tables = table.tables()
  rows = [tables.get(name, "").splitlines()[2:] for name in ("plans", "plan_stages")]
  files = list((table.HERE / "plans").glob("*.json"))
  assert sum(map(len, rows)) == len(files) >= 2
  for file in files:
    (plan,) = json.loads(file.read_text())["plans"]
    name, stage = table._planned(plan["config"]), plan.get("stage")
    name = f"{name} {stage}" if stage else name
    name += f", {plan['machine']['topology']}"
    kept = name.replace(", ", "_").replace(":", "_")
    assert file.stem == kept.replace(" ", "_").replace("=", "")
    assert any(row.startswith(f"| {name} |") for row in rows[bool(stage)])


def test_plans_are_as_the_command_writes_them(table, tmp_path):
  for file in (table.HERE / "plans").glob("*.json"):
    found = json.loads(file.read_text())
    results.write_json(found, tmp_path / file.name)
    assert file.read_text() == (tmp_path / file.name).read_text()
    for plan in found["plans"]:
      if "host_cores" in plan:
        assert (plan["host_cores"]["needed"] is not None) == plan["config"]["decodes"]
      # The contexts of an exchange that is started are none of its results.
      assert not [c for c in plan["collectives"] if c["dtype"] == "u32" and c["bytes"] <= 8]


def test_loops_of_unknown_length_are_told(table):
  head, _, *rows = table.tables()["plans"].splitlines()
  assert head.endswith("| loops counted once |")
  counts = {row.split(" | ")[0].strip("| "): row.split(" | ")[-1].strip(" |") for row in rows}
  assert counts["dcc_thumos14, v5e:2x4"] == "1"
  assert counts["rho_byol_k400, h100:8"] == "0"


def test_mean_and_deviation_over_seeds(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  values = (0.5, 0.6, 0.8)
  _write(tmp_path / "ucf6", "cvrl", *(_result(i, v) for i, v in enumerate(values)))
  _write(tmp_path / "ucf6", "rho_moco", _result(3, 0.25))
  _write(tmp_path / "ucf6", "rho_swav", _result(0, 0.25), _result(2, 0.25))
  mean, deviation = statistics.mean(values), statistics.stdev(values)
  lines = table.tables()["ucf6"].splitlines()
  assert lines[0] == (
    "| six classes of UCF101, split 1 (1,200 train, 30 test) | logistic | kNN | R@1 |"
  )
  expected = [f"{100 * mean / k:.1f} ± {100 * deviation / k:.1f}" for k in (1, 2, 4)]
  assert lines[2] == f"| CVRL | {' | '.join(expected)} |"
  assert lines[3] == "| ρ-MoCo (seed 3 alone) | 25.0 | 12.5 | 6.2 |"
  assert lines[4] == "| ρ-SwAV (seeds 0, 2) | 25.0 | 12.5 | 6.2 |"


def test_a_column_of_fewer_seeds_than_its_row_says_so(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  results = [_result(i, 0.5) for i in range(3)]
  for result in results[1:]:
    del result["trained"]["knn"]
  _write(tmp_path / "ucf6", "cvrl", *results)
  _write(tmp_path / "ucf6", "rho_moco", *(_result(i, 0.5) for i in range(3)))
  lines = table.tables()["ucf6"].splitlines()
  assert lines[2] == "| CVRL | 50.0 | 25.0 (1 seed) | 12.5 |"
  assert lines[3] == "| ρ-MoCo | 50.0 | 25.0 | 12.5 |"


def test_random_and_baseline_rows_come_from_cvrl_s_files(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  random = {"logistic": {"top1": 0.2}, "linear": {"top1": 0.1}}
  baselines = {"pixels": {"top1": 0.4}}
  _write(tmp_path / "digits", "cvrl", _result(0, 0.5, random_init=random, baselines=baselines))
  lines = table.tables()["digits"].splitlines()
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
  lines = table.tables()["stitched"].splitlines()
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
  assert table.tables()["protocols"].splitlines() == [
    "| every protocol on CVRL's checkpoints (1,200 train, 30 test) | % |",
    "|---|---|",
    "| linear probe (seed 0 alone) | 50.0 |",
    "| fine-tuned, 10 % of the labels (seed 0 alone) | 75.0 |",
    "| retrieval, R@1 (seed 0 alone) | 25.0 |",
  ]


def test_rankings_of_one_run_are_rows(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  own = {"retrieval": {"mean": {"R@1": 0.5, "R@5": 0.75}, "bhattacharyya": {"R@1": 0.25}}}
  _write(tmp_path / "digits_18_epochs", "provico", _result(0, 0.4, provico=own))
  lines = table.tables()["provico_digits"].splitlines()
  assert lines[0] == "| ProViCo's retrieval, digits (1,200 train, 30 test) | R@1 | R@5 |"
  assert lines[2:] == [
    "| backbone features (seed 0 alone) | 10.0 |  |",
    "| μ(V) (seed 0 alone) | 50.0 | 75.0 |",
    "| Bhattacharyya distance (seed 0 alone) | 25.0 |  |",
  ]
  _write(tmp_path / "digits_18_epochs", "provico_soft", _result(1, 0.8))  # a name that begins alike
  again = table.tables()["provico_digits"].splitlines()
  assert again[:5] == lines
  assert again[5].startswith("| backbone features, L_soft alone (seed 1 alone)")


def test_the_summary_has_data_sets_side_by_side(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  _write(tmp_path / "ucf6", "cvrl", _result(0, 0.5), _result(1, 0.7), _result(2, 0.9))
  _write(tmp_path / "digits", "cvrl", _result(0, 0.4))
  _write(tmp_path / "digits", "provico", *(_result(i, 0.2) for i in range(3)))
  lines = table.tables()["summary"].splitlines()
  columns = "UCF101, 6 classes: logistic | UCF101, 6 classes: R@1 | digits: logistic | digits: R@1"
  assert lines == [
    f"| top-1 or recall, % | {columns} |",
    "|---|---|---|---|---|",
    "| CVRL | 70.0 ± 20.0 | 17.5 ± 5.0 | 40.0 (seed 0) | 10.0 (seed 0) |",
    "| ProViCo |  |  | 20.0 | 5.0 |",
  ]


def test_a_misnamed_file_and_lost_markers_are_told(table, tmp_path, monkeypatch):
  monkeypatch.setattr(table, "HERE", tmp_path)
  _write(tmp_path / "ucf6", "cvrl", _result(0, 0.5))
  (tmp_path / "ucf6" / "cvrl_s0.json").rename(tmp_path / "ucf6" / "cvrl_s4.json")
  with pytest.raises(SystemExit, match="its seed is 0"):
    table.tables()
  found, end = {"ucf6": "| new |", "digits": "| other |"}, table.END
  page = f"before {table.BEGIN.format('ucf6')} old {end} after"
  assert table.replace(page, found) == page.replace(" old ", "\n\n| new |\n\n")
  assert table.missing([page], found) == ["digits"]
  with pytest.raises(SystemExit, match="no such table"):
    table.replace(page.replace("ucf6", "ucf7"), found)
  with pytest.raises(SystemExit, match="put them back"):
    table.replace(page.replace(end, ""), found)


def test_pages_are_rewritten_and_checked(table, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(table, "HERE", tmp_path / "results")
  monkeypatch.setattr(table, "ROOT", tmp_path)
  page = tmp_path / "page.md"
  monkeypatch.setattr(table, "PAGES", (page,))
  (tmp_path / "results").mkdir()
  for row in ("cvrl", "supervised"):
    _write(tmp_path / "results" / "ucf6", row, *(_result(i, 0.5) for i in range(3)))
  names = ("summary", "ucf6", *(f"{row}_beside" for _, row in table.METHODS))
  page.write_text(
    "\n".join(f"{table.BEGIN.format(n)}{table.END}" for n in names if n in table.tables())
  )
  monkeypatch.setattr("sys.argv", ["table.py", "--check"])
  with pytest.raises(SystemExit, match=r"page\.md: its tables differ"):
    table.main()
  monkeypatch.setattr("sys.argv", ["table.py"])
  table.main()
  assert "| CVRL | 50.0 | 25.0 | 12.5 |" in page.read_text()
  monkeypatch.setattr("sys.argv", ["table.py", "--check"])
  table.main()
  assert "agree" in capsys.readouterr().out
  page.write_text(page.read_text().replace(table.BEGIN.format("summary"), table.BEGIN.format("x")))
  with pytest.raises(SystemExit, match="no page shows summary"):
    table.main()
