"""From raw videos to segments: the same as by hand, with a page and a video; what does not fit."""

import json

import av
import jax
import numpy as np
import pytest

from tests import small
from tests.data_pipelines.conftest import _make_video
from vssl_jax import methods
from vssl_jax.localization import annotations
from vssl_jax.localization.annotations import Segment, Video
from vssl_jax.training import run_folder, sources

CUT = ("--frames=2", "--stride=3", "--fps=10", "--resize=16", "--size=16", "--workers=1")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Videos, an encoder, features of training videos, and a localizer; none of them trained."""
  root = tmp_path_factory.mktemp("world")
  encoder = small.shrink(small.load("cvrl.py", "demo"))
  save(root / "encoder", encoder, 0)
  save(root / "other", encoder, 1)
  for v in range(3):
    _make_video(root / "train" / f"t{v}.mp4", frames=40 + 9 * v, fps=10)
  for name, frames in (("a", 50), ("b", 31)):
    _make_video(root / "new" / f"{name}.mp4", frames=frames, fps=10, size=(64, 48))
  assert extract(root, "train", "features") == 0
  videos = {
    f"t{v}": Video("test" if v == 2 else "train", 4.0, (Segment(1.0, 2.0, "xy"[v % 2]),))
    for v in range(3)
  }
  annotations.write_annotations(root / "features" / "annotations.json", videos)
  config = small.load("dcc.py", "demo")
  config.update_from_flattened_dict(
    {
      "batch_size": 2,
      "steps": 2,
      "data.source": "localization",
      "data.path": str(root / "features"),
      "data.frames": 8,
      "dcc.hidden": 8,
      "dcc.filter": 4,
      "dcc.dim": 4,
      "dcc.clusters": 3,
      "dcc.regions": 2,
      "dcc.proposals.scale": 4,
      "data.localization.validation": 0.0,
      "data.localization.validation_videos": 0,
      "data.localization.step_seconds": 0.3,
    }
  )
  config = methods.resolve(config.lock(), sources.load_source(config, "train"))
  run_folder.save_run(root / "run", config, *small.init(methods.load("dcc").build(config)))
  return root


def save(folder, config, shift):
  params, state = small.init(methods.load("cvrl").build(config))
  run_folder.save_run(folder, config.lock(), jax.tree.map(lambda x: x + shift, params), state)


def extract(root, videos, output, encoder="encoder"):
  given = (f"--checkpoint={root / encoder}", f"--videos={root / videos}")
  return small.vssl("extract", *given, f"--output={root / output}", *CUT)


def localize(root, output, *flags):
  return small.vssl(
    "localize", f"--checkpoint={root / 'run'}", f"--output={output}", "--timelines=1", *flags
  )


def test_raw_videos_are_localized_as_their_features_are(world, tmp_path, capsys):
  assert extract(world, "new", "by_hand") == 0
  assert localize(world, tmp_path / "want", f"--data={world / 'by_hand'}") == 0
  assert localize(world, tmp_path / "got", world / "new", f"--overlay={tmp_path / 'shown'}") == 0
  want, got = (
    annotations.read_predictions(tmp_path / name / "predictions.json") for name in ("want", "got")
  )
  assert want == got
  assert got.keys() == {"a", "b"}
  assert any(got.values())
  for name, frames in (("a", 50), ("b", 31)):
    with av.open(str(tmp_path / "shown" / f"{name}.mp4")) as file:
      times = [f.time for f in file.decode(video=0)]
      assert file.streams.video[0].width == 320  # 48 pixels became 240
      assert file.streams.video[0].height > 240
    np.testing.assert_allclose(times, np.arange(frames) / 10, atol=1e-3)


def test_one_video_to_one_file_and_a_page(world, tmp_path, capsys):
  pytest.importorskip("plotly")
  video, shown = world / "new" / "b.mp4", tmp_path / "deep" / "b_actions.mp4"
  assert localize(world, tmp_path / "out", video, f"--overlay={shown}") == 0
  assert shown.stat().st_size > 0
  assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
  assert list(annotations.read_predictions(tmp_path / "out" / "predictions.json")) == ["b"]
  assert "segments in 1 videos" in capsys.readouterr().out


def test_the_encoder_may_have_moved_but_not_changed(world, tmp_path, capsys):
  moved = tmp_path / "moved"
  (world / "encoder").rename(moved)
  try:
    assert localize(world, tmp_path / "out", world / "new") == 2
    assert "is no longer in" in capsys.readouterr().err
    assert localize(world, tmp_path / "out", world / "new", f"--encoder={moved}") == 0
  finally:
    moved.rename(world / "encoder")
  flags = (world / "new", f"--encoder={world / 'other'}")
  assert localize(world, tmp_path / "else", *flags) == 2
  assert "has other weights than the encoder of the training" in capsys.readouterr().err
  assert not (tmp_path / "else" / "predictions.json").exists()


def test_unreadable_videos_are_left_out_and_told(world, tmp_path, capsys):
  videos = tmp_path / "videos"
  _make_video(videos / "good.mp4", frames=31, fps=10)
  (videos / "bad.mp4").write_bytes(b"no video")
  assert localize(world, tmp_path / "out", videos) == 3
  printed = capsys.readouterr()
  assert "bad.mp4" in printed.out
  assert "segments in 1 videos" in printed.out
  assert localize(world, tmp_path / "none", videos / "bad.mp4") == 2
  assert "no video could be read" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("new", "--data=x"), "VIDEO and --data: give raw videos or features, not both"),
    (("--overlay=x.mp4",), "--encoder and --overlay are for raw videos: give VIDEO"),
    (("nothing.mp4",), "is no folder and no video"),
    (("run/config.json",), "is no video that is known by its extension"),
  ],
)
def test_what_does_not_fit_is_one_line(world, tmp_path, capsys, flags, message):
  flags = [f if f.startswith("-") else str(world / f) for f in flags]
  assert localize(world, tmp_path / "out", *flags) == 2
  error = capsys.readouterr().err
  assert message in error
  assert "Traceback" not in error


def test_without_a_manifest_the_way_out_is_told(world, tmp_path, capsys):
  manifest = world / "features" / "manifest.json"
  kept = manifest.read_text()
  try:
    manifest.unlink()
    assert localize(world, tmp_path / "out", world / "new") == 2
    assert "manifest.json is missing" in capsys.readouterr().err
    manifest.write_text(json.dumps({"preprocessing": []}))
    assert localize(world, tmp_path / "out", world / "new") == 2
    assert "is not a manifest of vssl extract" in capsys.readouterr().err
  finally:
    manifest.write_text(kept)
