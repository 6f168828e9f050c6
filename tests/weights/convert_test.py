"""The command line: files in, folders out that probes read like any checkpoint, and back."""

import json
import pickle
import sys

import jax
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

import vssl_jax
from data_pipelines import optional
from tests import small
from tests.weights import stages
from tests.weights.pyslowfast_test import depth_14  # noqa: F401  a fixture
from vssl_jax.encoder import encoder as encoder_lib
from vssl_jax.encoder import exported
from vssl_jax.errors import UserError
from vssl_jax.training import run_folder
from vssl_jax.weights import convert, files

PYSLOWFAST = stages.cases("pyslowfast")
CLIPS = np.random.default_rng(0).integers(0, 256, (2, 5, 20, 20, 3), np.uint8)


def _same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_an_encoder(tmp_path, capsys):
  state = stages.state_of(PYSLOWFAST["slow_c2d"])
  save_file(state, tmp_path / "c2d.safetensors")
  command = [f"--from={tmp_path / 'c2d.safetensors'}", "--format=pyslowfast"]
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / exported.WEIGHTS).write_bytes(b"of a conversion that was killed")
  assert small.vssl("convert", *command, "--arch=slow_c2d", f"--to={tmp_path / 'out'}") == 0
  said = capsys.readouterr().out
  assert "mean [0.45, 0.45, 0.45]" in said
  assert "left out: head.projection.bias, head.projection.weight" in said
  config, _, info = encoder_lib.load_encoder(tmp_path / "out")
  assert (config.encoder.name, config.encoder.width) == ("c2d", 0.125)
  assert info["origin"]["file"] == "c2d.safetensors"
  assert len(info["origin"]["sha256"]) == 64
  encoder = vssl_jax.load(tmp_path / "out")
  assert encoder.apply(encoder.params, CLIPS).shape == (2, 256)
  card = exported.load_card(tmp_path / "out")
  assert card["preprocessing"]["std"] == [0.225, 0.225, 0.225]

  # And back, by way of the folder.
  back = tmp_path / "back.safetensors"
  flags = [f"--from={tmp_path / 'out'}", "--to_format=pyslowfast", f"--to={back}"]
  assert small.vssl("convert", *flags) == 0
  tensors, _ = files.read_torch(back)
  _same(tensors, {k: state[k] for k in tensors})
  assert small.vssl("convert", *command, "--arch=slow_c2d", f"--to={tmp_path / 'out'}") == 2
  assert "holds an encoder already" in capsys.readouterr().err


@pytest.mark.slow
def test_a_contrastive_model_is_a_run(tmp_path):
  torch = pytest.importorskip("torch")
  case = PYSLOWFAST["moco"]
  state = stages.state_of(case)
  state["backbone.s1.pathway0_stem.bn.num_batches_tracked"] = np.int64(3) * np.ones((), np.int64)
  tensors = {f"module.{k}": torch.from_numpy(np.asarray(v)) for k, v in state.items()}
  checkpoint = {
    "epoch": 3,
    "model_state": tensors,
    "optimizer_state": {"state": {}},
    "cfg": yaml.safe_dump(case["cfg"]),
  }
  torch.save(checkpoint, tmp_path / "x.pyth")
  command = [f"--from={tmp_path / 'x.pyth'}", "--format=pyslowfast", f"--to={tmp_path / 'run'}"]
  assert small.vssl("convert", *command) == 0
  config, _, train_state = run_folder.load_state(tmp_path / "run")
  assert config.method == "rho_moco"
  origin = json.loads((tmp_path / "run" / convert.ORIGIN).read_text())
  assert (origin["file"], origin["epoch"]) == ("x.pyth", 3)
  np.testing.assert_array_equal(train_state.method.queue.items, state["queue_x"])
  kernel = vssl_jax.load(tmp_path / "run").params["params"]["res5_0"]["conv_a"]["kernel"]
  np.testing.assert_array_equal(
    np.asarray(kernel).transpose(4, 3, 0, 1, 2),
    state["backbone.s5.pathway0_res0.branch2.a.weight"],
  )
  back = tmp_path / "back.pyth"
  flags = [f"--from={tmp_path / 'run'}", "--to_format=pyslowfast", f"--to={back}"]
  assert small.vssl("convert", *flags) == 0
  again, rest = files.read_torch(back)
  _same(
    {k: v for k, v in again.items() if k != "iter"}, {k: state[k] for k in again if k != "iter"}
  )
  assert set(rest) == {"epoch", "optimizer_state", "cfg"}
  assert yaml.safe_load(rest["cfg"])["CONTRASTIVE"]["TYPE"] == "moco"


def test_pickles_of_anything_else_are_refused(tmp_path, capsys):
  pytest.importorskip("torch")

  class Trap:
    def __reduce__(self):
      return (open, (str(tmp_path / "trapped"), "w"))

  (tmp_path / "x.pth").write_bytes(pickle.dumps({"state_dict": Trap()}))
  assert small.vssl("convert", f"--from={tmp_path / 'x.pth'}", "--format=resnet2d", "--to=y") == 2
  error = capsys.readouterr().err
  assert "x.pth: is not a PyTorch file, or holds other objects than tensors" in error
  assert error.count("\n") == 1
  assert not (tmp_path / "trapped").exists()


def test_half_precision_and_what_is_no_tensor(tmp_path):
  torch = pytest.importorskip("torch")
  values = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2).half(), "c": 3}
  torch.save(values, tmp_path / "x.pt")
  tensors, rest = files.read_torch(tmp_path / "x.pt")
  assert {k: x.dtype for k, x in tensors.items()} == {"a": np.float32, "b": np.float32}
  assert rest == {}


def test_tensors_that_numpy_has_not_are_named(tmp_path):
  torch = pytest.importorskip("torch")
  for odd in (torch.eye(2).to_sparse(), torch.ones(2).to(torch.float8_e4m3fn)):
    torch.save({"fine": torch.ones(2), "odd": odd}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: odd is a tensor of torch\.float"):
      files.read_torch(tmp_path / "x.pth")


def test_safetensors_are_known_by_any_name(tmp_path):
  save_file({"a": np.ones(2, np.float32)}, tmp_path / "x.pth")
  assert files.read_torch(tmp_path / "x.pth")[0].keys() == {"a"}


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--format=resnet2d", "--arch=slow"], "--arch is only for --format=pyslowfast;"),
    (["--format=torchvision", "--alpha=4"], "--alpha is only for --format=pyslowfast;"),
    (
      ["--format=resnet2d", "--encoder_only"],
      "--encoder_only is only for --format=pyslowfast or tf",
    ),
    (["--format=pyslowfast", "--inflate=mean"], "--inflate is only for --format=resnet2d;"),
    (["--to_format=pyslowfast", "--arch=slow"], "--arch is only for --format=pyslowfast;"),
    (["--to_format=pyslowfast", "--format=pyslowfast"], "give only one"),
  ],
)
def test_flags_that_nothing_would_read_are_refused(tmp_path, capsys, flags, message):
  assert small.vssl("convert", f"--from={tmp_path}", f"--to={tmp_path / 'out'}", *flags) == 2
  assert message in capsys.readouterr().err


def test_nothing_is_written_over(tmp_path, capsys):
  state = stages.state_of(PYSLOWFAST["slow_c2d"])
  save_file(state, tmp_path / "c2d.safetensors")
  there = tmp_path / "there"
  there.write_bytes(b"kept")
  command = [f"--from={tmp_path / 'c2d.safetensors'}", "--format=pyslowfast", "--arch=slow_c2d"]
  for to in (there, there / "below"):
    assert small.vssl("convert", *command, f"--to={to}") == 2
    assert f"{there}: " in capsys.readouterr().err
  flags = [f"--from={tmp_path}", "--to_format=pyslowfast", f"--to={there}"]
  assert small.vssl("convert", *flags) == 2
  assert "there: exists" in capsys.readouterr().err
  with pytest.raises(UserError, match="no folder can be made"):
    files.write_torch(there / "x.safetensors", {}, {})
  assert there.read_bytes() == b"kept"


def test_what_is_missing_is_said(tmp_path, capsys, monkeypatch):
  def fails(*options):
    assert small.vssl("convert", *options, f"--to={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error

  (tmp_path / "x.pyth").write_bytes(b"no pickle")
  (tmp_path / "x.safetensors").write_bytes(b"nothing")
  source = f"--from={tmp_path}"
  assert "give --format" in fails(source)
  assert "no such file of weights" in fails(f"{source}/y.pyth", "--format=torchvision")
  assert "not a safetensors file" in fails(f"{source}/x.safetensors", "--format=torchvision")
  monkeypatch.setitem(sys.modules, "torch", None)
  assert f"{optional.install('torch')}, or give a .safetensors" in fails(
    f"{source}/x.pyth", "--format=pyslowfast"
  )
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  assert optional.install("data") in fails(source, "--format=tf_garden")
  assert not (tmp_path / "out").exists()
