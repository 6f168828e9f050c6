"""The suite's TensorFlow-free part, where the extra `data` is not installed."""

import os
import re
import subprocess

import pytest

from data_pipelines import optional
from tests import core_environment

pytestmark = pytest.mark.slow

# What works without the extra: NumPy sources, `prepare`, training, probes, exports, converters,
# localization. Files that only compute in JAX need no environment of their own to show it.
PART = (
  "tests/data_pipelines",
  "tests/encoder",
  "tests/errors_test.py",
  "tests/jobs/localize_test.py",
  "tests/localization",
  "tests/main_test.py",
  "tests/probes/knn_test.py",
  "tests/probes/logistic_test.py",
  "tests/weights",
)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
  return core_environment.make(tmp_path_factory.mktemp("core"))


def run(python, *arguments):
  environment = {**os.environ, "PYTHONPATH": str(core_environment.ROOT), "JAX_PLATFORMS": "cpu"}
  return subprocess.run(
    [python, *arguments],
    cwd=core_environment.ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=1800,
  )


def test_the_extra_is_not_there(python):
  code = "import importlib.util as u, sys; print(*(u.find_spec(m) for m in sys.argv[1:]))"
  done = run(python, "-c", code, *optional.PACKAGES)
  assert done.stdout.split() == ["None"] * len(optional.PACKAGES), done.stderr


def test_the_tests_that_need_none_of_it_pass(python):
  done = run(python, "-m", "pytest", "-m", "not slow", "-rsfE", "-p", "no:cacheprovider", *PART)
  assert done.returncode == 0, done.stdout.partition("= FAILURES =")[2] or done.stdout
  passed = int(re.search(r"(\d+) passed", done.stdout)[1])
  skips = re.findall(r"SKIPPED \[(\d+)\] (.*)", done.stdout)
  skipped = sum(int(count) for count, _ in skips)
  without = sum(int(count) for count, reason in skips if "tensorflow" in reason.lower())
  print(f"without TensorFlow: {passed} passed, {skipped} skipped, {without} of them for want of it")
  assert passed >= 600
  assert 0 < without <= skipped


@pytest.mark.parametrize("source", ["digits", "tfds", "tfrecord", "dmvr"])
def test_sources_that_need_it_say_so_in_one_line(python, source, tmp_path):
  done = run(
    python,
    "-m",
    "vssl_jax.main",
    "--config=configs/cvrl.py:demo",
    f"--workdir={tmp_path}/run",
    f"--config.data.source={source}",
    f"--config.data.path={tmp_path}",
  )
  assert done.returncode == 2
  assert done.stderr.count("\n") == 1, done.stderr
  assert f"config.data.source={source} needs tensorflow" in done.stderr
  assert "which is not installed: pip install " in done.stderr
