import json
import pathlib
import subprocess
import sys

import pytest

from tests import small

pytestmark = pytest.mark.slow

BENCHMARK = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "decoders.py"


def test_both_decode_the_same_frames(tmp_path):
  pytest.importorskip("torchcodec")
  videos, report = small.write_videos(tmp_path / "videos"), tmp_path / "report.json"
  argv = [videos, f"--json={report}", "--frames=3", "--clips=2", "--rounds=1"]
  done = subprocess.run(
    [sys.executable, BENCHMARK, *argv], capture_output=True, text=True, timeout=300, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert json.loads(report.read_text())["identical_clips"] == 1
