import json
import pathlib
import subprocess
import sys

import pytest

from tests.data_pipelines import tiny

pytestmark = pytest.mark.slow

BENCHMARK = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "input_pipeline.py"
TINY = ["--size=16", "--frames=2", "--batch=2", "--batches=1", "--rounds=1"]


def run(*arguments):
  return subprocess.run(
    [sys.executable, BENCHMARK, *TINY, *arguments], capture_output=True, text=True, timeout=300
  )


@pytest.fixture
def records(tmp_path):
  return tiny.write(tmp_path / "records", [tiny.video(v, 12) for v in range(4)])


def test_ours_alone_when_the_official_one_is_not_installed(tmp_path, records):
  report = tmp_path / "r.json"
  done = run(
    f"--records={records}",
    f"--json={report}",
    "--accelerator_clips_per_second=500",
    "--no_device",
  )
  assert done.returncode == 0, done.stderr
  assert "--rival_python=" in done.stdout  # how to make it
  assert "cores for 500 clips/s" in done.stdout
  result = json.loads(report.read_text())
  assert result["ours"]["bytes"] == 2 * 16 * 16 * 3
  assert result["ours"]["dtype"] == "uint8"
  assert "ratio" not in result


def test_memory_watch(records):
  done = run(f"--records={records}", "--memory_clips=40")
  assert done.returncode == 0, done.stderr
  assert done.stdout.count("MB resident") == 10


def test_failed_worker_is_told(tmp_path):
  done = run(f"--records={tmp_path}")
  assert done.returncode != 0
  assert "the worker failed" in done.stderr


def test_synthetic_records_and_device_time():
  done = run()
  assert done.returncode == 0, done.stderr
  assert "our color and blur on cpu" in done.stdout


def test_videos_against_their_records(tmp_path):
  report = tmp_path / "r.json"
  done = run("--videos", "--short_side=32", f"--json={report}")
  assert done.returncode == 0, done.stderr
  assert "direct / frames" in done.stdout
  result = json.loads(report.read_text())
  forms = ("frames", "video", "direct")
  assert all(0 < result["bytes"][form] < result["bytes"]["frames"] * 20 for form in forms)
  assert result["bytes"]["cache"] > 0
  assert min(result[form]["clips_per_core_second"] for form in forms) > 0


def test_cures_of_slow_input(tmp_path, records):
  report = tmp_path / "r.json"
  done = run("--slow_input", f"--records={records}", f"--json={report}")
  assert done.returncode == 0, done.stderr
  result = json.loads(report.read_text())
  assert result["ours"]["ratio"] == 1
  for name in ("cached", "device", "echo"):
    assert result[name]["clips_per_core_second"] > 0
    assert f"{name:9}" in done.stdout
