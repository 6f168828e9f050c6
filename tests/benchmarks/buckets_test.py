import json
import pathlib
import subprocess
import sys

import pytest

from tests.data_pipelines import tiny

pytestmark = pytest.mark.slow

BENCHMARK = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "buckets.py"


@pytest.mark.parametrize(("kind", "package"), [("gs", "gcp_storage_emulator"), ("s3", "moto")])
def test_a_bucket_beside_a_folder(tmp_path, kind, package):
  pytest.importorskip(package)
  records = tiny.write(tmp_path / "records", [tiny.video(v, 40) for v in range(4)])
  report = tmp_path / "report.json"
  argv = [f"--records={records}", f"--kind={kind}", f"--json={report}", "--size=16", "--batch=2"]
  argv += ["--batches=1", "--rounds=1", "--latency", "0", "5"]
  done = subprocess.run(
    [sys.executable, BENCHMARK, *argv], capture_output=True, text=True, timeout=300, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]
  rows = json.loads(report.read_text())
  assert [row["latency_ms"] for row in rows] == [0.0, 5.0]
  for row in rows:
    assert row["ratio"] == pytest.approx(
      row["bucket_clips_per_second"] / row["local_clips_per_second"]
    )
