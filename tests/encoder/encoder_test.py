"""`vssl_jax.load`: three lines for whatever folder holds an encoder, and no TensorFlow."""

import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import vssl_jax
from tests import small
from vssl_jax import methods, models
from vssl_jax.encoder import exported
from vssl_jax.errors import UserError
from vssl_jax.probes import views
from vssl_jax.training import checkpoints, run_config, run_folder

ROOT = pathlib.Path(__file__).resolve().parents[2]


def make(folder, **fields):
  """An exported encoder with random weights; its config and variables."""
  c = small.shrink(methods.base_config("cvrl"), **{"data.eval.frames": 3, **fields})
  c.augment.mean, c.augment.std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
  encoder = models.build_encoder(c.encoder)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), np.zeros((1, 4, 16, 16, 3), np.float32))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.uniform(0.1, 0.5, x.shape).astype(np.float32), shapes)
  exported.save_encoder(folder, c, variables, info={"step": 5})
  return c, variables


def clips(n=2, frames=4, size=16):
  return np.random.default_rng(1).integers(0, 256, (n, frames, size, size, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("exported")
  make(path)
  return path


def test_three_lines(folder):
  encoder = vssl_jax.load(folder)
  features = encoder.apply(encoder.params, clips())

  assert (features.shape, features.dtype) == ((2, encoder.features_dim), np.float32)
  assert encoder.clip_shape == (3, 16, 16, 3)
  assert encoder.info["step"] == 5
  # What the probes see.
  probed = jax.jit(views.feature_fn(encoder.network, encoder.config))(encoder.params, clips())
  np.testing.assert_array_equal(features, probed)
  # Its preprocessing, by hand.
  mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])
  np.testing.assert_allclose(encoder.preprocess(clips()), (clips() / 255 - mean) / std, atol=1e-5)


def test_other_inputs_are_refused(folder):
  encoder = vssl_jax.load(str(folder))
  for wrong in (clips().astype(np.float32), clips()[..., :1], clips()[..., None]):
    with pytest.raises(UserError, match=r"clips (are|have)"):
      encoder.apply(encoder.params, wrong)
  with pytest.raises(UserError, match=r"clips have 4 axes"):
    encoder.apply(encoder.params, clips()[0])
  with pytest.raises(UserError, match=r"no config\.json of a run .* and no encoder\.json"):
    vssl_jax.load(folder / "nowhere")


def test_whatever_becomes_an_array(folder):
  encoder = vssl_jax.load(folder)
  want = encoder.apply(encoder.params, clips())
  for same in (list(clips()), jax.numpy.asarray(clips())):
    np.testing.assert_array_equal(encoder.apply(encoder.params, same), want)
  traced = jax.jit(encoder.apply)(encoder.params, clips())
  np.testing.assert_allclose(traced, want, rtol=1e-5, atol=1e-6)
  for wrong, told in (
    ([[1]], r"clips have 2 axes"),
    (clips().tolist(), r"clips are int64\[2, 4, 16, 16, 3\]"),
    ([clips()[0], clips()[0, :2]], r"clips differ in shape"),
    (None, r"clips have 0 axes"),
    (clips()[:0], r"clips are empty, \[0, 4"),
    (clips()[:, :0], r"clips are empty, \[2, 0"),
  ):
    with pytest.raises(UserError, match=told) as e:
      encoder.apply(encoder.params, wrong)
    assert "\n" not in str(e.value)


def test_convolutions_take_other_sizes(folder):
  encoder = vssl_jax.load(folder)
  for shape in ((1, 4, 16, 20, 3), (1, 5, 16, 16, 3), (1, 3, 12, 16, 3)):
    x = np.zeros(shape, np.uint8)
    assert jax.eval_shape(encoder.apply, encoder.params, x).shape == (1, encoder.features_dim)


def test_a_vit_takes_the_clips_that_its_positions_are_of(tmp_path):
  fields = {
    "encoder.name": "vit",
    "encoder.size": "S",
    "encoder.width": 0.0625,
    "encoder.depth": 0,
    "data.frames": 4,
    "data.size": 16,
    "data.eval.frames": 4,
    "data.eval.size": 32,
  }
  make(tmp_path, **fields)
  encoder = vssl_jax.load(tmp_path)

  def shape(*clip):
    return jax.eval_shape(encoder.apply, encoder.params, np.zeros((1, *clip, 3), np.uint8)).shape

  assert shape(4, 16, 16) == shape(4, 32, 32) == (1, encoder.features_dim)
  for wrong in ((4, 16, 32), (2, 16, 16), (4, 48, 48), (4, 30, 30)):
    told = rf"\[T, H, W\] = {re.escape(str(list(wrong)))}: .* of \[4, 16, 16\] or \[4, 32, 32\]"
    with pytest.raises(UserError, match=told):
      shape(*wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_export_with_nan_or_infinity_is_refused(tmp_path, value):
  c, variables = make(tmp_path / "good")
  variables["batch_stats"]["res3_0"]["norm_a"]["mean"][0] = value
  exported.save_encoder(tmp_path / "bad", c, variables)
  match = r"safetensors: batch_stats/res3_0/norm_a/mean holds NaN or infinity"
  with pytest.raises(UserError, match=match):
    vssl_jax.load(tmp_path / "bad")


def test_a_run_with_nan_or_infinity_is_refused(tmp_path):
  c = small.shrink(methods.base_config("cvrl"))
  method = methods.load("cvrl").build(c, None)
  params, state = small.init(method)
  head = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), params["head"])
  run_folder.save_run(tmp_path / "run", c, {**params, "head": head}, state)
  for load in (run_folder.load_state, vssl_jax.load):
    with pytest.raises(UserError, match=r"checkpoints.0: params/head/.* holds NaN or infinity"):
      load(tmp_path / "run")


@pytest.mark.parametrize(
  ("module", "broken"), [(run_config, "write_config"), (checkpoints, "Checkpoints")]
)
def test_a_run_appears_whole_or_not_at_all(tmp_path, module, broken):
  c = small.shrink(methods.base_config("cvrl"))
  made = small.init(methods.load("cvrl").build(c, None))

  def stop(*args):
    raise KeyboardInterrupt

  folder = tmp_path / "runs" / "mine"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(module, broken, stop)
    with pytest.raises(KeyboardInterrupt):
      run_folder.save_run(folder, c, *made)
  assert not folder.exists()
  if broken == "Checkpoints":  # what was killed is taken up, and what is there stays
    run_folder.save_run(folder, c, *made, beside={"origin.json": {"file": "x"}})
    run_folder.load_state(folder)
    names = {"checkpoints", "config.json", "origin.json"}
    assert {f.name for f in folder.iterdir()} == names
    assert [f.name for f in folder.parent.iterdir()] == ["mine"]
  else:
    folder.mkdir()
    (folder / "notes").touch()
    with pytest.raises(UserError, match="not an empty folder"):
      run_folder.save_run(folder, c, *made)


@pytest.mark.slow
def test_a_run_folder(tmp_path):
  c = small.shrink(methods.base_config("rho_byol"), **{"rho_byol.predictor": (16,), "steps": 4})
  method = methods.load("rho_byol").build(c, None)
  params, state = small.init(method)
  run_folder.save_run(tmp_path / "run", c, params, state)
  encoder = vssl_jax.load(tmp_path / "run")
  want = method.encoder(params, state)
  jax.tree.map(np.testing.assert_array_equal, encoder.params["params"], want["params"])
  assert encoder.info["step"] == 0
  _, _, again = run_folder.load_state(tmp_path / "run")
  jax.tree.map(np.testing.assert_array_equal, again.method.target, state.target)
  with pytest.raises(UserError, match="holds a run already"):
    run_folder.save_run(tmp_path / "run", c, params, state)


def test_a_network_of_single_frames_comes_inflated(tmp_path):
  make(tmp_path, **{"encoder.temporal": False})
  encoder = vssl_jax.load(tmp_path)
  assert encoder.config.encoder.temporal
  assert encoder.params["params"]["stem_conv"]["kernel"].shape[0] == 5


def test_without_tensorflow(folder):
  code = f"""
import sys
import vssl_jax
assert "jax" not in sys.modules, "import vssl_jax is light"
encoder = vssl_jax.load({str(folder)!r})
found = [m for m in ("tensorflow", "torch") if m in sys.modules]
assert not found, found
"""
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
