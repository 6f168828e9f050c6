"""What processes of a pod tell each other, and how they share rows, queries and videos."""

import threading
import types

import numpy as np
import pytest

from tests import pod
from vssl_jax import parallel
from vssl_jax.cli import arguments
from vssl_jax.encoder import snippet_features
from vssl_jax.errors import UserError
from vssl_jax.evaluation import frozen, tuned
from vssl_jax.probes import features, retrieval
from vssl_jax.training import peers


@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 26])
def test_rows_of_all_processes_arrive_everywhere_bit_for_bit(monkeypatch, block_bytes):
  monkeypatch.setattr(parallel, "_BLOCK_BYTES", block_bytes)
  rng = np.random.default_rng(0)
  whole = {
    "features": rng.standard_normal((9, 2, 3)).astype(np.float32),
    "video": rng.integers(1 << 40, 1 << 62, 9),
    "known": rng.random(9) > 0.5,
    "name": np.array([f"v{i}" * i for i in range(9)]),
    "nothing": np.zeros((9, 0), np.float32),
  }
  parts = [slice(0, 4), slice(4, 4), slice(4, 9)]

  def gather(index):
    rows = {k: x[parts[index]] for k, x in whole.items()}
    return parallel.gather_rows(rows if index != 1 else {})

  for found in pod.run(3, gather):
    assert found.keys() == whole.keys()
    for key, x in whole.items():
      assert found[key].dtype == x.dtype
      np.testing.assert_array_equal(found[key], x)
  assert pod.run(2, lambda _: parallel.gather_rows({})) == [{}, {}]


def test_every_row_has_one_owner():
  for count in (1, 2, 3, 7):
    for rows in (0, 1, 5, 21):
      shares = pod.run(count, lambda _, rows=rows: list(range(rows)[parallel.own_share(rows)]))
      assert [x for share in shares for x in share] == list(range(rows))
      assert max(map(len, shares)) <= -(-rows // count)
  assert pod.run(3, lambda _: parallel.for_all(8)) == [9, 9, 9]


def test_process_0_decides_and_its_error_is_everyone_s():
  calls = []

  def decide(index):
    return parallel.from_first(lambda: calls.append(index) or {"kept": [1, None, "é"]})

  assert pod.run(3, decide) == [{"kept": [1, None, "é"]}] * 3
  assert calls == [0]
  caught = []

  def fail():
    raise UserError("config.x is 1: give 2.")

  def refuse(_):
    try:
      parallel.from_first(fail)
    except UserError as e:
      caught.append(str(e))

  pod.run(2, refuse)
  assert caught == ["config.x is 1: give 2."] * 2
  assert pod.run(3, lambda i: parallel.everywhere(i < 2)) == [False] * 3
  assert pod.run(3, lambda i: parallel.everywhere(i < 3)) == [True] * 3


def test_arrays_by_number_and_texts_by_name():
  """Also if process 0 has none, and knows no shape."""
  found = pod.run(3, lambda i: parallel.gather_numbered({i: np.full((2, 2), i)} if i else {}))
  for one in found:
    assert sorted(one) == [1, 2]
    np.testing.assert_array_equal(one[2], np.full((2, 2), 2))
  texts = pod.run(3, lambda i: parallel.gather_text({"é": "{"} if i == 1 else {f"{i}": "a\n"}))
  assert texts == [{"0": "a\n", "é": "{", "2": "a\n"}] * 3


def test_a_split_without_any_video_is_refused_by_all():
  part = {"video": np.arange(3), "label": np.arange(3)}
  found = pod.run(2, lambda i: features.combine([part] if i else []))
  assert [x["video"].tolist() for x in found] == [[0, 1, 2]] * 2
  with pytest.raises(UserError, match="holds no video that can be read"):
    pod.run(2, lambda _: features.combine([]))


def test_queries_are_shared():
  rng = np.random.default_rng(0)
  bank, queries = rng.standard_normal((30, 4)), rng.standard_normal((11, 4))
  labels, asked = rng.integers(-1, 3, 30), rng.integers(-1, 3, 11)
  whole = retrieval.evaluate(bank, labels, queries, asked)
  found = pod.run(3, lambda _: retrieval.evaluate(bank, labels, queries, asked, share=True))
  assert found == [pytest.approx(whole, abs=1e-12)] * 3
  # More processes than queries.
  few = retrieval.evaluate(bank, labels, queries[:4], np.arange(4) % 3)
  found = pod.run(
    7, lambda _: retrieval.evaluate(bank, labels, queries[:4], np.arange(4) % 3, share=True)
  )
  assert found == [pytest.approx(few, abs=1e-12)] * 7
  for rows in (queries, queries[:2]):
    for y in pod.run(3, lambda _, rows=rows: frozen._shared(lambda x: 2 * x, rows)):
      np.testing.assert_array_equal(y, 2 * rows)


def test_untrimmed_videos_are_shared_and_journals_merged(tmp_path):
  """Also after a process of more was killed: nothing is extracted twice."""
  paths = [tmp_path / f"{i}.mp4" for i in range(7)]
  for path in paths:
    path.write_bytes(b"x" * 8)
  settings = types.SimpleNamespace(stride=16, fps=25.0, stream_fps=0.0)
  made = types.SimpleNamespace(origin={"encoder": "a"}, settings=settings, width=2)
  out, done = tmp_path / "out", []

  def slide(fails, left, finish):
    for path in left:
      if path.stem == fails:
        raise KeyError(fails)
      if path.stem == "4":
        continue
      done.append(path.stem)
      finish(path, {"snippets": 1, "seconds": 2.0}, np.zeros((1, 2), np.float32))
    return {p: "broken" for p in left if p.stem == "4"}

  def write(fails):
    return snippet_features._write(out, paths, made, lambda *a: slide(fails, *a), False)

  # Process 2 of 3 has the videos 2 and 5. Without the others, it alone fails before the end.
  with pytest.raises((KeyError, threading.BrokenBarrierError)):
    pod.run(3, lambda _: write("5"), patience=5)
  assert sorted(done) == ["0", "1", "2", "3", "6"]
  done.clear()
  first, second = pod.run(2, lambda _: write(""))
  assert done == ["5"]
  assert first == second
  assert first["counts"] == {"videos": 6, "unreadable": 1, "snippets": 6, "seconds": 12.0}
  assert first["unreadable"] == [{"path": str(paths[4]), "reason": "broken"}]
  assert not list(out.glob("progress-*"))


def test_a_small_batch_takes_as_many_devices_of_each_process(monkeypatch):
  owned = [types.SimpleNamespace(process_index=i // 4, platform="tpu") for i in range(8)]
  mesh = types.SimpleNamespace(size=8, devices=np.array(owned))
  monkeypatch.setattr(parallel, "make_mesh", list)
  assert tuned.devices(mesh, 8) is mesh
  for videos, want in ((7, 3), (2, 1), (5, 2)):
    taken = tuned.devices(mesh, videos)
    assert [d.process_index for d in taken] == [0] * want + [1] * want
  with pytest.raises(UserError, match="on 1 videos at a time by 2 processes"):
    tuned.devices(mesh, 1)


def test_flags_of_several_processes():
  p = arguments.Parser("vssl evaluate", "", "")
  arguments.distributed(p)
  flag = "--config.distributed."
  told = p.parse_args([f"{flag}coordinator=a:1", f"{flag}processes=2", f"{flag}index", "1"])
  assert told.distributed == {"coordinator": "a:1", "processes": 2, "index": 1}
  assert p.parse_args([]).distributed is None
  with pytest.raises(UserError, match="invalid int value: 'x'"):
    p.parse_args([f"{flag}index=x"])


def test_wrong_fields_of_several_processes():
  for fields, message in (
    ({"port": 1}, "no field 'port'; there are coordinator, index, processes, timeout"),
    ({"processes": 2}, "processes is 2 without a coordinator"),
    ({"coordinator": "a:1", "processes": 2, "index": 2}, "index is 2: it must be from 0"),
  ):
    with pytest.raises(UserError, match=message), peers.joined(fields, str):
      pass


def test_a_folder_that_others_do_not_see(monkeypatch, tmp_path):
  monkeypatch.setattr(peers, "_SHOWN", 0.0)
  (tmp_path / "other").mkdir()
  pod.run(2, lambda _: peers.require_shared(tmp_path, "--output"))
  assert [x.name for x in tmp_path.iterdir()] == ["other"]
  folders = (tmp_path, tmp_path / "other")
  with pytest.raises(
    UserError, match=f"--output: {tmp_path}.* is not the same folder on all hosts"
  ):
    pod.run(2, lambda i: peers.require_shared(folders[i], "--output"))
