"""The analysis of a run as one command, around an encoder of one layer."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.methods import conftest
from vssl_jax import methods, models, parallel
from vssl_jax.errors import UserError
from vssl_jax.evaluation import splits
from vssl_jax.training import checkpoints, metrics_log, optim, run_config, run_folder, sources
from vssl_jax.training import step as step_lib
from vssl_jax.uncertainty import analysis, corruptions


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run's folder and its last state; written as training would, which takes long to compile."""
  folder = tmp_path_factory.mktemp("trained") / "run"
  folder.mkdir()
  one = parallel.make_mesh(jax.devices()[:1])
  with pytest.MonkeyPatch.context() as patch:
    flat = lambda config, mesh=None: conftest.Flat(config.bn_groups)
    patch.setattr(models, "build_encoder", flat)
    patch.setattr(parallel, "make_mesh", lambda devices=None: one)
    config = small.shrink(small.load("provico.py", "demo"), **{"save.keep": 9})
    config = methods.resolve(config.lock(), sources.load_source(config, "train"))
    run_config.write_config(folder, config)
    method = methods.load("provico").build(config, one)
    tx = optim.build(config.optim, lambda step: step)
    state = step_lib.init(method, tx, config.seed, one, 2)
    saver = checkpoints.Checkpoints(folder, config.save)
    with metrics_log.open_writer(folder, tensorboard=False) as writer:
      for step in (2, 4):
        params = jax.tree.map(lambda x: 1.5 * x, state.params)
        state = state.replace(step=jnp.int32(step), params=params)
        saver.save(step, state)
        writer.write(step, {"epoch": step / 3, "uncertainty": 2.0})
    saver.close()
    yield folder, state


def test_a_run_s_analysis_is_written_and_told(run, tmp_path, capsys, monkeypatch):
  kinds = {"noise": (corruptions.noise, (0.1, 0.2)), "blur": (corruptions.blur, (0.1,))}
  monkeypatch.setattr(corruptions, "CORRUPTIONS", kinds)
  folder, state = run
  out = tmp_path / "out"
  code = small.vssl(
    "uncertainty",
    "--checkpoint",
    str(folder),
    "--output",
    str(out),
    "--quantiles",
    "2",
    "--videos",
    "5",
    "11",
  )
  assert code == 0
  files = {x.name for x in out.iterdir()}
  assert files == {
    "training.png",
    "quantiles.png",
    "corruption.png",
    "pairs_run.png",
    "analysis.json",
  }
  found = json.loads((out / "analysis.json").read_text())["run"]
  assert found["step"] == 4
  assert found["training"][0]["uncertainty"] != found["training"][1]["uncertainty"]
  assert [r["step"] for r in found["training"]] == [2, 4]
  np.testing.assert_allclose([r["epoch"] for r in found["training"]], [2 / 3, 4 / 3], rtol=1e-3)
  assert [(r["name"], r["strength"]) for r in found["corruption"]] == [
    ("", 0),
    ("noise", 0.1),
    ("noise", 0.2),
    ("blur", 0.1),
  ]
  # The last checkpoint, the clean videos and the means over videos and groups are one thing.
  for key in ("uncertainty", "predicted", "spread", "R@1"):
    np.testing.assert_allclose(found["training"][-1][key], found["corruption"][0][key], rtol=1e-3)
  last = found["training"][-1]
  np.testing.assert_allclose(
    np.mean(found["videos"]["uncertainty"]), last["uncertainty"], rtol=1e-3
  )
  np.testing.assert_allclose(np.mean(found["videos"]["hit"]), last["R@1"], atol=1e-3)
  np.testing.assert_allclose(
    np.mean([r["R@1"] for r in found["quantiles"]]), last["R@1"], atol=1e-3
  )
  assert found["logged"] == [[0.6667, 2], [1.3333, 2]]
  anchors = [row["anchor"] for row in found["pairs"]]
  assert [a["video"] for a in anchors] == [5, 11]
  assert all(a["label"].startswith("direction") for a in anchors)
  for row in found["pairs"]:
    for key in ("positives", "negatives"):
      apart = [item["distance"] for item in row[key]]
      assert apart == sorted(apart)
  said = capsys.readouterr().out
  assert "uncertainty and hit, by video" in said
  assert said.strip().splitlines()[-1].startswith("RESULT {")
  # What the command saw is what the method's own evaluation sees.
  config = run_config.load_config(folder)
  evaluate = methods.evaluator(config).scores
  own = evaluate(*jax.device_get((state.params, state.method)), *splits.splits(config))["retrieval"]
  np.testing.assert_allclose(own["mean"]["R@1"], last["R@1"], atol=1e-3)
  np.testing.assert_allclose(own["uncertainty"]["all"], last["uncertainty"], rtol=1e-3)


def test_without_labels_the_pairs_alone(run, tmp_path, monkeypatch, capsys):
  load = sources.load_source

  def unlabeled(*args, **kwargs):
    source = load(*args, **kwargs)
    source.label_names = ()
    return source

  monkeypatch.setattr(sources, "load_source", unlabeled)
  out = tmp_path / "out"
  assert small.vssl("uncertainty", "--checkpoint", str(run[0]), "--output", str(out)) == 0
  assert {x.name for x in out.iterdir()} == {"pairs_run.png", "analysis.json"}
  found = json.loads((out / "analysis.json").read_text())["run"]
  assert len(found["pairs"]) == 6
  assert all(row["anchor"]["label"] == "" for row in found["pairs"])
  assert "no labels" in capsys.readouterr().out


def test_videos_that_could_not_be_read_shift_no_other(run, monkeypatch):
  """Of 24 training videos number 1 is lost; padding repeats the last number with nothing in it."""
  load, lost = sources.load_source, 1

  def some(config, split, **kwargs):
    source = load(config, split, **kwargs)
    if split != "train":
      return source
    whole = source.eval_batches

    def eval_batches(*args, **kwargs):
      for batch in whole(*args, **kwargs):
        batch["valid"] = batch["valid"] & (batch["video"] != lost)
        yield batch
      last = {k: v[-1:] for k, v in batch.items()}
      yield {**last, "clips": 0 * last["clips"], "valid": np.array([False])}

    source.eval_batches = eval_batches
    return source

  wishes = {"videos": [5, 23], "quantiles": 2}
  monkeypatch.setattr(corruptions, "CORRUPTIONS", {})
  found = {}
  for name in ("clean", "lost"):
    found[name] = analysis.analyze(run[0], **wishes)["pairs"]
    monkeypatch.setattr(sources, "load_source", some)
  for one, other in zip(found["clean"], found["lost"], strict=True):
    a, b = one["anchor"], other["anchor"]
    assert (a["video"], a["label"]) == (b["video"], b["label"])
    np.testing.assert_allclose(a["uncertainty"], b["uncertainty"], rtol=1e-5)
    np.testing.assert_array_equal(a["frame"], b["frame"])
    assert b["frame"].any()
    items = other["positives"] + other["negatives"]
    assert lost not in [item["video"] for item in items]
  wishes["videos"] = [lost]
  with pytest.raises(UserError, match="training video 1 could not be read"):
    analysis.analyze(run[0], **wishes)


def test_a_run_opened_gives_every_checkpoint(run):
  folder, state = run
  with run_folder.open_run(folder) as opened:
    assert opened.config.method == "provico"
    assert opened.reader.steps == [2, 4]
    states = [opened.reader.read(step, opened.like) for step in opened.reader.steps]
  assert [int(s.step) for s in states] == [2, 4]
  jax.tree.map(np.testing.assert_array_equal, states[1].params, state.params)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"videos": [24]}, "no training video 24; there are 24"),
    ({"quantiles": 9}, "9 groups of 8 videos"),
  ],
)
def test_impossible_wishes_are_refused(run, change, message):
  wishes = {"quantiles": 2} | change
  with pytest.raises(UserError, match=message):
    analysis.analyze(run[0], **wishes)


def test_other_folders_are_refused_in_one_line(tmp_path, capsys):
  def refused(*folders):
    assert (
      small.vssl("uncertainty", "--checkpoint", *map(str, folders), "--output", str(tmp_path)) == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error

  assert "no config.json" in refused(tmp_path / "none")
  assert "two folders have the same name" in refused(tmp_path / "a" / "x", tmp_path / "b" / "x")
  config = small.load("provico.py", "demo")
  (tmp_path / "new").mkdir()
  run_config.write_config(tmp_path / "new", config)
  assert "no checkpoint there yet" in refused(tmp_path / "new")
  (tmp_path / "other").mkdir()
  run_config.write_config(tmp_path / "other", small.load("cvrl.py", "demo"))
  assert "a run of cvrl" in refused(tmp_path / "other")
