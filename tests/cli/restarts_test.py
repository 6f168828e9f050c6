"""Which ends of a run start it again."""

import os
import signal
import subprocess
import sys

import pytest

from tests import small
from vssl_jax import cli
from vssl_jax.cli import restarts


@pytest.fixture
def run(monkeypatch):
  """Runs with given ends, and the commands that were run."""

  def run(ends, times):
    ran, left = [], iter(ends)
    monkeypatch.setattr(restarts, "PAUSE", 0.0)
    monkeypatch.setattr(restarts, "_run", lambda command: (ran.append(command), next(left))[1])
    code = restarts.supervise(["--config=cvrl:demo", f"--restarts={times}", "--workdir=x"], times)
    return code, ran

  return run


@pytest.mark.parametrize(
  ("ends", "times", "code", "runs"),
  [
    ([(0, False)], 3, 0, 1),
    ([(75, False), (0, False)], 3, 0, 2),
    ([(-9, False), (-6, False), (0, False)], 3, 0, 3),
    ([(75, False), (75, False)], 1, 75, 2),
    ([(-9, False), (-9, False)], 1, 137, 2),
    ([(2, False)], 3, 2, 1),
    ([(1, False)], 3, 1, 1),
    ([(143, True)], 3, 143, 1),
    ([(-9, True)], 3, 137, 1),
  ],
)
def test_which_ends_start_it_again(run, capsys, ends, times, code, runs):
  got, ran = run(ends, times)
  assert (got, len(ran)) == (code, runs)
  assert capsys.readouterr().out.count("starting it again") == runs - 1
  assert ran[0][1:] == ["-m", "vssl_jax.main", "--config=cvrl:demo", "--workdir=x"]


def test_the_flag_is_left_out_in_both_forms():
  for flags in (["--restarts=2"], ["--restarts", "2"], ["-restarts=2"]):
    assert restarts._without_restarts(["--a", *flags, "--b=c"]) == ["--a", "--b=c"]


def test_flags_are_not_abbreviated(capsys):
  """A supervisor would start another, and that another."""
  assert cli.main(["train", "--config=cvrl:demo", "--restart=3"]) == 2
  assert "no flag --restart; did you mean --restarts?" in capsys.readouterr().err


def test_bad_numbers_and_bad_input_end_at_once(capsys):
  assert cli.main(["train", "--config=cvrl:demo", "--restarts=-1"]) == 2
  assert "--restarts is -1" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_run(number):
  """The run says what it got; its end is passed on."""
  inner = "import signal, sys, time\n"
  inner += f"signal.signal({int(number)}, lambda *_: sys.exit(143))\nprint('on', flush=True)\n"
  inner += "time.sleep(60)"
  outer = f"import sys\nfrom vssl_jax.cli import restarts\ninner = {inner!r}\n"
  outer += "print(restarts._run([sys.executable, '-c', inner]))"
  process = subprocess.Popen(
    [sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True, cwd=small.ROOT, env=os.environ
  )
  assert process.stdout.readline() == "on\n"
  process.send_signal(number)
  assert process.communicate(timeout=60)[0] == "(143, True)\n"
