"""The configs of a study's cells: recipe, changes, the user's fields, the cell's own fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import config as config_lib
from vssl_jax import config_file, files
from vssl_jax.errors import UserError
from vssl_jax.studies.study import Cell, Setting, Study

_MADE = ("digits", "motion", "synthetic", "untrimmed")  # sources that need no data
_OWN = {
  "seed": "give --seeds",
  "name": "it names its runs by their cells",
  "job": "it trains",
  "method": "give a recipe in its file",
}


def load(recipe: str, variant: str, changes: str = "") -> ConfigDict:
  """The config of a recipe, a variant and changes after commas, unlocked."""
  after = ",".join(filter(None, (variant, changes)))
  return config_file.load(f"{recipe}:{after}" if after else recipe)


def build(
  study: Study, cells: list[Cell], variant: str, overrides: Mapping[str, Any]
) -> dict[str, ConfigDict]:
  """The config of each cell, by the cell's name.

  Args:
    study: the study.
    cells: its cells.
    variant: the variant of all recipes.
    overrides: the user's values of fields of all cells, by dotted names.

  Returns:
    Locked configs with the first seed of the study.

  Raises:
    UserError: an override is of a field that the study varies, or it is no field; or the study is
      impossible.
  """
  overrides = {config_lib.RENAMED.get(name, name): value for name, value in overrides.items()}
  for name in overrides:
    first = name.partition(".")[0]
    if name in _OWN:
      raise UserError(f"config.{name}: a study sets it itself; {_OWN[name]}.")
    if first == "distributed":
      raise UserError(
        f"config.{name}: a study trains each run in one process; several processes share the runs: "
        "see --jobs and --part."
      )
  merged = {cell.name: _merged(cell, study) for cell in cells}
  plain = {recipe: load(recipe, variant) for recipe in {m.recipe for m in merged.values()}}
  changed = {k: load(m.recipe, variant, m.changes) for k, m in merged.items()}
  varied: set[str] = set()
  for name, setting in merged.items():
    before, after = flat(plain[setting.recipe]), flat(changed[name])
    varied |= {k for k in after if after[k] != before.get(k)} | set(setting.fields)
  if both := sorted(set(overrides) & (varied - {"name"})):
    raise UserError(f"config.{both[0]}: the study varies this field itself; leave the flag out.")
  every = {**study.fields, **overrides}
  found = {}
  for name, setting in merged.items():
    config = config_file.resolve(changed[name], every)
    own = {k: _scaled(config, k, factor) for k, factor in setting.times.items()}
    config = config_file.resolve(config, dict(own.values()) | dict(setting.fields))
    found[name] = config
  return found


def recipes(study: Study, cells: list[Cell], variant: str) -> list[str]:
  """The recipes of the cells with their variant, each once."""
  names = dict.fromkeys(_merged(cell, study).recipe for cell in cells)
  return [f"{name}:{variant}" if variant else name for name in names]


def with_data(
  study: Study, variant: str, data: str, overrides: Mapping[str, Any]
) -> dict[str, Any]:
  """The overrides, with the place of the user's data; a recipe that makes its own reads records."""
  if not data:
    return dict(overrides)
  own = load(study.recipe, variant).data.source
  source = {"data.source": study.records} if own in _MADE else {}
  return {**source, **overrides, "data.path": files.absolute(data)}


def _merged(cell: Cell, study: Study) -> Setting:
  """The settings of all axes as one."""
  recipes = [s.recipe for s in cell.settings if s.recipe] or [study.recipe]
  fields: dict[str, Any] = {}
  times: dict[str, float] = {}
  for setting in cell.settings:
    new = {**setting.fields, **setting.times}
    if twice := sorted(new.keys() & {*fields, *times}):
      raise UserError(f"the study sets config.{twice[0]} on two axes: take it from one of them.")
    fields.update(setting.fields)
    times.update(setting.times)
  if len(set(recipes)) > 1:
    raise UserError(f"the study has the recipes {recipes[0]} and {recipes[1]} in one cell.")
  changes = ",".join(s.changes for s in cell.settings if s.changes)
  return Setting(changes, fields, times, recipes[0])


def _scaled(config: ConfigDict, name: str, factor: float) -> tuple[str, Any]:
  """A field and its value times a factor."""
  if name == "epochs" and config.steps:
    name = "steps"
  config_file.require(config, name)
  value: Any = config
  for key in name.split("."):
    value = value[key]
  for what, x in ((f"config.{name}, which", value), (f"config.{name} by what", factor)):
    if isinstance(x, bool) or not isinstance(x, int | float):
      raise UserError(f"the study multiplies {what} is {x!r}, no number.")
  return name, type(value)(round(value * factor) if isinstance(value, int) else value * factor)


def flat(config: ConfigDict) -> dict[str, Any]:
  """All values of a config in types of JSON, by dotted names."""
  return _flat(json.loads(config.to_json()), "")


def _flat(tree: Any, prefix: str) -> dict[str, Any]:
  if not isinstance(tree, dict):
    return {prefix: tree}
  found: dict[str, Any] = {}
  for key, value in tree.items():
    found |= _flat(value, f"{prefix}.{key}" if prefix else key)
  return found
