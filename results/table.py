"""README's tables of results, from the RESULT files beside this program.

  python results/table.py            # rewrite README.md between its markers
  python results/table.py --check    # say whether it agrees; exit code 1 if not

`<folder>/<row>_s<seed>.json` is the `result.json` that a run left in its workdir, as it was, or the
`summary.json` of `vssl_jax.evaluate`, without the path to its records. A
table has a row for each entry of TABLES whose files exist; figures are mean ± standard deviation
(n − 1) over the seeds, or one figure with its seed.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results: written by results/table.py -->", "<!-- /results -->"
SEEDS = 3  # fewer are said in the row
Result = dict[str, Any]

COLUMNS = {
  "linear probe": ("linear", "top1"),
  "logistic": ("logistic", "top1"),
  "kNN": ("knn", "top1"),
  "R@1": ("retrieval", "R@1"),
}
METHODS = [
  ("CVRL", "cvrl"),
  ("ρ-SimCLR, ρ = 2", "rho_simclr"),
  ("ρ-MoCo, ρ = 2", "rho_moco"),
  ("ρ-BYOL, ρ = 2", "rho_byol"),
  ("ρ-SwAV, ρ = 2", "rho_swav"),
  ("ProViCo, 4 clips a video", "provico"),
]
# Label; files, `<folder>/<row>`; the part of a file with the scores, by dotted keys, "" for all.
Row = tuple[str, str, str]


class Table(NamedTuple):
  """A table: what stands in its corner, its rows, and where in a row's part each column lies."""

  heading: str
  rows: list[Row]
  columns: Mapping[str, tuple[str, ...]] = COLUMNS


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
  "pseudo-labels right": (*_PSEUDO, "before", "precision"),
  "… denoised": (*_PSEUDO, "after", "precision"),
}


def localized(folder: str) -> list[Row]:
  """DCC's ablations on one data set."""
  rows = {
    "BaS-Net": "bas_net",
    "+ contrast, not denoised": "no_denoising",
    "DCC: + contrast, denoised": "dcc",
    "DCC, contrast within a video": "intra_video",
    "DCC, contrast within a batch": "mini_batch",
    "DCC, shown the true pseudo-labels": "true_pseudo_labels",
    "BaS-Net, its own thresholds": "bas_net_thresholds",
    "+ contrast, not denoised, its own thresholds": "no_denoising_thresholds",
    "DCC, its own thresholds": "dcc_thresholds",
  }
  return [(label, f"{folder}/{row}", "") for label, row in rows.items()]


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
  "fine-tuned, 1 % of the labels (one video a class)": "semi_supervised.1 % of labels, top-1",
  "5-way, 5 shots": "few_shot.5-way 5-shot",
  "5-way, 1 shot": "few_shot.5-way 1-shot",
  "retrieval, R@1": "retrieval.R@1",
  "retrieval, R@5": "retrieval.R@5",
  "retrieval, mAP": "retrieval.mAP",
}

TABLES = [
  Table("six classes of UCF101, split 1", compared("ucf6")),
  Table(
    "every protocol on CVRL's checkpoints",
    [(label, "evaluation/cvrl", f"mean.{key}") for label, key in EVALUATED.items()],
    {"%": ("mean",)},
  ),
  Table("embedded digits", compared("digits")),
  Table(
    "ρ-SimCLR on the digits",
    [
      ("ρ = 1: two crops of one clip, time span 0", "study/rho1", "trained"),
      ("ρ = 2, 18 epochs, clips from anywhere", "digits/rho_simclr", "trained"),
      ("ρ = 3, 18 epochs", "study/rho3", "trained"),
      ("ρ = 4, 18 epochs", "study/rho4", "trained"),
      ("ρ = 3, as many clips as ρ = 2 (12 epochs)", "study/rho3_equal", "trained"),
      ("ρ = 4, as many clips as ρ = 2 (9 epochs)", "study/rho4_equal", "trained"),
      ("ρ = 2, starts within half a second", "study/span05", "trained"),
    ],
  ),
  Table("ProViCo's retrieval, UCF101", retrieved("ucf6"), RECALLS),
  Table("ProViCo's retrieval, digits", retrieved("digits"), RECALLS),
  Table("stitched from real features", localized("stitched"), LOCALIZATION),
  Table("THUMOS14's segments, simulated features", localized("thumos14_simulated"), LOCALIZATION),
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
  """A result's scores by column, in per cent; baselines have logistic regression alone."""
  if part.startswith("baselines."):
    found, name = result.get("baselines", {}), part.partition(".")[2]
    value = found.get(name, found.get(name.replace("color", "colour")))  # as before version 0.2
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
  """Videos to learn from and to test on."""
  if result.get("job") == "evaluate":
    (data,) = result["data"].values()
    train, test = (data[part]["videos"] for part in ("train", "eval"))
  elif "data" in result:
    train, test = (result["data"][part]["videos"] for part in ("train", "eval"))
  else:
    train, test = result["train_videos"], result["dcc"]["videos"]
  return f"{train:,} train, {test:,} test"


def cell(values: list[float]) -> str:
  """`mean ± std` of the seeds, one figure as it is, or nothing."""
  if not values:
    return ""
  if len(values) == 1 or len(set(values)) == 1:
    return f"{values[0]:.1f}"
  return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def markdown(table: Table) -> str:
  """A Markdown table without columns that no row fills, or nothing with fewer than two rows."""
  found, videos = [], ""
  for label, files, part in table.rows:
    results = load(files)
    figures = [s for r in results if (s := scores(r, part, table.columns))]
    if not figures:
      continue
    if len(figures) < SEEDS:
      seeds = ", ".join(str(r["seed"]) for r in results)
      label += f" (seed {seeds} alone)" if len(figures) == 1 else f" (seeds {seeds})"
    found.append((label, {c: [s[c] for s in figures if c in s] for c in table.columns}))
    videos = sizes(results[0])
  columns = [c for c in table.columns if any(values[c] for _, values in found)]
  if len(found) < 2:  # nothing to compare
    return ""
  lines = [f"| {label} | {' | '.join(cell(v[c]) for c in columns)} |" for label, v in found]
  head = f"| {table.heading} ({videos}) | {' | '.join(columns)} |"
  return "\n".join([head, "|---" * (1 + len(columns)) + "|", *lines])


def tables() -> str:
  """All of them, as they stand in README.md."""
  return "\n\n".join(t for one in TABLES if (t := markdown(one)))


def replace(text: str) -> str:
  """README's text with the tables between its markers.

  Raises:
    SystemExit: the markers are missing.
  """
  pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
  if not pattern.search(text):
    raise SystemExit(f"{README}: the lines {BEGIN} and {END} are missing; put them back")
  return pattern.sub(lambda _: f"{BEGIN}\n\n{tables()}\n\n{END}", text)


def main() -> None:
  """Rewrites README.md, or checks it."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--check", action="store_true", help="change nothing")
  args = parser.parse_args()
  text = README.read_text(encoding="utf-8")
  new = replace(text)
  if args.check:
    if new != text:
      sys.exit("README.md's tables differ from results/: run python results/table.py")
    print("README.md's tables agree with results/")
  else:
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
  main()
