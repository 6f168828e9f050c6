"""Ctrl-C on the commands: one whole checkpoint, the documented status, and they go on from there.

A terminal sends SIGINT to all processes of a command at once, `kill -INT` to one.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests import small
from tests.data_pipelines.sources import videos_test
from tests.slow import multiprocess_test, resume_test

STEPS = 150
INTERRUPTED = 130
PATIENCE = 1200
# A shell's background jobs start with SIGINT ignored, which their children inherit.
LISTENING = (
  "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
  "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def _start(*argv, group=0, **environment):
  """Starts Python with some arguments, in a process group as a terminal makes it."""
  return subprocess.Popen(
    [sys.executable, "-c", LISTENING, *argv],
    cwd=small.ROOT,
    env=resume_test.environment() | environment,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    process_group=group,
  )


def _toys(folder, count, *flags, **environment):
  """Starts a toy run in some processes of one group."""
  address = f"127.0.0.1:{multiprocess_test._free_port()}" if count > 1 else ""
  values = {"steps": STEPS, "save.every": 0, "log_every": 1}
  values |= {"distributed.coordinator": address, "distributed.processes": count}
  processes = []
  for i in range(count):
    shown = [f"--config.{k}={v}" for k, v in (values | {"distributed.index": i}).items()]
    command = ("-m", "tests.slow.toy_command", "--config=cvrl:demo", f"--workdir={folder}")
    group = processes[0].pid if processes else 0
    processes.append(_start(*command, *shown, *flags, group=group, **environment))
  return processes


def _until(process, text):
  """Reads what a process prints until a line has the text."""
  lines = []
  for line in process.stdout:
    lines.append(line)
    if text in line:
      return
  raise AssertionError(f"it ended without {text!r}: {''.join(lines)}")


def _ends(processes):
  """The exit codes, and what each process printed since it was last read."""
  try:
    outputs = [p.communicate(timeout=PATIENCE)[0] for p in processes]
    return [p.returncode for p in processes], outputs
  finally:
    _stop(processes)


def _stop(processes):
  for process in processes:
    if process.poll() is None:
      process.kill()
    process.wait()


def _saved(folder):
  return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


def _result(output):
  (line,) = re.findall(r"^RESULT (.*)$", output, re.M)
  found = json.loads(line)
  return found["steps"], found["sha256"]


def _signal(processes, text, to=None):
  """Sends SIGINT when the first process prints a text: to one process, or to their group."""
  try:
    _until(processes[0], text)
    if to is None:
      os.killpg(processes[0].pid, signal.SIGINT)
    else:
      processes[to].send_signal(signal.SIGINT)
  except BaseException:
    _stop(processes)
    raise


@pytest.mark.slow
def test_ctrl_c_of_two_processes_saves_once_and_resumes_bit_for_bit(tmp_path):
  """To the first, to the second and to both, each time in the run that goes on from before."""
  cut, whole, saved = tmp_path / "cut", tmp_path / "whole", 0
  for to in (0, 1, None):
    processes = _toys(cut, 2)
    _signal(processes, f"step {saved + 3}/", to)
    codes, outputs = _ends(processes)
    assert codes == [INTERRUPTED] * 2, outputs
    told = [re.findall(r"^Ctrl-C: saved step (\d+) of .*; run the same", x, re.M) for x in outputs]
    assert [len(x) for x in told] == [1, 1], outputs
    assert told[0] == told[1]
    for i, output in enumerate(outputs):
      assert output.count("press it again") == (to in (i, None)), output
      assert not re.search(r"SIGTERM|error|Traceback|is gone", output), output
    before, saved = saved, int(told[0][0])
    assert saved > before
    assert _saved(cut)[-1] == saved
  resumed, uninterrupted = _ends(_toys(cut, 2)), _ends(_toys(whole, 2))
  assert resumed[0] == uninterrupted[0] == [0, 0], (resumed, uninterrupted)
  assert f"Resuming {cut} at step {saved} of {STEPS}" in resumed[1][0]
  assert _result(resumed[1][0]) == _result(uninterrupted[1][0])
  assert small.rows(cut) == small.rows(whole)


@pytest.mark.slow
def test_ctrl_c_while_the_step_is_compiled_saves_after_it(tmp_path):
  processes = _toys(tmp_path / "cut", 1, TOY_TRACING="1", JAX_ENABLE_COMPILATION_CACHE="0")
  _signal(processes, "tracing the step")
  codes, (output,) = _ends(processes)
  assert codes == [INTERRUPTED], output
  assert output.count("press it again") == 1
  assert f"Ctrl-C: saved step 1 of {tmp_path / 'cut'}; run the same command to go on." in output
  assert _saved(tmp_path / "cut") == [1]
  resumed, uninterrupted = (_ends(_toys(tmp_path / x, 1)) for x in ("cut", "whole"))
  assert (resumed[0], uninterrupted[0]) == ([0], [0])
  assert _result(resumed[1][0]) == _result(uninterrupted[1][0])
  assert small.rows(tmp_path / "cut") == small.rows(tmp_path / "whole")


def _children(pid):
  """The processes that a process has started."""
  found = []
  for file in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
    found += map(int, file.read_text().split())
  return found


@pytest.mark.slow
def test_ctrl_c_under_a_supervisor_ends_the_run_for_good(tmp_path):
  (process,) = _toys(tmp_path, 1, "--restarts=3")
  _signal([process], "step 2/")
  (code,), (output,) = _ends([process])
  assert code == INTERRUPTED, output
  assert output.count("press it again") == output.count("Ctrl-C: saved step ") == 1
  assert "starting it again" not in output
  assert len(_saved(tmp_path)) == 1


@pytest.mark.slow
def test_ctrl_c_between_two_starts_ends_the_supervisor(tmp_path):
  (process,) = _toys(tmp_path, 1, "--restarts=3")
  _until(process, "step 2/")
  (child,) = _children(process.pid)
  os.kill(child, signal.SIGKILL)
  _signal([process], "starting it again")
  (code,), (output,) = _ends([process])
  assert code == INTERRUPTED, output
  assert output == "interrupted: run the same command again, it goes on where it stopped\n"


def _records(folder):
  return {
    p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "manifest.json"
  }


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  folder = tmp_path_factory.mktemp("videos")
  for i in range(12):
    videos_test.write(folder / "ab"[i % 2] / f"{i}.mp4", 120, i, size=(160, 120))
  return folder


def _prepare(videos, records):
  module = "data_pipelines.prepare"
  return _start("-m", module, str(videos), str(records), "--workers=2", "--shards=12")


def _is_at(when, process, records):
  if when == "the workers start":
    return len(_children(process.pid)) > 2  # with the one that Python itself starts for them
  return len(list(records.glob("*.tfrecord"))) > 1


@pytest.mark.slow
@pytest.mark.parametrize("all_of_them", [True, False], ids=["all", "the first"])
@pytest.mark.parametrize("when", ["the workers start", "they write"])
def test_ctrl_c_while_records_are_prepared(videos, tmp_path, when, all_of_them):
  cut = tmp_path / "cut"
  process = _prepare(videos, cut)
  end = time.monotonic() + PATIENCE
  while not _is_at(when, process, cut):
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < end
    time.sleep(0.02)
  if all_of_them:
    os.killpg(process.pid, signal.SIGINT)
  else:
    process.send_signal(signal.SIGINT)
  code, (output,) = _ends([process])
  assert code == [INTERRUPTED], output
  assert output.endswith("interrupted: run the same command again, it goes on where it stopped\n")
  assert "Traceback" not in output
  while True:  # whatever it started has ended too
    try:
      os.killpg(process.pid, 0)
    except ProcessLookupError:
      break
    assert time.monotonic() < end
    time.sleep(0.1)
  for folder in (cut, tmp_path / "whole"):
    codes, outputs = _ends([_prepare(videos, folder)])
    assert codes == [0], outputs
  assert _records(cut) == _records(tmp_path / "whole")
  assert not list(cut.rglob(".tmp-*"))
