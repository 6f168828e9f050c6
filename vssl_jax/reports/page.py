"""Puts the parts of a report into one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.resources
import string
from collections.abc import Sequence
from typing import Any

from vssl_jax.errors import UserError
from vssl_jax.files import extras
from vssl_jax.reports import markup
from vssl_jax.reports.figures import Figure
from vssl_jax.reports.markup import Html


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the page.

  Attributes:
    name: its anchor.
    title: its heading.
    body: what it holds.
    figures: the figures in it, which the page's program draws.
    videos: what the page's program needs for choosing queries.
  """

  name: str
  title: str
  body: Html
  figures: tuple[Figure, ...] = ()
  videos: dict[str, Any] = dataclasses.field(default_factory=dict)


def plotly() -> str:
  """Plotly's program for browsers, which its Python package ships.

  Raises:
    UserError: the package is not installed.
  """
  try:
    return importlib.import_module("plotly.offline").get_plotlyjs()
  except ImportError as e:
    raise UserError(
      f"the page needs Plotly ({e}); install it with: {extras.install('report')}"
    ) from None


def grid(figures: Sequence[Figure]) -> Html:
  """Figures side by side, as many as fit."""
  return markup.tag("div", *(f.html() for f in figures), class_="plots")


def render(title: str, made: str, sections: Sequence[Section]) -> bytes:
  """The whole page.

  Args:
    title: its heading.
    made: one line below it.
    sections: its parts, in order.

  Returns:
    UTF-8.

  Raises:
    UserError: Plotly is not installed.
  """
  data = {
    "figures": {f.name: {"data": f.data, "layout": f.layout} for s in sections for f in s.figures},
    "videos": {s.name: s.videos for s in sections if s.videos},
  }
  program = plotly()
  if "</script" in program.lower():
    raise RuntimeError("Plotly's program would end its script element")
  nav = [markup.tag("a", s.title, href=f"#{s.name}") for s in sections]
  body = [markup.tag("section", markup.tag("h2", s.title), s.body, id=s.name) for s in sections]
  page = string.Template(_template("page.html")).substitute(
    title=markup.escape(title),
    made=markup.escape(made),
    style=_template("style.css"),
    nav=markup.join(nav),
    body=markup.join(body),
    data=markup.in_script(data),
    plotly=program,
    script=_template("page.js"),
  )
  return page.encode("utf-8", "replace")


def _template(name: str) -> str:
  folder = importlib.resources.files("vssl_jax.reports") / "templates"
  return (folder / name).read_text(encoding="utf-8")
