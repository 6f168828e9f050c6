"""Notices that another process of a run is gone, and ends this one with a line that says so.

Without it a killed process shows after one and a half minutes as a crash in C++, and a stopped one
not at all until then. Process 0 keeps a connection to each other process. A closed connection is
noticed at once; a process that is stopped, or cut off from the network, when it has been silent for
`config.distributed.timeout` seconds. Process 0 tells the others.

Own sockets, because the heartbeats of JAX's coordination service cannot be heard from Python, and
a thread, because the main thread may wait in a collective that never ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from vssl_jax.errors import PEER_LOST

_BEAT, _BYE, _GONE = b".", b"b", b"g"  # `_GONE` is followed by the number of the process
_NUMBER = 4  # bytes of a number
_HELLO = 16  # bytes of the secret that a process sends first, before its number
_LETTER = 1024  # bytes in which process 0 tells its addresses
OnLoss = Callable[[int, str], None]  # (number of the process that is gone, why)


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
    """Watches process 0 over a connection to it."""
    link.sendall(secret + self._index.to_bytes(_NUMBER, "big"))
    self._add(0, link)

  def close(self, *, clean: bool) -> None:
    """Ends the watch; unless `clean`, the others take it for a loss."""
    self._over.set()
    with self._lock:
      for link in self._links.values():
        with contextlib.suppress(OSError):
          if clean:
            link.sendall(_BYE)
          link.shutdown(socket.SHUT_WR)

  def _start(self, target: Callable[..., None], *args: object) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()

  def _accept(self, server: socket.socket, secret: bytes) -> None:
    while not self._over.is_set():
      try:
        link, _ = server.accept()
      except OSError:
        return
      link.settimeout(self._timeout)
      with contextlib.suppress(OSError):
        hello = _exactly(link, _HELLO + _NUMBER)
        if hello is not None and secrets.compare_digest(hello[:_HELLO], secret):
          self._add(int.from_bytes(hello[_HELLO:], "big"), link)
          continue
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
          if number is not None:
            return self._lose(int.from_bytes(number, "big"), f"process {peer} has lost it")
      except TimeoutError:
        return self._lose(peer, f"it has been silent for {self._timeout:g} s")
      except OSError:
        kind = b""
      if not kind:
        return self._lose(peer, "it has ended")
      if kind == _BYE:
        return None

  def _lose(self, peer: int, why: str) -> None:
    if self._over.is_set():
      return
    self._over.set()
    self._send(_GONE + peer.to_bytes(_NUMBER, "big"))
    self._on_loss(peer, why)


def _exactly(link: socket.socket, count: int) -> bytes | None:
  data = b""
  while len(data) < count:
    part = link.recv(count - len(data))
    if not part:
      return None
    data += part
  return data


@contextlib.contextmanager
def watched(timeout: float, advice: Callable[[], str]) -> Iterator[None]:
  """Ends this process with status `PEER_LOST` and one line when another process is gone.

  Call it in all processes at the same time. One process, or a timeout of 0, watches nothing.

  Args:
    timeout: see `Watch`.
    advice: gives the rest of the line: what is saved, and what to do.
  """
  if jax.process_count() == 1 or timeout <= 0:
    yield
    return

  def on_loss(peer: int, why: str) -> None:
    line = f"error: process {peer} of {jax.process_count()} is gone ({why}): {advice()}"
    print(line, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(PEER_LOST)  # the main thread may wait for the other process forever

  watch = Watch(jax.process_index(), timeout, on_loss)
  with socket.create_server(("", 0)) as server:
    _meet(watch, server)
    try:
      yield
    except BaseException:
      watch.close(clean=False)
      raise
    watch.close(clean=True)


def _meet(watch: Watch, server: socket.socket) -> None:
  """Connects all processes to process 0, whose addresses it tells them through JAX."""
  secret = secrets.token_bytes(_HELLO)
  letter = json.dumps([secret.hex(), server.getsockname()[1], *_addresses()]).encode()
  letter = letter[:_LETTER].ljust(_LETTER)
  told = multihost_utils.broadcast_one_to_all(np.frombuffer(letter, np.uint8))
  if jax.process_index() == 0:
    watch.serve(server, secret)
    return
  token, port, *hosts = json.loads(np.asarray(told, np.uint8).tobytes())
  for host in hosts:
    with contextlib.suppress(OSError):
      watch.join(socket.create_connection((host, port), timeout=5), bytes.fromhex(token))
      return
  print(f"note: process 0 does not answer at {hosts}: nothing notices if it is gone.", flush=True)


def _addresses() -> list[str]:
  """Addresses under which other hosts may reach this one, the likeliest first."""
  found = []
  with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.connect(("192.0.2.1", 9))  # sends nothing; tells the address of the default route
    found.append(probe.getsockname()[0])
  with contextlib.suppress(OSError):
    found += socket.gethostbyname_ex(socket.gethostname())[2]
  return [*dict.fromkeys([*found, "127.0.0.1"])][:16]
