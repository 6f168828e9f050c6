"""What libraries print is kept back, and nothing else is."""

import logging
import os
import subprocess
import sys

import pytest

from tests import small

NOISE = (
  "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
  "I0000 00:00:1796029225.923254    7831 port.cc:153] oneDNN custom operations are on.",
  "2025-11-30 08:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations",
  "E0000 00:00:1796029225.923254    7831 cuda_dnn.cc:8579] Unable to register cuDNN factory",
)
TELLING = ("F0000 00:00:1.5 7 x.cc:1] Check failed", "I am a line that somebody wants")
IMPORT = """
import os, sys
from vssl_jax.cli import quiet
quiet.silence()
quiet.silence()
print("before", file=sys.stderr)
try:
  import tensorflow
  assert tensorflow.VALUE == 3 and tensorflow.__spec__.loader
except RuntimeError:
  pass
print("after", file=sys.stderr)
os.write(2, b"I0000 later\\n")
"""


@pytest.mark.parametrize("fails", [False, True])
def test_noise_while_tensorflow_is_imported(tmp_path, fails):
  """A package of that name that is as loud as the real one; where it fails, all is told."""
  lines = [*NOISE, *TELLING]
  end = "raise RuntimeError\n" if fails else "VALUE = 3\n"
  (tmp_path / "tensorflow").mkdir()
  (tmp_path / "tensorflow" / "__init__.py").write_text(
    "import os\n" + "".join(f"os.write(2, {x.encode() + bytes([10])!r})\n" for x in lines) + end
  )
  environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{small.ROOT}"}
  done = subprocess.run(
    [sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True, check=True
  )
  told = list(lines) if fails else list(TELLING)
  assert done.stderr.splitlines() == ["before", *told, "after", "I0000 later"]


def test_libraries_warnings_go_and_ours_come(caplog):
  from absl import logging as absl_logging

  from vssl_jax.cli import quiet

  logger = logging.getLogger("absl")
  record = lambda path, level: logger.makeRecord("absl", level, path, 1, "x", (), None)
  quiet.silence()
  try:
    loop, library = str(small.ROOT / "vssl_jax" / "training" / "loop.py"), "/site/orbax/x.py"
    assert logger.filter(record(loop, logging.WARNING))
    assert not logger.filter(record(library, logging.WARNING))
    assert logger.filter(record(library, logging.ERROR))
    del absl_logging
  finally:
    logger.removeFilter(quiet._ours)
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, quiet._Finder)]


def test_own_warnings_are_shown_and_what_is_told_again_is_not(tmp_path):
  """In a process of its own, in which nothing has imported absl before."""
  log = "from absl import logging\nlogging.warning('a warning')\n"
  retold = "from absl import logging\ntry:\n  1 / 0\nexcept ZeroDivisionError:\n"
  retold += "  logging.exception('retold')\n"
  code = "import sys\nfrom vssl_jax.cli import quiet\nquiet.silence()\n"
  for name, text in (
    (f"{small.ROOT}/vssl_jax/x.py", log.replace("a warning", "our warning")),
    ("/lib/y.py", log.replace("a warning", "their warning")),
    ("/lib/y.py", log.replace("warning", "error")),
    ("/lib/orbax/checkpoint/_src/z.py", retold),
  ):
    code += f"exec(compile({text!r}, {name!r}, 'exec'))\n"
  code += "class Last:\n  def __init__(self, what):\n    self.what = what\n"
  code += "  def __del__(self):\n    raise RuntimeError(self.what)\n"
  code += "Last('Event loop is closed')\nLast('another')\n"
  environment = {**os.environ, "PYTHONPATH": str(small.ROOT)}
  done = subprocess.run(
    [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
  )
  assert done.stderr.splitlines()[:2] == ["WARNING:absl:our warning", "ERROR:absl:a error"]
  assert "RuntimeError: another" in done.stderr
  assert "Event loop" not in done.stderr
  assert "retold" not in done.stderr
