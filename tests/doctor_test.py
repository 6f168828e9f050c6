"""`vssl doctor`: what it finds, its exit status, and that nothing makes it fail."""

import os
import subprocess
import sys
import types

import pytest

from tests import core_environment, small
from vssl_jax import cli
from vssl_jax.doctor import examine as doctor
from vssl_jax.errors import UserError
from vssl_jax.files import extras


@pytest.fixture
def devices(monkeypatch):
  """Says what the process that lists the devices prints; by default, one CPU."""

  def say(*, stdout='DEVICES [["cpu", "cpu"]]\n', stderr="", status=0):
    done = types.SimpleNamespace(returncode=status, stdout=stdout, stderr=stderr)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *args, **kwargs: done)
    monkeypatch.setattr(doctor, "_ACCELERATORS", {})

  say()
  return say


def _of(found, name):
  (one,) = [x for x in found if x.name == name]
  return one


def test_a_sound_installation(devices, tmp_path, capsys):
  assert cli.main(["doctor", str(tmp_path)]) == 0
  said, wrong = capsys.readouterr()
  assert wrong == ""
  for topic in ("versions", "devices", "video", "folders", "features"):
    assert f"\n{topic}\n" in f"\n{said}"
  assert " broken " not in said
  assert "1 x cpu (cpu)" in said
  assert set(doctor.FEATURES) <= set(_extras_of_setup())
  assert not list(tmp_path.iterdir())


def _extras_of_setup():
  import configparser

  stored = configparser.ConfigParser()
  stored.read(small.ROOT / "setup.cfg", encoding="utf-8")
  return stored["options.extras_require"]


def test_versions_are_those_of_the_packages(devices):
  import flax
  import jax

  found = doctor.examine()
  assert (_of(found, "flax").text, found[2].name) == (flax.__version__, "jax")
  assert found[2].text == jax.__version__


def test_a_missing_package_an_old_one_and_a_missing_extra(devices, monkeypatch, capsys):
  from importlib import metadata

  asked = {
    "": ["numpy>=999", "no-such-package<2", "packaging"],
    "data": ["another-missing"],
    "cuda": ["first[more]"],
  }
  monkeypatch.setattr(
    extras,
    "requirements",
    lambda extra="": [extras.Requirement(x) for x in asked.get(extra, ["packaging"])],
  )
  real = metadata.version
  monkeypatch.setattr(metadata, "version", lambda x: "1.0" if x == "first" else real(x))
  monkeypatch.setattr(metadata, "requires", lambda x: ['no-plugin; extra == "more"', "never"])
  found = doctor.examine()
  assert _of(found, "numpy").state == _of(found, "no-such-package").state == "broken"
  assert "is not >=999: pip install 'numpy>=999'" in _of(found, "numpy").text
  assert _of(found, "packaging").state == "ok"
  assert _of(found, "[data]").state == "missing"
  assert "another-missing is missing: pip install" in _of(found, "[data]").text
  assert "no-plugin is missing" in _of(found, "[cuda]").text
  assert _of(found, "[ray]").state == "ok"
  assert cli.main(["doctor"]) == 2
  wrong = capsys.readouterr().err
  assert wrong.startswith("error: numpy: numpy ")
  assert "[data]" not in wrong

  asked[""] = []
  assert cli.main(["doctor", "--need=ray"]) == 0
  assert cli.main(["doctor", "--need=ray,data"]) == 2
  assert "error: [data]: reading records" in capsys.readouterr().err
  with pytest.raises(UserError, match="--need=dat: choose some of data, cuda"):
    doctor.examine(need=["dat"])


@pytest.mark.parametrize(
  ("process", "told"),
  [
    ({"status": 1, "stderr": "Traceback\nRuntimeError: no TPU\n"}, "no device: RuntimeError: no"),
    ({"status": -6, "stdout": ""}, "finds no device: exit status -6"),
  ],
)
def test_devices_that_do_not_start(devices, process, told):
  devices(**process)
  one = doctor._devices(1.0)
  assert (one.state, told in one.text) == ("broken", True)


def test_a_driver_that_hangs(monkeypatch):
  monkeypatch.setattr(doctor, "_LIST_DEVICES", "import time; time.sleep(3)")
  one = doctor._devices(0.3)
  assert (one.state, one.text[:17]) == ("broken", "no answer in 0.3 ")


def test_an_accelerator_that_jax_does_not_use(devices, monkeypatch):
  devices()
  monkeypatch.setattr(doctor, "_ACCELERATORS", {"GPU": os.devnull})
  one = doctor._devices(1.0)
  assert (one.state, one.text.endswith("that JAX does not use: see [cuda]")) == ("missing", True)
  devices(stdout='noise\nDEVICES [["gpu", "H200"], ["gpu", "H200"]]\n')
  monkeypatch.setattr(doctor, "_ACCELERATORS", {"GPU": os.devnull})
  assert doctor._devices(1.0).text.startswith("2 x H200 (gpu)")


def test_folders(devices, tmp_path, capsys):
  file = tmp_path / "file"
  file.write_text("")
  assert doctor._folder("given", str(tmp_path / "new" / "one"), "broken").state == "ok"
  assert not (tmp_path / "new").exists()
  for odd in (str(file), "a\0b", str(file / "inside"), "/proc/1"):
    assert doctor._folder("given", odd, "broken").state == "broken", odd
  assert doctor._folder("given", "gs://bucket/run", "broken").state == "ok"
  assert cli.main(["doctor", "a\0b\n"]) == 2
  assert capsys.readouterr().err.count("\n") == 1


def test_what_breaks_while_looking_is_a_line(devices, monkeypatch):
  monkeypatch.setitem(sys.modules, "av", None)
  found = doctor.examine()
  assert _of(found, "video").state == "broken"
  assert "cannot be examined: " in _of(found, "video").text
  assert [x.topic for x in found][-1] == "features"


def test_without_what_vssl_itself_imports():
  """`python -m vssl_jax.doctor` says so in its report."""
  code = """
import sys
sys.modules["absl"] = sys.modules["packaging"] = None  # as if they were not installed
from vssl_jax.doctor import examine
examine._LIST_DEVICES = "print('DEVICES []')"
import runpy
runpy.run_module("vssl_jax.doctor", run_name="__main__")
"""
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=small.ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 2
  assert "  broken   versions  " in done.stdout
  assert "  ok       decoder h264" in done.stdout
  assert "packaging" in done.stderr
  assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_without_tensorflow(tmp_path):
  python = core_environment.make(tmp_path / "core", ())
  done = subprocess.run(
    [str(python), "-m", "vssl_jax.doctor"],
    cwd=small.ROOT,
    env={**os.environ, "PYTHONPATH": str(small.ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, "")
  (line,) = [x for x in done.stdout.splitlines() if "[data]" in x]
  assert line.split()[0] == "missing"
  assert "tensorflow" in line
