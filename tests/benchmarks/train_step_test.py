import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "train_step.py"
TINY = ["--width=0.0625", "--frames=2", "--size=16", "--batch=2", "--hidden=8", "--out=4"]


def test_ours_alone(tmp_path):
  report = tmp_path / "r.json"
  done = subprocess.run(
    [sys.executable, BENCHMARK, *TINY, "--rounds=2", "--rival=none", f"--json={report}"],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  result = json.loads(report.read_text())
  assert json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT ")) == result
  assert result["clips"] == 4
  assert result["ours_speed"]["clips_per_second"] > 0
  assert result["temp_mb"] > 0
  assert "speed_over_torch" not in result
