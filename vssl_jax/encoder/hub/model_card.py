"""The model card of an exported encoder, README.md, as the Hub shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

README = "README.md"
_MOST = 80  # results that are listed; the JSON card has all


def text(card: Mapping[str, Any], *, address: str, license_name: str = "") -> str:
  """What the encoder is, its results, licence, preprocessing, and how it is loaded.

  Args:
    card: what `exported.save_encoder` wrote: its results are those of exactly these weights.
    address: where it will lie, `hf://…`.
    license_name: as the Hub names it, such as "apache-2.0"; "" if it is not stated.

  Returns:
    Markdown, with the Hub's fields as YAML at its head.
  """
  config, seen, data = card["config"], card["preprocessing"], card["data"]
  method, encoder = str(config.get("method", "")), config.get("encoder") or {}
  tags = ["vssl_jax", "jax", "video", "self-supervised", method]
  head = {"library_name": "vssl_jax", "pipeline_tag": "video-classification", "tags": tags}
  if license_name:
    head["license"] = license_name
  results = list(_results(card.get("results") or {}))
  facts = {
    "method": method,
    "encoder": ", ".join(f"{k} {encoder[k]}" for k in ("name", "depth", "width") if k in encoder),
    "parameters": f"{card['parameters']:,}",
    "trained on": " ".join(str(data[k]) for k in ("name", "train_split") if data.get(k)),
    "fingerprint of the videos": data.get("fingerprint"),
    "sha256 of the weights": card["weights"]["sha256"],
    "vssl_jax": card["vssl_jax"],
    "license": license_name or "not stated: ask the owner before you use it",
  }
  lines = [
    "---",
    *(f"{k}: {json.dumps(v)}" for k, v in head.items()),  # JSON is YAML
    "---",
    "",
    f"# {_plain(config.get('name') or method)}: an encoder of video clips",
    "",
    *_table("", facts.items()),
    "",
    "## How to load it",
    "",
    "```python",
    "import vssl_jax  # with huggingface_hub",
    "",
    f'encoder = vssl_jax.load("{address}")',
    "features = encoder.apply(encoder.params, clips)  # uint8 [N, T, H, W, C] to float32 [N, F]",
    f'features = vssl_jax.VideoEncoder("{address}").transform(["video.mp4"])',
    "```",
    "",
    "## Preprocessing",
    "",
    "It is inside the encoder: give it pixels.",
    "",
    *_table("", ((k.replace("_", " "), v) for k, v in seen.items())),
    "",
    "## Results of these weights",
    "",
  ]
  if results:
    lines += _table("score", results[:_MOST])
    if len(results) > _MOST:
      lines += ["", f"{len(results) - _MOST} more are in encoder.json."]
  else:
    lines += ["None were measured, or none whose hash of the weights is that of these."]
  return "\n".join(lines) + "\n"


def _results(found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
  """The scores: of the run's own probes, and the means of `vssl evaluate`."""
  evaluated = found.get("evaluation") or {}
  means = evaluated.get("mean") if isinstance(evaluated, dict) else None
  for name, part in (("trained", found.get("trained")), ("evaluation", means)):
    yield from _leaves(part, name)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
  if isinstance(value, Mapping):
    for k, v in value.items():
      yield from _leaves(v, f"{name}.{k}")
  elif isinstance(value, int | float) and not isinstance(value, bool):
    yield name, f"{value:.6g}"


def _table(head: str, rows: Any) -> list[str]:
  shown = [f"| {_plain(k)} | {_plain(v)} |" for k, v in rows if v not in (None, "")]
  return [f"| {head} | |", "|---|---|", *shown]


def _plain(value: Any) -> str:
  """Text in one cell of a table, without marks of Markdown or HTML."""
  told = json.dumps(value) if isinstance(value, dict | list | tuple) else str(value)
  for mark, instead in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("`", "&#96;")):
    told = told.replace(mark, instead)
  return " ".join(told.split())
