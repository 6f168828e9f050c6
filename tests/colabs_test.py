"""The notebooks: pairs that agree, pictures kept, and every cell runs."""

import ast
import os
import pathlib
import re

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


@pytest.mark.parametrize("name", NAMES)
def test_the_badge_opens_this_notebook(name):
  first = _read(name).cells[0].source
  assert first.startswith("# ")
  assert re.search(rf"colab\.research\.google\.com/github/\S+/colabs/{name}\.ipynb\)", first)


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
