"""A real study: killed in the middle, continued by several processes, equal to what was not."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests import small

STUDY = """
from vssl_jax.studies import Score, Setting, Study

STUDIES = {
  "tiny": Study(
    "a tiny study",
    "cvrl",
    {"interval": {"decreasing": Setting(), "uniform": Setting("uniform")}},
    fields=FIELDS,
    scores={"kNN": Score("trained/knn/top1")},
    seeds=(0, 1),
  )
}
"""
FIELDS = {
  **small.overrides(),
  "steps": 24,
  "log_every": 4,
  "save.every": 4,
  "augment.jitter_p": 0.0,
  "augment.gray_p": 0.0,  # slow to compile
  "optim.lr": 1e-3,
  "probe.run": True,
  "probe.linear": False,
  "probe.random_init": False,
  "probe.baselines": False,
}


def _start(folder, *flags):
  # Of two --output the last one counts.
  command = [sys.executable, "-m", "vssl_jax.study", "tiny.py", "--output=out", *flags]
  environment = {**os.environ, "XLA_FLAGS": small.xla_flags(), "PYTHONPATH": str(small.ROOT)}
  log = (folder / "log.txt").open("ab")
  return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def _steps(run):
  file = run / "metrics.jsonl"
  rows = file.read_text().splitlines() if file.exists() else []
  return [json.loads(row)["step"] for row in rows if row.endswith("}")]


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path):
  (tmp_path / "tiny.py").write_text(STUDY.replace("FIELDS", repr(FIELDS)))
  out, log = tmp_path / "out", tmp_path / "log.txt"
  running = _start(tmp_path)
  cut = out / "decreasing_s0"
  while running.poll() is None and max(_steps(cut), default=0) < 8:
    time.sleep(0.05)
  running.send_signal(signal.SIGKILL)
  running.wait()
  assert not (cut / "result.json").exists(), log.read_text()
  assert 8 <= max(_steps(cut)) < 24

  assert _start(tmp_path, "--jobs=2").wait() == 0, log.read_text()
  names = {f"{cell}_s{seed}" for cell in ("decreasing", "uniform") for seed in (0, 1)}
  assert {p.parent.name for p in out.glob("*/result.json")} == names
  began = [(out / "logs" / f"job_{i}.txt").read_text().count("run ") for i in (0, 1)]
  assert all(began), "each process took some of the runs"
  only = ("--only=interval=decreasing", "--seeds=0")
  assert _start(tmp_path, "--output=whole", *only).wait() == 0, log.read_text()
  found = [tmp_path / folder / cut.name / "result.json" for folder in ("whole", "out")]
  whole, resumed = (json.loads(file.read_text()) for file in found)
  assert resumed["trained"]["encoder_sha256"] == whole["trained"]["encoder_sha256"]

  table = json.loads((out / "table.json").read_text())
  assert [row["scores"]["kNN"]["seeds"] for row in table["rows"]] == [2, 2]
  assert table["rows"][0]["scores"]["kNN"]["values"]["0"] == whole["trained"]["knn"]["top1"]
  assert (out / "plot.png").exists()
  before = {p: p.stat().st_mtime_ns for p in out.glob("*/result.json")}
  assert _start(tmp_path, "--part=1/2").wait() == 0
  assert before == {p: p.stat().st_mtime_ns for p in out.glob("*/result.json")}
