"""Programs that run where this library is not importable, for any number of clips."""

import os
import subprocess
import sys

import numpy as np
import pytest

import vssl_jax
from tests import small
from tests.encoder.encoder_test import clips, make
from vssl_jax.encoder import card, exported, program, saved_model
from vssl_jax.errors import UserError

READER = """
import os, sys
import numpy as np
sys.modules["vssl_jax"] = sys.modules["flax"] = None  # importing either would fail
folder = sys.argv[1]
given = np.load(f"{folder}/given.npz")
"""
JAX = """
import jax.export
program = jax.export.deserialize(open(f"{folder}/encoder.jax_export", "rb").read())
assert set(program.platforms) == {"cpu", "cuda", "tpu"}
run = program.call
"""
TENSORFLOW = """
sys.modules["jax"] = None
import tensorflow as tf
model = tf.saved_model.load(f"{folder}/saved_model")  # the function does not keep its variables
run = model.features
"""
COMPARE = """
for n in (1, 3):
  got = np.asarray(run(given["clips"][:n]))
  assert got.shape == given["features"][:n].shape and got.dtype == np.float32
  worst = np.abs(got - given["features"][:n]).max() / np.abs(given["features"]).max()
  assert worst < 1e-5, worst
print("same")
"""


def _run(code, folder):
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  code = [sys.executable, "-c", READER + code + COMPARE, str(folder)]
  done = subprocess.run(code, cwd=folder, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.strip() == "same"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tf):
  """An exported encoder with programs, and what it gives for some clips."""
  path = tmp_path_factory.mktemp("run")
  make(path / "from", **{"encoder.depth": 18})
  command = [f"--checkpoint={path / 'from'}", f"--output={path / 'out'}"]
  assert small.vssl("export", *command, "--formats=safetensors,program,savedmodel") == 0
  encoder = vssl_jax.load(path / "out")
  x = clips(3, 3)
  features = np.asarray(encoder.apply(encoder.params, x))
  np.savez(path / "out" / "given.npz", clips=x, features=features)
  return path / "out"


@pytest.mark.slow
def test_a_program_of_jax(folder):
  _run(JAX, folder)


@pytest.mark.slow
def test_a_saved_model(folder):
  _run(TENSORFLOW, folder)


def test_the_weights_lie_inside(folder):
  weights = (folder / exported.WEIGHTS).stat().st_size
  assert (folder / program.PROGRAM).stat().st_size > 0.9 * weights


def test_the_card_names_its_programs(folder):
  listed = exported.load_card(folder)["programs"]
  assert listed == card.programs(folder, [program.PROGRAM, saved_model.SAVED_MODEL])


def test_formats(folder, capsys, monkeypatch):
  command = [f"--checkpoint={folder}", f"--output={folder}/other"]
  assert small.vssl("export", *command, "--formats=tflite") == 2
  assert "no format 'tflite'; there are safetensors, program, savedmodel" in capsys.readouterr().err
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  with pytest.raises(UserError, match=r"needs tensorflow.*leave savedmodel out"):
    saved_model.save_model(folder / "x", vssl_jax.load(folder))
