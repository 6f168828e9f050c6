"""Two processes of a run: one is killed or stopped, the other ends soon and says so."""

import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from tests import small
from tests.slow import multiprocess_test, resume_test
from vssl_jax.errors import PEER_LOST

NETNS = pathlib.Path("/etc/netns")


def _start(folder, count=2, host="127.0.0.1", inside=(), **values):
  """Starts the processes; `inside` has the beginning of each one's command."""
  address = f"{host}:{multiprocess_test._free_port()}"
  inside = inside or [[]] * count
  return [
    subprocess.Popen(
      inside[i]
      + resume_test.command(
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


def _ip(*argv):
  return subprocess.run(["ip", *argv], capture_output=True, text=True, check=False)


@pytest.fixture
def hosts():
  """Two hosts on one cable, as network namespaces; yields their names and the first's address."""
  names, ends = ("vssl-a", "vssl-b"), ("vssl-ea", "vssl-eb")
  if not shutil.which("ip") or any(_ip("netns", "add", n).returncode for n in names):
    _clear(names)
    pytest.skip("no network namespaces can be made here")
  try:
    assert _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1]).returncode == 0
    for i, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
      _ip("link", "set", end, "netns", name)
      for command in (
        ["addr", "add", f"10.213.7.{i}/24", "dev", end],
        ["link", "set", end, "up"],
        ["link", "set", "lo", "up"],
      ):
        done = _ip("-n", name, *command)
        assert done.returncode == 0, done.stderr
      # `ip netns exec` shows it as /etc/hosts, in which Gloo looks for this machine's own address.
      (NETNS / name).mkdir(parents=True)
      (NETNS / name / "hosts").write_text(f"10.213.7.{i} {socket.gethostname()}\n")
    yield names, ends, "10.213.7.1"
  finally:
    _clear(names)


def _clear(names):
  for name in names:
    _ip("netns", "del", name)
    shutil.rmtree(NETNS / name, ignore_errors=True)


@pytest.mark.slow
def test_a_cut_cable_ends_both_processes(tmp_path, hosts):
  names, ends, address = hosts
  settings = {"steps": 100_000, "save.every": 5, "distributed.timeout": 4.0}
  inside = [["ip", "netns", "exec", name] for name in names]
  processes = _start(tmp_path / "run", host=address, inside=inside, **settings)
  try:
    for line in processes[0].stdout:
      if line.startswith("step 12/"):
        break
    assert _ip("-n", names[1], "link", "set", ends[1], "down").returncode == 0
    began = time.monotonic()
    for i, process in enumerate(processes):
      output = process.communicate(timeout=60)[0]
      assert process.returncode == PEER_LOST, output
      assert f"error: process {1 - i} of 2 is gone (it has been silent for 4 s)" in output
      assert "the last checkpoint is of step" in output
    assert time.monotonic() - began < 60
  finally:
    for process in processes:
      process.kill()
      process.wait()
