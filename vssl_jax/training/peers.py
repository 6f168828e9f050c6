"""Notices that another process of a run is gone, and ends this one with a line that says so.

Without it a killed process shows after one and a half minutes as a crash in C++, and a stopped one
not at all until then. Process 0 keeps a connection to each other process. A closed connection is
noticed at once; a process that is stopped, or cut off from the network, when it has been silent for
`config.distributed.timeout` seconds. Process 0 tells the others.

An error that all processes have, such as bad input, is no loss: each gets the time to raise its
own. And a collective that fails because a process is gone may raise here before the news comes:
then it is waited for.

Own sockets, because the heartbeats of JAX's coordination service cannot be heard from Python, and
a thread, because the main thread may wait in a collective that never ends.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vssl_jax import config as config_lib
from vssl_jax import files, parallel
from vssl_jax.errors import PEER_LOST, NonFiniteError, Preempted, UserError

# What processes send; `_GONE` is followed by the number of the process.
_BEAT, _BYE, _RAISED, _GONE = b".", b"b", b"r", b"g"
_NUMBER = 4  # bytes of a number
_HELLO = 16  # bytes of the secret that a process sends first, before its number
_LETTER = 1024  # bytes in which process 0 tells its addresses
_GRACE = 10.0  # seconds to raise the same error as another process, to say who is gone, to wait
_HANDSHAKE = 5.0  # seconds
_SHOWN = 30.0  # seconds after which a file is visible on all hosts, if ever
_OWN = (UserError, NonFiniteError, Preempted, KeyboardInterrupt)  # come from no other process
# (number of the process that is gone, why, whether an error of its own ended it)
OnLoss = Callable[[int, str, bool], None]


class Watch:
  """Watches the other processes: process 0 all of them, every other one process 0."""

  def __init__(self, index: int, timeout: float, on_loss: OnLoss):
    """Starts to send signs of life.

    Args:
      index: number of this process.
      timeout: seconds of silence after which a process counts as gone.
      on_loss: called once, in a thread of its own, when the first process is gone.
    """
    self._index, self._timeout, self._on_loss = index, timeout, on_loss
    self._links: dict[int, socket.socket] = {}
    self._lock, self._over = threading.Lock(), threading.Event()
    self._start(self._beat)

  def serve(self, server: socket.socket, secret: bytes) -> None:
    """Accepts the connections of the other processes (process 0)."""
    self._start(self._accept, server, secret)

  def join(self, link: socket.socket, secret: bytes) -> None:
    """Watches process 0 over a connection to it.

    Raises:
      OSError: whoever answers is not process 0.
    """
    link.settimeout(_HANDSHAKE)
    link.sendall(secret + self._index.to_bytes(_NUMBER, "big"))
    if _exactly(link, _HELLO) != secret[::-1]:
      link.close()
      raise ConnectionError
    self._add(0, link)

  def close(self, last: bytes = _BYE) -> None:
    """Ends the watch.

    Args:
      last: what the others are told: that this process has ended well (`_BYE`), with an error
        (`_RAISED`), or nothing, which they take for a loss.
    """
    self._over.set()
    with self._lock:
      for link in self._links.values():
        with contextlib.suppress(OSError):
          link.sendall(last)
          link.shutdown(socket.SHUT_WR)

  def _start(self, target: Callable[..., None], *args: object) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()

  def _accept(self, server: socket.socket, secret: bytes) -> None:
    while not self._over.is_set():
      try:
        link, _ = server.accept()
      except OSError:
        if server.fileno() < 0:  # closed
          return
        time.sleep(0.1)  # such as too many open files
        continue
      self._start(self._greet, link, secret)

  def _greet(self, link: socket.socket, secret: bytes) -> None:
    with contextlib.suppress(OSError):
      link.settimeout(_HANDSHAKE)
      hello = _exactly(link, _HELLO + _NUMBER)
      if hello is not None and secrets.compare_digest(hello[:_HELLO], secret):
        link.sendall(secret[::-1])
        self._add(int.from_bytes(hello[_HELLO:], "big"), link)
        return
    link.close()

  def _add(self, peer: int, link: socket.socket) -> None:
    link.settimeout(self._timeout)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with self._lock:
      self._links[peer] = link
    self._start(self._listen, peer, link)

  def _beat(self) -> None:
    while not self._over.wait(self._timeout / 4):
      self._send(_BEAT)

  def _send(self, data: bytes) -> None:
    with self._lock:
      for link in self._links.values():
        with contextlib.suppress(OSError):  # its listener notices
          link.sendall(data)

  def _listen(self, peer: int, link: socket.socket) -> None:
    while True:
      try:
        kind = link.recv(1)
        if kind == _GONE:
          number = _exactly(link, _NUMBER)
          if number is not None and (gone := int.from_bytes(number, "big")) != self._index:
            return self._lose(gone, f"process {peer} has lost it")
          return self._lose(peer, "it has lost this process")
      except TimeoutError:
        return self._lose(peer, f"it has been silent for {self._timeout:g} s")
      except OSError:
        kind = b""
      if not kind:
        return self._lose(peer, "it has ended")
      if kind == _BYE:
        return None
      if kind == _RAISED:
        self._over.wait(_GRACE)  # this process raises the same, probably
        return self._lose(peer, "it has ended with an error", raised=True)

  def _lose(self, peer: int, why: str, *, raised: bool = False) -> None:
    with self._lock:
      if self._over.is_set():
        return
      self._over.set()
    self._send(_GONE + peer.to_bytes(_NUMBER, "big"))
    self._on_loss(peer, why, raised)


def _exactly(link: socket.socket, count: int) -> bytes | None:
  data = b""
  while len(data) < count:
    part = link.recv(count - len(data))
    if not part:
      return None
    data += part
  return data


@contextlib.contextmanager
def joined(fields: Mapping[str, Any] | None, advice: Callable[[], str]) -> Iterator[None]:
  """Connects the processes of a command other than training, and watches them.

  Args:
    fields: fields of `config.distributed`, the others at their defaults.
    advice: see `watched`.

  Raises:
    UserError: a field is unknown, or they contradict each other.
    PeerLost: the other processes did not come in time.
  """
  config = config_lib.distributed()
  for name, value in (fields or {}).items():
    if name not in config:
      raise UserError(f"distributed: no field {name!r}; there are {', '.join(config)}.")
    config[name] = type(config[name])(value)
  parallel.initialize(config)
  with watched(config.timeout, advice, config.coordinator):
    yield


def require_shared(folder: pathlib.Path, flag: str) -> None:
  """Checks that a folder is the same one for all processes.

  Raises:
    UserError: another process does not see what process 0 writes there.
  """
  if jax.process_count() == 1:
    return
  name = parallel.from_first(lambda: f".seen-{secrets.token_hex(4)}")
  parallel.from_first(lambda: files.write_atomic(folder / name, b""))
  seen, end = (folder / name).is_file(), time.monotonic() + _SHOWN
  while not seen and time.monotonic() < end:
    time.sleep(0.5)
    seen = (folder / name).is_file()
  every = parallel.everywhere(seen)
  if parallel.first():
    files.unlink(folder / name, missing_ok=True)
  if not every:
    raise UserError(
      f"{flag}: {folder} is not the same folder on all hosts; give one on shared storage."
    )


@contextlib.contextmanager
def watched(timeout: float, advice: Callable[[], str], coordinator: str = "") -> Iterator[None]:
  """Ends this process with status `PEER_LOST` and one line when another process is gone.

  If an error of its own ended the other process, the status is 1: starting again would not help.

  Call it in all processes at the same time. One process, or a timeout of 0, watches nothing.

  Args:
    timeout: see `Watch`.
    advice: gives the rest of the line: what is saved, and what to do.
    coordinator: `config.distributed.coordinator`; its host is one of process 0's addresses.
  """
  if jax.process_count() == 1 or timeout <= 0:
    yield
    return

  def on_loss(peer: int, why: str, raised: bool) -> None:
    status = 1 if raised else PEER_LOST
    late = threading.Timer(_GRACE, os._exit, [status])  # a file system may hang as well
    late.daemon = True
    late.start()
    try:
      line = f"error: process {peer} of {count} is gone ({why}): {advice()}"
      print(line, file=sys.stderr, flush=True)
      sys.stdout.flush()
    finally:
      os._exit(status)  # the main thread may wait for the other process forever

  count, dual = jax.process_count(), socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if dual else socket.AF_INET
  watch = Watch(jax.process_index(), timeout, on_loss)
  with socket.create_server(("", 0), family=family, dualstack_ipv6=dual) as server:
    _meet(watch, server, coordinator)
    try:
      yield
    except _OWN:
      watch.close(_RAISED)
      raise
    except BaseException:
      time.sleep(_GRACE)  # if another process is gone, the watch ends this one meanwhile
      watch.close(_RAISED)
      raise
    watch.close()


def _meet(watch: Watch, server: socket.socket, coordinator: str) -> None:
  """Connects all processes to process 0, whose addresses it tells them through JAX."""
  secret = secrets.token_bytes(_HELLO)
  addresses = _addresses(coordinator)
  letter = json.dumps([secret.hex(), server.getsockname()[1], *addresses]).encode()
  letter = letter[:_LETTER].ljust(_LETTER)
  told = multihost_utils.broadcast_one_to_all(np.frombuffer(letter, np.uint8))
  if jax.process_index() == 0:
    watch.serve(server, secret)
    return
  token, port, *hosts = json.loads(np.asarray(told, np.uint8).tobytes())
  for host in hosts:
    with contextlib.suppress(OSError):
      watch.join(socket.create_connection((host, port), _HANDSHAKE), bytes.fromhex(token))
      return
  print(f"note: process 0 does not answer at {hosts}: nothing notices if it is gone.", flush=True)


def _addresses(coordinator: str = "") -> list[str]:
  """Addresses under which the other processes may reach process 0, the likeliest first."""
  host = coordinator.rpartition(":")[0].strip("[]")
  if _is_loopback(host):
    return [host]  # all processes are on one machine
  found = [host] if host else []
  with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.connect(("192.0.2.1", 9))  # sends nothing; tells the address of the default route
    found.append(probe.getsockname()[0])
  with contextlib.suppress(OSError):
    found += socket.gethostbyname_ex(socket.gethostname())[2]
  return [*dict.fromkeys(a for a in found if not _is_loopback(a))][:16]


def _is_loopback(host: str) -> bool:
  if host == "localhost":
    return True
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:  # a name
    return False
