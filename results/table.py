"""Writes the tables of results in README.md and docs/ from the files in results/.

  python results/table.py            # rewrite the tables in PAGES between their markers
  python results/table.py --check    # check whether they agree; exit code 1 if not

`studies/<name>.json` is the unchanged `table.json` of a study; its table has its name.
`<folder>/<row>_s<seed>.json` is the unchanged `result.json` of a run, or the `summary.json` of
`vssl_jax.evaluate` without the path of its records. A table has a row for each of its entries whose
files exist. Figures are mean ± standard deviation (n − 1) over the seeds, or a single figure with
its seed. On a page, a table is between `<!-- table: NAME -->` and `<!-- /table -->`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BEGIN, END = "<!-- table: {} -->", "<!-- /table -->"
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all")  # that have a column
SEEDS = 3  # a row with fewer seeds says so
Result = dict[str, Any]

COLUMNS = {
  "linear probe": ("linear", "top1"),
  "logistic": ("logistic", "top1"),
  "kNN": ("knn", "top1"),
  "R@1": ("retrieval", "R@1"),
}
METHODS = [
  ("CVRL", "cvrl"),
  ("ρ-SimCLR", "rho_simclr"),
  ("ρ-MoCo", "rho_moco"),
  ("ρ-BYOL", "rho_byol"),
  ("ρ-SwAV", "rho_swav"),
  ("ProViCo", "provico"),
]
# Label; files, `<folder>/<row>`; dotted keys of the part of a file with the scores, "" for all.
Row = tuple[str, str, str]


class Table(NamedTuple):
  """A table: its name, its first heading, its rows, and the position of each column in a row."""

  name: str
  heading: str
  rows: list[Row]
  columns: Mapping[str, tuple[str, ...]] = COLUMNS


class Summary(NamedTuple):
  """A table of two data sets side by side.

  Attributes:
    name: see `Table`.
    heading: heading of the first column.
    rows: label; file name without folder and seed; the part of the file with the scores.
    columns: heading -> (folder, path in that part).
  """

  name: str
  heading: str
  rows: list[Row]
  columns: Mapping[str, tuple[str, tuple[str, ...]]]


def compared(folder: str) -> list[Row]:
  """Baselines, random initialization, labels, and every method, on one data set."""
  return [
    ("middle frame's pixels", f"{folder}/cvrl", "baselines.pixels"),
    ("the clip's pixels, shrunk", f"{folder}/cvrl", "baselines.pixels_clip"),
    ("per-frame color means", f"{folder}/cvrl", "baselines.color_means"),
    ("random initialization", f"{folder}/cvrl", "random_init"),
    ("supervised from scratch", f"{folder}/supervised", "trained"),
    *((label, f"{folder}/{row}", "trained") for label, row in METHODS),
  ]


_LOCALIZATION = "mAP@0.1:0.7"
_PSEUDO = ("dcc", "pseudo_labels", "action")
LOCALIZATION = {
  "mAP 0.1:0.7, last iteration": ("headline", _LOCALIZATION, "trained"),
  "chosen on validation": ("headline", _LOCALIZATION, "validation_chosen"),
  "correct pseudo-labels": (*_PSEUDO, "before", "precision"),
  "… after denoising": (*_PSEUDO, "after", "precision"),
}


def localized(folder: str) -> list[Row]:
  """BaS-Net and DCC on one data set."""
  rows = {
    "BaS-Net": "bas_net",
    "+ contrast, not denoised": "no_denoising",
    "DCC: + contrast, denoised": "dcc",
    "DCC, gradients balanced": "balanced",
    "DCC, gradients balanced, M = 10": "balanced_m10",
    "DCC, gradients balanced, shown the true pseudo-labels": "balanced_true",
  }
  return [(label, f"{folder}/{row}", "") for label, row in rows.items()]


# The scores of the test clips in their own order, and in those of the protocol `motion`.
MOTION = COLUMNS | {
  order: ("motion", "orders", order, "logistic", "top-1")
  for order in ("reversed", "shuffled", "frozen")
}
ENCODERS = {
  "random initialization": "random",
  "ProViCo": "provico",
  "ProViCo with `halves`": "provico_halves",
  "CVRL": "cvrl",
}
RECALLS = {f"R@{k}": (f"R@{k}",) for k in (1, 5, 10, 20, 50)}


def retrieved(folder: str) -> list[Row]:
  """ProViCo's rankings of videos, and its ablations', on one data set."""
  rankings = {
    "backbone features": "trained.retrieval",
    "μ(V)": "provico.retrieval.mean",
    "Bhattacharyya distance": "provico.retrieval.bhattacharyya",
  }
  runs = {"": "provico", ", without divergence": "provico_no_kl", ", L_soft alone": "provico_soft"}
  return [
    (ranking + change, f"{folder}/{row}", part)
    for change, row in runs.items()
    for ranking, part in rankings.items()
  ]


EVALUATED = {
  "linear probe": "linear.top-1",
  "logistic regression": "logistic.top-1",
  "kNN": "knn.top-1",
  "fine-tuned, all labels": "finetune.top-1",
  "fine-tuned, 10 % of the labels": "semi_supervised.10 % of labels, top-1",
  "fine-tuned, 1 % of the labels (one video per class)": "semi_supervised.1 % of labels, top-1",
  "5-way, 5 shots": "few_shot.5-way 5-shot",
  "5-way, 1 shot": "few_shot.5-way 1-shot",
  "retrieval, R@1": "retrieval.R@1",
  "retrieval, R@5": "retrieval.R@5",
  "retrieval, mAP": "retrieval.mAP",
}

TABLES = [
  Table("ucf6", "six classes of UCF101, split 1", compared("ucf6")),
  Table(
    "protocols",
    "every protocol on CVRL's checkpoints",
    [(label, "evaluation/cvrl", f"mean.{key}") for label, key in EVALUATED.items()],
    {"%": ("mean",)},
  ),
  Table("digits", "embedded digits", compared("digits")),
  Table("motion", "movement as class", compared("motion"), MOTION),
  Table(
    "clips_per_video",
    "ρ-SimCLR on the digits",
    [
      ("ρ = 1: two crops of one clip, time span 0", "study/rho1", "trained"),
      ("ρ = 2, 18 epochs, clips from anywhere", "digits_18_epochs/rho_simclr", "trained"),
      ("ρ = 3, 18 epochs", "study/rho3", "trained"),
      ("ρ = 4, 18 epochs", "study/rho4", "trained"),
      ("ρ = 3, as many clips as ρ = 2 (12 epochs)", "study/rho3_equal", "trained"),
      ("ρ = 4, as many clips as ρ = 2 (9 epochs)", "study/rho4_equal", "trained"),
      ("ρ = 2, starts within half a second", "study/span05", "trained"),
    ],
  ),
  Table("provico_ucf6", "ProViCo's retrieval, UCF101", retrieved("ucf6"), RECALLS),
  Table("provico_digits", "ProViCo's retrieval, digits", retrieved("digits_18_epochs"), RECALLS),
  Table(
    "untrimmed",
    "stitched from real videos; features of",
    [
      (f"{encoder}, {method}", f"untrimmed/{file}_{row}", "")
      for encoder, file in ENCODERS.items()
      for method, row in {"BaS-Net": "bas_net", "DCC, gradients balanced": "balanced"}.items()
    ],
    {"mAP 0.1:0.7, last iteration": LOCALIZATION["mAP 0.1:0.7, last iteration"]},
  ),
  Table("stitched", "stitched from real features", localized("stitched"), LOCALIZATION),
  *(
    Table(name, "stitched from real features", localized("stitched_held_out"), LOCALIZATION)
    for name in ("stitched_held_out", "dcc_beside")
  ),
]
SIDE_BY_SIDE = {
  "UCF101, 6 classes: logistic": ("ucf6", COLUMNS["logistic"]),
  "UCF101, 6 classes: R@1": ("ucf6", COLUMNS["R@1"]),
  "digits: logistic": ("digits", COLUMNS["logistic"]),
  "digits: R@1": ("digits", COLUMNS["R@1"]),
}


def beside(name: str, methods: Sequence[tuple[str, str]]) -> Summary:
  """Methods, given as label and file, between no training and training with labels."""
  rows = [
    ("random initialization", "cvrl", "random_init"),
    *((label, row, "trained") for label, row in methods),
    ("supervised from scratch", "supervised", "trained"),
  ]
  return Summary(name, "top-1 or recall, %", rows, SIDE_BY_SIDE)


# The table of README, and one for the page of each method.
SUMMARIES = [
  beside("summary", METHODS),
  *(beside(f"{row}_beside", [(label, row)]) for label, row in METHODS),
]


def load(files: str) -> list[Result]:
  """A row's results in the order of their seeds.

  Raises:
    SystemExit: a file's seed is not the one its name says.
  """
  found = []
  for path in sorted(HERE.glob(f"{files}_s[0-9]*.json")):
    result = json.loads(path.read_text(encoding="utf-8"))
    if path.stem != f"{pathlib.PurePath(files).name}_s{result['seed']}":
      raise SystemExit(f"{path}: its seed is {result['seed']}, its name says otherwise; rename it")
    found.append(result)
  return found


def scores(result: Result, part: str, columns: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
  """The scores of a result by column, in percent; baselines only have logistic regression."""
  if part.startswith("baselines."):
    found, name = result.get("baselines", {}), part.partition(".")[2]
    value = found.get(name, found.get(name.replace("color", "colour")))  # name in older files
    return {} if value is None else {"logistic": 100 * value["top1"]}
  found = {}
  for column, path in columns.items():
    value: Any = result
    for key in (*(part.split(".") if part else ()), *path):
      value = None if value is None else value.get(key)
    if value is not None:
      found[column] = 100 * value
  return found


def sizes(result: Result) -> str:
  """The numbers of training and test videos."""
  if result.get("job") == "evaluate":
    (data,) = result["data"].values()
    train, test = (data[part]["videos"] for part in ("train", "eval"))
  elif "data" in result:
    train, test = (result["data"][part]["videos"] for part in ("train", "eval"))
  else:
    train, test = result["train_videos"], result["dcc"]["videos"]
  return f"{train:,} train, {test:,} test"


def cell(values: list[float]) -> str:
  """`mean ± std` over seeds; a single figure unchanged; "" without figures."""
  if not values:
    return ""
  if len(values) == 1 or len(set(values)) == 1:
    return f"{values[0]:.1f}"
  return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def with_seeds(label: str, results: list[Result]) -> str:
  """The label of a row, with its seeds if there are fewer than SEEDS."""
  if len(results) >= SEEDS:
    return label
  seeds = ", ".join(str(r["seed"]) for r in results)
  return label + (f" (seed {seeds} alone)" if len(results) == 1 else f" (seeds {seeds})")


def layout(head: list[str], rows: list[list[str]]) -> str:
  """A Markdown table, or "" with fewer than two rows, which compare nothing."""
  if len(rows) < 2:
    return ""
  lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
  lines.insert(1, "|---" * len(head) + "|")
  return "\n".join(lines)


def markdown(table: Table) -> str:
  """The table without columns that are empty in all rows."""
  found, videos = [], ""
  for label, files, part in table.rows:
    results = [r for r in load(files) if scores(r, part, table.columns)]
    if not results:
      continue
    figures = [scores(r, part, table.columns) for r in results]
    cells = {c: [s[c] for s in figures if c in s] for c in table.columns}
    found.append((with_seeds(label, results), cells))
    videos = sizes(results[0])
  columns = [c for c in table.columns if any(values[c] for _, values in found)]
  rows = [[label, *(_of_seeds(values, c) for c in columns)] for label, values in found]
  return layout([f"{table.heading} ({videos})", *columns], rows)


def _of_seeds(values: Mapping[str, list[float]], column: str) -> str:
  """A cell, with the number of its seeds if other columns of the row have more."""
  text, count = cell(values[column]), len(values[column])
  fewer = count and count < max(map(len, values.values()))
  return f"{text} ({count} seed{'s' * (count > 1)})" if fewer else text


def summary(table: Summary) -> str:
  """The table of several data sets side by side."""
  rows = []
  for label, file, part in table.rows:
    cells = []
    for column, (folder, path) in table.columns.items():
      found = [r for r in load(f"{folder}/{file}") if scores(r, part, {column: path})]
      text = cell([scores(r, part, {column: path})[column] for r in found])
      cells.append(with_seeds(text, found).replace(" alone)", ")") if found else "")
    if any(cells):
      rows.append([label, *cells])
  return layout([table.heading, *table.columns], rows)


def plans() -> str:
  """The table of compiled recipes, from `plans/*.json` as `vssl plan --output` writes them."""
  rows = [
    [
      f"{_planned(p['config'])}, {p['machine']['topology']}",
      f"{p['clips_per_chip']:g}",
      _memory(p),
      f"{p['flops']['compiled'] / 1e12:.2f} ({p['flops']['program'] / 1e12:.2f})",
      f"{p['bytes'] / 2**30:.0f}",
      *(_exchanged(p, kind) for kind in COLLECTIVES),
      f"{p['seconds']['arithmetic'] * 1e3:.0f}, {p['seconds']['memory'] * 1e3:.0f}",
      str(p["unknown_loops"]),
    ]
    for p in _compiled()
    if "stage" not in p
  ]
  heads = ["recipe, machine", "clips per chip", "memory, GiB", "TFLOPs compiled (written)"]
  heads += ["memory traffic, GiB", "all-reduce, MiB", "all-gather, MiB", "all-to-all, MiB"]
  return layout([*heads, "arithmetic, traffic, ms", "loops counted once"], rows)


def stages() -> str:
  """The table of what a run compiles beside its train step, from the same files."""
  rows = [
    [
      f"{p['config']['name']} {p['stage']}, {p['machine']['topology']}",
      p.get("work") or f"a step of {p['config']['clips']:,} clips",
      str(p["machine"]["devices"]),
      _memory(p),
      f"{p['flops']['compiled'] / 1e12:.2f} ({p['flops']['program'] / 1e12:.2f})",
      f"{p['bytes'] / 2**30:.1f}",
      _exchanged(p, *{c["kind"] for c in p["collectives"]}),
    ]
    for p in _compiled()
    if "stage" in p
  ]
  heads = ["recipe, stage, machine", "one call", "devices that work", "memory, GiB"]
  heads += ["TFLOPs compiled (written)", "memory traffic, GiB", "exchanged, MiB"]
  return layout(heads, rows) if rows else ""


def _compiled() -> list[Result]:
  files = sorted((HERE / "plans").glob("*.json"))
  return [p for f in files for p in json.loads(f.read_text(encoding="utf-8"))["plans"]]


def _memory(p: Result) -> str:
  return f"{p['memory']['total'] / 2**30:.1f} of {p['memory']['limit'] / 2**30:.1f}"


def _planned(c: Result) -> str:
  """A recipe's name, with the settings that the plan changed."""
  parts = c.get("accumulate", 1)  # stages other than train steps have none
  return c["name"] if parts == 1 else f"{c['name']} accumulate={parts}"


def _exchanged(p: Result, *kinds: str) -> str:
  total = sum(c["bytes"] * c["times"] for c in p["collectives"] if c["kind"] in kinds)
  return f"{total / 2**20:.0f}" if total else "0"


def study(found: Result) -> str:
  """The table of a study: a row per cell, then random weights."""
  axes, columns = found["axes"], found["columns"]
  rows = [([row["settings"][axis] for axis in axes], row["scores"]) for row in found["rows"]]
  if found["random"]:
    rows.append((["random initialization", *[""] * (len(axes) - 1)], found["random"]))
  lines = []
  for labels, scores in rows:
    count = max((s["seeds"] for s in scores.values()), default=0)
    lines.append([*labels, *(_studied(scores.get(c["name"]), c) for c in columns), str(count)])
  return layout([*axes, *(c["name"] for c in columns), "seeds"], lines)


def _studied(score: Result | None, column: Result) -> str:
  if score is None:
    return ""
  digits = 1 if column["scale"] == 100 else 3
  figures = [column["scale"] * score[key] for key in ("mean", "std") if key in score]
  return " ± ".join(f"{x:.{digits}f}" for x in figures)


def tables() -> dict[str, str]:
  """All tables by name, without those whose files are missing."""
  found = {one.name: summary(one) for one in SUMMARIES}
  found |= {one.name: markdown(one) for one in TABLES}
  found |= {"plans": plans(), "plan_stages": stages()}
  for file in sorted((HERE / "studies").glob("*.json")):
    found[file.stem] = study(json.loads(file.read_text(encoding="utf-8")))
  return {name: text for name, text in found.items() if text}


def replace(text: str, found: Mapping[str, str]) -> str:
  """A page's text with the tables between its markers.

  Raises:
    SystemExit: a marker names an unknown table, or a marker is missing.
  """

  def table(match: re.Match[str]) -> str:
    name = match[1]
    if name not in found:
      raise SystemExit(f"{BEGIN.format(name)}: no such table; there are {', '.join(found)}")
    return f"{BEGIN.format(name)}\n\n{found[name]}\n\n{END}"

  begin = BEGIN.format("([a-z0-9_]+)")
  if len(re.findall(begin, text)) != text.count(END):
    raise SystemExit(f"as many {BEGIN.format('NAME')} as {END} must stand there; put them back")
  return re.sub(f"{begin}.*?{END}", table, text, flags=re.DOTALL)


def missing(pages: list[str], found: Mapping[str, str]) -> list[str]:
  """Names of the tables that no page shows."""
  return [name for name in found if not any(BEGIN.format(name) in text for text in pages)]


def main() -> None:
  """Rewrites the pages, or checks them."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--check", action="store_true", help="change nothing")
  args = parser.parse_args()
  found = tables()
  texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
  if lost := missing(list(texts.values()), found):
    sys.exit(f"no page shows {', '.join(lost)}: put {BEGIN.format(lost[0])} and {END} back")
  for page, text in texts.items():
    new, name = replace(text, found), page.relative_to(ROOT)
    if not args.check:
      page.write_text(new, encoding="utf-8")
    elif new != text:
      sys.exit(f"{name}: its tables differ from results/: run python results/table.py")
  if args.check:
    print("the tables agree with results/")


if __name__ == "__main__":
  main()
