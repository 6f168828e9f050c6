"""Who is noticed to be gone, by whom, and who is not: on loopback, in one process."""

import secrets
import socket
import threading
import time

import pytest

from vssl_jax.training import peers

TIMEOUT = 0.4


class Losses:
  """What one process has noticed."""

  def __init__(self):
    self.found, self.event = [], threading.Event()

  def __call__(self, peer, why, raised):
    self.found.append((peer, why) + ("raised",) * raised)
    self.event.set()

  def wait(self):
    assert self.event.wait(10)
    return self.found


@pytest.fixture
def secret():
  return secrets.token_bytes(16)


@pytest.fixture
def server():
  with socket.create_server(("127.0.0.1", 0)) as server:
    yield server


@pytest.fixture
def run(server, secret):
  """Processes 0, 1 and 2, connected: their watches, and what each noticed."""
  losses = [Losses() for _ in range(3)]
  watches = [peers.Watch(i, TIMEOUT, losses[i]) for i in range(3)]
  watches[0].serve(server, secret)
  for i in (1, 2):
    watches[i].join(socket.create_connection(server.getsockname()), secret)
  _until(lambda: len(watches[0]._links) == 2)
  yield watches, losses
  for watch in watches:
    watch.close()


def _until(happens):
  deadline = time.monotonic() + 10
  while not happens():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_nothing_is_noticed_while_all_live(run):
  _, losses = run
  time.sleep(3 * TIMEOUT)
  assert all(not x.found for x in losses)


@pytest.mark.parametrize("gone", [1, 2])
def test_a_process_that_dies_is_noticed_by_all(run, gone):
  watches, losses = run
  watches[gone].close(b"")
  other = 3 - gone
  assert losses[0].wait() == [(gone, "it has ended")]
  assert losses[other].wait() == [(gone, "process 0 has lost it")]
  assert not losses[gone].found


def test_all_notice_the_loss_of_process_0(run):
  watches, losses = run
  watches[0].close(b"")
  for i in (1, 2):
    assert losses[i].wait() == [(0, "it has ended")]


def test_a_process_that_is_silent_is_noticed(run, server, secret):
  """As a stopped one, or one behind a cut cable: its connection stays."""
  _, losses = run
  with socket.create_connection(server.getsockname()) as mute:
    mute.sendall(secret + (7).to_bytes(4, "big"))
    assert losses[0].wait() == [(7, f"it has been silent for {TIMEOUT:g} s")]
    assert losses[1].wait() == [(7, "process 0 has lost it")]


@pytest.mark.parametrize("first", [0, 1])
def test_processes_that_finish_are_not_missed(run, first):
  watches, losses = run
  watches[first].close()
  time.sleep(3 * TIMEOUT)
  assert all(not x.found for x in losses)


@pytest.mark.parametrize("first", [0, 1])
def test_an_error_of_all_processes_is_no_loss(run, first):
  """Each has the time to raise its own."""
  watches, losses = run
  for watch in (watches[first], *watches[:first], *watches[first + 1 :]):
    watch.close(peers._RAISED)
    time.sleep(0.1)
  time.sleep(3 * TIMEOUT)
  assert all(not x.found for x in losses)


def test_an_error_of_one_process_ends_the_others_later(run, monkeypatch):
  monkeypatch.setattr(peers, "_GRACE", 0.3)
  watches, losses = run
  began = time.monotonic()
  watches[1].close(peers._RAISED)
  assert losses[0].wait() == [(1, "it has ended with an error", "raised")]
  assert losses[2].wait() == [(1, "process 0 has lost it")]
  assert time.monotonic() - began > 0.3


def test_who_is_lost_by_process_0_alone_says_so(run):
  watches, losses = run
  watches[0]._send(peers._GONE + (2).to_bytes(4, "big"))
  assert losses[2].wait() == [(0, "it has lost this process")]
  assert losses[1].wait() == [(2, "process 0 has lost it")]


def test_a_silent_stranger_keeps_nobody_out(server, secret):
  losses = [Losses(), Losses()]
  watches = [peers.Watch(i, 5.0, losses[i]) for i in range(2)]
  watches[0].serve(server, secret)
  with socket.create_connection(server.getsockname()):
    began = time.monotonic()
    watches[1].join(socket.create_connection(server.getsockname()), secret)
    assert time.monotonic() - began < 4
  for watch in watches:
    watch.close()


def test_an_answer_of_another_program_is_not_process_0(secret):
  with socket.create_server(("127.0.0.1", 0)) as other:
    threading.Thread(
      target=lambda: other.accept()[0].sendall(b"HTTP/1.1 400 Bad"), daemon=True
    ).start()
    watch = peers.Watch(1, TIMEOUT, Losses())
    with pytest.raises(ConnectionError):
      watch.join(socket.create_connection(other.getsockname()), secret)
    watch.close()


def test_strangers_are_not_let_in(run, server):
  watches, losses = run
  with socket.create_connection(server.getsockname()) as stranger:
    stranger.sendall(b"x" * 20)
    assert stranger.recv(1) == b""  # closed
  assert set(watches[0]._links) == {1, 2}
  assert all(not x.found for x in losses)


def test_one_process_watches_nothing():
  before = threading.active_count()
  with peers.watched(30.0, lambda: ""):
    assert threading.active_count() <= before


def test_addresses_of_process_0():
  assert peers._addresses("127.0.0.1:12") == ["127.0.0.1"]
  assert peers._addresses("localhost:12") == ["localhost"]
  assert peers._addresses("[::1]:12") == ["::1"]
  assert peers._addresses("node7.example:12")[0] == "node7.example"
  for found in (peers._addresses("auto"), peers._addresses("")):
    assert not any(peers._is_loopback(a) for a in found)
