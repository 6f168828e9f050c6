"""Two processes of a run: one is killed or stopped, the other ends soon and says so."""

import re
import signal
import subprocess
import time

import pytest

from tests import small
from tests.slow import multiprocess_test, resume_test
from vssl_jax.errors import PEER_LOST


def _start(folder, **values):
  address = f"127.0.0.1:{multiprocess_test._free_port()}"
  return [
    subprocess.Popen(
      resume_test.command(
        folder,
        **values,
        **{"distributed.coordinator": address, "distributed.processes": 2, "distributed.index": i},
      ),
      cwd=small.ROOT,
      env=resume_test.environment(1),
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    for i in range(2)
  ]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("gone", "how", "why"),
  [
    (1, signal.SIGKILL, "it has ended"),
    (0, signal.SIGKILL, "it has ended"),
    (1, signal.SIGSTOP, "it has been silent for 4 s"),
  ],
)
def test_the_other_process_ends_and_says_how_to_continue(tmp_path, gone, how, why):
  settings = {"steps": 100_000, "save.every": 5, "distributed.timeout": 4.0}
  processes = _start(tmp_path / "run", **settings)
  try:
    for line in processes[0].stdout:
      if line.startswith("step 12/"):
        break
    processes[gone].send_signal(how)
    began = time.monotonic()
    output = processes[1 - gone].communicate(timeout=60)[0]
    assert time.monotonic() - began < 60
    assert processes[1 - gone].returncode == PEER_LOST, output
    (line,) = [x for x in output.splitlines() if x.startswith("error: ")]
    assert re.fullmatch(
      rf"error: process {gone} of 2 is gone \({why}\): the last checkpoint is of step \d+; "
      "run the same command on every host to continue.",
      line,
    )
  finally:
    for process in processes:
      process.kill()
      process.wait()
