"""Runs ActivityNet's own evaluator of detections on made-up segments and writes down what it says.

  python tests/oracles/make_activitynet.py path/to/ActivityNet

writes tests/oracles/activitynet.json. `path/to/ActivityNet` is a checkout of
github.com/activitynet/ActivityNet at commit COMMIT; pandas and joblib must be there. What is
theirs: `ANETdetection` and all that it calls (`Evaluation/eval_detection.py`, `utils.py`), brought
from Python 2 to 3 by `PORTED` and run in one process. What is ours: the segments, drawn here, which
are in the file, so that a test needs none of this.
"""

import json
import pathlib
import sys
import tempfile
import types

import numpy as np

COMMIT = "82304fa9f4a7219421df13dae6347a445c4cf5bc"
FOLDER = pathlib.Path(__file__).parent
# Longest first: their text, ours.
PORTED = {
  "n_jobs=len(self.activity_index)": "n_jobs=1",
  "print 'Warning": "print('Warning",
  "were provdied.' % label_name": "were provdied.' % label_name)",
  ".iteritems()": ".items()",
  "np.float)": "float)",
  "xrange": "range",
}
TIOUS = {
  "thumos14": np.linspace(0.1, 0.7, 7).tolist(),
  "activitynet": np.linspace(0.5, 0.95, 10).tolist(),
}


def load(root):
  """Their module of the evaluator; lines that print a summary are left out."""
  folder, utils = pathlib.Path(root) / "Evaluation", types.ModuleType("utils")
  text = (folder / "utils.py").read_text().replace("import urllib2", "")
  exec(_ported(text), utils.__dict__)
  sys.modules["utils"] = utils
  module = types.ModuleType("eval_detection")
  text = (folder / "eval_detection.py").read_text().replace("import urllib2", "")
  exec(_ported(text), module.__dict__)
  return module


def _ported(text):
  for theirs, ours in PORTED.items():
    text = text.replace(theirs, ours)
  lines = text.splitlines()
  return "\n".join(
    line.split("print ")[0] + "pass" if line.strip().startswith("print ") else line
    for line in lines
  )


def segments():
  """Ground truth and predictions of 24 videos and 5 classes, in ActivityNet's format."""
  rng = np.random.default_rng(0)
  classes = [f"class {c}" for c in range(5)]
  database, results = {}, {}
  for v in range(24):
    own = rng.choice(5, size=rng.integers(1, 3), replace=False)
    listed = []
    for _ in range(rng.integers(1, 7)):
      start, length = rng.uniform(0, 50), rng.uniform(0.5, 12)
      listed.append({"segment": _span(start, start + length), "label": classes[rng.choice(own)]})
    subset = "training" if v % 8 == 7 else "validation"
    database[f"v{v}"] = {"subset": subset, "duration": 64.0, "annotations": listed}
    found = []
    for truth in listed:  # near misses, each of some actions twice
      for _ in range(rng.integers(0, 4)):
        start, end = np.array(truth["segment"]) + rng.normal(0, 1.5, 2)
        label = truth["label"] if rng.random() < 0.9 else classes[rng.integers(4)]
        found.append({"segment": _span(start, max(end, start + 0.1)), "label": label})
    for _ in range(rng.integers(0, 4)):
      start = rng.uniform(0, 60)
      found.append({"segment": _span(start, start + 3), "label": classes[rng.integers(4)]})
    found += found[:1] * (v % 3 == 0)  # the very same again
    for p in found:
      p["score"] = round(float(rng.uniform()), 4)
    results[f"v{v}"] = [] if v % 11 == 5 else [dict(p) for p in found]
  results["nowhere"] = [{"segment": [1.0, 2.0], "label": classes[0], "score": 0.95}]
  # The fifth class has no prediction at all.
  results = {k: [p for p in x if p["label"] != classes[4]] for k, x in results.items()}
  return database, results


def _span(start, end):
  return [round(float(max(start, 0)), 3), round(float(end), 3)]


def main():
  if len(sys.argv) != 2:
    raise SystemExit(__doc__)
  evaluator = load(sys.argv[1])
  database, results = segments()
  truth = {"version": "VERSION 1.3", "taxonomy": [], "database": database}
  predictions = {"version": "VERSION 1.3", "results": results, "external_data": {}}
  out = {"commit": COMMIT, "subset": "validation", "truth": truth, "predictions": predictions}
  with tempfile.TemporaryDirectory() as folder:
    paths = [pathlib.Path(folder) / name for name in ("truth.json", "predictions.json")]
    for path, tree in zip(paths, (truth, predictions), strict=True):
      path.write_text(json.dumps(tree))
    for name, tious in TIOUS.items():
      e = evaluator.ANETdetection(
        *map(str, paths), tiou_thresholds=np.array(tious), subset="validation", check_status=False
      )
      e.evaluate()
      places = sorted(e.activity_index.items())
      out[name] = {
        "tious": tious,
        "ap": {label: e.ap[:, i].tolist() for label, i in places},
        "mean": e.mAP.tolist(),
        "average": float(e.average_mAP),
      }
  text = json.dumps(out, separators=(",", ":")).replace('},"', '},\n"')
  (FOLDER / "activitynet.json").write_text(text + "\n")


if __name__ == "__main__":
  main()
