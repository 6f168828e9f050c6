"""The exceptions with messages for the user, and a function that shortens any other to one line."""

import errno
import os
import re
from collections.abc import Collection

# What ml_collections says of a field that is read, and of one that is set in a locked config.
_UNKNOWN_FIELD = re.compile(
  r"""(?:'(\w+)'|Key "(\w+)" does not exist and cannot be added .*?)(?: (Did you mean .*\?))?"""
)


# Why a file cannot be written or read for reasons that lie outside the program.
STORAGE = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
  errno.EIO,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.ENAMETOOLONG,
  errno.ESTALE,
)

# Mistakes in a program; their text may quote anything, such as what was to be printed or looked up.
_OF_PROGRAMMING = (
  TypeError,
  AttributeError,
  NameError,
  AssertionError,
  LookupError,
  NotImplementedError,
)

PEER_LOST = 75  # exit status of a process of a run whose other processes are gone


class UserError(ValueError):
  """Bad input; the message is one line: which file or field, what was wrong, what to do.

  Command-line programs print the message without a traceback and exit with status 2.
  """


class NonFiniteError(FloatingPointError):
  """The loss or the gradient is not finite; the message names step and metric."""


class Preempted(Exception):
  """The process received SIGTERM, and everything is saved; the message says what."""


class Interrupted(Preempted):
  """The same after Ctrl-C, which is SIGINT."""


class PeerLost(Exception):
  """The other processes of a run cannot be reached; the message says what to do."""


def storage_fault(error: BaseException, numbers: Collection[int] = STORAGE) -> OSError | None:
  """The error of the storage that an exception is, or comes from; None if there is none.

  Orbax, TensorStore and TensorFlow raise errors of their own, which have the system's reason in
  their text alone. A mistake in the program is none, whatever was being handled when it happened;
  only what it was explicitly raised from counts.

  Args:
    error: any exception.
    numbers: the system's reasons, of `errno`, that count.
  """
  seen: set[int] = set()
  at: BaseException | None = error
  while at is not None and id(at) not in seen:
    seen.add(id(at))
    if isinstance(at, OSError) and at.errno in numbers:
      return at
    mistake = isinstance(at, _OF_PROGRAMMING)
    text = "" if mistake or isinstance(at, OSError | UserError) else str(at)
    for number in numbers:
      if os.strerror(number) in text:
        path = re.search(r"(?:^|[\s'\"(=])(/[^\s'\":,)]+)", text)
        return OSError(number, os.strerror(number), path[1] if path else None)
    hidden = mistake or at.__suppress_context__
    at = at.__cause__ or (None if hidden else at.__context__)
  return None


def brief(error: BaseException) -> str:
  """Shortens an exception to one line; its text may contain the traceback of another exception."""
  if isinstance(error, AttributeError) and error.args and isinstance(error.args[0], KeyError):
    error = error.args[0]  # as ml_collections raises it
  text = error.args[0] if isinstance(error, KeyError) and error.args else error
  whole = str(text).replace("\\n", "\n").replace("\\'", "'")
  lines = [line.strip() for line in whole.splitlines() if line.strip()]
  for line in lines:
    kind, _, message = line.partition("UserError: ")
    if message and " " not in kind:
      return message
  if unknown := _UNKNOWN_FIELD.fullmatch(" ".join(lines)):
    return f"the config has no field {unknown[1] or unknown[2]!r}. {unknown[3] or ''}".rstrip()
  shown = [line for line in lines if not line.startswith(("File ", "Traceback"))]
  return " ".join(shown[:4]) or type(error).__name__
