import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("rival", ["sklearn", "direct"])
def test_both_sides_and_bounds(tmp_path, rival):
  report = tmp_path / "r.json"
  sizes = ["--points=301", "--dim=8", "--clusters=5", "--iterations=3", "--block=64"]
  done = subprocess.run(
    [
      sys.executable,
      ROOT / "benchmarks" / "kmeans.py",
      *sizes,
      f"--rival={rival}",
      "--rounds=2",
      "--device=A100",
      f"--json={report}",
    ],
    capture_output=True,
    text=True,
    timeout=300,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )
  assert done.returncode == 0, done.stderr
  result = json.loads(report.read_text())
  assert json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT ")) == result
  assert result["labels_differ"] == 0
  assert result["inertia_differs"] < 1e-5
  assert result[f"time_over_{rival}"] > 0
  assert result["bound_ms"] == max(result["bound_memory_ms"], result["bound_flop_ms"])
