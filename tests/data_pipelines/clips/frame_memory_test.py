"""Who makes, finds and removes shared memory, with processes that stand for each other."""

import gc
import threading

import numpy as np
import pytest

from data_pipelines.clips import frame_memory
from vssl_jax.errors import UserError

KEY, LENGTH, HEIGHT, WIDTH = "a" * 40, 3, 5, 7
PICTURES = np.random.default_rng(0).integers(0, 256, (2, LENGTH, HEIGHT, WIDTH, 3), np.uint8)
BYTES = 2 * LENGTH * frame_memory.stride(HEIGHT, WIDTH)


def fill(frames):
  for video in (1, 0):
    offset, room = frames.allocate(LENGTH, HEIGHT, WIDTH)
    room[:, : HEIGHT * WIDTH * 3] = PICTURES[video].reshape(LENGTH, -1)
    frames.rows[video] = (offset, LENGTH, HEIGHT, WIDTH, video, 25.0)


def refuse(_):
  raise AssertionError("filled again")


def make(folder, *, key=KEY, fill=fill, need=BYTES):
  return frame_memory.make(
    str(folder), key, 2, need=lambda: need, fill=fill, where="config.data.cache=host"
  )


def test_frames_are_those_that_were_written_and_are_filled_once(tmp_path):
  first = make(tmp_path)
  second, third = make(tmp_path, fill=refuse), frame_memory.find(str(tmp_path), KEY, 2)
  for frames in (first, second, third):
    assert frames.held.all()
    for video in range(2):
      for t in range(LENGTH):
        np.testing.assert_array_equal(frames.picture(video, t), PICTURES[video, t])
  del first, frames
  gc.collect()
  assert len(list(tmp_path.iterdir())) == 1  # others use it
  del second, third
  gc.collect()
  assert not list(tmp_path.iterdir())
  assert frame_memory.find(str(tmp_path), KEY, 2) is None


def test_one_fills_and_the_others_wait(tmp_path):
  begun, go, calls = threading.Event(), threading.Event(), []

  def slowly(frames):
    calls.append(1)
    begun.set()
    assert go.wait(30)
    fill(frames)

  found = []
  threads = [
    threading.Thread(target=lambda: found.append(make(tmp_path, fill=slowly))) for _ in range(3)
  ]
  threads[0].start()
  assert begun.wait(30)
  for thread in threads[1:]:
    thread.start()
  go.set()
  for thread in threads:
    thread.join(30)
  assert len(calls) == 1
  assert [f.held.all() for f in found] == [True] * 3


@pytest.mark.parametrize("head", [0, frame_memory._COMPLETE])  # the latter of a file cut short
def test_what_a_killed_process_left_is_made_anew_and_of_other_data_removed(tmp_path, head):
  left = tmp_path / make(tmp_path).__class__.__name__  # a file of someone else stays
  left.write_bytes(b"")
  path = frame_memory._path(str(tmp_path), KEY)
  path.write_bytes(head.to_bytes(8, "little") + bytes(100 if head else 10000))
  other = frame_memory._path(str(tmp_path), "b" * 40)
  other.write_bytes(bytes(10))
  frames = make(tmp_path)
  np.testing.assert_array_equal(frames.picture(1, 2), PICTURES[1, 2])
  assert sorted(p.name for p in tmp_path.iterdir()) == sorted([left.name, path.name])


def test_failure_leaves_nothing(tmp_path, monkeypatch):
  with pytest.raises(UserError, match=r"cache=host: the videos have more frames than before"):
    make(tmp_path, need=BYTES - 64)
  monkeypatch.setattr(frame_memory, "room", lambda _: BYTES)
  with pytest.raises(UserError, match=r"take 0\.0 GB, and 0\.0 GB are free in"):
    make(tmp_path)
  assert not list(tmp_path.iterdir())


def test_room_in_memory_is_what_the_machine_and_the_container_can_spare(tmp_path, monkeypatch):
  monkeypatch.setattr(frame_memory, "_in_memory", lambda _: True)
  monkeypatch.setattr(frame_memory, "_available", lambda: 2000)
  monkeypatch.setattr(frame_memory, "_allowed", lambda: 1000)
  assert frame_memory.room(tmp_path) == 950
  monkeypatch.undo()
  assert frame_memory._available() > 1 << 20
