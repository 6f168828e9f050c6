"""Figures of the page: Plotly's own form in JSON, with words and numbers beside the picture."""

from __future__ import annotations

import dataclasses
from typing import Any

from vssl_jax.reports import markup
from vssl_jax.reports.markup import Html

# At least 3 : 1 against both backgrounds of the page. Dashes and marks say the same without color.
COLORS = ("#2b7bba", "#c4700c", "#16895f", "#b0569f", "#d04a4a", "#6f6fd0", "#8a7a1f", "#1a8fa3")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKS = ("circle", "square", "diamond", "triangle-up", "x", "star", "triangle-down", "cross")
HATCHES = ("", "/", "x", ".", "-", "\\", "+", "|")


def color(i: int) -> str:
  """The color of the i-th thing, `#rrggbb`."""
  return COLORS[i % len(COLORS)]


def faint(tone: str, opacity: float) -> str:
  """A color of `COLORS` with an opacity in [0, 1]."""
  red, green, blue = (int(tone[i : i + 2], 16) for i in (1, 3, 5))
  return f"rgba({red},{green},{blue},{opacity:g})"


def bar(i: int) -> dict[str, Any]:
  """The color and the hatching of the i-th bars of a group."""
  hatch = {"shape": HATCHES[i % len(HATCHES)], "fillmode": "overlay", "solidity": 0.25}
  return {"color": color(i), "pattern": hatch | {"fgcolor": "rgba(255,255,255,0.7)"}}


@dataclasses.dataclass(frozen=True)
class Figure:
  """A figure.

  Attributes:
    name: its name in the page, of letters, digits and dashes.
    title: its heading.
    data: Plotly's traces.
    layout: what differs from the layout of all figures.
    words: what it shows, in plain words.
    numbers: the same as a table, for those who do not see it; or nothing.
    height: pixels.
    wide: whether it takes the whole width.
  """

  name: str
  title: str
  data: list[dict[str, Any]]
  layout: dict[str, Any] = dataclasses.field(default_factory=dict)
  words: Any = ""
  numbers: Html | None = None
  height: int = 260
  wide: bool = False

  def html(self) -> Html:
    """The place for the picture, and what is around it."""
    place = markup.tag(
      "div",
      class_="canvas",
      id=f"figure-{self.name}",
      style=f"height:{self.height}px",
      role="img",
      aria_label=self.title,
    )
    numbers = markup.details("Numbers", self.numbers) if self.numbers else ""
    words = markup.tag("p", self.words, class_="words") if self.words else ""
    head = markup.tag("figcaption", self.title)
    return markup.tag(
      "figure", head, place, words, numbers, class_="plot wide" if self.wide else "plot"
    )
