import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_all_forms_agree(tmp_path):
  report = tmp_path / "r.json"
  sizes = ["--sizes", "24", "40", "--dim=12", "--samples=3", "--block=16", "--rounds=1"]
  limits = ["--direct_up_to=24", "--written_up_to=24", "--rule=top_k", f"--json={report}"]
  done = subprocess.run(
    [sys.executable, ROOT / "benchmarks" / "pair_mining.py", *sizes, *limits],
    capture_output=True,
    text=True,
    timeout=300,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )
  assert done.returncode == 0, done.stderr
  result = json.loads(report.read_text())
  assert json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT ")) == result
  small, large = result["rows"]
  for name in ("direct", "as_written"):
    assert small[name]["differs_from_ours"] < 1e-4
    assert small[name]["ours_is_faster"] > 0
    assert name not in large
  assert large["ours"]["temp_mb"] >= 0
  assert large["top_k"]["seconds_median"] > 0
