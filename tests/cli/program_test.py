"""`vssl` as a user meets it: help, mistakes, exit codes."""

import errno
import importlib
import os
import re
import signal
import subprocess
import sys
import types

import pytest

from tests import small
from vssl_jax import __version__, cli
from vssl_jax.cli import program
from vssl_jax.errors import Interrupted, NonFiniteError, Preempted, UserError

VSSL = [sys.executable, "-c", "import sys; from vssl_jax.cli import main; sys.exit(main())"]
MODULES = {
  "prepare": "data_pipelines.prepare",
  "inspect": "data_pipelines.inspect",
  "train": "vssl_jax.main",
  "study": "vssl_jax.study",
  "plan": "vssl_jax.plan",
  "evaluate": "vssl_jax.evaluate",
  "report": "vssl_jax.reports",
  "export": "vssl_jax.export",
  "convert": "vssl_jax.weights.convert",
  "extract": "vssl_jax.extract_features",
  "localize": "vssl_jax.localize",
  "score": "vssl_jax.localization.score",
  "uncertainty": "vssl_jax.uncertainty",
  "doctor": "vssl_jax.doctor",
}
HEAVY = ("jax", "numpy", "tensorflow", "ml_collections", "orbax", "matplotlib")


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
  """These commands run in this process, which is not to be silenced."""
  from vssl_jax.cli import quiet

  monkeypatch.setattr(quiet, "silence", lambda: None)


def _run(*command, **more):
  environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
  environment |= {"PYTHONPATH": str(small.ROOT)} | more.pop("env", {})
  return subprocess.run(
    command, env=environment, text=True, capture_output=True, timeout=300, check=False, **more
  )


@pytest.fixture
def command(monkeypatch):
  """Makes a command `odd` of a function of its arguments."""

  def make(run, **attributes):
    module = types.ModuleType("odd_command")
    module.parser = lambda: cli.arguments.Parser("vssl odd", "Odd.", "vssl odd")
    module.run = run
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, "odd_command", module)
    monkeypatch.setitem(program.COMMANDS, "odd", ("odd_command", "odd"))

  return make


def _raises(error):
  def run(args):
    raise error

  return run


def test_help_lists_every_command_and_the_exit_codes(capsys):
  for argv in ([], ["--help"], ["-h"], ["help"]):
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    for name, (_, summary) in program.COMMANDS.items():
      assert re.search(rf"^  {name} +{re.escape(summary)}$", said, re.M)
    assert set(re.findall(r"^  (\d+)  ", said, re.M)) == {
      *("0", "1", "2", "3", "75", "130", "141", "143")
    }
  assert list(program.COMMANDS) == list(MODULES)


def test_help_and_version_import_nothing_heavy():
  code = "import sys; from vssl_jax import cli; cli.main(['--help']); cli.main(['--version'])\n"
  code += f"print([x for x in {HEAVY} if x in sys.modules])"
  done = _run(sys.executable, "-c", code)
  *_, version, loaded = done.stdout.splitlines()
  assert (version, loaded, done.stderr) == (f"vssl {__version__}", "[]", "")


@pytest.mark.parametrize("name", program.COMMANDS)
def test_each_command_s_help_shows_examples_that_its_flags_take(name, capsys):
  with pytest.raises(SystemExit) as e:
    cli.main([name, "--help"])
  assert e.value.code == 0
  said = capsys.readouterr().out
  assert said.startswith(f"usage: vssl {name} ")
  _, examples = said.split("\nexamples:\n")
  lines = re.sub(r"\\\n\s*", "", examples).strip().splitlines()
  assert lines
  module = importlib.import_module(program.COMMANDS[name][0])
  for line in lines:
    words = line.split()
    assert words[:2] == ["vssl", name]
    for i, word in enumerate(words):  # the one config that is not shipped
      words[i] = word.replace("configs/mine.py", str(small.ROOT / "configs" / "cvrl.py"))
    module.parser().parse_args(words[2:])


@pytest.mark.parametrize("name", program.COMMANDS)
def test_a_wrong_flag_is_one_line_and_status_2(name, capsys):
  assert cli.main([name, "--nonsense=1"]) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ")
  assert error.count("\n") == 1
  assert f"vssl {name} --help" in error or "--config is missing" in error


@pytest.mark.parametrize("name", [n for n in program.COMMANDS if n != "inspect"])
def test_flags_are_read_before_anything_heavy_is_imported(name):
  code = f"import sys; from vssl_jax import cli; print(cli.main(['{name}', '--nonsense']))\n"
  code += "print('jax' in sys.modules, 'tensorflow' in sys.modules)"
  assert _run(sys.executable, "-c", code).stdout.split() == ["2", "False", "False"]


def test_an_unknown_command_names_the_nearest(capsys):
  assert cli.main(["evaluat", "--checkpoint=x"]) == 2
  assert capsys.readouterr().err == "error: no command 'evaluat'; did you mean evaluate?\n"
  assert cli.main(["zzz"]) == 2
  assert "there are prepare, inspect, train" in capsys.readouterr().err


@pytest.mark.parametrize("name", MODULES)
def test_python_m_is_the_same_command(name, tmp_path):
  done = _run(sys.executable, "-m", MODULES[name], "--help", cwd=tmp_path)
  same = _run(*VSSL, name, "--help", cwd=tmp_path)
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout == same.stdout
  assert done.stdout.startswith(f"usage: vssl {name} ")


@pytest.mark.parametrize(
  ("error", "code", "stream", "told"),
  [
    (UserError("config.x is 1:\n2"), 2, "err", "error: config.x is 1:\\n2\n"),
    (NonFiniteError("loss is nan at step 3"), 2, "err", "error: loss is nan at step 3\n"),
    (Preempted("step 3 of runs/x"), 143, "out", "SIGTERM: saved step 3 of runs/x; run the same"),
    (KeyboardInterrupt(), 130, "err", "interrupted\n"),
    (Interrupted("step 3 of runs/x"), 130, "err", "Ctrl-C: saved step 3 of runs/x; run the same"),
    (OSError(28, "No space left on device", "runs/x"), 2, "err", "error: runs/x: No space left on"),
    (PermissionError(13, "Permission denied", b"x\xff"), 2, "err", "error: x\\xff: Permission den"),
    (OSError(30, "Read-only file system"), 2, "err", "error: a file: Read-only file system; "),
  ],
)
def test_how_commands_end(command, capsys, error, code, stream, told):
  command(_raises(error))
  assert cli.main(["odd"]) == code
  said = capsys.readouterr()
  assert getattr(said, stream).startswith(told)
  assert said.err.count("\n") == (stream == "err")


def test_what_goes_on_says_so_when_interrupted(command, capsys):
  command(_raises(KeyboardInterrupt()), RESUMES=True)
  assert cli.main(["odd"]) == 130
  assert "run the same command again, it goes on where it stopped" in capsys.readouterr().err


def test_the_exit_code_is_the_command_s(command):
  command(lambda args: 3)
  assert cli.main(["odd"]) == 3


def test_an_unforeseen_error_is_one_line_and_a_file(command, capsys):
  command(_raises(KeyError("lost\nthing")))
  assert cli.main(["odd"]) == 1
  error = capsys.readouterr().err
  assert error.startswith("error: unexpected KeyError: lost thing (its traceback is in ")
  assert error.count("\n") == 1
  assert "--verbose" in error
  file = re.search(r"is in (\S+),", error)[1]
  with open(file, encoding="utf-8") as f:
    told = f.read()
  os.remove(file)
  assert told.startswith(f"vssl_jax {__version__}, Python 3.")
  assert "Traceback (most recent call last)" in told
  assert "program_test.py" in told


def test_an_unforeseen_error_where_nothing_can_be_written(command, capsys, monkeypatch):
  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(program.tempfile, "NamedTemporaryFile", full)
  command(_raises(KeyError("lost")))
  assert cli.main(["odd"]) == 1
  error = capsys.readouterr().err
  assert error.startswith("error: unexpected KeyError: lost (--verbose prints its traceback")
  assert "No space left on device" in error
  assert error.count("\n") == 1


@pytest.mark.parametrize("safe", [False, True])
def test_the_console_script_finds_modules_of_this_folder_as_python_m_does(tmp_path, safe):
  """A script's own folder is first in its path, not the folder that it is called in."""
  (tmp_path / "bin").mkdir()
  (tmp_path / "bin" / "vssl").write_text(VSSL[-1])
  here = tmp_path / "here"
  (here / "data_pipelines").mkdir(parents=True)
  (here / "data_pipelines" / "__init__.py").write_text("raise RuntimeError('another package')")
  (here / "own_part.py").write_text("DEPTH = 101\n")
  (tmp_path / "mine.py").write_text(
    "import own_part\nfrom vssl_jax import config_file\n\n\ndef get_config():\n"
    "  c = config_file.load('cvrl:demo')\n  c.encoder.depth = own_part.DEPTH\n  return c\n"
  )
  flags = ("--config=../mine.py", "--dry_run")
  environment = {"PYTHONSAFEPATH": "1"} if safe else {}
  done = _run(
    sys.executable, str(tmp_path / "bin" / "vssl"), "train", *flags, cwd=here, env=environment
  )
  if safe:
    assert "No module named 'own_part'" in done.stderr
  else:
    assert (done.returncode, '"depth": 101' in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("argv", [["odd", "--verbose"], ["--verbose", "odd"]])
@pytest.mark.parametrize(("error", "code"), [(KeyError("x"), 1), (UserError("x"), 2)])
def test_verbose_shows_tracebacks(command, capsys, argv, error, code):
  command(_raises(error))
  assert cli.main(argv) == code
  said = capsys.readouterr().err
  assert "Traceback (most recent call last)" in said
  assert said.splitlines()[-1].startswith("error: ")


def test_a_reader_that_goes_is_no_error():
  """As in `vssl --help | true`: the pipe is closed before anything is written."""
  ours, theirs = os.pipe()
  os.close(ours)
  environment = {**os.environ, "PYTHONPATH": str(small.ROOT)}
  process = subprocess.Popen(
    [*VSSL, "--help"], env=environment, stdout=theirs, stderr=subprocess.PIPE
  )
  os.close(theirs)
  error = process.communicate(timeout=120)[1]
  assert (process.returncode, error) == (141, b"")


def test_another_broken_pipe_is_an_error(command, capsys):
  command(_raises(BrokenPipeError("of a worker")))
  assert cli.main(["odd"]) == 1
  error = capsys.readouterr().err
  assert "unexpected BrokenPipeError: of a worker" in error
  os.remove(re.search(r"is in (\S+),", error)[1])


def test_ctrl_c_in_the_midst_of_an_import(tmp_path):
  """The signal comes while the command's module is loaded."""
  (tmp_path / "slow.py").write_text("print('here', flush=True)\nimport time\ntime.sleep(60)\n")
  # A shell's background jobs start with SIGINT ignored, which a child would inherit.
  listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
  code = f"{listen}; import sys; from vssl_jax import cli; sys.exit(cli.run('slow', []))"
  environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{small.ROOT}"}
  process = subprocess.Popen(
    [sys.executable, "-c", code],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "here\n"
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=60)[1] == "interrupted\n"
  assert process.returncode == 130


def test_an_input_that_may_not_be_read_is_one_line_that_fits_it(command, capsys):
  command(_raises(PermissionError(errno.EACCES, "Permission denied", "videos.csv")))
  assert cli.main(["odd"]) == 2
  said = capsys.readouterr().err
  assert re.match(r"error: videos\.csv: Permission denied; .* read or write .* another path", said)
  assert "folder" not in said


def test_a_mistake_that_quotes_a_fault_of_the_storage_has_its_traceback(command, capsys):
  command(_raises(TypeError("cannot format 'No space left on device' in /data/x")))
  assert cli.main(["odd"]) == 1
  error = capsys.readouterr().err
  assert error.startswith("error: unexpected TypeError: ")
  os.remove(re.search(r"is in (\S+),", error)[1])


def test_a_fault_of_the_storage_in_anothers_words_is_one_line(command, capsys):
  """TensorStore and TensorFlow have their own errors, with the reason of the system in the text."""

  def run(args):
    try:
      raise ValueError('Error writing local file "/data/x/_sharding": No space left on device [y]')
    except ValueError as e:
      raise RuntimeError("a thread failed") from e

  command(run, RESUMES=True)
  assert cli.main(["odd"]) == 2
  said = capsys.readouterr().err
  assert said.startswith("error: /data/x/_sharding: No space left on device; make it possible to ")
  assert "it goes on where it stopped" in said
  assert "what was saved before was not removed" in said
  assert said.count("\n") == 1
