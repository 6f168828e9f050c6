"""Untrimmed videos show, frame by frame, what their annotations say; each frame is one color."""

import json
import shutil

import av
import numpy as np
import pytest

from vssl_jax import cli
from vssl_jax.localization import annotations

COLORS = {"jump": (200, 40, 40), "run": (40, 200, 40), "sit": (40, 40, 200)}  # sit: background
MODULE = "data_pipelines.untrimmed.stitched_videos"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
  """Two videos of each class and split, of other rates and sizes."""
  root = tmp_path_factory.mktemp("sources")
  for s, split in enumerate(("train", "test")):
    for c, (name, color) in enumerate(COLORS.items()):
      for v in range(2):
        path = root / split / name / f"{name}_{v}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = 40 * s  # the blue of a train video never equals that of a test video
        _write(path, [*np.add(color, shade)], 30 + 7 * v + c, (25, 10)[v], ((64, 48), (48, 64))[v])
  return root


def _write(path, color, frames, fps, size):
  with av.open(str(path), "w") as file:
    stream = file.add_stream("mpeg4", rate=fps)
    stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
    picture = np.broadcast_to(np.array(color, np.uint8), (size[1], size[0], 3))
    for _ in range(frames):
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
      file.mux(stream.encode(frame))
    file.mux(stream.encode())


def _run(capfd, *flags):
  status = cli.run(MODULE, [str(f) for f in flags])
  return status, capfd.readouterr()


def _colors(path):
  """The mean color of every frame, and the times."""
  with av.open(str(path)) as file:
    shown = [(f.time, f.to_ndarray(format="rgb24").mean((0, 1))) for f in file.decode(video=0)]
  times, colors = zip(*shown, strict=True)
  return np.array(times), np.array(colors)


FLAGS = ("--actions=jump,run", "--videos=3,2", "--fps=10", "--size=48,32", "--max_seconds=20")


@pytest.fixture(scope="module")
def made(sources, tmp_path_factory):
  folder = tmp_path_factory.mktemp("made") / "out"
  assert cli.run(MODULE, [str(sources), str(folder), *FLAGS]) == 0
  return folder


def test_every_frame_is_what_the_annotation_says(made):
  truth = annotations.read_annotations(made / "annotations.json")
  assert sorted(truth) == ["test_00000", "test_00001"] + [f"train_{v:05d}" for v in range(3)]
  for name, video in truth.items():
    times, colors = _colors(made / "videos" / f"{name}.mp4")
    np.testing.assert_allclose(times, np.arange(len(times)) / 10, atol=1e-4)
    assert len(times) == round(10 * video.duration)
    assert colors.shape[0] <= 200
    shade = 40 * (video.subset == "test")
    for time, color in zip(times, colors, strict=True):
      now = [s.label for s in video.segments if s.start <= time + 0.05 < s.end] or ["sit"]
      np.testing.assert_allclose(color, np.add(COLORS[now[0]], shade), atol=12)
    assert video.segments


def test_the_excerpts_are_named_and_keep_to_their_split(made):
  note = json.loads((made / "stitched.json").read_text())
  truth = annotations.read_annotations(made / "annotations.json")
  for name, parts in note["videos"].items():
    assert sum(count for _, _, count in parts) == round(10 * truth[name].duration)
    assert all(f"/{truth[name].subset}/" in path for path, _, _ in parts)
    assert all(first + count <= 4 * 10 for _, first, count in parts)  # sources are this short


def test_continues_with_the_same_bytes_and_refuses_other_settings(made, sources, tmp_path, capfd):
  folder = tmp_path / "again"
  shutil.copytree(made, folder)
  lost = folder / "videos/train_00001.mp4"
  lost.unlink()
  (folder / "annotations.json").unlink()
  before = {p.name: p.stat().st_mtime_ns for p in (folder / "videos").iterdir()}
  assert _run(capfd, sources, folder, *FLAGS)[0] == 0
  assert lost.read_bytes() == (made / "videos/train_00001.mp4").read_bytes()
  assert before.items() <= {p.name: p.stat().st_mtime_ns for p in lost.parent.iterdir()}.items()
  status, printed = _run(capfd, sources, folder, *FLAGS, "--seed=1")
  assert status == 2
  assert "of other settings or sources; give another folder" in printed.err


def test_broken_sources_are_left_out_and_told(sources, tmp_path, capfd):
  broken = tmp_path / "sources"
  shutil.copytree(sources, broken)
  (broken / "train/jump/jump_0.mp4").write_bytes(b"no video")
  status, printed = _run(capfd, broken, tmp_path / "out", *FLAGS)
  assert status == 3
  assert "left out:" in printed.err
  assert "jump_0.mp4" in printed.err
  assert "jump_0" not in "".join(
    str(json.loads((tmp_path / "out/stitched.json").read_text())["videos"])
  )
  (broken / "train/jump/jump_1.mp4").write_bytes(b"no video")
  status, printed = _run(capfd, broken, tmp_path / "none", *FLAGS)
  assert status == 2
  assert "no readable video of jump in split 'train'" in printed.err


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--actions=fly",), "'fly' is no class of these videos; choose from jump, run, sit"),
    (("--actions=jump,run,sit",), "no readable video of the background"),
    (("--splits=train,val",), "in split 'val'; its splits are test, train"),
    (("--videos=3",), "--videos needs a number for each of the splits"),
    (("--size=8,8",), "--size two numbers of at least 16 pixels"),
    (("--crf=70",), "--crf=70 is not in"),
  ],
)
def test_bad_flags(sources, tmp_path, capfd, flags, message):
  status, printed = _run(capfd, sources, tmp_path / "out", "--videos=1,1", *flags)
  assert status == 2
  assert message in printed.err
  assert "Traceback" not in printed.err
