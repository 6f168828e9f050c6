import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
TINY = ["--width=0.0625", "--size=16", "--frames=2", "--batch=2"]


def run(name, *arguments):
  done = subprocess.run(
    [sys.executable, FOLDER / name, *TINY, *arguments], capture_output=True, text=True, timeout=900
  )
  assert done.returncode == 0, done.stderr
  (line,) = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
  return json.loads(line.removeprefix("RESULT "))


def test_memory_by_mode():
  result = run("rho_memory.py", "--rho", "2", "4", "--rows", "ρ-BYOL parallel", "ρ-BYOL sequential")
  table = result["temporary_bytes"]
  assert table["ρ-BYOL parallel"][1] > table["ρ-BYOL parallel"][0]
  assert table["ρ-BYOL sequential"][1] <= 1.1 * table["ρ-BYOL sequential"][0]


def test_methods_side_by_side():
  rows = ["CVRL", "ρ-MoCo"]
  result = run("methods.py", "--rounds=1", "--steps=1", "--rows", *rows)
  assert list(result["methods"]) == rows
  assert result["methods"]["CVRL"]["ratio"] == 1
  assert result["methods"]["ρ-MoCo"]["clips_per_second"] > 0
