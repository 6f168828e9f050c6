import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_both_sides_minimize_the_same(tmp_path):
  report = tmp_path / "r.json"
  sizes = ["--rows=301", "--dim=8", "--classes=3", "--rounds=2", "--clock=cpu"]
  done = subprocess.run(
    [sys.executable, ROOT / "benchmarks" / "softmax_regression.py", *sizes, f"--json={report}"],
    capture_output=True,
    text=True,
    timeout=300,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )
  assert done.returncode == 0, done.stderr
  result = json.loads(report.read_text())
  assert json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT ")) == result
  assert all(-1e-4 < above < 1e-3 for above in result["objective_above_ours"])
  assert result["sklearn_over_ours"] > 0
