"""What a study is: a recipe, axes of settings, the scores to tabulate and how to draw them.

A study is plain data. It names recipes and fields, and loads none of them, so that the list of all
studies appears at once. A file with studies has a dictionary `STUDIES` of them by name.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vssl_jax.errors import UserError

RESULT = "result.json"
UNCERTAINTY = "uncertainty/analysis.json"


@dataclasses.dataclass(frozen=True)
class Setting:
  """One setting of an axis: what it changes. A setting without arguments changes nothing.

  Attributes:
    changes: changes of the recipe, as after the commas of --config, such as "uniform".
    fields: values of config fields by dotted names, such as {"data.fraction": 0.5}.
    times: factors of config fields by dotted names, such as {"epochs": 0.5}; the study then keeps
      its meaning if its user changes the field. A run with config.steps has those in place of
      epochs.
    recipe: a recipe in place of the study's, such as "rho_moco".
  """

  changes: str = ""
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  times: Mapping[str, float] = dataclasses.field(default_factory=dict)
  recipe: str = ""


@dataclasses.dataclass(frozen=True)
class Score:
  """A column of the table: a number that every run writes.

  Attributes:
    path: keys in the file, separated by slashes; an integer counts the entries of a list, and * is
      the only entry.
    file: file in the folder of a run. `evaluation/summary.json` is there after `vssl evaluate`.
    scale: factor of what is shown; 100 shows a share in %.
    about: what it is, if it is no protocol of the probes.
  """

  path: str
  file: str = RESULT
  scale: float = 100.0
  about: str = ""


@dataclasses.dataclass(frozen=True)
class Curve:
  """A panel of the plot with a curve per cell: rows that every run writes, mean over seeds.

  Attributes:
    title: title of the panel.
    rows: path, as of `Score`, to a list of mappings.
    x: key of the horizontal axis; "" counts the rows from 1.
    y: key of the vertical axis.
    file: see `Score`.
    scale: factor of y.
  """

  title: str
  rows: str
  x: str
  y: str
  file: str = RESULT
  scale: float = 100.0


PROBED = {
  "logistic": Score("trained/logistic/top1"),
  "kNN": Score("trained/knn/top1"),
  "R@1": Score("trained/retrieval/R@1"),
}
# The quick protocols and random weights to compare with; the linear probe would double the time.
QUICKLY = {
  "probe.run": True,
  "probe.quick": True,
  "probe.linear": False,
  "probe.random_init": True,
  "probe.baselines": False,
}


@dataclasses.dataclass(frozen=True)
class Study:
  """A study; each of its cells is one setting of every axis.

  Attributes:
    about: one line: the figure or question, and what varies.
    recipe: a recipe or config file, without variant.
    axes: settings by label, by name of the axis.
    variant: the recipe's variant; --variant chooses another one.
    fields: values of config fields of all cells, by dotted names.
    scores: columns of the table by heading.
    line: the axis that is drawn from left to right as a line; "" draws bars.
    curves: panels to draw in place of the scores.
    seeds: seeds of every cell.
    records: config.data.source that reads --data.
    uncertainty: also analyze the uncertainty of each run, see vssl_jax.uncertainty.
  """

  about: str
  recipe: str
  axes: Mapping[str, Mapping[str, Setting]]
  variant: str = "demo"
  fields: Mapping[str, Any] = dataclasses.field(default_factory=lambda: QUICKLY)
  scores: Mapping[str, Score] = dataclasses.field(default_factory=lambda: PROBED)
  line: str = ""
  curves: tuple[Curve, ...] = ()
  seeds: tuple[int, ...] = (0, 1, 2)
  records: str = "tfrecord"
  uncertainty: bool = False


class Cell(NamedTuple):
  """One setting of every axis.

  Attributes:
    name: name for files, such as "MoCo-4".
    labels: the label of each axis, by its name.
    settings: the settings in the order of the axes.
  """

  name: str
  labels: Mapping[str, str]
  settings: tuple[Setting, ...]


def cells(study: Study) -> list[Cell]:
  """The cells of a study, the last axis varying fastest.

  Raises:
    UserError: the definition is impossible; the message says why.
  """
  if not study.axes or not all(study.axes.values()):
    raise UserError("the study has no axis, or one without settings: add a Setting.")
  if not study.scores:
    raise UserError("the study has no scores: name what to tabulate.")
  if study.line and study.line not in study.axes:
    raise UserError(f"line={study.line!r} is no axis; there are {', '.join(study.axes)}.")
  for axis, settings in study.axes.items():
    for label in (axis, *settings):
      if set(label) & set(",+="):
        raise UserError(f"{label!r}: a label has no comma, + or =, by which --only names several.")
  found = [
    Cell(
      "-".join(_word(label) for label in labels),
      dict(zip(study.axes, labels, strict=True)),
      settings,
    )
    for labels, settings in _product(study)
  ]
  names = [cell.name for cell in found]
  if twice := [name for name in names if names.count(name) > 1 or not name.strip("-")]:
    raise UserError(f"two cells would have the folder {twice[0]!r}: give their labels other words.")
  return found


def _product(study: Study) -> Iterator[tuple[tuple[str, ...], tuple[Setting, ...]]]:
  for items in itertools.product(*(axis.items() for axis in study.axes.values())):
    yield tuple(label for label, _ in items), tuple(setting for _, setting in items)


def _word(label: str) -> str:
  """A label as a part of a file's name."""
  return re.sub(r"[^\w.]+", "_", label).strip("_.")


def choose(found: list[Cell], only: Mapping[str, tuple[str, ...]]) -> list[Cell]:
  """The cells with one of the given labels on each of the given axes.

  Raises:
    UserError: there is no such axis or label.
  """
  for axis, labels in only.items():
    known = list(dict.fromkeys(cell.labels.get(axis, "") for cell in found))
    if axis not in found[0].labels:
      raise UserError(f"--only: no axis {axis!r}; there are {', '.join(found[0].labels)}.")
    if unknown := [label for label in labels if label not in known]:
      raise UserError(f"--only: {axis} has no {unknown[0]!r}; there are {', '.join(known)}.")
  return [c for c in found if all(c.labels[axis] in labels for axis, labels in only.items())]
