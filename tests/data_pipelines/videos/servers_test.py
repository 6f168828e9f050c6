"""Worker processes that answer: what they return, and what they survive."""

import functools
import os
import signal
import threading
import time

import numpy as np
import pytest

from data_pipelines.videos import servers


@pytest.fixture(scope="module")
def one():
  found = servers.Servers(1)
  yield found
  found.close()


def fail(text):
  raise KeyError(text)


def once(flag):
  """Is killed at the first call."""
  if not os.path.exists(flag):
    open(flag, "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
  return "survived"


def test_answers_and_exceptions_come_back(one):
  x = np.arange(12).reshape(3, 4)
  np.testing.assert_array_equal(one.call(np.transpose, x, timeout=100), x.T)
  for timeout in (0, 100):
    with pytest.raises(KeyError, match="gone"):
      one.call(fail, "gone", timeout=timeout)
  with pytest.raises(TimeoutError):  # the function's own, not the limit
    one.call(functools.partial(_raise, TimeoutError), "", timeout=100)


def _raise(kind, text):
  raise kind(text)


def test_threads_wait_for_a_process(one):
  results = {}
  threads = [
    threading.Thread(target=lambda i=i: results.update({i: one.call(abs, -i)})) for i in range(6)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert results == {i: i for i in range(6)}


def test_a_crash_a_kill_and_a_hang_cost_one_request_each(one, tmp_path):
  with pytest.raises(servers.LostError, match="ended with status 7") as info:
    one.call(os._exit, 7, timeout=100)
  assert not info.value.crash.outside
  assert one.call(once, str(tmp_path / "flag"), timeout=100) == "survived"
  begin = time.monotonic()
  with pytest.raises(servers.LostError, match=r"longer than 0\.3 s") as info:
    one.call(time.sleep, 100, timeout=0.3)
  assert not info.value.crash.outside
  assert time.monotonic() - begin >= 0.6  # it was tried twice
  assert one.call(abs, -1, timeout=100) == 1


def test_all_sources_share_the_processes(monkeypatch):
  assert servers.shared(3) is servers.shared(3)
  assert servers.shared(3) is not servers.shared(2)
  begin, made = threading.Barrier(8), []

  def slow(count):
    time.sleep(0.05)  # long enough for the other threads
    made.append(count)
    return real(count)

  real = servers.Servers
  monkeypatch.setattr(servers, "Servers", slow)
  threads = [threading.Thread(target=lambda: (begin.wait(), servers.shared(5))) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert made == [5]
