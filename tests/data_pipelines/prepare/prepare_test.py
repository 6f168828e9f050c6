"""The whole preparation, as a user runs it."""

import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from data_pipelines.prepare import parts, prepare, shards
from data_pipelines.records import index, manifest
from data_pipelines.records import sequence_example as example
from tests import small
from vssl_jax.errors import UserError
from vssl_jax.probes import views

ROOT = pathlib.Path(__file__).parents[3]


def videos(folder, split="train"):
  found = index.load(folder, split)
  return [example.decode(index.read_record(found, i, verify=True)) for i in range(len(found))]


def contents(folder):
  """Everything a run leaves for its users."""
  return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def stamps(folder):
  return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.glob("train-*")}


def run(*arguments):
  return small.vssl("prepare", "--timeout=0", *arguments)


@pytest.fixture(autouse=True)
def _no_process_for_one_worker(monkeypatch):
  """Starting one takes longer than most of these tests; those of time limits set their own."""
  monkeypatch.setitem(prepare.prepare.__kwdefaults__, "timeout", 0.0)


@pytest.fixture
def classes(tmp_path, make_video):
  """Two class folders of three videos."""
  for label in ("walk", "run"):
    for i in range(3):
      make_video(tmp_path / "in" / label / f"{i}.mp4", frames=6 + i, fps=10, size=(48, 32))
  return tmp_path / "in"


def test_class_folders(classes, tmp_path):
  out = tmp_path / "out"
  found = prepare.prepare(classes, out, short_side=16, shards=2, workers=1)
  assert sorted(p.name for p in out.iterdir()) == [
    ".prepare",
    "labels.txt",
    "manifest.json",
    "train-00000-of-00002.tfrecord",
    "train-00001-of-00002.tfrecord",
    "train.index.npz",
  ]
  assert (out / "labels.txt").read_text() == "run\nwalk\n"
  assert found == json.loads((out / "manifest.json").read_text())
  train = found["splits"]["train"]
  assert (train["videos"], train["records"], train["frames"]) == (6, 6, 2 * (6 + 7 + 8))
  assert train["classes"] == {"run": 3, "walk": 3}
  assert train["stored_size"] == {"24x16": 6}
  assert train["fps"] == {"10": 6}
  got = videos(out)
  assert sorted(v.filename for v in got) == [
    f"{c}/{i}.mp4" for c in ("run", "walk") for i in range(3)
  ]
  for video in got:
    assert video.label_text == video.filename.partition("/")[0]
    assert video.label == ["run", "walk"].index(video.label_text)
    assert video.fps == 10
    assert len(video.frames) == 6 + int(video.filename[-5])
    assert {Image.open(io.BytesIO(f)).size for f in video.frames} == {(24, 16)}


def test_tensorflow_reads_the_shards_with_dmvrs_features(classes, tmp_path, tf):
  prepare.prepare(classes, tmp_path / "out", workers=1)
  files = sorted(map(str, (tmp_path / "out").glob("*.tfrecord")))
  count = 0
  for record in tf.data.TFRecordDataset(files):
    context, lists = tf.io.parse_single_sequence_example(
      record,
      {"clip/label/index": tf.io.VarLenFeature(tf.int64)},
      {"image/encoded": tf.io.FixedLenSequenceFeature((), tf.string)},
    )
    assert tf.sparse.to_dense(context["clip/label/index"]).shape == (1,)
    frames = tf.map_fn(
      lambda jpeg: tf.io.decode_jpeg(jpeg, channels=3),
      lists["image/encoded"],
      fn_output_signature=tf.uint8,
    )
    assert frames.shape[1:] == (32, 48, 3)
    levels = frames.numpy().mean((1, 2, 3))
    np.testing.assert_allclose(levels, 10 + 8 * np.arange(len(levels)), atol=4)
    count += 1
  assert count == 6


def test_a_flat_folder_needs_no_labels(tmp_path, make_video):
  for i in range(3):
    make_video(tmp_path / "in" / f"{i}.avi")
  found = prepare.prepare(tmp_path / "in", tmp_path / "out", workers=1)
  assert found["labels"] == []
  assert found["splits"]["train"]["classes"] == {"": 3}
  assert [v.label for v in videos(tmp_path / "out")] == [-1] * 3
  assert (tmp_path / "out" / "labels.txt").read_text() == ""


def test_csv_with_splits_and_spans(tmp_path, make_video):
  make_video(tmp_path / "x" / "a.mp4", frames=20, fps=10)
  make_video(tmp_path / "x" / "b.mp4", frames=5, fps=10)
  (tmp_path / "list.csv").write_text(
    "path,label,start,end,split1,split2\n"
    "x/a.mp4,jump,0,1,train,test\nx/a.mp4,run,1.0,1.5,test,\nx/b.mp4,,,,train,train\n"
  )
  out = tmp_path / "out"
  found = prepare.prepare(tmp_path / "list.csv", out, split_column="split1", workers=1)
  assert {k: s["classes"] for k, s in found["splits"].items()} == {
    "train": {"": 1, "jump": 1},
    "test": {"run": 1},
  }
  (test,) = videos(out, "test")
  assert (test.label, test.label_text, test.filename) == (1, "run", "x/a.mp4")
  assert (test.start, test.end, len(test.frames)) == (1_000_000, 1_500_000, 5)
  assert {v.filename: v.label for v in videos(out)} == {"x/a.mp4": 0, "x/b.mp4": -1}


def test_csv_as_dmvr_has_it(tmp_path, make_video):
  make_video(tmp_path / "store" / "a.mp4", frames=20, fps=10)
  (tmp_path / "list.csv").write_text("video_path,start,end,label,caption\na.mp4,0.5,1.5,jump,up\n")
  out = tmp_path / "out"
  assert (
    run(tmp_path / "list.csv", out, "--root", tmp_path / "store", "--fps=5", "--workers=1") == 0
  )
  (video,) = videos(out)
  assert (video.caption, video.fps, len(video.frames)) == ("up", 5.0, 5)


def test_official_lists(tmp_path, make_video):
  for name in (
    "Archery/v_Archery_g08_c01",
    "Archery/v_Archery_g01_c01",
    "Surfing/v_Surfing_g08_c01",
  ):
    make_video(tmp_path / "ucf" / f"{name}.avi")
  train, test = tmp_path / "trainlist01.txt", tmp_path / "testlist01.txt"
  train.write_text("Archery/v_Archery_g08_c01.avi 3\nSurfing/v_Surfing_g08_c01.avi 88\n")
  test.write_text("Archery/v_Archery_g01_c01.avi\nSurfing/v_Surfing_g01_c01.avi\n")
  out = tmp_path / "out"
  assert (
    run(tmp_path / "ucf", out, "--split_list", train, test, "--workers=1") == 3
  )  # one is missing
  found = manifest.read(out)
  assert found["labels"] == ["Archery", "Surfing"]
  assert found["splits"]["train"]["classes"] == {"Archery": 1, "Surfing": 1}
  assert found["splits"]["test"]["classes"] == {"Archery": 1}
  assert found["splits"]["test"]["unreadable"] == [
    {"path": "Surfing/v_Surfing_g01_c01.avi", "reason": "no such file"}
  ]


def test_videos_that_no_list_has_are_told(tmp_path, make_video, capsys):
  for name in ("archery/v_Archery_g08_c01", "archery/new", "Skating/s"):
    make_video(tmp_path / "ucf" / "train" / f"{name}.avi")
  (tmp_path / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 3\n")
  flags = ("--split_list", tmp_path / "trainlist01.txt", "--workers=1")
  for _ in range(2):  # the second run finds all shards written
    assert run(tmp_path / "ucf", tmp_path / "out", *flags) == 3
    shown = capsys.readouterr()
    assert "left out: 2 videos of the folder that are in no list" in shown.out
    assert "note: 1 folder named like no class of the lists: Skating" in shown.err
  found = manifest.read(tmp_path / "out")
  assert found["labels"] == ["Archery"]
  assert found["splits"]["train"]["left_out"] == 2
  (video,) = videos(tmp_path / "out")
  assert video.filename == "train/archery/v_Archery_g08_c01.avi"


def test_the_hash_that_is_printed_is_that_of_results(tmp_path, make_video, capsys):
  make_video(tmp_path / "in" / "walk" / "a.mp4")
  assert run(tmp_path / "in", tmp_path / "out", "--workers=1") == 0
  config = ConfigDict({"path": str(tmp_path / "out")})
  assert f"1 classes, manifest_sha256 {views._manifest_hash(config)}\n" in capsys.readouterr().out
  flags = ("--workers=1", "--shards=2", "--part=1/2")
  assert run(tmp_path / "in", tmp_path / "parts", *flags) == 0  # which has no manifest
  assert ", sha256 of these shards " in capsys.readouterr().out


def test_folders_named_like_splits(tmp_path, make_video, capsys):
  for name in ("k/train/a", "k/Val/b"):
    make_video(tmp_path / "in" / f"{name}.mp4")
  assert run(tmp_path / "in", tmp_path / "out", "--workers=1") == 0
  found = manifest.read(tmp_path / "out")
  assert found["labels"] == []
  assert {name: split["videos"] for name, split in found["splits"].items()} == {
    "train": 1,
    "val": 1,
  }
  make_video(tmp_path / "in" / "k" / "walk" / "c.mp4")
  assert run(tmp_path / "in", tmp_path / "other", "--workers=1") == 2
  assert "pass --flat" in capsys.readouterr().err
  assert not (tmp_path / "other").exists()


@pytest.fixture
def bad(tmp_path, make_video, make_audio):
  """A CSV of one good video and every kind of bad one."""
  make_video(tmp_path / "good.mp4")
  make_video(tmp_path / "one.mp4", frames=1)
  make_audio(tmp_path / "sound.mp4")
  (tmp_path / "empty.mp4").write_bytes(b"")
  (tmp_path / "broken.mp4").write_bytes(b"no video" * 50)
  names = ["good", "one", "sound", "empty", "broken", "missing"]
  (tmp_path / "list.csv").write_text("path\n" + "".join(f"{n}.mp4\n" for n in names))
  return tmp_path / "list.csv"


def test_bad_videos_are_reported_and_skipped(bad, tmp_path, capsys):
  assert run(bad, tmp_path / "out", "--workers=1", "--shards=2") == 3
  found = manifest.read(tmp_path / "out")["splits"]["train"]
  assert (found["videos"], found["records"]) == (1, 1)
  assert {f["path"]: f["reason"] for f in found["unreadable"]} == {
    "one.mp4": "only one frame",
    "sound.mp4": "no video stream (only audio)",
    "empty.mp4": "empty file",
    "broken.mp4": "cannot be decoded: Invalid data found when processing input",
    "missing.mp4": "no such file",
  }
  assert "unreadable: empty.mp4: empty file" in capsys.readouterr().out


def test_odd_videos_are_kept_and_noted(tmp_path, make_video, capsys):
  folder, out = tmp_path / "in", tmp_path / "out"
  make_video(folder / "good.mp4")
  gap = make_video(folder / "gap.mkv", frames=4, times=[0, 0.1, 90.0, 90.1], codec="libx264")
  make_video(folder / "wide.mp4", aspect="2")
  assert run(folder, out, "--flat", "--workers=1") == 0
  note = "1 gap of more than 60 s, the longest of 90 s at 0 s"
  assert f"kept: gap.mkv: {note}" in capsys.readouterr().out
  found = manifest.read(out)["splits"]["train"]
  assert found["noted"] == [{"path": "gap.mkv", "notes": [note]}]
  assert found["stored_size"] == {"32x24": 2, "64x24": 1}
  assert "max_gap" not in found["settings"]  # as before there was such a flag
  # An earlier version's records are the same, and can be continued.
  assert run(folder, out, "--flat", "--workers=1") == 0
  flags = ("--max_gap=60", "--raw_aspect", "--stream_fps=10")
  assert run(folder, out, "--flat", "--workers=1", *flags) == 2
  assert "raw_aspect=None (now True)" in capsys.readouterr().err
  assert run(folder, out, "--flat", "--workers=1", *flags, "--overwrite") == 3
  found = manifest.read(out)["splits"]["train"]
  assert [f["path"] for f in found["unreadable"]] == [gap.name]
  assert found["stored_size"] == {"32x24": 2}
  assert (found["settings"]["max_gap"], found["settings"]["raw_aspect"]) == (60, True)
  capsys.readouterr()
  assert run(folder, out, "--flat", "--workers=1", "--max_gap=60") == 2
  assert "raw_aspect=True (now None), stream_fps=10.0 (now None)" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops(bad, tmp_path, capsys, workers):
  assert run(bad, tmp_path / "out", "--strict", f"--workers={workers}", "--shards=2") == 2
  assert not (tmp_path / "out" / "manifest.json").exists()
  assert "(--strict)" in capsys.readouterr().err


@pytest.fixture
def latin(tmp_path, make_video):
  """A class folder and, in it, a good and a broken video whose names are Latin-1."""
  make_video(tmp_path / "ok.mp4")
  folder = os.path.join(os.fsencode(tmp_path), b"in", b"caf\xe9")
  os.makedirs(folder)
  (tmp_path / "ok.mp4").rename(os.fsdecode(os.path.join(folder, b"bar\xe9.mp4")))
  with open(os.path.join(folder, b"caf\xe9.mp4"), "wb") as file:
    file.write(b"no video" * 50)
  return tmp_path / "in"


@pytest.mark.parametrize("workers", [1, 2])
def test_names_that_are_no_utf8(latin, tmp_path, capsys, workers):
  out = tmp_path / "out"
  arguments = (latin, out, f"--workers={workers}", "--shards=2")
  assert run(*arguments) == 3
  shown = capsys.readouterr().out
  assert r"unreadable: caf\xe9/caf\xe9.mp4: cannot be decoded" in shown
  before = contents(out)
  assert run(*arguments) == 3
  assert contents(out) == before
  (video,) = videos(out)
  assert os.fsencode(video.filename) == b"caf\xe9/bar\xe9.mp4"
  assert os.fsencode(video.label_text) == b"caf\xe9"
  assert before["labels.txt"] == b"caf\xe9\n"
  found = json.loads(before["manifest.json"].decode("utf-8"))  # any reader of JSON can read it
  assert found == manifest.read(out)
  assert [os.fsencode(name) for name in found["labels"]] == [b"caf\xe9"]
  assert run(latin, out, "--strict", f"--workers={workers}", "--shards=2") == 2
  assert r"error: caf\xe9/caf\xe9.mp4" in capsys.readouterr().err


def test_a_csv_of_names_that_are_no_utf8(latin, tmp_path):
  (tmp_path / "in" / "list.csv").write_bytes(
    b"path,label,caption\ncaf\xe9/bar\xe9.mp4,t\xeate,\xe0\n"
  )
  prepare.prepare(tmp_path / "in" / "list.csv", tmp_path / "out", workers=1)
  (video,) = videos(tmp_path / "out")
  found = (video.filename, video.label_text, video.caption)
  assert [os.fsencode(t) for t in found] == [b"caf\xe9/bar\xe9.mp4", b"t\xeate", b"\xe0"]


def test_states_of_earlier_versions_are_read(latin, tmp_path):
  """They held such bytes as they are."""
  out = tmp_path / "out"
  prepare.prepare(latin, out, shards=2, workers=1)
  before = stamps(out)
  for state in [*(out / ".prepare").glob("train-*.json"), out / "manifest.json"]:
    value = json.loads(state.read_text())
    raw = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    state.write_bytes(raw)
  prepare.prepare(latin, out, shards=2, workers=1)
  assert stamps(out) == before


def test_strict_does_not_pass_over_what_an_earlier_run_skipped(bad, tmp_path):
  prepare.prepare(bad, tmp_path / "out", workers=1)
  with pytest.raises(shards.UnreadableVideoError):
    prepare.prepare(bad, tmp_path / "out", workers=1, strict=True)


def test_nothing_readable_at_all(tmp_path):
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "a.mp4").write_bytes(b"")
  assert run(tmp_path / "in", tmp_path / "out", "--workers=1") == 3
  assert manifest.read(tmp_path / "out")["splits"]["train"]["videos"] == 0


def test_a_mended_file_redoes_its_shard_alone(bad, tmp_path, make_video):
  out = tmp_path / "out"
  prepare.prepare(bad, out, shards=6, workers=1)
  before = stamps(out)
  make_video(tmp_path / "missing.mp4")
  found = prepare.prepare(bad, out, shards=6, workers=1)
  assert found["splits"]["train"]["videos"] == 2
  assert len(before.items() - stamps(out).items()) == 1


def test_workers_do_not_change_a_byte(classes, tmp_path):
  prepare.prepare(classes, tmp_path / "one", shards=3, workers=1)
  prepare.prepare(classes, tmp_path / "two", shards=3, workers=2)
  assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_resumes_with_the_unfinished_shards(classes, tmp_path):
  whole, out = tmp_path / "whole", tmp_path / "out"
  prepare.prepare(classes, whole, shards=3, workers=1)
  prepare.prepare(classes, out, shards=3, workers=1)
  before = stamps(out)
  name = "train-00001-of-00003.tfrecord"
  (out / name).rename(out / f".tmp-123-{name}")  # as a kill leaves it
  (out / "manifest.json").unlink()
  prepare.prepare(classes, out, shards=3, workers=1)
  assert contents(out) == contents(whole)
  after = stamps(out)
  assert {n for n in before if before[n] != after[n]} == {name}


def test_running_again_writes_no_shard(classes, tmp_path):
  first = prepare.prepare(classes, tmp_path / "out", workers=1)
  before = stamps(tmp_path / "out")
  assert prepare.prepare(classes, tmp_path / "out", workers=1) == first
  assert stamps(tmp_path / "out") == before


@pytest.mark.slow
def test_sigkill_in_the_middle_then_resume(tmp_path, make_video):
  for i in range(12):
    make_video(tmp_path / "in" / f"{i}.mp4", frames=60, size=(320, 240))
  whole, out = tmp_path / "whole", tmp_path / "out"
  arguments = ("--shards=6", "--workers=2")
  assert run(tmp_path / "in", whole, *arguments) == 0
  command = [sys.executable, "-m", "data_pipelines.prepare", tmp_path / "in", out, *arguments]
  process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 60
  while not (list(out.glob("train-*")) and list(out.glob(".tmp-*"))):
    assert process.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.wait()
  before = stamps(out)
  assert 0 < len(before) < 6
  assert not (out / "manifest.json").exists()
  subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
  assert contents(out) == contents(whole)
  after = stamps(out)
  kept = [name for name in before if after[name] == before[name]]
  assert len(kept) >= len(before) - 2  # a shard may lack its result at the moment of the kill


def test_a_worker_that_dies_costs_one_video(tmp_path, make_video, monkeypatch, capsys):
  for i in range(4):
    make_video(tmp_path / "in" / f"{i}.mp4")
  (tmp_path / "dying_write.py").write_text(
    "import os, signal\nfrom data_pipelines.prepare import shards\n"
    "def write(shard, report):\n"
    "  for i, entry in enumerate(shard.entries):\n"
    "    if entry.path == '2.mp4' and i not in shard.crashed:\n"
    "      report(('start', i))\n"
    "      os.kill(os.getpid(), signal.SIGSEGV)\n"
    "  return shards.write(shard, report)\n"
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  import dying_write

  monkeypatch.setattr(prepare.shards_lib, "write", dying_write.write)
  found = prepare.prepare(tmp_path / "in", tmp_path / "out", shards=2, workers=2)
  assert found["splits"]["train"]["videos"] == 3
  assert found["splits"]["train"]["unreadable"] == [
    {"path": "2.mp4", "reason": "the process was ended by SIGSEGV"}
  ]


@pytest.fixture
def ill(tmp_path, make_video, monkeypatch):
  """Four videos; `ill(how)` makes decoding `2.mp4` go wrong, whatever process does it.

  `how` is Python for the moment before each record; `tries` is how often that moment came before.
  """
  for i in range(4):
    make_video(tmp_path / "in" / f"{i}.mp4")

  def install(how):
    (tmp_path / "ill_write.py").write_text(
      "import ctypes, os, pathlib, signal, time\n"
      "from data_pipelines.prepare import shards\nfrom data_pipelines.videos import decode\n"
      "real = decode.decode\n"
      "def ill(path, *args, **kwargs):\n"
      "  for part in real(path, *args, **kwargs):\n"
      "    if path.endswith('2.mp4'):\n"
      f"      log = pathlib.Path({str(tmp_path / 'tries')!r})\n"
      "      tries = log.stat().st_size if log.exists() else 0\n"
      "      with log.open('a') as file:\n"
      "        file.write('x')\n"
      f"      {how}\n"
      "    yield part\n"
      "def write(shard, report):\n"
      "  decode.decode = ill\n"
      "  return shards.write(shard, report)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ill_write", raising=False)
    import ill_write

    monkeypatch.setattr(prepare.shards_lib, "write", ill_write.write)

  return install


def records_of(folder):
  return {name: data for name, data in contents(folder).items() if name != "manifest.json"}


def without(tmp_path, name):
  """The shards where that video gives no record."""
  shutil.copytree(tmp_path / "in", tmp_path / "less")
  (tmp_path / "less" / name).write_bytes(b"no video")
  prepare.prepare(tmp_path / "less", tmp_path / "less_out", shards=2, workers=1)
  return records_of(tmp_path / "less_out")


HANG = "ctypes.CDLL(None).pause()"  # in C, as a decoder hangs
KILLED = "the process was ended by SIGKILL"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_decoder_that_hangs_costs_one_video(ill, tmp_path, capsys, workers):
  expected = without(tmp_path, "2.mp4")
  ill(HANG)
  arguments = ("--shards=2", f"--workers={workers}", "--timeout=2")
  assert run(tmp_path / "in", tmp_path / "out", *arguments) == 3
  reason = "decoding took longer than 2 s (--timeout)"
  assert f"unreadable: 2.mp4: {reason}" in capsys.readouterr().out
  train = manifest.read(tmp_path / "out")["splits"]["train"]
  assert (train["videos"], train["unreadable"]) == (3, [{"path": "2.mp4", "reason": reason}])
  assert records_of(tmp_path / "out") == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_killed_once_costs_nothing(ill, tmp_path, workers):
  whole, out = tmp_path / "whole", tmp_path / "out"
  prepare.prepare(tmp_path / "in", whole, shards=2, workers=1)
  ill("tries or os.kill(os.getpid(), signal.SIGKILL)")
  prepare.prepare(tmp_path / "in", out, shards=2, workers=workers, timeout=60)
  assert (tmp_path / "tries").read_text() == "xx"
  assert contents(out) == contents(whole)  # the manifest, too, with every shard's sha256


def test_a_worker_killed_twice_costs_that_video(ill, tmp_path):
  ill("os.kill(os.getpid(), signal.SIGKILL)")
  found = prepare.prepare(tmp_path / "in", tmp_path / "out", shards=2, workers=2, timeout=60)
  assert (tmp_path / "tries").read_text() == "xx"
  train = found["splits"]["train"]
  assert (train["videos"], train["unreadable"]) == (3, [{"path": "2.mp4", "reason": KILLED}])


def test_each_record_of_a_long_video_has_the_time_limit_anew(ill, tmp_path, make_video):
  make_video(tmp_path / "in" / "2.mp4", frames=60, fps=10)
  ill("time.sleep(0.8)")
  found = prepare.prepare(tmp_path / "in", tmp_path / "out", max_seconds=1.0, workers=1, timeout=3)
  assert found["splits"]["train"]["unreadable"] == []
  assert (tmp_path / "tries").read_text() == "x" * 6


def test_strict_stops_at_a_hang(ill, tmp_path, capsys):
  ill(HANG)
  arguments = ("--shards=2", "--workers=2", "--timeout=2", "--strict")
  assert run(tmp_path / "in", tmp_path / "out", *arguments) == 2
  assert "error: 2.mp4: decoding took longer than 2 s" in capsys.readouterr().err


def test_other_settings_or_videos_are_refused_until_overwritten(
  classes, tmp_path, make_video, capsys
):
  out = tmp_path / "out"
  assert run(classes, out, "--shards=2", "--workers=1") == 0
  capsys.readouterr()
  assert run(classes, out, "--shards=2", "--workers=1", "--quality=70", "--fps=5") == 2
  error = capsys.readouterr().err
  assert "fps=0.0 (now 5.0), quality=85 (now 70)" in error
  assert error.count("\n") == 1
  make_video(classes / "run" / "new.mp4")
  with pytest.raises(UserError, match="another list of videos"):
    prepare.prepare(classes, out, shards=2, workers=1)
  found = prepare.prepare(classes, out, shards=3, workers=1, overwrite=True)
  assert found["splits"]["train"]["videos"] == 7
  assert len(list(out.glob("*.tfrecord"))) == 3


def test_splits_prepared_one_after_the_other_share_their_labels(tmp_path, make_video):
  for name in ("a", "b", "c"):
    make_video(tmp_path / f"{name}.mp4")
  (tmp_path / "train.csv").write_text("path,label\na.mp4,x\nb.mp4,y\n")
  (tmp_path / "val.csv").write_text("path,label\nc.mp4,y\n")
  (tmp_path / "odd.csv").write_text("path,label\nc.mp4,z\n")
  out = tmp_path / "out"
  prepare.prepare(tmp_path / "train.csv", out, workers=1)
  found = prepare.prepare(tmp_path / "val.csv", out, split="val", quality=90, workers=1)
  assert list(found["splits"]) == ["train", "val"]
  assert [v.label for v in videos(out, "val")] == [1]
  with pytest.raises(UserError, match=r"label 'z' is not in .*labels\.txt"):
    prepare.prepare(tmp_path / "odd.csv", out, split="odd", workers=1)
  found = prepare.prepare(tmp_path / "val.csv", out, split="val", workers=1, overwrite=True)
  assert list(found["splits"]) == ["train", "val"]


def test_labels_from_a_file(classes, tmp_path):
  names = tmp_path / "names.txt"
  names.write_text("walk\nsit\nrun\n")
  prepare.prepare(classes, tmp_path / "out", labels=names, workers=1)
  assert {v.label_text: v.label for v in videos(tmp_path / "out")} == {"walk": 0, "run": 2}
  names.write_text("run\nwalk\n")
  with pytest.raises(UserError, match="differs"):
    prepare.prepare(classes, tmp_path / "out", labels=names, workers=1)
  names.write_text("run\n")
  with pytest.raises(UserError, match=r"'walk' is not in .*names\.txt"):
    prepare.prepare(classes, tmp_path / "two", labels=names, workers=1)
  names.write_text("run\n\nwalk\n")
  with pytest.raises(UserError, match=r"names\.txt, line 2: blank"):
    prepare.prepare(classes, tmp_path / "two", labels=names, workers=1)


def test_long_videos_become_several_records(tmp_path, make_video):
  make_video(tmp_path / "in" / "a.mp4", frames=50, fps=10)
  found = prepare.prepare(tmp_path / "in", tmp_path / "out", max_seconds=2.0, workers=1)
  train = found["splits"]["train"]
  assert (train["videos"], train["records"], train["frames"]) == (1, 3, 50)
  assert [(v.start, v.end) for v in videos(tmp_path / "out")] == [
    (0, 2_000_000),
    (2_000_000, 3_500_000),
    (3_500_000, 5_000_000),
  ]


def test_shards_from_elsewhere_are_not_overwritten(classes, tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "train-00000-of-00004").write_bytes(b"theirs")
  for overwrite in (False, True):
    with pytest.raises(UserError, match="train-00000-of-00004: not written by prepare"):
      prepare.prepare(classes, tmp_path / "out", workers=1, overwrite=overwrite)
  assert (tmp_path / "out" / "train-00000-of-00004").read_bytes() == b"theirs"


def test_two_runs_at_a_time_are_refused(classes, tmp_path):
  with parts.claim(tmp_path / "out"), pytest.raises(UserError, match="another prepare is at work"):
    prepare.prepare(classes, tmp_path / "out", workers=1)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["in", "--quality=0"], "quality is 0"),
    (["in", "--fps=-1"], "fps is -1"),
    (["in", "--split_column=x"], "split_column needs a CSV"),
    (["in", "--root=x"], "root needs a CSV"),
    (["list.csv", "--flat"], "flat needs a folder"),
    (["list.csv", "--split_list", "a.txt"], "split_list needs a folder"),
    (["nowhere"], "no such folder"),
    (["in", "--timeout=-1"], "timeout is -1.0: it must be between 0 and"),
    (["in", "--split=a/b"], "split name 'a/b'"),
    (["in", "--labels=none.txt"], "none.txt: No such file"),
    (["in/run/0.mp4"], "0.mp4 is a video: give its folder or a CSV"),
  ],
)
def test_bad_usage_is_told_in_one_line(classes, tmp_path, monkeypatch, capsys, arguments, message):
  (tmp_path / "list.csv").write_text("path\nin/run/0.mp4\n")
  monkeypatch.chdir(tmp_path)
  assert run(arguments[0], "out", *arguments[1:], "--workers=1") == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1


def test_an_output_that_cannot_be_made(classes, tmp_path):
  (tmp_path / "out").write_text("a file")
  with pytest.raises(UserError, match="out"):
    prepare.prepare(classes, tmp_path / "out", workers=1)


def test_interrupt(classes, tmp_path, monkeypatch, capsys):
  def interrupt(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(prepare.shards_lib, "write", interrupt)
  assert run(classes, tmp_path / "out", "--workers=1") == 130
  assert "run the same command again" in capsys.readouterr().err


def test_real_videos(tmp_path):
  """UCF101 videos, where VSSL_DATA names the folder that holds `ucf101_6`."""
  root = pathlib.Path(os.environ.get("VSSL_DATA", "")) / "ucf101_6"
  if not (root / "labels.csv").exists():
    pytest.skip("set VSSL_DATA to the folder that holds ucf101_6 to run this on real videos")
  lines = (root / "labels.csv").read_text().splitlines()
  (tmp_path / "list.csv").write_text("\n".join([lines[0], *lines[1::60]]) + "\n")
  found = prepare.prepare(
    tmp_path / "list.csv", tmp_path / "out", root=root, split_column="split1", workers=1
  )
  got = [v for split in found["splits"] for v in videos(tmp_path / "out", split)]
  for video in got:
    with av.open(str(root / video.filename)) as container:
      assert len(video.frames) == sum(1 for _ in container.decode(video=0))
  assert len(got) == len(lines[1::60])
  assert not any(split["unreadable"] for split in found["splits"].values())
