"""Moments of untrimmed videos: their classes, their Gaussians, the numbers and the command."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests import small
from tests.data_pipelines.conftest import _make_video
from vssl_jax.errors import UserError
from vssl_jax.localization import annotations
from vssl_jax.localization.annotations import Segment, Video
from vssl_jax.methods import base
from vssl_jax.ops import mining
from vssl_jax.probes.gaussian import Videos
from vssl_jax.uncertainty import untrimmed
from vssl_jax.uncertainty.untrimmed import BACKGROUND, CHANGE


class Mining:
  """The nearest tenth of all pairs, by moments."""

  rule = mining.Rule(value=0.1)
  distance_on = "moments"
  samples = 1


def _apply(variables, clips):
  """The mean level of a clip twice as μ, its log variance fixed: [B, 4]."""
  level = jnp.mean(clips.astype(jnp.float32), axis=(1, 2, 3, 4)) / 255
  return jnp.stack([level, -level, level * 0 - 3.0, level * 0 - 2.0], axis=1) * variables["scale"]


@pytest.fixture
def world(tmp_path):
  """Two annotated videos of 6 s at 10 frames per second, one that is not, a broken one."""
  for name in ("a", "b", "other"):
    _make_video(tmp_path / "videos" / f"{name}.mp4", frames=60, fps=10)
  (tmp_path / "videos" / "bad.mp4").write_bytes(b"no video")
  truth = {
    "a": Video("test", 6.0, (Segment(2.0, 4.0, "jump"),)),
    "b": Video("test", 6.0, (Segment(0.0, 3.0, "run"), Segment(3.0, 6.0, "jump"))),
    "bad": Video("test", 6.0, (Segment(0.0, 3.0, "run"),)),
  }
  annotations.write_annotations(tmp_path / "annotations.json", truth)
  config = small.load("provico.py", "demo")
  config.data.eval.frames, config.data.eval.stride = 2, 4  # 8 frames: moments begin every 2
  config.data.clips = 3
  return tmp_path, config


def _moments(world, *args):
  folder, config = world
  gaussians = base.Gaussians(_apply, lambda params, state: params, Mining())
  return untrimmed.moments(config, gaussians, {"scale": jnp.float32(1.0)}, folder, *args)


def test_moments_have_the_class_of_their_time(world, capsys):
  found = _moments(world)
  assert "bad.mp4" in capsys.readouterr().out
  assert found.label_names == ("jump", "run")
  # A clip spans 5 frames, (2 - 1) · 4 + 1; its middle is 0.25 s after its start. 28 clips of a
  # video begin every 0.2 s; a moment has three of them.
  middles = (0.2 * np.arange(28) + 0.25)[:27].reshape(9, 3)
  in_a = np.where((middles >= 2) & (middles < 4), 0, BACKGROUND)
  in_b = np.where(middles < 3, 1, 0)
  want = [np.where((x == x[:, :1]).all(1), x[:, 0], CHANGE) for x in (in_a, in_b)]
  np.testing.assert_array_equal(found.gaussians.label, np.concatenate(want))
  assert (np.concatenate(want) == CHANGE).sum() >= 2
  np.testing.assert_array_equal(found.gaussians.video, np.repeat([0, 1], 9))


def test_a_moment_is_the_mixture_of_its_clips():
  rng = np.random.default_rng(0)
  mean, log_variance = rng.normal(size=(2, 7, 5)).astype(np.float32)
  x = np.concatenate([mean, log_variance], axis=1)
  found = untrimmed._mixed([(x, np.zeros(7, int), np.zeros(7, int))], 3)
  assert found.mean.shape == (2, 5)  # the seventh clip is left over
  for i, rows in enumerate((slice(0, 3), slice(3, 6))):
    mu, var = mean[rows].astype(np.float64), np.exp(log_variance[rows].astype(np.float64))
    np.testing.assert_allclose(found.mean[i], mu.mean(0), rtol=1e-5, atol=1e-6)
    want = (var + mu**2).mean(0) - mu.mean(0) ** 2
    np.testing.assert_allclose(found.variance[i], want, rtol=1e-5, atol=1e-6)


def _videos(label, spread, predicted, video=None):
  """Moments in two dimensions, in the direction of a class, with given parts of uncertainty."""
  angle = 1.5 * np.asarray(label)
  length = np.sqrt(1 - np.asarray(spread))
  mean = np.stack([np.cos(angle), np.sin(angle)], axis=1) * length[:, None]
  total = np.asarray(spread) + predicted
  variance = np.repeat(total[:, None] / 2, 2, axis=1)
  video = np.arange(len(label)) if video is None else video
  found = Videos(mean.astype(np.float32), variance.astype(np.float32), np.asarray(label), video)
  return untrimmed.Moments(found, ("jump", "run"))


def test_the_numbers_equal_scikit_learns():
  rng = np.random.default_rng(1)
  label = rng.choice([0, 1, BACKGROUND, CHANGE], 200)
  spread, predicted = rng.random(200) * 0.5, np.round(rng.random(200), 1) + 0.2  # with ties
  found = untrimmed.analyze(_videos(label, spread, predicted), Mining())
  assert found["kinds"]["action"]["count"] == (label >= 0).sum()
  background = found["kinds"]["background"]
  np.testing.assert_allclose(background["spread"], spread[label == BACKGROUND].mean(), rtol=1e-5)
  np.testing.assert_allclose(
    background["predicted"], predicted[label == BACKGROUND].mean(), rtol=1e-5
  )
  lasts = label != CHANGE
  want = roc_auc_score(label[lasts] == BACKGROUND, spread[lasts])
  assert found["auc"]["background_over_action"]["spread"] == pytest.approx(want, abs=1e-4)
  want = roc_auc_score(label == CHANGE, (spread + predicted).astype(np.float32))
  assert found["auc"]["change_over_lasting"]["uncertainty"] == pytest.approx(want, abs=1e-3)


def test_pairs_are_of_different_videos_and_compared_with_chance():
  label = np.repeat([0, 1, BACKGROUND], 8)
  few = _videos(label, np.full(24, 0.1), np.full(24, 0.01))
  pairs = untrimmed.analyze(few, Mining())["pairs"]
  assert pairs["moments"] == 24
  assert pairs["mined"] > 0
  # Classes point in different directions: the nearest tenth of all pairs are within a class.
  assert pairs["same_action"] + pairs["both_background"] == 1
  assert pairs["chance"]["same_action"] == pytest.approx(2 * 8 * 7 / (24 * 23))
  assert sum(pairs["chance"].values()) == pytest.approx(1)
  one = _videos(label, np.full(24, 0.1), np.full(24, 0.01), np.zeros(24, int))
  pairs = untrimmed.analyze(one, Mining())["pairs"]
  assert pairs["mined"] == 0
  assert pairs["same_action"] is None


def test_without_background_or_changes_there_is_no_auc():
  found = untrimmed.analyze(_videos([0, 1, 0], np.full(3, 0.1), np.full(3, 0.1)), Mining())
  assert set(found["auc"]["background_over_action"].values()) == {None}
  assert "none" in untrimmed.describe("run", found)


def test_what_is_missing_is_told(world, tmp_path):
  folder, _ = world
  (folder / "annotations.json").rename(folder / "gt.json")
  with pytest.raises(UserError, match=r"annotations\.json and .* are missing"):
    _moments(world)
  assert len(_moments(world, folder / "gt.json").gaussians.mean) == 18
  annotations.write_annotations(folder / "gt.json", {"x": Video("test", 1.0, ())})
  with pytest.raises(UserError, match=r"no video in .*videos is annotated"):
    _moments(world, folder / "gt.json")


def test_the_command_writes_and_prints_the_numbers(world, tmp_path, monkeypatch, capsys):
  folder, _ = world
  seen = _videos([0, 1, BACKGROUND, CHANGE] * 4, np.full(16, 0.1), np.full(16, 0.2))
  monkeypatch.setattr(untrimmed, "moments", lambda *_: seen)
  gaussians = base.Gaussians(_apply, lambda params, state: {}, Mining())
  config = small.load("provico.py", "demo")
  state = type("State", (), {"params": {}, "method": {}})
  monkeypatch.setattr(untrimmed.run_folder, "load_state", lambda *_: (config, None, state))
  evaluator = type("Evaluator", (), {"gaussians": gaussians})
  monkeypatch.setattr(untrimmed.methods, "evaluator", lambda _: evaluator)
  flags = ("--checkpoint", "runs/mine", f"--output={tmp_path / 'out'}")
  assert small.vssl("uncertainty", *flags, f"--untrimmed={folder}") == 0
  printed = capsys.readouterr().out
  assert "pairs, same action" in printed
  found = json.loads((tmp_path / "out" / "untrimmed.json").read_text())["mine"]
  assert found["kinds"]["change"]["count"] == 4
  evaluator.gaussians = None
  assert small.vssl("uncertainty", *flags, f"--untrimmed={folder}") == 2
  assert "learns no uncertainties" in capsys.readouterr().err
  assert small.vssl("uncertainty", *flags, "--annotations=x") == 2
  assert "--annotations: is of --untrimmed" in capsys.readouterr().err
