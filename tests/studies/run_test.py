"""Studies without training: what is run, by whom, what is refused, and what the table says."""

import json
import pathlib
import statistics

import numpy as np
import pytest

import vssl_jax
from tests import small
from vssl_jax import methods
from vssl_jax.cli import arguments
from vssl_jax.errors import NonFiniteError, UserError
from vssl_jax.studies import (
  Curve,
  Score,
  Setting,
  Study,
  catalog,
  configs,
  folder,
  plan,
  plot,
  table,
  workers,
)
from vssl_jax.studies import run as run_lib
from vssl_jax.studies import study as study_lib

DRAW = plot.draw
MINE = """
from vssl_jax.studies import Setting, Study

STUDIES = {
  "mine": Study(
    "my question",
    "cvrl",
    {"interval": {"near": Setting(), "flat": Setting("uniform")},
     "epochs ×": {"½": Setting(times={"epochs": 0.5}), "1": Setting()}},
    line="epochs ×",
    seeds=(0, 1),
  )
}
"""


@pytest.fixture
def mine(tmp_path):
  (tmp_path / "mine.py").write_text(MINE)
  return str(tmp_path / "mine.py")


def score(name, seed):
  """What the pretended run finds."""
  return 0.1 * len(name.split("_s")[0]) + 0.01 * seed


@pytest.fixture
def trained(monkeypatch):
  """Pretends to train; the names of the runs that were."""
  ran = []

  def pretrain(config, *, workdir, overrides):
    ran.append(workdir.name)
    assert overrides == {"seed": overrides["seed"], "name": workdir.name}
    (workdir / "config.json").write_text("{}")
    found = {"top1": score(workdir.name, overrides["seed"])}
    rows = {"logistic": found, "knn": {"top1": 0.5}, "retrieval": {"R@1": 0.25}}
    result = {"seed": overrides["seed"], "method": "cvrl", "train_seconds": 60.0, "seconds": 70.0}
    result["data"] = {"name": "toy", "train": {"videos": 9}, "eval": {"name": "test", "videos": 4}}
    result |= {"trained": rows, "random_init": {"logistic": {"top1": 0.125}}}
    (workdir / "result.json").write_text(json.dumps(result))

  monkeypatch.setattr(run_lib, "pretrain", pretrain)
  monkeypatch.setattr(plot, "draw", lambda path, *args: None)  # slow
  return ran


def test_every_shipped_study_is_possible():
  """Each cell differs from the others in what it names, and its method takes the config."""
  for name, study in catalog.SHIPPED.items():
    cells = study_lib.cells(study)
    made = configs.build(study, cells, study.variant, {})
    flats = [json.dumps(configs.flat(c) | {"name": ""}, sort_keys=True) for c in made.values()]
    assert len(set(flats)) == len(flats), name
    assert len(study.about) < 90
    for cell, config in made.items():
      methods.load(config.method).build(methods.resolve(config, None))
      assert config.is_locked, (name, cell)
  equal, epochs = (
    configs.build(s, study_lib.cells(s), "demo", {"epochs": 12.0})
    for s in (catalog.SHIPPED["rho_clips_equal"], catalog.SHIPPED["rho_clips_epochs"])
  )
  clips = {c: k.epochs * k.data.clips for c, k in equal.items()}
  assert set(clips.values()) == {24.0}
  assert {k.epochs for k in epochs.values()} == {12.0}
  assert [epochs[f"BYOL-{n}"].data.clips for n in (1, 2, 3, 4)] == [2, 2, 3, 4]
  data = catalog.SHIPPED["cvrl_fig11_data"]
  made = configs.build(data, study_lib.cells(data), "demo", {})
  assert [c.data.fraction for c in made.values()] == [0.25, 0.5, 1.0]


def test_every_score_is_in_the_results_that_runs_write():
  def stored(name):
    return json.loads((small.ROOT / "results" / name).read_text())

  results = {
    "cvrl": stored("ucf6/cvrl_s0.json"),
    "rho_simclr": stored("ucf6/rho_simclr_s0.json"),
    "rho_moco": stored("ucf6/rho_moco_s0.json"),
    "rho_byol": stored("ucf6/rho_byol_s0.json"),
    "provico": stored("ucf6/provico_s0.json"),
    "dcc": stored("stitched/dcc_s0.json"),
  }
  analysis = {"one": stored("uncertainty.json")["provico_demo"]}
  for name, study in catalog.SHIPPED.items():
    for head, score in study.scores.items():
      file = results[study.recipe] if score.file == "result.json" else analysis
      assert table.number(file, score.path) is not None, (name, head)
    for curve in study.curves:
      rows = table.entry(analysis, curve.rows)
      assert all(isinstance(row[key], float) for row in rows for key in {curve.x, curve.y} - {""})


def test_an_uncertainty_is_analyzed_once(trained, tmp_path, monkeypatch):
  asked = []

  def analyze(folders, output):
    asked.append(*folders)
    output.mkdir()
    training = [{"R@1": 0.5, "uncertainty": 1.0}]
    (output / "analysis.json").write_text(json.dumps({"name": {"training": training}}))

  monkeypatch.setattr(run_lib.analysis, "analyze_runs", analyze)
  given = {"output": tmp_path / "out", "seeds": [0]}
  found = vssl_jax.study("provico_uncertainty", **given)
  (tmp_path / "out" / "whole_s0" / "uncertainty" / "analysis.json").unlink()
  (tmp_path / "out" / "whole_s0" / "uncertainty").rmdir()
  assert vssl_jax.study("provico_uncertainty", **given) == found  # the training is not repeated
  assert trained == ["whole_s0", "no_regularizer_s0", "not_stochastic_s0"]
  assert asked == [str(tmp_path / "out" / name) for name in (*trained, "whole_s0")]
  assert found["rows"][0]["scores"]["Σ σ²"]["mean"] == 1.0


def test_it_runs_what_is_missing_and_tabulates(mine, trained, tmp_path):
  out = tmp_path / "out"
  first = vssl_jax.study(mine, output=out, seeds=[0], only={"interval": ["near"]})
  assert trained == ["near-½_s0", "near-1_s0"]
  assert [row["missing"] for row in first["rows"]] == [[], [], [0], [0]]
  del trained[:]
  found = vssl_jax.study(mine, output=out)
  # Every cell with one seed before any with the next.
  assert trained == ["flat-½_s0", "flat-1_s0", "near-½_s1", "near-1_s1", "flat-½_s1", "flat-1_s1"]
  del trained[:]
  assert (
    vssl_jax.study(mine, output=out) == found == vssl_jax.study(mine, output=out, tabulate=True)
  )
  assert not trained
  row = found["rows"][2]
  assert row["settings"] == {"interval": "flat", "epochs ×": "½"}
  values = [score("flat-½_s0", seed) for seed in (0, 1)]
  got = row["scores"]["logistic"]
  np.testing.assert_allclose(
    [got["mean"], got["std"], got["seeds"]], [np.mean(values), np.std(values, ddof=1), 2], rtol=1e-4
  )
  text = (out / "table.md").read_text()
  assert "| interval | epochs × | logistic | kNN | R@1 | seeds |" in text
  mean = 100 * statistics.mean(values)
  assert f"| flat | ½ | {mean:.1f} ± {100 * statistics.stdev(values):.1f} | 50.0 ± 0.0 |" in text
  assert "| random initialization |  | 12.5 ± 0.0 | – | – | 2 |" in text
  assert "toy: 4 videos of the split 'test'" in text
  assert "L-BFGS" in text or "ogistic" in text
  assert json.loads((out / "table.json").read_text())["rows"] == found["rows"]
  assert found["output"] == str(out)


def test_shares_are_disjoint_and_whole(mine, trained, tmp_path, monkeypatch):
  for i in (1, 2, 3):
    vssl_jax.study(mine, output=tmp_path / f"out{i}", part=f"{i}/3")
  assert len(trained) == len(set(trained)) == 8
  given = {"ID": "5", "MIN": "4", "MAX": "6", "COUNT": "3"}
  environment = {f"SLURM_ARRAY_TASK_{k}": v for k, v in given.items()}
  assert workers.part("", environment) == (1, 3)
  assert workers.part("3/3", environment) == (2, 3)
  assert workers.part("", {}) == (0, 1)
  with pytest.raises(UserError, match="tasks without gaps"):
    workers.part("", environment | {"SLURM_ARRAY_TASK_COUNT": "2"})
  for wrong in ("4/3", "0/3", "a/b", "2"):
    with pytest.raises(UserError, match="as in 3/16"):
      workers.part(wrong, {})
  assert workers.devices({"CUDA_VISIBLE_DEVICES": "2,GPU-7"}) == ["2", "GPU-7"]
  assert workers.devices({"CUDA_VISIBLE_DEVICES": "-1"}) == []
  assert workers.devices({"CUDA_VISIBLE_DEVICES": "0,1", "JAX_PLATFORMS": "cpu"}) == []


def test_no_two_processes_train_one_run(mine, trained, tmp_path, capsys):
  out = tmp_path / "out"
  with folder.locked(out, "flat-1_s0"):
    vssl_jax.study(mine, output=out, seeds=[0])
  assert trained == ["near-½_s0", "near-1_s0", "flat-½_s0"]
  assert "1 runs are being trained by other processes" in capsys.readouterr().out
  vssl_jax.study(mine, output=out, seeds=[0])
  assert trained[3:] == ["flat-1_s0"]


def test_a_folder_keeps_the_fields_it_was_begun_with(mine, trained, tmp_path):
  out = tmp_path / "out"
  vssl_jax.study(mine, output=out, seeds=[0], overrides={"epochs": 4, "head.hidden": [8]})
  same = {"epochs": 4.0, "head.hidden": (8,), "log_every": 7}
  vssl_jax.study(mine, output=out, seeds=[0], overrides=same)
  assert len(trained) == 4
  with pytest.raises(UserError, match=r"begun with other fields \(epochs: .*--config.epochs=4"):
    vssl_jax.study(mine, output=out, seeds=[0], overrides={"epochs": 5.0, "head.hidden": (8,)})
  with pytest.raises(UserError, match="begun with other fields"):
    vssl_jax.study(mine, output=out, seeds=[0])
  with pytest.raises(UserError, match=r"begun with other fields \(augment.brightness"):
    vssl_jax.study(mine, output=out, variant="ucf6", overrides=same)
  with pytest.raises(UserError, match="holds the study mine, not cvrl_fig7_interval"):
    vssl_jax.study("cvrl_fig7_interval", output=out)
  pathlib.Path(mine).write_text(MINE.replace('Setting("uniform")', 'Setting("increasing")'))
  with pytest.raises(UserError, match=r"data\.interval\.distribution: 'uniform' -> 'increasing'"):
    vssl_jax.study(mine, output=out, seeds=[0], overrides=same)
  # More cells are no other study.
  more = MINE.replace('Setting("uniform")', 'Setting("uniform"), "far": Setting("increasing")')
  pathlib.Path(mine).write_text(more)
  vssl_jax.study(mine, output=out, seeds=[0], overrides=same)
  assert trained[4:] == ["far-½_s0", "far-1_s0"]
  recorded = json.loads((out / "study.json").read_text())
  assert recorded["cells"]["far-1"]["data.interval.distribution"] == "increasing"
  assert recorded["all"]["head.hidden"] == [8]


def test_what_fails_is_told_and_the_rest_goes_on(mine, trained, tmp_path, monkeypatch):
  pretend, out = run_lib.pretrain, tmp_path / "out"

  def breaks(config, *, workdir, overrides):
    if workdir.name == "near-1_s0":
      raise NonFiniteError("loss is nan at step 3")
    pretend(config, workdir=workdir, overrides=overrides)

  monkeypatch.setattr(run_lib, "pretrain", breaks)
  with pytest.raises(UserError, match="1 of 4 runs failed: near-1_s0: loss is nan at step 3"):
    vssl_jax.study(mine, output=out, seeds=[0])
  assert trained == ["near-½_s0", "flat-½_s0", "flat-1_s0"]
  text = (out / "table.md").read_text()
  assert "- **near-1**: seeds 0 are missing (seed 0 failed: loss is nan at step 3)" in text
  monkeypatch.setattr(run_lib, "pretrain", pretend)
  found = vssl_jax.study(mine, output=out, seeds=[0])
  assert not any(row["failed"] or row["missing"] for row in found["rows"])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"overrides": {"data.interval.distribution": "same"}}, "varies this field itself"),
    ({"overrides": {"seed": 3}}, "config.seed: a study sets it itself; give --seeds"),
    ({"overrides": {"distributed.processes": 2}}, "see --jobs and --part"),
    ({"overrides": {"optim.lrr": 2}}, "Did you mean 'lr'?"),
    ({"seeds": [1, 1]}, "--seeds=1,1: give different seeds"),
    ({"only": {"interval": ["far"]}}, "--only: interval has no 'far'; there are near, flat"),
    ({"only": {"speed": ["far"]}}, "--only: no axis 'speed'; there are interval, epochs ×"),
    ({"variant": "demmo"}, "no variant 'demmo'"),
    ({"tabulate": True}, "no study there"),
    ({"jobs": -1}, "--jobs is -1"),
  ],
)
def test_bad_input_is_one_line_and_nothing_is_run(change, message, mine, trained, tmp_path):
  with pytest.raises(UserError) as e:
    vssl_jax.study(mine, output=tmp_path / "out", **change)
  assert message in str(e.value)
  assert "\n" not in str(e.value)
  assert not trained


def test_damage_and_strangers_are_refused(mine, trained, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  (out / "thesis.txt").touch()
  with pytest.raises(UserError, match=r"no study, but thesis.txt is there"):
    vssl_jax.study(mine, output=out)
  (out / "thesis.txt").unlink()
  vssl_jax.study(mine, output=out, seeds=[0])
  result = out / "near-1_s0" / "result.json"
  whole = result.read_text()
  result.write_text(whole.replace('"seed": 0', '"seed": 1'))
  with pytest.raises(UserError, match="not the result of seed 0; remove the folder"):
    vssl_jax.study(mine, output=out, seeds=[0])
  result.write_text(whole[:20])
  with pytest.raises(UserError, match="damaged, not JSON"):
    vssl_jax.study(mine, output=out, seeds=[0], tabulate=True)
  result.write_text('{"seed": 0}')
  (out / "near-½_s0" / "result.json").write_text('{"seed": 0}')
  with pytest.raises(UserError, match="has none of the scores logistic, kNN, R@1"):
    vssl_jax.study(mine, output=out, seeds=[0], tabulate=True)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("x = 1", "no studies there"),
    ("STUDIES = {'a b': 1}", "STUDIES has 'a b': int"),
    ("STUDIES = {", "SyntaxError"),
    (MINE.replace('"near"', '"fl at"').replace('"flat"', '"fl/at"'), "the folder 'fl_at-½'"),
    (MINE.replace('"near"', '"fl+at"'), "'fl+at': a label has no comma"),
    (MINE.replace('times={"epochs": 0.5}', 'fields={"optim.lr": "x"}'), "config.optim.lr"),
    (MINE.replace('"½": Setting(', '"½": Setting("uniform", recipe="dcc", '), "'uniform'"),
    (MINE.replace('line="epochs ×"', 'line="time"'), "line='time' is no axis"),
    (MINE.replace("0.5", "'x'"), "multiplies"),
  ],
)
def test_what_is_wrong_with_a_file_is_one_line(text, message, tmp_path):
  (tmp_path / "mine.py").write_text(text)
  with pytest.raises(UserError) as e:
    vssl_jax.study(tmp_path / "mine.py", output=tmp_path / "out")
  assert message in str(e.value)
  assert "\n" not in str(e.value)


def test_names(tmp_path):
  two = MINE.replace(
    "STUDIES = {", "STUDIES = {'other': Study('', 'cvrl', {'a': {'b': Setting()}}),"
  )
  (tmp_path / "mine.py").write_text(two)
  with pytest.raises(UserError, match=r"several studies there; give .*mine\.py:NAME, with one"):
    catalog.find(tmp_path / "mine.py")
  assert catalog.find(f"{tmp_path / 'mine.py'}:mine")[0] == "mine"
  with pytest.raises(UserError, match="no study 'x' there"):
    catalog.find(f"{tmp_path / 'mine.py'}:x")
  with pytest.raises(
    UserError, match="neither a study nor a file with studies; there are cvrl_fig7"
  ):
    catalog.find("cvrl")


def test_data_of_the_user(mine):
  found, dcc = catalog.find(mine)[1], catalog.SHIPPED["dcc_memory"]
  here = str(pathlib.Path.cwd() / "records")
  given = configs.with_data(found, "demo", "records", {"epochs": 2.0})
  assert given == {"data.source": "tfrecord", "data.path": here, "epochs": 2.0}
  assert configs.with_data(found, "ucf6", "records", {}) == {"data.path": here}
  assert configs.with_data(dcc, "demo", "gs://b/f", {})["data.source"] == "localization"
  assert configs.with_data(dcc, "stitched", "records", {}) == {"data.path": here}
  own = configs.with_data(found, "demo", "records", {"data.source": "videos"})
  assert own["data.source"] == "videos"


def test_the_command(mine, trained, tmp_path, capsys):
  line = ["study", mine, f"--output={tmp_path / 'out'}", "--seeds=0", "--config.epochs=6"]
  assert small.vssl(*line, "--dry_run") == 0
  said = capsys.readouterr().out
  assert "near-½_s0  missing" in said
  assert "0 of 4 runs are done" in said
  assert not (tmp_path / "out").exists()
  assert small.vssl(*line, "--only=interval=near,epochs ×=1") == 0
  *_, last = capsys.readouterr().out.splitlines()
  assert json.loads(last.removeprefix("RESULT "))["cells"]["near-1"]["logistic"]["mean"] == 0.6
  assert small.vssl(*line, "--dry_run") == 0
  said = capsys.readouterr().out
  assert "near-1_s0  done\n" in said
  assert "near-½_s0  missing  about 40 s\n" in said  # half of 60 s of training, 10 s of evaluation
  assert "1 of 4 runs are done, about 2 min of one device" in said  # 40 + 40 + 70 s
  assert small.vssl(*line[:-1], "--config.epochs=x") == 2
  assert small.vssl(*line[:-1]) == 2
  assert "begun with other fields" in capsys.readouterr().err.splitlines()[-1]
  flags = run_lib._flags(
    mine, tmp_path, "", (0, 1), {"head.hidden": (8,), "epochs": 2.0}, {}, "1/2"
  )
  assert flags == [
    *(mine, f"--output={tmp_path}", "--seeds=0,1", "--part=1/2", "--jobs=1"),
    *("--config.head.hidden=(8,)", "--config.epochs=2.0"),
  ]


def test_fields_that_flags_give():
  config = small.load("cvrl.py", "demo")
  given = [
    "--config.head.hidden=(8,)",
    "--noconfig.probe.run",
    "--config.augment.solarise_p=(0.5,)",
  ]
  assert arguments.field_values(config, given) == {
    "head.hidden": (8,),
    "probe.run": False,
    "augment.solarize_p": (0.5,),
  }
  assert config.probe.run


def test_paths_of_scores():
  found = {"run": {"a": [{"b": 1}, {"b": 2}], "on": True}}
  assert table.number(found, "*/a/-1/b") == 2.0
  assert table.number(found, "run/a/0/b") == 1.0
  for nothing in ("run/a/2/b", "run/c", "run/a", "run/on", "*/a/x"):
    assert table.number(found, nothing) is None
  assert table.cell_text({"mean": 0.5}, 100.0) == "50.0"
  assert table.cell_text({"mean": 0.5, "std": 0.25}, 1.0) == "0.500 ± 0.250"
  assert table.describe(Score("trained/knn/top1")) == table.PROTOCOLS["knn"].words
  assert plan.duration(80) == "80 s"
  assert plan.duration(7200) == "2.0 h"


def test_curves_and_bars_are_drawn(trained, tmp_path):
  rows = {"run": {"training": [{"epoch": 1, "y": 0.1}, {"epoch": 2, "y": 0.2}]}}
  study = Study(
    "a study",
    "cvrl",
    {"a": {"x": Setting(), "z": Setting("uniform")}, "b": {"$1": Setting(), "2": Setting("plain")}},
    curves=(Curve("y", "*/training", "epoch", "y", "rows.json"),),
  )
  made = folder.runs(study, tmp_path, study_lib.cells(study), (0, 1))
  for run in made[:5]:
    run.folder.mkdir()
    run_lib.pretrain(None, workdir=run.folder, overrides={"seed": run.seed, "name": run.name})
    (run.folder / "rows.json").write_text(json.dumps(rows))
  numbers = table.tabulate("s", study, made, {"recipes": "cvrl:demo", "overrides": {}})
  done = made[:5]
  bars = Study(study.about, study.recipe, study.axes)
  lines = Study(study.about, study.recipe, study.axes, line="b")
  for name, one in {"curves": study, "bars": bars, "lines": lines}.items():
    DRAW(tmp_path / f"{name}.png", one, numbers, done)
    png = (tmp_path / f"{name}.png").read_bytes()
    assert png[:4] == b"\x89PNG"
    assert len(png) > 5000
