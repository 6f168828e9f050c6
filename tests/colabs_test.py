"""The notebooks: pairs that agree, pictures kept, and every cell runs."""

import ast
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = sorted(p.stem for p in (ROOT / "colabs").glob("*.ipynb"))


def _read(name):
  return nbformat.read(ROOT / "colabs" / f"{name}.ipynb", as_version=4)


def test_each_program_has_its_notebook():
  assert sorted(p.stem for p in (ROOT / "colabs").glob("*.py")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_program(name):
  book, program = _read(name), jupytext.read(ROOT / "colabs" / f"{name}.py")
  cells = [[(c.cell_type, c.source.strip()) for c in b.cells] for b in (book, program)]
  assert cells[0] == cells[1]


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_kept_and_nothing_failed(name):
  outputs = [o for c in _read(name).cells if c.cell_type == "code" for o in c.outputs]
  assert not [o for o in outputs if o.output_type == "error"]
  assert sum("image/png" in o.get("data", {}) for o in outputs) >= 2
  assert (ROOT / "colabs" / f"{name}.ipynb").stat().st_size < 1.5e6


def _first_cell(name):
  return next(c.source for c in _read(name).cells if c.cell_type == "code")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_leads_to_an_address_that_nobody_chose(name):
  for cell in _read(name).cells:
    assert "github" not in cell.source
    assert "http" not in cell.source
  assert 'REPOSITORY = ""' in _first_cell(name)
  assert _first_cell(name) == _first_cell(NAMES[0])


@pytest.fixture
def machine(tmp_path, monkeypatch):
  """A machine in an empty folder, with the packages given; what it would run is recorded."""
  ran, packages = [], set()

  def run(command, check):
    ran.append(command)
    if command[1] == "clone":
      (tmp_path / command[-1] / "vssl_jax" / "losses").mkdir(parents=True)

  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  monkeypatch.setattr(subprocess, "run", run)
  monkeypatch.setattr(importlib.util, "find_spec", lambda x: x if x in packages else None)
  return types.SimpleNamespace(folder=tmp_path, ran=ran, packages=packages)


def test_without_the_library_the_first_cell_says_what_to_do(machine):
  with pytest.raises(RuntimeError, match=r"upload a checkout .* or set REPOSITORY above"):
    exec(_first_cell(NAMES[0]), {})
  assert machine.ran == []


@pytest.mark.parametrize("place", [".", "..", "vssl_jax"])
def test_a_checkout_is_found_and_its_needs_installed(machine, monkeypatch, place):
  (machine.folder / "work" / place / "vssl_jax" / "losses").mkdir(parents=True)
  monkeypatch.chdir(machine.folder / "work")
  root = (machine.folder / "work" / place).resolve()
  exec(_first_cell(NAMES[0]), {})
  assert (pathlib.Path.cwd(), sys.path[0]) == (root, str(root))
  (command,) = machine.ran
  assert command[1:4] == ["-m", "pip", "install"]
  assert command[-1] == ".[data]"


def test_an_installed_library_is_taken_as_it_is(machine):
  machine.packages |= {"vssl_jax", "ml_collections"}
  exec(_first_cell(NAMES[0]), {})
  assert machine.ran == []
  assert pathlib.Path.cwd() == machine.folder


def test_an_address_that_is_set_is_cloned(machine):
  machine.packages |= {"ml_collections"}
  exec(_first_cell(NAMES[0]).replace('REPOSITORY = ""', 'REPOSITORY = "my/own"'), {})
  assert machine.ran == [["git", "clone", "--depth=1", "my/own", "vssl_jax"]]
  assert pathlib.Path.cwd() == machine.folder / "vssl_jax"


@pytest.mark.parametrize("name", NAMES)
def test_public_names_alone(name):
  tree = ast.parse((ROOT / "colabs" / f"{name}.py").read_text(encoding="utf-8"))
  private = [
    node.attr
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute)
    and re.match(r"_[a-z]", node.attr)
    and node.attr != "_replace"  # of any NamedTuple, and public
  ]
  assert not private


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs_from_top_to_bottom(name, monkeypatch):
  """A rehearsal: few steps, every cell."""
  import nbclient

  monkeypatch.setenv("VSSL_FAST", "1")
  monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
  monkeypatch.setenv("XLA_FLAGS", "")  # one device, as a user has
  book = _read(name)
  nbclient.NotebookClient(
    book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
  ).execute()
