"""Twelve bands from the command line: train, evaluate, export, load, extract, fine-tune."""

import json

import jax
import jax.export
import numpy as np
import pytest

import vssl_jax
from tests import small
from vssl_jax.errors import UserError
from vssl_jax.weights import convert

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tf")]

BANDS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two classes that differ in the bands that move; values as a satellite's, 0 to 10,000."""
  root, rng = tmp_path_factory.mktemp("bands"), np.random.default_rng(0)
  for split, count in (("train", 16), ("test", 8)):
    for i in range(count):
      label = i % 2
      video = rng.integers(0, 4000, (1, 16, 20, BANDS)).repeat(12, 0)
      video[..., label::2] += 500 * np.arange(12)[:, None, None, None]
      path = root / split / ("land", "sea")[label] / f"{i}.npy"
      path.parent.mkdir(parents=True, exist_ok=True)
      np.save(path, video.astype(np.uint16))
  return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
  flags = small.flags(
    **{
      "data.source": "arrays",
      "data.path": folder,
      "data.channels": BANDS,
      "data.value_range": (0, 10000),
      "batch_size": 8,
      "probe.run": True,
      "probe.linear": False,
    }
  )
  workdir = tmp_path_factory.mktemp("runs") / "bands"
  assert small.vssl("train", "--config=cvrl:ucf6", *flags, f"--workdir={workdir}") == 0
  return workdir


def test_the_run_is_probed(run):
  result = json.loads((run / "result.json").read_text())
  assert {"logistic_top1", "knn_top1", "R@1"} <= result["headline"].keys()


def test_what_is_off_is_said(folder, tmp_path, capfd):
  values = {"data.source": "synthetic", "data.channels": BANDS, "steps": 1, "probe.run": False}
  argv = ["--config=cvrl:ucf6", *small.flags(**values), f"--workdir={tmp_path / 'run'}"]
  assert small.vssl("train", *argv) == 0
  line = "no effect has config.augment.saturation, hue, gray_p."
  assert capfd.readouterr().out.count(line) == 1


def test_evaluate_reads_other_arrays_of_the_bands_alone(run, folder, tmp_path, capfd):
  argv = [f"--checkpoint={run}", "--protocols=knn,retrieval", f"--data={folder}"]
  assert small.vssl("evaluate", *argv, f"--output={tmp_path / 'bands'}") == 0
  assert (tmp_path / "bands" / "summary.json").is_file()
  videos = small.write_videos(tmp_path / "videos" / "train")
  capfd.readouterr()
  argv = [f"--checkpoint={run}", "--protocols=knn", f"--data={videos.parent}", "--source=videos"]
  assert small.vssl("evaluate", *argv, f"--output={tmp_path / 'rgb'}") != 0
  error = capfd.readouterr().err.strip().splitlines()[-1]
  assert "videos are RGB or gray, but config.data.channels is 12" in error


def test_an_export_takes_bands_and_says_so(run, tmp_path):
  out = tmp_path / "encoder"
  argv = [f"--checkpoint={run}", f"--output={out}", "--formats=safetensors,program"]
  assert small.vssl("export", *argv, "--features", "--split=test") == 0
  card = json.loads((out / "encoder.json").read_text())
  assert card["preprocessing"]["input"] == "uint8 [N, T, H, W, 12]"
  encoder = vssl_jax.load(out)
  assert encoder.clip_shape == (4, 16, 16, BANDS)
  clips = np.random.default_rng(0).integers(0, 256, (2, *encoder.clip_shape), np.uint8)
  own = encoder.apply(encoder.params, clips)
  program = jax.export.deserialize((out / "encoder.jax_export").read_bytes())
  # One program computes on patches, the other on folded frames: sums of other order.
  np.testing.assert_allclose(program.call(clips), own, rtol=1e-4, atol=1e-5)
  with pytest.raises(UserError, match=r"give 12 channels as uint8 \[N, T, H, W, 12\]"):
    encoder.apply(encoder.params, clips[..., :3])
  with pytest.raises(UserError, match="PySlowFast's are of RGB"):
    convert.to_pyslowfast(str(out), tmp_path / "a.pyth")


def test_snippets_of_arrays(run, folder, tmp_path, capfd):
  argv = [f"--checkpoint={run}", f"--videos={folder / 'test' / 'sea'}", f"--output={tmp_path}"]
  argv += ["--frames=4", "--stride=4", "--fps=0"]
  assert small.vssl("extract", *argv) == 2
  assert "--stream_fps: arrays have no frame rate" in capfd.readouterr().err
  assert small.vssl("extract", *argv, "--stream_fps=10") == 0
  features = [np.load(p) for p in tmp_path.glob("*.npy")]
  assert len(features) == 4
  assert all(x.shape[0] == 3 and np.isfinite(x).all() for x in features)


def test_a_checkpoint_of_other_channels_stops(run, tmp_path, capfd):
  values = small.flags(**{"data.synthetic.classes": 2, "probe.run": False})
  argv = ["--config=cvrl:ucf6_supervised", *values, f"--config.checkpoint={run}"]
  assert small.vssl("train", *argv, f"--workdir={tmp_path / 'tuned'}") != 0
  error = capfd.readouterr().err.strip().splitlines()[-1]
  assert "its clips have 12 channels, config.data.channels is 3; set it to 12" in error
