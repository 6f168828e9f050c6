"""The names of `vssl_jax`: light to import, steady, and the same as the commands."""

import ast
import inspect
import json
import pathlib
import pkgutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import vssl_jax
from tests import small
from tests.methods.conftest import Flat
from vssl_jax import methods, models, parallel, results
from vssl_jax.training import run_folder

FUNCTIONS = (
  *("evaluate", "export", "extract_features", "load", "localize", "plan", "pretrain", "report"),
  "study",
)
CLASSES = ("Encoder", "UserError", "VideoEncoder")
MODULES = ("augment", "losses", "methods", "models", "ops", "probes")
# What `python -m` alone may import: as modules they would stand in the functions' places.
SHIMS = {
  f"vssl_jax.{name}"
  for name in ("evaluate", "export", "extract_features", "localize", "plan", "study")
}
HEAVY = ("jax", "numpy", "tensorflow", "ml_collections", "orbax", "absl")


def _python(code):
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=small.ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_every_name_is_there_and_is_listed():
  assert set(vssl_jax.__all__) == {*FUNCTIONS, *MODULES, *CLASSES, "__version__"}
  assert set(vssl_jax.__all__) <= set(dir(vssl_jax))
  for name in FUNCTIONS:
    assert inspect.isfunction(getattr(vssl_jax, name)), name
  for name in MODULES:
    assert inspect.ismodule(getattr(vssl_jax, name)), name
    assert getattr(vssl_jax, name).__name__ == f"vssl_jax.{name}"
  for name in CLASSES:
    assert inspect.isclass(getattr(vssl_jax, name)), name
  assert issubclass(vssl_jax.UserError, ValueError)
  with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
    _ = vssl_jax.nothing


def test_type_checkers_see_the_same_names():
  """The imports under TYPE_CHECKING are those that the table stands for."""
  tree = ast.parse(pathlib.Path(vssl_jax.__file__).read_text(encoding="utf-8"))
  (block,) = [node for node in tree.body if isinstance(node, ast.If)]
  told = {}
  for node in block.body:
    for name in node.names:
      of_package = node.module == "vssl_jax"
      told[name.name] = (f"vssl_jax.{name.name}", "") if of_package else (node.module, name.name)
  assert told == vssl_jax._PLACES


def test_nothing_heavy_is_imported_unasked():
  code = f"import sys, vssl_jax; print([x for x in {HEAVY} if x in sys.modules])"
  code += f"\nvssl_jax.UserError\nprint([x for x in {HEAVY} if x in sys.modules])"
  assert _python(code).split("\n")[:2] == ["[]", "[]"]


def test_functions_stay_functions_whatever_is_imported():
  names = [
    module.name
    for package in ("vssl_jax", "data_pipelines")
    for module in pkgutil.walk_packages([str(small.ROOT / package)], f"{package}.")
    if module.name not in SHIMS and not module.name.endswith("__main__")
  ]
  assert len(names) > 150
  code = f"""
import importlib, inspect, os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import vssl_jax
for name in {names}:
  try:
    importlib.import_module(name)
  except ModuleNotFoundError as e:
    if e.name not in ("dmvr", "torch"):
      raise
print(all(inspect.isfunction(getattr(vssl_jax, x)) for x in {FUNCTIONS}))
"""
  assert _python(code).strip() == "True"


def test_every_argument_is_documented():
  for name in FUNCTIONS:
    function = getattr(vssl_jax, name)
    signature = inspect.signature(function, eval_str=True)
    text = inspect.getdoc(function)  # without indentation, which Python 3.13 has removed already
    assert signature.return_annotation is not inspect.Signature.empty, name
    for argument, parameter in signature.parameters.items():
      assert parameter.annotation is not inspect.Parameter.empty, (name, argument)
      assert f"  {argument}: " in text or f"**{argument}: " in text, (name, argument)


def test_flags_have_the_functions_defaults():
  """What a command passes when no flag is given is what its function takes by itself."""
  from vssl_jax.commands import convert, evaluate, export, extract, localize, score
  from vssl_jax.encoder.snippet_features import extract_features
  from vssl_jax.evaluation.options import Options
  from vssl_jax.localization.score import score as score_function
  from vssl_jax.weights.convert import convert as convert_function

  paths = ("checkpoint", "output", "videos", "annotations", "predictions", "from", "to")
  equal = {"progress", "json", "thresholds"}
  for command, function in (
    (evaluate, vssl_jax.evaluate),
    (export, vssl_jax.export),
    (extract, extract_features),
    (localize, vssl_jax.localize),
    (score, score_function),
    (convert, convert_function),
  ):
    parser = command.parser()
    needed = [a.option_strings[0] for a in parser._actions if a.required]
    assert {x.removeprefix("--") for x in needed} <= set(paths)
    args = vars(parser.parse_args([f"{flag}=x" for flag in needed]))
    own = {k: p.default for k, p in inspect.signature(function).parameters.items()}
    own |= vars(Options()) if function is vssl_jax.evaluate else {}
    own = {k: v for k, v in own.items() if v is not inspect.Parameter.empty}
    for name in own.keys() - equal - {"options"}:
      assert args[name] == own[name], (command.__name__, name)


@pytest.fixture(scope="module", autouse=True)
def small_world():
  """One device, and a dense layer in place of the encoder."""
  whole = parallel.make_mesh
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parallel, "make_mesh", lambda devices=None: whole(devices or jax.devices()[:1]))
    patch.setattr(models, "build_encoder", lambda config, mesh=None: Flat(config.bn_groups))
    yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run that has made no step."""
  config = small.shrink(small.load("cvrl.py", "demo"), **{"data.eval.clips": 1})
  params, state = small.init(methods.load("cvrl").build(config, None))
  folder = tmp_path_factory.mktemp("run") / "run"
  run_folder.save_run(folder, config, params, state)
  return folder


def _timeless(value):
  if isinstance(value, dict):
    return {k: _timeless(v) for k, v in value.items() if k not in ("seconds", "clips_per_second")}
  return [_timeless(v) for v in value] if isinstance(value, list) else value


def test_evaluate_is_the_command(run, tmp_path, capsys):
  given = {"protocols": "knn,retrieval", "gallery": 2, "k": 3}
  found = vssl_jax.evaluate(run, output=tmp_path / "a", **given)
  flags = [f"--{name}={value}" for name, value in given.items()]
  assert small.vssl("evaluate", f"--checkpoint={run}", f"--output={tmp_path / 'b'}", *flags) == 0
  written = [json.loads((tmp_path / x / "summary.json").read_text()) for x in "ab"]
  assert found == written[0]
  assert _timeless(found) == _timeless(written[1])
  line = capsys.readouterr().out.splitlines()[-1]
  shown = json.loads(line.removeprefix("RESULT "))
  assert shown["mean"] == found["mean"]
  assert json.loads(json.dumps(found)) == found

  several = vssl_jax.evaluate(
    run, output=tmp_path / "c", protocols=["knn"], splits=["train:test", "test:train"], which=0
  )
  assert set(several["splits"]) == {"synthetic_train_test", "synthetic_test_train"}
  with pytest.raises(TypeError, match="gallary"):
    vssl_jax.evaluate(run, output=tmp_path / "d", gallary=3)


def test_a_checkpoint_that_is_not_the_last_is_evaluated_beside(run, capsys):
  assert small.vssl("evaluate", f"--checkpoint={run}", "--which=0", "--protocols=knn") == 0
  assert (run / "evaluation_0" / "summary.json").is_file()
  assert not (run / "evaluation").exists()
  assert small.vssl("evaluate", f"--checkpoint={run}", "--which=best") == 2
  assert "--which=best: " in capsys.readouterr().err


def test_export_is_the_command_and_load_reads_it(run, tmp_path, capsys):
  given = {"features": True, "split": "test", "clips": 1}
  files = vssl_jax.export(run, tmp_path / "a", which="last", **given)
  flags = [f"--checkpoint={run}", f"--output={tmp_path / 'b'}", "--which=0"]
  assert small.vssl("export", *flags, "--features", "--split=test", "--clips=1") == 0
  printed = capsys.readouterr().out.split()
  assert [f.name for f in files] == [pathlib.Path(f).name for f in printed]
  weights = [tmp_path / x / "encoder.safetensors" for x in "ab"]
  assert results.file_hash(weights[0]) == results.file_hash(weights[1])
  one, other = vssl_jax.load(run, 0), vssl_jax.load(tmp_path / "a")
  clips = np.random.default_rng(0).integers(0, 256, (2, *one.clip_shape), np.uint8)
  np.testing.assert_array_equal(one.apply(one.params, clips), other.apply(other.params, clips))
  assert small.vssl("export", f"--checkpoint={run}", f"--output={tmp_path / 'c'}", "--which=3") == 2
  assert "has no checkpoint of this step; there are steps 0" in capsys.readouterr().err


@pytest.mark.slow
def test_pretrain_is_the_command(tmp_path, capsys):
  changes = {**small.overrides(), "probe.run": False, "optim.name": "sgd"}
  config = small.load("cvrl.py", "demo")
  found = vssl_jax.pretrain(config, workdir=tmp_path / "a", overrides=changes)
  flags = small.flags(**{"probe.run": False, "optim.name": "sgd"})
  assert small.vssl("train", "--config=cvrl:demo", f"--workdir={tmp_path / 'b'}", *flags) == 0
  line = capsys.readouterr().out.splitlines()[-1]
  timed = ("seconds", "train_seconds", "clips_per_second")
  steady = lambda x: {k: v for k, v in x.items() if k not in timed}
  assert steady(json.loads(line.removeprefix("RESULT "))) == steady(found)
  assert found == json.loads((tmp_path / "a" / "result.json").read_text())
  assert (found["job"], found["steps"]) == ("pretrain", 4)
  with pytest.raises(vssl_jax.UserError, match="job is 'dance': choose one of pretrain"):
    vssl_jax.pretrain("cvrl:demo", workdir=tmp_path / "c", overrides={"job": "dance"})
  assert not (tmp_path / "c").exists()
