"""Names of configs, and fields changed by their dotted names."""

import pathlib
import shutil
import sys

import pytest

from tests import small
from vssl_jax import config_file
from vssl_jax.errors import UserError


def test_every_recipe_loads_from_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  files = {p.stem: p for p in (small.ROOT / "configs").glob("*.py")}
  assert config_file.recipes() == files
  for name in files:
    assert config_file.load(name) == small.load(f"{name}.py")
  assert config_file.load("cvrl:demo,uniform") == small.load("cvrl.py", "demo,uniform")


def test_a_file_goes_before_a_recipe_of_its_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  shutil.copy(small.ROOT / "configs" / "dcc.py", tmp_path / "cvrl")
  assert config_file.load("cvrl:demo").method == "dcc"
  assert config_file.load(pathlib.Path("cvrl")).method == "dcc"
  assert config_file.load(small.ROOT / "configs" / "cvrl.py").method == "cvrl"


def test_an_installation_has_the_recipes_in_the_package(tmp_path, monkeypatch):
  package = tmp_path / "site" / "vssl_jax"
  (package / "configs").mkdir(parents=True)
  (tmp_path / "site" / "configs").mkdir()  # of another package
  (tmp_path / "site" / "configs" / "other.py").touch()
  (package / "configs" / "__init__.py").touch()
  shutil.copy(small.ROOT / "configs" / "cvrl.py", package / "configs")
  monkeypatch.setattr(config_file, "_PACKAGE", package)
  assert list(config_file.recipes()) == ["cvrl"]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("def get_config(): return 3", "get_config gave a int, no ConfigDict"),
    ("x = 1", "AttributeError: module 'vssl_config_mine' has no attribute 'get_config'"),
    ("def get_config(:", "SyntaxError"),
    ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
    ("from vssl_jax import UserError\nraise UserError('mine')", "mine"),
  ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, text, message):
  (tmp_path / "mine.py").write_text(text)
  with pytest.raises(UserError) as e:
    config_file.load(tmp_path / "mine.py")
  assert message in str(e.value)
  assert "\n" not in str(e.value)


def test_a_file_may_define_classes(tmp_path):
  (tmp_path / "mine.py").write_text(
    "from __future__ import annotations\n"
    "import dataclasses\n"
    "from typing import ClassVar\n"
    "from vssl_jax import methods\n"
    "@dataclasses.dataclass\n"
    "class Size:\n"
    "  kinds: ClassVar[tuple] = ()\n"
    "  frames: int = 5\n"
    "def get_config():\n"
    "  c = methods.base_config('cvrl')\n"
    "  c.data.frames = Size().frames\n"
    "  return c\n"
  )
  assert config_file.load(tmp_path / "mine.py").data.frames == 5


def test_a_file_may_import_what_lies_beside_it(tmp_path):
  (tmp_path / "shared_parts.py").write_text("FRAMES = 5\n")
  (tmp_path / "mine.py").write_text(
    "import shared_parts\n"
    "from vssl_jax import config_file\n"
    "def get_config():\n"
    "  import shared_parts as later\n"
    "  c = config_file.load('cvrl:demo')\n"  # a shipped recipe, in a checkout and installed
    "  c.name, c.data.frames = 'mine', later.FRAMES\n"
    "  return c\n"
  )
  before = list(sys.path)
  config = config_file.load(tmp_path / "mine.py")
  assert sys.path == before
  assert (config.name, config.data.frames, config.data.source) == ("mine", 5, "digits")
  (tmp_path / "bad.py").write_text("import nothing_beside")
  with pytest.raises(UserError, match="No module named 'nothing_beside'"):
    config_file.load(tmp_path / "bad.py")
  assert sys.path == before


def test_a_name_that_is_nothing_lists_the_recipes():
  with pytest.raises(
    UserError, match="'cvlr' is neither a file nor a recipe; the recipes are cvrl"
  ):
    config_file.load("cvlr:demo")


def test_changed_fields():
  base = small.load("cvrl.py", "demo")
  text = base.to_json()
  changes = {
    "epochs": 2,
    "data.path": pathlib.Path("records"),
    "encoder.tubelet": [1, 2, 3],
    "probe.normalise": False,  # the name before version 0.2
  }
  config = config_file.resolve(base, changes)
  assert base.to_json() == text
  assert (config.epochs, config.data.path, config.encoder.tubelet) == (2.0, "records", (1, 2, 3))
  assert config.probe.normalize is False
  assert "normalise" not in config.probe
  assert config.is_locked
  assert config == config_file.resolve("cvrl:demo", changes)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"optim.lrr": 1}, "config.optim has no field 'lrr'. Did you mean 'lr'?"),
    ({"lr": 1}, "config has no field 'lr'. Did you mean 'optim.lr'?"),
    ({"optimm.lr": 1}, "config has no field 'optimm'. Did you mean 'optim'?"),
    ({"seed.x": 1}, "config.seed has no field 'x'."),
    ({"data.path": 3}, "config.data.path: "),
    ({"batch_size": "many"}, "config.batch_size: "),
  ],
)
def test_fields_that_there_are_not(changes, message):
  with pytest.raises(UserError) as e:
    config_file.resolve("cvrl:demo", changes)
  assert message in str(e.value)
  assert "\n" not in str(e.value)
