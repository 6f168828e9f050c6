"""ONNX: the same features in onnxruntime for any number of clips; what cannot be written."""

import sys

import jax
import numpy as np
import pytest

import vssl_jax
from tests import small
from tests.encoder.encoder_test import clips, make
from vssl_jax.encoder import exported, onnx_program
from vssl_jax.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run folder with a small R3D."""
  path = tmp_path_factory.mktemp("run")
  make(path / "from", **{"encoder.depth": 18})
  return path / "from"


@pytest.mark.slow
def test_onnxruntime_gives_the_same_features(run, tmp_path):
  ort = pytest.importorskip("onnxruntime")
  pytest.importorskip("jax2onnx")
  command = [f"--checkpoint={run}", f"--output={tmp_path / 'out'}", "--formats=onnx"]
  assert small.vssl("export", *command) == 0
  assert exported.load_card(tmp_path / "out")["programs"].keys() == {onnx_program.ONNX}
  encoder = vssl_jax.load(run)
  session = ort.InferenceSession(str(tmp_path / "out" / onnx_program.ONNX))
  (given,) = session.get_inputs()
  shape = list(encoder.clip_shape)
  assert (given.name, given.type, given.shape[1:]) == ("clips", "tensor(uint8)", shape)
  for n in (1, 2, 5):
    x = clips(n, *encoder.clip_shape[:2])
    want = np.asarray(encoder.apply(encoder.params, x))
    (found,) = session.run(None, {"clips": x})
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_missing_package_is_told_before_anything_is_written(run, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "jax2onnx", None)
  command = [f"--checkpoint={run}", f"--output={tmp_path / 'out'}", "--formats=onnx"]
  assert small.vssl("export", *command) == 2
  error = capsys.readouterr().err
  assert "ONNX needs packages that are not installed" in error
  assert "leave onnx out of --formats" in error
  assert not (tmp_path / "out").exists()


class Written:
  """A program that `Runtime` runs."""

  def SerializeToString(self):
    return b"program"


class Runtime:
  """Plays onnxruntime: the encoder's own features, off by `wrong`."""

  def __init__(self, encoder, wrong):
    self.SessionOptions = type("Options", (), {})
    self.InferenceSession = lambda *_, **__: self
    self._encoder, self._wrong = encoder, wrong

  def run(self, names, given):
    return [np.asarray(self._encoder.apply(self._encoder.params, given["clips"])) + self._wrong]


def _install(monkeypatch, encoder, wrong=0.0, convert=lambda *_, **__: Written()):
  library = type("Library", (), {"to_onnx": staticmethod(convert)})
  monkeypatch.setattr(onnx_program, "exporters", lambda: (library, Runtime(encoder, wrong)))
  monkeypatch.setattr(onnx_program, "_symbolic_padding", lambda: jax.ensure_compile_time_eval())


def test_what_differs_is_not_written(run, tmp_path, monkeypatch):
  encoder = vssl_jax.load(run)
  file = tmp_path / "encoder.onnx"
  scale = np.abs(encoder.apply(encoder.params, clips(1, *encoder.clip_shape[:2]))).max()
  _install(monkeypatch, encoder, wrong=0.01 * max(1.0, float(scale)))
  with pytest.raises(UserError, match="from the encoder's, so nothing was written"):
    onnx_program.save_onnx(file, encoder)
  assert not file.exists()
  _install(monkeypatch, encoder)
  onnx_program.save_onnx(file, encoder)
  assert file.read_bytes() == b"program"


def test_an_unknown_operation_and_too_many_weights_are_one_line(run, tmp_path, monkeypatch):
  def convert(*_, **__):
    raise NotImplementedError("no such\noperation")

  encoder = vssl_jax.load(run)
  _install(monkeypatch, encoder, convert=convert)
  with pytest.raises(UserError, match=r"cannot be written in ONNX \(NotImplementedError: no such"):
    onnx_program.save_onnx(tmp_path / "x", encoder)
  monkeypatch.setattr(onnx_program, "_LARGEST", 1000)
  with pytest.raises(UserError, match="too many for a file of ONNX"):
    onnx_program.save_onnx(tmp_path / "x", encoder)
  assert not (tmp_path / "x").exists()
