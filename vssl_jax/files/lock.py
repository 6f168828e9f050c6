"""Locks: one process at a time may write to a folder; a lock ends with its process.

In a file system this is `flock`, which the system releases at the end of the process. A library
such as filelock would add waiting and support for other systems, which is not needed here.

A bucket has no locks. There, a lease is an object that its holder writes again every few seconds.
A lease that does not change for `EXPIRES` seconds has no living holder, and is taken over. Clocks
of different machines are not compared. A lease whose holder is known to be dead, because it was a
process of this machine, is taken over at once. A holder that could not write its lease for `LOST`
seconds, or finds another's, is interrupted (SIGINT, or SIGTERM where that is ignored), so that
two never write for long.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from absl import logging

from vssl_jax.errors import UserError
from vssl_jax.files import contents, paths, text

RENEWS = 10.0  # seconds between two renewals of a lease
EXPIRES = 120.0  # seconds without a renewal after which a lease has no holder
LOST = 90.0  # seconds without a renewal after which its holder gives up
_SETTLES = 1.0  # seconds until several processes that create one lease see which has it
_EXCLUSIVE = ("gs://", "s3://", "memory://")  # create an object only if there is none
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)  # of a file system


class Held(Exception):
  """Another process holds the lock."""


_LOST: list[pathlib.Path] = []  # leases that this process lost and has not left yet


def is_lost() -> bool:
  """Whether this process lost a lock that it still holds; it must not write any more."""
  return bool(_LOST)


@contextlib.contextmanager
def hold(path: pathlib.Path, *, shared: bool = False, required: bool = True) -> Iterator[None]:
  """Holds a lock until the end of the block.

  Args:
    path: file of the lock, from `files.path`; its folder must exist.
    shared: several processes may hold it at once, but none that does not share it.
    required: refuse to go on without the lock where a file system fails to lock.

  Raises:
    Held: another process holds the lock.
    UserError: the file system refuses the lock, although it has locks, and it is `required`.
  """
  if paths.is_remote(path):
    with _lease(path, shared):
      yield
    return
  # NFS gives a shared lock only on a file that is open for reading, an exclusive one for writing;
  # some mounted buckets cannot open a file for both.
  with open(path, "a+" if required else "w") as file:
    try:
      fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
      raise Held from None
    except OSError as e:
      if required and e.errno not in _NO_LOCKS:
        raise UserError(
          f"{file.name}: cannot be locked ({e.strerror}); without the lock, two processes could "
          "write the same files: repair the file system, or give another folder."
        ) from None
    yield


@contextlib.contextmanager
def _lease(path: pathlib.Path, shared: bool) -> Iterator[None]:
  token = uuid.uuid4().hex
  mine = path.with_name(f"{path.name}.shared-{token}") if shared else path
  _create(mine, token)
  renewal = _Renewal(mine, token)
  try:
    # The own lease is there before the others are looked for: of two processes that come at the
    # same time, at least one sees the other.
    others = [path] if shared else _shared(path)
    for other in others:
      if _is_alive(other):
        raise Held
      contents.unlink(other, missing_ok=True)
    yield
  finally:
    renewal.stop()
    with contextlib.suppress(OSError):
      if (_read(mine) or {}).get("token") == token:
        contents.unlink(mine, missing_ok=True)


def _shared(path: pathlib.Path) -> list[pathlib.Path]:
  names = contents.names(path.parent)
  return [path.with_name(n) for n in names if n.startswith(f"{path.name}.shared-")]


def _create(path: pathlib.Path, token: str) -> None:
  """Creates a lease; takes over one without a living holder."""
  if _put(path, token, new=True):
    if str(path).startswith(_EXCLUSIVE):
      return
  elif _is_alive(path):
    raise Held
  else:
    _put(path, token, new=False)
  time.sleep(_SETTLES)  # of several processes that write it, the last one has it
  if (_read(path) or {}).get("token") != token:
    raise Held


def _put(path: pathlib.Path, token: str, *, new: bool, count: int = 0) -> bool:
  """Writes a lease; if it must be `new` and there is one, returns False."""
  system, key = paths.system_of(str(path))
  data = json.dumps({"token": token, "count": count, **_holder()}).encode()
  with paths.storage_errors(str(path)):
    if new and _read(path) is not None:  # an emulator may ignore the condition below
      return False
    try:
      system.pipe_file(key, data, **({"mode": "create"} if new else {}))
    except FileExistsError:
      return False
  return True


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  try:
    lease = text.read_json(path)
  except FileNotFoundError:
    return None
  except ValueError:
    return {}
  return lease if isinstance(lease, dict) else {}


def _is_alive(path: pathlib.Path) -> bool:
  """Whether a lease has a living holder; takes up to `EXPIRES` seconds if it has none."""
  before = _read(path)
  end = time.monotonic() + EXPIRES
  if before is not None and not _is_dead(before):
    print(f"{path}: waiting for up to {EXPIRES:g} s to see whether its process lives", flush=True)
  while before is not None and time.monotonic() < end:
    if _is_dead(before):
      return False
    time.sleep(min(1.0, EXPIRES / 10))
    if (now := _read(path)) != before:
      return now is not None
  return False


def _holder() -> dict[str, Any]:
  return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


def _is_dead(lease: dict[str, Any]) -> bool:
  """Whether the holder was a process of this machine that has ended."""
  pid = lease.get("pid")
  if lease.get("host") != _host() or not isinstance(pid, int):
    return False
  return _started(pid) != lease.get("started")


def _host() -> str:
  """This machine, or container: process numbers of another one mean nothing here."""
  try:
    space = os.readlink("/proc/self/ns/pid")
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  except OSError:  # not Linux
    return f"{socket.gethostname()} {uuid.uuid4().hex}"
  return f"{socket.gethostname()} {boot} {space}"


def _started(pid: int) -> str:
  """When a process began, in ticks of the system; "" if there is none."""
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except OSError:
    return ""
  return stat.rpartition(")")[2].split()[19]


class _Renewal:
  """Writes a lease again and again, until it is stopped."""

  def __init__(self, path: pathlib.Path, token: str):
    self._path, self._token = path, token
    self._end = threading.Event()
    self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
    self._thread.start()

  def _run(self) -> None:
    count, renewed = 0, time.monotonic()
    while not self._end.wait(RENEWS):
      count += 1
      try:
        if (_read(self._path) or {}).get("token") != self._token:
          self._give_up("another process took it over")
          return
        _put(self._path, self._token, new=False, count=count)
        renewed = time.monotonic()
      except OSError as e:
        logging.warning("%s: the lock could not be renewed (%s).", self._path, e)
        if time.monotonic() - renewed > LOST:
          self._give_up(f"it could not be renewed for {LOST:g} s")
          return

  def _give_up(self, why: str) -> None:
    logging.error("%s: the lock is lost, %s; stopping.", self._path, why)
    _LOST.append(self._path)
    # A shell lets programs in the background ignore SIGINT.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)

  def stop(self) -> None:
    """Ends the renewals; what comes after the lost lease does not depend on it."""
    self._end.set()
    self._thread.join()
    with contextlib.suppress(ValueError):
      _LOST.remove(self._path)
