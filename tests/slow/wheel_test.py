"""What `pip install` gives: a wheel built, installed, and used from a folder of its own."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from tests import small

LOAD = """
import pathlib, sys, vssl_jax, numpy as np
assert pathlib.Path(vssl_jax.__file__).is_relative_to(sys.prefix), vssl_jax.__file__
e = vssl_jax.load(sys.argv[1])
print(e.apply(e.params, np.zeros((1, *e.clip_shape), np.uint8)).shape, vssl_jax.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """Built of a copy, as a build leaves folders beside the sources."""
  folder = tmp_path_factory.mktemp("wheel")
  source = folder / "source"
  ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
  for name in ("vssl_jax", "data_pipelines", "configs"):
    shutil.copytree(small.ROOT / name, source / name, ignore=ignored)
  for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(small.ROOT / name, source)
  build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={folder}"]
  _run(sys.executable, "-m", "pip", *build, str(source), cwd=folder)
  (file,) = folder.glob("*.whl")
  return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
  """An environment with the wheel, whose dependencies are those of this one."""
  folder = tmp_path_factory.mktemp("environment") / "venv"
  venv.create(folder)
  paths = {"base": str(folder), "platbase": str(folder)}
  site = pathlib.Path(sysconfig.get_path("purelib", "venv", paths))
  (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
  install = ["install", "--no-deps", "--no-index", "--ignore-installed"]
  _run(folder / "bin" / "python", "-m", "pip", *install, wheel, cwd=folder)
  return folder / "bin"


def _run(*command, cwd):
  left_out = ("PYTHONPATH", "XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL")
  environment = {k: v for k, v in os.environ.items() if k not in left_out}
  done = subprocess.run(
    [str(x) for x in command], cwd=cwd, env=environment, text=True, capture_output=True, timeout=900
  )
  assert done.returncode == 0, done.stderr
  return done


@pytest.mark.slow
def test_the_recipes_and_nothing_else_travel_in_the_wheel(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  recipes = {f"vssl_jax/configs/{p.name}" for p in (small.ROOT / "configs").glob("*.py")}
  assert recipes == {n for n in names if n.startswith("vssl_jax/configs/")}
  sources = {
    str(p.relative_to(small.ROOT))
    for package in ("vssl_jax", "data_pipelines")
    for p in (small.ROOT / package).rglob("*.py")
  }
  assert sources == {n for n in names if n.endswith(".py")} - recipes
  assert {n.partition("/")[0] for n in names} == {
    "vssl_jax",
    "data_pipelines",
    "-".join(wheel.stem.split("-")[:2]) + ".dist-info",
  }


@pytest.mark.slow
def test_the_commands_of_an_installation_work_from_any_folder(installed, tmp_path):
  vssl = installed / "vssl"
  values = {"optim.name": "sgd", "probe.run": False, "data.eval.clips": 1}
  train = ["train", "--config=cvrl:demo", "--workdir=run", *small.flags(**values)]
  done = _run(vssl, *train, cwd=tmp_path)
  assert json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))["steps"] == 4
  assert done.stderr == ""
  _run(vssl, "evaluate", "--checkpoint=run", "--protocols=knn", cwd=tmp_path)
  assert (tmp_path / "run" / "evaluation" / "table.md").is_file()
  done = _run(vssl, "export", "--checkpoint=run", "--output=out", cwd=tmp_path)
  assert (done.stdout.split(), done.stderr) == (["out/encoder.safetensors", "out/encoder.json"], "")
  loaded = [_run(installed / "python", "-c", LOAD, f, cwd=tmp_path).stdout for f in ("run", "out")]
  assert loaded[0] == loaded[1]
  assert _run(vssl, "--version", cwd=tmp_path).stdout.split()[1] == loaded[0].split()[-1]
  described = _run(vssl, "train", "--config=cvrl", "--dry_run", cwd=tmp_path).stdout
  assert "total 44,535,744" in described
