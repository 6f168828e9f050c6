"""The command line: what a user sees who mistypes, and what a dry run says."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests import small


def _main(*args):
  env = {**os.environ, "XLA_FLAGS": small.xla_flags()}
  return subprocess.run(
    [sys.executable, "-m", "vssl_jax.main", *args],
    cwd=small.ROOT,
    env=env,
    text=True,
    capture_output=True,
    timeout=300,
    check=False,
  )


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ([], "--config is missing"),
    (["--config=configs/cvrl.py:demoo"], "no variant 'demoo' of cvrl; there are k400, k600"),
    (["--config=configs/cvrl.py:demo,foo"], "no change 'foo' of cvrl; there are uniform"),
    (
      ["--config=configs/cvrl.py:demo", "--config.optim.lrr=3"],
      "error: config.optim has no field 'lrr'. Did you mean 'lr'?",
    ),
    (["--config=configs/none.py"], "configs/none.py"),
    pytest.param(
      ["--config=configs/cvrl.py"],
      "vssl prepare",
      marks=pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None,
        reason="needs TensorFlow, of the extra 'data'",
      ),
    ),
    (["configs/cvrl.py"], "did you mean --config=configs/cvrl.py?"),
  ],
)
def test_mistakes_are_one_clear_line_and_status_2(args, message):
  done = _main(*args)
  assert done.returncode == 2, done.stderr
  errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert len(errors) == 1
  assert message in errors[0]
  assert "Traceback" not in done.stderr


def test_dry_run_prints_exact_figures_and_makes_nothing(tmp_path):
  done = _main("--config=configs/cvrl.py", f"--workdir={tmp_path / 'w'}", "--dry_run")
  assert done.returncode == 0, done.stderr
  assert "encoder 31,672,128, rest of the method 12,863,616, total 44,535,744" in done.stdout
  assert "(45.52 G multiply-adds)" in done.stdout
  assert '"temperature": 0.1' in done.stdout
  assert list(tmp_path.iterdir()) == []
