"""Pieces of HTML; every text that comes from a file passes through `escape`."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from vssl_jax.reports.reading import text

# In a script element, these would end it or change how it is read.
_IN_SCRIPT = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class Html(str):
  """A piece of HTML, which is not escaped again."""


def escape(value: Any) -> Html:
  """A value as HTML; only `Html` keeps its tags."""
  return value if isinstance(value, Html) else Html(html.escape(text(value, 2000)))


def tag(name: str, *inside: Any, **attributes: Any) -> Html:
  """An element.

  Args:
    name: its name.
    inside: what it holds; escaped unless it is `Html`.
    attributes: names end in an underscore where Python has the word; other underscores are dashes.
  """
  given = "".join(
    f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
    for key, value in attributes.items()
    if value is not None
  )
  return Html(f"<{name}{given}>{''.join(map(escape, inside))}</{name}>")


def join(pieces: Iterable[Any], between: str = "\n") -> Html:
  """Pieces one after the other."""
  return Html(between.join(escape(p) for p in pieces))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], caption: str = "") -> Html:
  """A table that scrolls sideways where it is too wide; the first cell of a row is its heading."""
  top = tag("tr", *(tag("th", cell, scope="col") for cell in head))
  body = [
    tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest))
    for first, *rest in rows
  ]
  parts = [tag("caption", caption)] if caption else []
  inside = tag("table", *parts, tag("thead", top), tag("tbody", *body))
  return tag(
    "div", inside, class_="scroll", tabindex="0", role="region", aria_label=caption or head[0]
  )


def details(summary: str, *inside: Any) -> Html:
  """A part that opens on demand."""
  return tag("details", tag("summary", summary), *inside)


def in_script(value: Any) -> str:
  """JSON for a script element, which no text in it can end."""
  dumped = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
  return dumped.encode("utf-8", "replace").decode().translate(_IN_SCRIPT)


def percent(value: float | None) -> str:
  """A fraction in percent, with one decimal."""
  return "–" if value is None else f"{100 * value:.1f}"


def figure_text(value: Any, longest: int = 40) -> str:
  """A text for a figure: Plotly takes some tags in texts as HTML."""
  return html.escape(text(value, longest), quote=False)
