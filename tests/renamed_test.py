"""Former names of fields, flags and changes still do what they did, and say what they are now."""

import importlib
import inspect
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests import small
from vssl_jax import config as config_lib
from vssl_jax import methods, recipes


def _old(config):
  """A config as a run of before the renaming stored it."""
  for old, new in config_lib.RENAMED.items():
    *parents, field = new.split(".")
    group = config
    for name in parents:
      group = group.get(name) if group is not None else None
    if group is not None:
      group[old.rpartition(".")[2]] = group[field]
      del group[field]
  return config


@pytest.mark.parametrize("method", ["cvrl", "classify"])
def test_a_stored_config_is_read_under_the_present_names(method):
  config = methods.base_config(method)
  config.data.interval.distribution, config.probe.normalize = "uniform", False
  config.augment.solarize_p = (0.0, 0.7)
  whole = methods.complete(_old(config.copy_and_resolve_references()))
  assert config_lib.to_json(whole) == config_lib.to_json(config)


def test_what_was_found_is_told_and_nothing_else_is_touched():
  config = ConfigDict({"data": {"interval": {"law": "same"}}, "probe": {"normalize": True}}).lock()
  assert config_lib.rename_fields(config) == ["data.interval.law"]
  assert config.to_dict() == {
    "data": {"interval": {"distribution": "same"}},
    "probe": {"normalize": True},
  }
  assert config_lib.rename_fields(config) == []


def test_every_present_name_is_a_field():
  classify = methods.base_config("classify")
  for new in config_lib.RENAMED.values():
    group = classify
    for name in new.split("."):
      group = group[name]


def test_former_flags_and_files_of_users_are_taken_with_a_note(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(
    "from vssl_jax import methods\n\n\ndef get_config():\n  c = methods.base_config('cvrl')\n"
    "  c.probe.normalise = False\n  return c\n"
  )
  done = subprocess.run(
    [
      *(sys.executable, "-m", "vssl_jax.main", f"--config={file}", "--dry_run"),
      *("--config.data.interval.law=uniform", "--config.encoder.depth=18"),
    ],
    cwd=small.ROOT,
    capture_output=True,
    text=True,
    check=True,
    timeout=300,
  )
  assert '"distribution": "uniform"' in done.stdout
  assert '"normalize": false' in done.stdout
  assert '"law"' not in done.stdout
  assert "--config.data.interval.law is now --config.data.interval.distribution" in done.stderr
  assert "config.probe.normalise is now config.probe.normalize" in done.stderr


def test_former_names_of_changes():
  old, new = (small.load("rho_simclr.py", f"demo,{name}") for name in ("no_colour", "no_color"))
  assert old.augment.to_json() == new.augment.to_json()
  assert old.name == "rho_simclr_demo_no_colour"  # its run folder is the one that was begun


def test_nothing_of_ours_uses_a_former_name():
  names = {old.rpartition(".")[2] for old in config_lib.RENAMED} - {"spread"}
  for path in [*(small.ROOT / "configs").glob("*.py"), small.ROOT / "vssl_jax" / "recipes.py"]:
    text = pathlib.Path(path).read_text()
    assert not [name for name in names if f".{name}" in text], path


def test_config_files_find_functions_where_they_stood():
  assert config_lib.base("cvrl").to_json() == methods.base_config("cvrl").to_json()
  assert config_lib.compose is recipes.compose
  with pytest.raises(AttributeError, match="composed"):
    config_lib.composed  # noqa: B018


# What README and notebooks imported from Python before modules moved, and what it is now.
DOCUMENTED = {
  "from data_pipelines.digits import FPS": "data_pipelines.digits.render:FPS",
  "from data_pipelines.digits import num_videos": "data_pipelines.digits.render:num_videos",
  "from data_pipelines.digits import video": "data_pipelines.digits.render:video",
  "from data_pipelines import manifest": "data_pipelines.records.manifest",
  "from vssl_jax.io import writers": "vssl_jax.training.metrics_log",
  "from vssl_jax.io import checkpoints": "vssl_jax.training.checkpoints",
  "from vssl_jax.localization import evaluate": "vssl_jax.localization.scores",
  "from vssl_jax.localization import infer": "vssl_jax.methods.dcc.inference",
  "from vssl_jax.localization import pictures": "vssl_jax.localization.timelines",
  "from vssl_jax.localization import snippets": "vssl_jax.methods.dcc.snippet_spaces",
  "from vssl_jax.localization.pseudo_quality import PseudoQuality": (
    "vssl_jax.methods.dcc.pseudo_quality:PseudoQuality"
  ),
  "from vssl_jax.losses.provico import Settings": "vssl_jax.losses.provico:LossSettings",
  "from vssl_jax.ops.sphere import unit": "vssl_jax.ops.sphere:l2_normalize",
  "from vssl_jax.probes import mined": "vssl_jax.uncertainty.mined_pairs",
  "from vssl_jax.probes import run; run.eval_batches": "vssl_jax.probes.views:eval_batches",
  "from vssl_jax.probes import run; run.random_variables": (
    "vssl_jax.probes.calibrate:random_variables"
  ),
  "from vssl_jax.probes import uncertainty": "vssl_jax.uncertainty.correlation",
  "from vssl_jax.probes import uncertainty_figures": "vssl_jax.uncertainty.figures",
  "from vssl_jax import probing; probing.load_source": "vssl_jax.training.sources:load_source",
  "from vssl_jax import probing; probing.splits": "vssl_jax.evaluation.splits:splits",
  "from vssl_jax import train": "vssl_jax.training.loop",
  "from vssl_jax.uncertainty import Frames": "vssl_jax.uncertainty.analysis:Frames",
  "from vssl_jax.uncertainty.mined_pairs import spread_out": (
    "vssl_jax.uncertainty.mined_pairs:evenly_spaced"
  ),
  "from vssl_jax.uncertainty.mined_pairs import neighbours": (
    "vssl_jax.uncertainty.mined_pairs:neighbors"
  ),
}


def _now(where):
  module, _, name = where.partition(":")
  found = importlib.import_module(module)
  return getattr(found, name) if name else found


@pytest.mark.parametrize("statement", DOCUMENTED)
def test_documented_imports_still_work(statement):
  names = {}
  exec(statement, names)
  assert eval(statement.split()[-1], names) is _now(DOCUMENTED[statement])


def test_documented_imports_in_a_program_of_their_own():
  """In a fresh process, where nothing has been imported before, as users write them."""
  lines = [
    *DOCUMENTED,
    "from vssl_jax.probes import run as protocols; protocols.quick",
    "from vssl_jax import evaluate, figure, jobs, methods, models, parallel, probing, train",
    "from data_pipelines import digits, inspect, manifest, prepare, sampler, source",
    "assert all(map(callable, (prepare.prepare, jobs.pretrain, jobs.linear_probe)))",
    "assert callable(evaluate.main) and callable(evaluate)",
    "import data_pipelines.prepare.resume, vssl_jax.jobs.run",
    "assert all(map(callable, (prepare.prepare, jobs.pretrain, jobs.linear_probe)))",
  ]
  done = subprocess.run(
    [sys.executable, "-c", "\n".join(lines)],
    cwd=small.ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def test_former_steps_of_a_users_dmvr_factory(tf):
  from data_pipelines import clips
  from data_pipelines.clips import steps

  assert clips.add_train_steps is steps.add_train_steps
  assert clips.add_eval_steps is steps.add_eval_steps


def test_modules_that_functions_became_are_called_as_before(tmp_path, monkeypatch):
  from data_pipelines import prepare
  from vssl_jax import jobs
  from vssl_jax.errors import UserError

  with pytest.raises(UserError, match="nowhere"):
    prepare.prepare(tmp_path / "nowhere", tmp_path / "out")
  now = importlib.import_module("vssl_jax.jobs.pretrain")
  monkeypatch.setattr(now, "pretrain", lambda *args, **kwargs: (args, kwargs))
  assert jobs.pretrain(1, 2, allow_config_change=False) == ((1, 2), {"allow_config_change": False})
  assert inspect.ismodule(jobs.pretrain)  # and the module that they are now
  config = small.load("linear_probe.py", "demo")
  with pytest.raises(UserError, match=r"config\.checkpoint is empty"):
    jobs.linear_probe(config, tmp_path, allow_config_change=False)


def test_evaluate_has_its_former_command(tmp_path, capsys):
  from vssl_jax import evaluate

  assert evaluate.main([f"--checkpoint={tmp_path}"]) == 2
  assert "no config.json of a run" in capsys.readouterr().err


def test_a_distribution_was_a_law():
  from data_pipelines import sampler
  from data_pipelines.clips import sampler as now

  assert sampler.LAWS is now.DISTRIBUTIONS
  assert sampler.starts is now.starts
  assert sampler.Interval(law="uniform", power=2.0) == now.Interval("uniform", 2.0)
  assert sampler.Interval() == now.Interval()
  x = np.linspace(0, 1, 5)
  np.testing.assert_array_equal(
    sampler.cdf(x, 2.0, law="increasing"), now.cdf(x, 2.0, "increasing")
  )


def test_quick_probes_took_the_encoder_too(monkeypatch):
  from vssl_jax.evaluation import end_of_run
  from vssl_jax.probes import run as protocols

  def scores(names, config, variables, train, test, *, mesh, progress):
    assert names == end_of_run.QUICK
    return config, variables, train, test, progress, mesh is not None

  monkeypatch.setattr(end_of_run, "scores", scores)
  found = protocols.quick("config", "encoder", "variables", "train", "test", progress="")
  assert found == ("config", "variables", "train", "test", "", True)


@pytest.mark.parametrize(
  "module", ["data_pipelines", "data_pipelines.clips", "vssl_jax", "vssl_jax.io", "vssl_jax.probes"]
)
def test_what_never_was_is_not_there(module):
  with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nonsense'"):
    importlib.import_module(module).nonsense  # noqa: B018
