"""Starts every command in the same way: quiet libraries, one-line errors, exit codes.

A command is a module with `parser()`, which returns an `arguments.Parser`, and `run(args)`, which
returns the exit code. It is imported only when it is called. `RESUMES = True` means that the
command continues an interrupted run when it is called again.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

from vssl_jax._version import __version__
from vssl_jax.cli import quiet
from vssl_jax.errors import (
  PEER_LOST,
  Interrupted,
  NonFiniteError,
  PeerLost,
  Preempted,
  UserError,
  brief,
  storage_fault,
)

COMMANDS = {
  "prepare": ("data_pipelines.prepare.prepare", "videos to records, which training reads"),
  "inspect": ("data_pipelines.inspect", "a picture of what the model sees, and statistics"),
  "train": ("vssl_jax.commands.train", "pre-train, fine-tune or probe, as a config says"),
  "study": ("vssl_jax.commands.study", "a table of a paper: every cell and seed, and the plot"),
  "plan": ("vssl_jax.commands.plan", "what a run needs on TPUs or GPUs, without having them"),
  "evaluate": ("vssl_jax.commands.evaluate", "every protocol from one checkpoint, as a table"),
  "report": ("vssl_jax.commands.report", "a page that shows runs: curves, classes, videos"),
  "export": ("vssl_jax.commands.export", "an encoder as safetensors, programs, features"),
  "convert": ("vssl_jax.commands.convert", "other frameworks' weights into ours, and back"),
  "extract": ("vssl_jax.commands.extract", "features of untrimmed videos, snippet by snippet"),
  "localize": ("vssl_jax.commands.localize", "actions in time, by a trained BaS-Net or DCC"),
  "score": ("vssl_jax.commands.score", "a file of predicted actions, as ActivityNet scores it"),
  "uncertainty": ("vssl_jax.commands.uncertainty", "what ProViCo's uncertainty is worth"),
  "doctor": ("vssl_jax.commands.doctor", "versions, devices, codecs, folders, missing extras"),
}
OK, UNEXPECTED, BAD_INPUT, DROPPED, INTERRUPTED, BROKEN_PIPE, PREEMPTED = 0, 1, 2, 3, 130, 141, 143
_CODES = f"""\
exit codes:
  {OK}    all is well
  {UNEXPECTED}    an error that nobody foresaw; its traceback is in the file that is named
  {BAD_INPUT}    bad input: one line says which flag, file or field, and what to do
  {DROPPED}    done, but some videos could not be read and are left out
  {PEER_LOST}   another process of the same run is gone; one line says which, and how to continue
  {INTERRUPTED}  Ctrl-C; training saves first, and a second Ctrl-C ends it without that
  {BROKEN_PIPE}  whoever read the output has gone, as `head` does
  {PREEMPTED}  SIGTERM; all is saved, and the same command goes on
"""
_VERBOSE = "--verbose"
_DASHES = ("-h", "--help")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command `vssl` and returns its exit code."""
  argv = list(sys.argv[1:] if argv is None else argv)
  with _reader_may_go() as gone:
    verbose = _VERBOSE in argv[:1]
    name, *rest = argv[verbose:] or ["--help"]
    if name in COMMANDS:
      return run(COMMANDS[name][0], rest + [_VERBOSE] * verbose)
    if name in _DASHES or (name == "help" and not rest):
      print(_help())
    elif name == "--version":
      print(f"vssl {__version__}")
    else:
      near = difflib.get_close_matches(name, COMMANDS, n=1)
      meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}."
      return _fail(f"no command {name!r}; {meant}")
  return BROKEN_PIPE if gone else OK


def run(module: str, argv: Sequence[str] | None = None) -> int:
  """Runs the command in a module.

  Args:
    module: full name of the module.
    argv: the flags; by default those of this process.

  Returns:
    The exit code.
  """
  argv = list(sys.argv[1:] if argv is None else argv)
  verbose = _VERBOSE in argv
  resumes = False
  with _reader_may_go() as gone:
    try:
      if not verbose:
        quiet.silence()
      command = importlib.import_module(module)
      resumes = getattr(command, "RESUMES", False)
      status = command.run(command.parser().parse_args(argv))
      sys.stdout.flush()
      return status
    except (UserError, NonFiniteError) as e:
      if verbose:
        traceback.print_exc()
      return _fail(str(e))
    except Interrupted as e:
      print(f"Ctrl-C: saved {e}; run the same command to go on.", file=sys.stderr)
      return INTERRUPTED
    except Preempted as e:
      print(f"SIGTERM: saved {e}; run the same command to go on.", flush=True)
      return PREEMPTED
    except PeerLost as e:
      _fail(str(e))
      return PEER_LOST
    except KeyboardInterrupt:
      goes_on = ": run the same command again, it goes on where it stopped" if resumes else ""
      print(f"interrupted{goes_on}", file=sys.stderr)
      return INTERRUPTED
    except BrokenPipeError:
      if not _stdout_is_gone():
        return _unforeseen(verbose)
      raise
    except Exception as e:
      if (fault := storage_fault(e)) is None:
        return _unforeseen(verbose)
      if verbose:
        traceback.print_exc()
      return _fail(_storage(fault, resumes))
  assert gone
  return BROKEN_PIPE


def _storage(fault: OSError, resumes: bool) -> str:
  """One line about a full disk, a file that may not be read or written, and the like."""
  goes_on = ", it goes on where it stopped" if resumes else ""
  where: Any = fault.filename if fault.filename is not None else "a file"
  where = os.fsdecode(where) if isinstance(where, bytes) else where
  return (
    f"{where}: {fault.strerror}; make it possible to read or write there, or give another path, "
    f"and run the same command again{goes_on}; what was saved before was not removed"
  )


def _fail(message: str) -> int:
  from vssl_jax.files import printable

  print(f"error: {printable(message)}", file=sys.stderr)
  return BAD_INPUT


def _unforeseen(verbose: bool) -> int:
  """Reports an unexpected error and saves its traceback, so that the run need not be repeated."""
  error = sys.exception()
  assert error is not None
  if verbose:
    traceback.print_exc()
    where = "its traceback is above"
  else:
    python = f"Python {platform.python_version()} on {platform.platform()}"
    told = f"vssl_jax {__version__}, {python}\n{sys.argv}\n{traceback.format_exc()}"
    try:
      with tempfile.NamedTemporaryFile(
        "w", prefix="vssl-error-", suffix=".txt", delete=False, encoding="utf-8"
      ) as file:
        file.write(told)
      where = f"its traceback is in {file.name}, which a bug report needs; --verbose prints it"
    except OSError as e:
      where = f"--verbose prints its traceback; no file could be written for it: {brief(e)}"
  _fail(f"unexpected {type(error).__name__}: {brief(error)[:500]} ({where})")
  return UNEXPECTED


@contextlib.contextmanager
def _reader_may_go():
  """Yields a list that is empty unless the reader of stdout has closed it, which is no error."""
  gone: list[bool] = []
  try:
    yield gone
    sys.stdout.flush()
  except BrokenPipeError:
    gone.append(True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the exit


def _stdout_is_gone() -> bool:
  try:
    sys.stdout.flush()
  except BrokenPipeError:
    return True
  return False


def _help() -> str:
  width = max(map(len, COMMANDS))
  lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
  return "\n".join(
    [
      "usage: vssl COMMAND [flags]",
      "",
      "Self-supervised video representation learning.",
      "",
      "commands:",
      *lines,
      "",
      "vssl COMMAND --help tells a command's flags and shows examples; --verbose brings back what",
      "libraries print, and tracebacks; vssl --version tells the version.",
      "",
      _CODES.rstrip(),
    ]
  )
