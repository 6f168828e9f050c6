"""What a run's config changes, against its recipe or against the defaults of its method."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vssl_jax import config_file, methods
from vssl_jax.errors import UserError
from vssl_jax.reports.reading import text

# Filled in from the data, or places on somebody's machine.
_FILLED = ("steps_per_epoch", "data.fingerprint", "data.held_out_sha256", "name")


def against_base(config: Mapping[str, Any]) -> tuple[str, list[tuple[str, str, str]]]:
  """The fields that differ from the recipe of the config's name, or else from the defaults.

  Args:
    config: what `config.json` holds.

  Returns:
    In words what it is compared with, "" if there is nothing to compare with; and for each field
    its name, the value there, and the value of the run.
  """
  words, base = _base(config)
  if base is None:
    return "", []
  old, new = (dict(_flat(json.loads(base.to_json()))), dict(_flat(dict(config))))
  return words, _differing([old, new])


def between(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
  """The fields that differ between runs: the name of the field, then the value of each run."""
  return _differing([dict(_flat(dict(c))) for c in configs])


def but_seed(config: Mapping[str, Any]) -> str:
  """A text that is equal for runs that differ in nothing but the seed, name and places."""
  flat = {k: v for k, v in _flat(dict(config)) if k not in ("seed", "data.path", *_FILLED)}
  return json.dumps(flat, sort_keys=True)


def _differing(flats: list[dict[str, Any]]) -> list[Any]:
  names = sorted(set().union(*flats) - set(_FILLED))
  rows = [(name, *(_shown(f, name) for f in flats)) for name in names]
  return [row for row in rows if len(set(row[1:])) > 1]


def _shown(flat: Mapping[str, Any], name: str) -> str:
  if name not in flat:
    return "(no such field)"
  value = flat[name]
  return text(json.dumps(value, ensure_ascii=False)) if value != "" else '""'


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  for key, value in tree.items():
    name = f"{prefix}{text(key, 80)}"
    if isinstance(value, dict):
      yield from _flat(value, f"{name}.")
    else:
      yield name, value


def _base(config: Mapping[str, Any]) -> tuple[str, ConfigDict | None]:
  """Only recipes of this package run: a name in a file must not choose another program."""
  name, method = config.get("name"), config.get("method")
  known = config_file.recipes()
  for recipe in sorted(known, key=len, reverse=True):
    if not isinstance(name, str) or not name.startswith(f"{recipe}_"):
      continue
    variant = name.removeprefix(f"{recipe}_").replace("_", ",")
    for tried in (name.removeprefix(f"{recipe}_"), variant):
      try:
        return f"the recipe {recipe}:{tried}", config_file.load(f"{recipe}:{tried}")
      except UserError:
        continue
  try:
    return f"the defaults of {method}", methods.base_config(str(method))
  except UserError:
    return "", None
