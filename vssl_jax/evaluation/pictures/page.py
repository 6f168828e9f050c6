"""The page at the end of an evaluation, where the package that draws it is installed."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

from vssl_jax.errors import UserError, brief
from vssl_jax.evaluation.options import Options
from vssl_jax.evaluation.pictures import shown_videos
from vssl_jax.evaluation.task import Task
from vssl_jax.reports import report as reports

FOLDER = "evaluation"  # in the folder of a run
# Protocols that need the features of all videos, so that they are there for the page.
_WITH_FEATURES = {"logistic", "knn", "retrieval", "few_shot", "embedding"}


def wanted(options: Options) -> bool:
  """Whether there is to be a page, and can be one."""
  return options.page and importlib.util.find_spec("plotly") is not None


def write_videos(task: Task, found: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
  """Writes what the page shows of videos, if a protocol has extracted their features."""
  if wanted(task.options) and found.keys() & _WITH_FEATURES:
    shown_videos.write(task, facts["evaluated_sha256"])


def write(checkpoint: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes the page of the evaluation; with its run if it lies in the run's folder.

  Args:
    checkpoint: the folder of the run or the export.
    folder: the output of the evaluation.
  """
  own = folder.absolute() == (checkpoint / FOLDER).absolute()
  try:
    path = reports.report(checkpoint if own else folder, folder / reports.FILE)
    print(f"page: {path}", flush=True)
  except (UserError, OSError) as e:  # all that it shows is saved
    print(f"note: no page was written: {brief(e)}", flush=True)
