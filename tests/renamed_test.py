"""Former names of fields, flags and changes still do what they did, and say what they are now."""

import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from tests import small
from vssl_jax import config as config_lib
from vssl_jax import methods, recipes


def _old(config):
  """A config as a run of before the renaming stored it."""
  for old, new in config_lib.RENAMED.items():
    *parents, field = new.split(".")
    group = config
    for name in parents:
      group = group.get(name) if group is not None else None
    if group is not None:
      group[old.rpartition(".")[2]] = group[field]
      del group[field]
  return config


@pytest.mark.parametrize("method", ["cvrl", "classify"])
def test_a_stored_config_is_read_under_the_present_names(method):
  config = methods.base_config(method)
  config.data.interval.distribution, config.probe.normalize = "uniform", False
  config.augment.solarize_p = (0.0, 0.7)
  whole = methods.complete(_old(config.copy_and_resolve_references()))
  assert config_lib.to_json(whole) == config_lib.to_json(config)


def test_what_was_found_is_told_and_nothing_else_is_touched():
  config = ConfigDict({"data": {"interval": {"law": "same"}}, "probe": {"normalize": True}}).lock()
  assert config_lib.rename_fields(config) == ["data.interval.law"]
  assert config.to_dict() == {
    "data": {"interval": {"distribution": "same"}},
    "probe": {"normalize": True},
  }
  assert config_lib.rename_fields(config) == []


def test_every_present_name_is_a_field():
  classify = methods.base_config("classify")
  for new in config_lib.RENAMED.values():
    group = classify
    for name in new.split("."):
      group = group[name]


def test_former_flags_and_files_of_users_are_taken_with_a_note(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text(
    "from vssl_jax import methods\n\n\ndef get_config():\n  c = methods.base_config('cvrl')\n"
    "  c.probe.normalise = False\n  return c\n"
  )
  done = subprocess.run(
    [
      *(sys.executable, "-m", "vssl_jax.main", f"--config={file}", "--dry_run"),
      *("--config.data.interval.law=uniform", "--config.encoder.depth=18"),
    ],
    cwd=small.ROOT,
    capture_output=True,
    text=True,
    check=True,
    timeout=300,
  )
  assert '"distribution": "uniform"' in done.stdout
  assert '"normalize": false' in done.stdout
  assert '"law"' not in done.stdout
  assert "--config.data.interval.law is now --config.data.interval.distribution" in done.stderr
  assert "config.probe.normalise is now config.probe.normalize" in done.stderr


def test_former_names_of_changes():
  old, new = (small.load("rho_simclr.py", f"demo,{name}") for name in ("no_colour", "no_color"))
  assert old.augment.to_json() == new.augment.to_json()
  assert old.name == "rho_simclr_demo_no_colour"  # its run folder is the one that was begun


def test_nothing_of_ours_uses_a_former_name():
  names = {old.rpartition(".")[2] for old in config_lib.RENAMED} - {"spread"}
  for path in [*(small.ROOT / "configs").glob("*.py"), small.ROOT / "vssl_jax" / "recipes.py"]:
    text = pathlib.Path(path).read_text()
    assert not [name for name in names if f".{name}" in text], path


def test_config_files_find_functions_where_they_stood():
  assert config_lib.base("cvrl").to_json() == methods.base_config("cvrl").to_json()
  assert config_lib.compose is recipes.compose
  with pytest.raises(AttributeError, match="composed"):
    config_lib.composed  # noqa: B018
