"""Features of small real videos, a broken one among them: files, manifest, going on, refusals."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest

from data_pipelines.listing import finding
from data_pipelines.untrimmed import sequences
from data_pipelines.videos import snippets
from tests import small
from tests.data_pipelines.conftest import _make_video
from tests.data_pipelines.untrimmed.sequences_test import fields
from vssl_jax import files
from vssl_jax.encoder import encoder, snippet_encoder, snippet_features
from vssl_jax.files import lock
from vssl_jax.localization import annotations
from vssl_jax.localization.annotations import Segment, Video

ALONE = ["--workers=1", "--timeout=0"]  # in this process
FLAGS = ["--frames=2", "--stride=3", "--fps=10", "--resize=16", "--size=12", "--batch_size=4"]


def encode(clips):
  """Mean level of each frame: no network is needed to see what goes where."""
  return clips.mean(axis=(2, 3, 4)).astype(np.float32)


@pytest.fixture
def world(tmp_path, monkeypatch):
  """Three videos and one that is none; an encoder that is a function of the pixels."""
  folder = tmp_path / "videos"
  for name, frames in (("b", 12), ("a", 7), ("deep/c", 1)):
    _make_video(folder / f"{name}.mp4", frames=frames, fps=10)
  (folder / "bad.mp4").write_bytes(b"no video")
  (folder / "notes.txt").write_text("nor this")
  calls = []

  def counted(clips):
    calls.append(clips.shape)
    return encode(clips)

  made = {"encoder_sha256": "x", "preprocessing": {}, "checkpoint": {"step": 1}}
  build = lambda _, settings, size: (counted, snippet_encoder.Made(settings, 2, dict(made)))
  monkeypatch.setattr(snippet_encoder, "build", build)
  config = small.load("cvrl.py", "demo")
  config.data.eval.resize, config.data.eval.size = 20, 18
  monkeypatch.setattr(encoder, "load_encoder", lambda *_: (config, {}, {}))
  return folder, tmp_path / "out", calls, made


def run(folder, out, *flags):
  given = [f"--videos={folder}", f"--out={out}", "--checkpoint=none", *ALONE]
  return small.vssl("extract", *given, *FLAGS, *flags)


def stamps(out):
  return {p.name: p.stat().st_mtime_ns for p in out.glob("*.npy")}


def test_a_file_a_video_and_a_manifest(world, capsys):
  folder, out, calls, _ = world
  assert run(folder, out) == 3
  assert {p.name for p in out.glob("*.npy")} == {"a.npy", "b.npy", "c.npy"}
  settings = snippets.SnippetSettings(frames=2, stride=3, fps=10, resize=16, size=12)
  for name, path in (("a", "a.mp4"), ("b", "b.mp4"), ("c", "deep/c.mp4")):
    clips = np.stack([x for x, _ in snippets.read(folder / path, settings)])
    got = np.load(out / f"{name}.npy")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, encode(clips), rtol=1e-5)
  assert set(calls) == {(4, 2, 12, 12, 3)}  # one shape, batches filled over videos
  manifest = json.loads((out / "manifest.json").read_text())
  assert manifest["counts"] | {"seconds": 0} == {
    "videos": 3,
    "unreadable": 1,
    "snippets": 4 + 2 + 1,
    "seconds": 0,
  }
  assert manifest["videos"]["b"]["fps"] == 10
  assert manifest["step_seconds"] == 0.3
  (lost,) = manifest["unreadable"]
  assert lost["path"].endswith("bad.mp4")
  assert "cannot be decoded" in lost["reason"]
  assert "step_seconds 0.3" in capsys.readouterr().out


def test_odd_videos_are_kept_and_noted(world, capsys):
  folder, out, _, _ = world
  times = [0, 0.1, 90.0, 90.1]
  gap = _make_video(folder / "gap.mkv", frames=4, times=times, codec="libx264")
  assert run(folder, out) == 3
  note = "1 gap of more than 60 s, the longest of 90 s at 0 s"
  assert f"kept: gap: {note}" in capsys.readouterr().out
  videos = json.loads((out / "manifest.json").read_text())["videos"]
  assert videos["gap"]["notes"] == [note]
  assert "notes" not in videos["a"]
  other = out.with_name("guarded")
  assert run(folder, other, "--max_gap=60", "--raw_aspect", "--stream_fps=10") == 3
  lost = json.loads((other / "manifest.json").read_text())["unreadable"]
  assert [v["path"].rpartition("/")[2] for v in lost] == ["bad.mp4", gap.name]


def test_frames_are_as_large_as_the_checkpoint_is_evaluated(world):
  folder, out, calls, _ = world
  given = [f"--videos={folder}", f"--out={out}", "--checkpoint=none", *ALONE]
  assert small.vssl("extract", *given, "--frames=2", "--stride=3", "--fps=10") == 3
  settings = snippets.SnippetSettings(frames=2, stride=3, fps=10, resize=20, size=18)
  clips = np.stack([x for x, _ in snippets.read(folder / "b.mp4", settings)])
  assert {shape[2:] for shape in calls} == {(18, 18, 3)}
  np.testing.assert_allclose(np.load(out / "b.npy"), encode(clips), rtol=1e-5)


def test_a_killed_run_goes_on(world, monkeypatch):
  folder, out, calls, _ = world
  real = snippet_features._save
  saved = []

  def dies(path, features):
    if saved:
      raise KeyboardInterrupt
    saved.append(path)
    real(path, features)

  monkeypatch.setattr(snippet_features, "_save", dies)
  assert run(folder, out) == 130
  assert not (out / "manifest.json").exists()
  before = stamps(out)
  assert len(before) == 1
  with open(out / "progress.jsonl", "a") as file:
    file.write('{"name": "b", "by')  # cut short by the kill
  monkeypatch.setattr(snippet_features, "_save", real)
  assert run(folder, out) == 3
  after = stamps(out)
  assert after.keys() == {"a.npy", "b.npy", "c.npy"}
  assert before.items() <= after.items()  # made once
  whole = json.loads((out / "manifest.json").read_text())
  assert whole["counts"]["snippets"] == 7
  # Nothing is left to do; the broken one is tried again, and mended.
  shutil.copy(folder / "a.mp4", folder / "bad.mp4")
  calls.clear()
  assert run(folder, out) == 0
  assert len(calls) == 1
  assert stamps(out).items() >= after.items()
  np.testing.assert_array_equal(np.load(out / "bad.npy"), np.load(out / "a.npy"))
  # A video that changed is done again.
  shutil.copy(folder / "b.mp4", folder / "a.mp4")
  assert run(folder, out) == 0
  np.testing.assert_array_equal(np.load(out / "a.npy"), np.load(out / "b.npy"))


@pytest.fixture
def ill(tmp_path, monkeypatch):
  """`ill(how)` makes reading `b.mp4` go wrong after a snippet, whatever process does it.

  `how` is Python for that moment; `tries` is how often it came before.
  """

  def install(how):
    (tmp_path / "ill_send.py").write_text(
      "import ctypes, os, pathlib, signal\n"
      "from data_pipelines.videos import snippets\n"
      "real = snippets.read\n"
      "def ill(path, *rest):\n"
      "  for snippet in real(path, *rest):\n"
      "    yield snippet\n"
      "    if path.name == 'b.mp4':\n"
      f"      log = pathlib.Path({str(tmp_path / 'tries')!r})\n"
      "      tries = log.stat().st_size if log.exists() else 0\n"
      "      with log.open('a') as file:\n"
      "        file.write('x')\n"
      f"      {how}\n"
      "def send(task, report):\n"
      "  snippets.read = ill\n"
      "  return snippets_send(task, report)\n"
      "snippets_send = snippets.send\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ill_send", raising=False)
    import ill_send

    monkeypatch.setattr(snippets, "send", ill_send.send)

  return install


def features(out):
  return {p.name: np.load(p).tolist() for p in out.glob("*.npy")}


@pytest.mark.parametrize(
  ("how", "reason"),
  [("ctypes.CDLL(None).pause()", "decoding took longer than 2 s (--timeout)"),
   ("os.kill(os.getpid(), signal.SIGKILL)", "the process was ended by SIGKILL")],
  ids=["hang", "kill"],
)  # fmt: skip
def test_a_video_that_hangs_or_kills_twice_is_named(world, ill, capsys, how, reason):
  folder, out, _, _ = world
  assert run(folder, out.with_name("whole")) == 3
  ill(how)
  capsys.readouterr()
  assert run(folder, out, "--workers=2", "--timeout=2") == 3
  assert f"b.mp4: {reason}" in capsys.readouterr().out
  manifest = json.loads((out / "manifest.json").read_text())
  assert [lost["path"].rpartition("/")[2] for lost in manifest["unreadable"]] == [
    "b.mp4", "bad.mp4"
  ]  # fmt: skip
  assert manifest["unreadable"][0]["reason"] == reason
  whole = features(out.with_name("whole"))
  assert whole.pop("b.npy")
  assert features(out) == whole


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_killed_once_costs_nothing(world, ill, tmp_path, workers):
  folder, out, _, _ = world
  assert run(folder, out.with_name("whole")) == 3
  ill("tries or os.kill(os.getpid(), signal.SIGKILL)")
  assert run(folder, out, f"--workers={workers}", "--timeout=60") == 3
  assert (tmp_path / "tries").read_text().startswith("xx")
  assert features(out) == features(out.with_name("whole"))
  whole, found = (
    json.loads((f / "manifest.json").read_text()) for f in (out.with_name("whole"), out)
  )
  assert found["counts"] == whole["counts"]
  assert found["unreadable"] == whole["unreadable"]


@pytest.mark.parametrize("storage", ["folder", "bucket"])
def test_two_at_once_are_refused(world, capsys, monkeypatch, storage):
  folder, out, _, _ = world
  if storage == "bucket":
    pytest.importorskip("upath")
    monkeypatch.setattr(lock, "RENEWS", 0.05)  # so the waiting process soon sees it alive
    out = f"memory://{storage}/features"
  seen = []

  def meanwhile(clips):
    """The second begins while the first is at work."""
    if not seen:
      seen.append(0)
      seen.append(run(folder, out))
    return encode(clips)

  made = snippet_encoder.Made
  origin = {"encoder_sha256": "x", "preprocessing": {}, "checkpoint": {"step": 1}}
  monkeypatch.setattr(
    snippet_encoder, "build", lambda _, settings, size: (meanwhile, made(settings, 2, origin))
  )
  assert run(folder, out) == 3
  assert seen[1] == 2
  message = f"--output: another process extracts features into {out}; wait for it to end"
  errors = capsys.readouterr().err
  assert message in errors
  assert "Traceback" not in errors
  assert json.loads((files.path(out) / "manifest.json").read_text())["counts"]["videos"] == 3
  assert run(folder, out) == 3  # the lock is free again


def test_other_weights_or_settings_need_another_folder(world, capsys):
  folder, out, _, made = world
  run(folder, out)
  made["checkpoint"] = {"step": 2}  # the same weights by another name
  assert run(folder, out) == 3
  made["encoder_sha256"] = "y"
  assert run(folder, out) == 2
  assert "features of another encoder_sha256; give another folder" in capsys.readouterr().err


def test_localization_reads_them(world):
  folder, out, _, _ = world
  run(folder, out)
  videos = {n: Video("train", 1.2, (Segment(0.0, 0.5, "x"),)) for n in "ab"}
  annotations.write_annotations(out / "annotations.json", videos)
  data = fields(str(out), frames=4, step_seconds=0.3)
  args = {"seed": 0, "process_index": 0, "process_count": 1}
  source = sequences.load(data, split="train", batch_size=2, **args)
  assert next(source.train_batches())["features"].shape == (2, 4, 2)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--frames=0"], "must be positive"),
    (["--size=20"], "cannot crop 20 pixels"),
    (["--batch_size=0"], "--batch_size must be positive"),
    (["--timeout=-1"], "--timeout not negative"),
    (["--videos=/none"], "is no folder"),
    ([f"--out={__file__}"], "no folder can be made here"),
  ],
)
def test_bad_usage(world, capsys, flags, message):
  folder, out, _, _ = world
  assert run(folder, out, *flags) == 2
  assert message in capsys.readouterr().err


def test_two_videos_of_one_name(world, capsys):
  folder, out, _, _ = world
  shutil.copy(folder / "a.mp4", folder / "deep" / "a.mp4")
  assert run(folder, out) == 2
  assert "have one name" in capsys.readouterr().err


def test_which_files_are_videos_is_as_in_prepare(world, monkeypatch):
  folder, out, _, _ = world
  (folder / "bad.mp4").unlink()
  for hidden in ("._a.mp4", ".cache/x.mp4", "deep/._c.mp4"):
    (folder / hidden).parent.mkdir(exist_ok=True)
    (folder / hidden).write_bytes(b"no video")
  (folder / "cam:").mkdir()
  for name in ("12:30.mp4", "cam:/front.mp4"):  # FFmpeg would take them for addresses
    shutil.copy(folder / "a.mp4", folder / name)
  monkeypatch.chdir(folder)
  assert run(".", out) == 0
  listed = finding.find(".")
  assert {p.stem for p in out.glob("*.npy")} == {p.stem for p in listed.files()}
  for name in ("12:30.npy", "front.npy"):
    np.testing.assert_array_equal(np.load(out / name), np.load(out / "a.npy"))


def test_a_folder_without_videos(world, tmp_path, capsys):
  (tmp_path / "none").mkdir()
  assert run(tmp_path / "none", world[1]) == 2
  assert "--videos: " in (shown := capsys.readouterr().err)
  assert "contains no videos" in shown


def test_folders_that_cannot_be_listed_are_told(world, monkeypatch, capsys):
  folder, _, _, _ = world
  real = finding.find
  found = dataclasses.replace(real(folder), lost="1 folder cannot be read: deep")
  monkeypatch.setattr(finding, "find", lambda _: found)
  assert snippet_features.find(folder)
  assert "note: 1 folder cannot be read: deep" in capsys.readouterr().err
