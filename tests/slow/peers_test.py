"""Two processes of a run: one is killed or stopped, the other ends soon and says so."""

import re
import signal
import subprocess
import time

import pytest

from tests import small
from tests.slow import multiprocess_test, resume_test
from vssl_jax.errors import PEER_LOST


def _start(folder, count=2, **values):
  address = f"127.0.0.1:{multiprocess_test._free_port()}"
  return [
    subprocess.Popen(
      resume_test.command(
        folder,
        **values,
        **{
          "distributed.coordinator": address,
          "distributed.processes": count,
          "distributed.index": i,
        },
      ),
      cwd=small.ROOT,
      env=resume_test.environment(1),
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    for i in range(count)
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


@pytest.mark.slow
def test_of_three_processes_both_others_name_the_one_that_is_gone(tmp_path):
  """Also the one whose collective fails before process 0 has told it."""
  settings = {"steps": 100_000, "save.every": 5, "batch_size": 12}
  processes = _start(tmp_path / "run", 3, **settings)
  try:
    for line in processes[0].stdout:
      if line.startswith("step 12/"):
        break
    processes[1].kill()
    for other in (0, 2):
      output = processes[other].communicate(timeout=60)[0]
      assert processes[other].returncode == PEER_LOST, output
      assert "error: process 1 of 3 is gone" in output
  finally:
    for process in processes:
      process.kill()
      process.wait()


@pytest.mark.slow
def test_an_error_of_all_processes_is_told_as_it_is(tmp_path):
  processes = _start(tmp_path / "run", batch_size=7)
  outputs = [p.communicate(timeout=120)[0] for p in processes]
  assert [p.returncode for p in processes] == [2, 2], outputs
  assert all("config.batch_size" in x and "is gone" not in x for x in outputs)
