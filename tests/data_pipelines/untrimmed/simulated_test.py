import dataclasses

import numpy as np
import pytest

from data_pipelines.untrimmed import sequences, simulated
from data_pipelines.untrimmed.simulated import SimulationSettings, simulate
from tests.data_pipelines.untrimmed.sequences_test import ARGS, fields
from vssl_jax import cli
from vssl_jax.errors import UserError
from vssl_jax.localization import annotations
from vssl_jax.localization.annotations import Segment, Video

NAMES = ("a", "b", "c")
CLEAN = SimulationSettings(
  phases=1, variation=0.0, noise=0.0, bursts=0.0, context=0.0, action=3.0, scene=2.0
)


def video(*segments, duration=40.0):
  return Video("train", duration, tuple(Segment(*s) for s in segments))


def one(*segments, settings=CLEAN, name="v", seed=0, **kwargs):
  return simulate(
    {name: video(*segments, **kwargs)}, NAMES, settings, step_seconds=1.0, seed=seed
  ).features[name]


def rank(x):
  return len(np.unique(x.round(5), axis=0))


def test_an_action_is_scene_plus_action_and_mixes_at_its_ends():
  x = one((10.0, 14.5, "a"), (20.0, 23.0, "a"))
  assert x.shape == (40, 64)
  assert x.dtype == np.float32
  full = x[10:14]
  np.testing.assert_array_equal(full, np.tile(full[:1], (4, 1)))
  np.testing.assert_allclose(x[20:23], full[:3])
  # Half of step 14 is action, the rest the shot, which is one of unit length twice as strong.
  shot = 2 * x[14] - x[10]
  assert np.linalg.norm(shot) == pytest.approx(2, rel=1e-4)
  outside = np.delete(x, np.r_[10:15, 20:23], axis=0)
  np.testing.assert_allclose(np.linalg.norm(outside, axis=1), 2, rtol=1e-4)
  assert rank(outside) <= 6


def test_strengths():
  both, scene = (
    one((5.0, 9.0, "a")),
    one((5.0, 9.0, "a"), settings=dataclasses.replace(CLEAN, action=0.0)),
  )
  assert np.linalg.norm(both[6] - scene[6]) == pytest.approx(3, rel=1e-4)
  assert np.linalg.norm(scene[6]) == pytest.approx(2, rel=1e-4)


def test_context_is_the_scene_with_a_trace_of_the_action():
  settings = dataclasses.replace(CLEAN, context=1.0, resemblance=0.4)
  x = one((5.0, 9.0, "a"), (20.0, 21.0, "b"), settings=settings)
  scene = {c: one((5.0, 9.0, c), settings=dataclasses.replace(CLEAN, action=0.0))[6] for c in NAMES}
  action = {c: one((5.0, 9.0, c))[6] - scene[c] for c in NAMES}
  context = {c: scene[c] + 0.4 * action[c] for c in NAMES}
  outside = np.delete(x, np.r_[5:9, 20], axis=0)
  gaps = {c: np.abs(outside - context[c]).max(1) for c in NAMES}
  np.testing.assert_allclose(np.minimum(gaps["a"], gaps["b"]), 0, atol=1e-5)  # the video's own
  assert gaps["c"].min() > 0.1


def test_shared_scenes_and_phases():
  settings = dataclasses.replace(CLEAN, scenes=2, action=0.0)
  scene = {c: one((5.0, 9.0, c), settings=settings)[6] for c in NAMES}
  np.testing.assert_array_equal(scene["a"], scene["c"])
  assert np.abs(scene["a"] - scene["b"]).max() > 0.1
  phases = one((6.0, 12.0, "a"), settings=dataclasses.replace(CLEAN, phases=3))[6:12]
  assert rank(phases) == 3
  np.testing.assert_array_equal(phases[::2], phases[1::2])


def test_noise_has_its_strength_and_memory():
  settings = dataclasses.replace(CLEAN, action=0.0, scene=0.0, noise=2.0, memory=0.6)
  x = one((0.0, 1.0, "a"), settings=settings, duration=2000.0).astype(np.float64)
  power = np.square(x).sum(1)
  assert power.mean() == pytest.approx(4, rel=0.05)
  slow = dataclasses.replace(settings, memory=0.9)
  first = [np.square(one((0.0, 1.0, "a"), settings=slow, name=str(i))[0]).sum() for i in range(30)]
  assert np.mean(first) == pytest.approx(4, rel=0.15)
  for lag in (1, 2):
    assert (x[lag:] * x[:-lag]).sum(1).mean() / 4 == pytest.approx(0.6**lag, abs=0.03)


def test_bursts_and_variation():
  base = dataclasses.replace(CLEAN, scene=0.0)
  burst = one((0.0, 1.0, "a"), settings=dataclasses.replace(base, bursts=0.2), duration=2000.0)[1:]
  norm = np.linalg.norm(burst, axis=1)
  assert np.isclose(norm, 3, rtol=1e-4).mean() == pytest.approx(0.2, abs=0.03)
  assert np.isclose(norm, 0).mean() == pytest.approx(0.8, abs=0.03)
  own = dataclasses.replace(base, variation=0.5)
  x, y = (one((5.0, 9.0, "a"), (20.0, 24.0, "a"), settings=own, name=n) for n in "xy")
  np.testing.assert_array_equal(x[5], x[8])
  gaps = [np.linalg.norm(x[6] - x[21]), np.linalg.norm(x[6] - y[6])]
  assert min(gaps) > 0.3  # each action its own
  long = one((0.0, 1.0, "a"), settings=own, duration=4000.0)[1:]
  assert np.linalg.norm(long.mean(0)) == pytest.approx(0.5, abs=0.05)  # the video its own
  assert np.linalg.norm(long - long.mean(0), axis=1).mean() == pytest.approx(0.5, abs=0.05)  # shots


def test_a_video_depends_on_seed_name_and_segments_alone():
  settings, v, w = SimulationSettings(), video((5.0, 9.0, "a")), video((1.0, 2.0, "b"))
  both = simulate({"v": v, "w": w}, NAMES, settings)
  alone = simulate({"w": w}, NAMES, settings)
  np.testing.assert_array_equal(both.features["w"], alone.features["w"])
  other = simulate({"w": w}, NAMES, settings, seed=1)
  assert np.abs(other.features["w"] - alone.features["w"]).min() > 0
  clean = [one((5.0, 9.0, "a"), seed=seed)[6] for seed in (0, 1)]  # prototypes
  assert np.abs(clean[0] - clean[1]).max() > 0.1


def test_actions_can_be_told_by_features_and_context_is_hard():
  """Nearest class mean, fitted on one split, on steps of the other."""
  data = fields(videos=40, eval_videos=20, max_seconds=60.0)
  data.localization.untrimmed.update(noise=0.8, variation=0.3)
  dataset = simulated.make(data)
  x, y = {}, {}
  for split in ("train", "test"):
    names = [n for n, v in dataset.videos.items() if v.subset == split]
    labels = []
    for n in names:
      inside = np.full(len(dataset.features[n]), -1)
      for s in dataset.videos[n].segments:
        inside[round(s.start / 0.5) : round(s.end / 0.5)] = dataset.label_names.index(s.label)
      labels.append(inside)
    x[split] = np.concatenate([dataset.features[n] for n in names])
    y[split] = np.concatenate(labels)
  means = np.stack([x["train"][y["train"] == c].mean(0) for c in range(-1, 8)])
  gap = ((x["test"][:, None] - means) ** 2).sum(-1).argmin(1) - 1
  action = y["test"] >= 0
  assert (gap == y["test"])[action].mean() > 0.6
  assert (gap >= 0)[~action].mean() > 0.2


def test_both_splits_or_one():
  data = fields(videos=4, eval_videos=3, max_seconds=20.0)
  whole, part = simulated.make(data), simulated.make(data, ["test"])
  assert [v.subset for v in whole.videos.values()] == ["train"] * 4 + ["test"] * 3
  assert part.label_names == whole.label_names
  for name, x in part.features.items():
    np.testing.assert_array_equal(x, whole.features[name])
  s = simulated.load(data, split="train", batch_size=2, **ARGS)
  assert next(s.train_batches())["features"].shape == (2, 6, 64)
  assert s.num_videos == 4


def test_real_structure(tmp_path):
  real = {
    "x": video((1.0, 3.0, "jump"), (2.0, 5.0, "dive"), (39.0, 45.0, "dive")),
    "y": video((4.0, 6.0, "run")),
  }
  real["y"] = dataclasses.replace(real["y"], subset="test")
  path = tmp_path / "gt.json"
  annotations.write_annotations(path, real)
  data = fields(annotations=str(path))
  dataset = simulated.make(data)
  assert dataset.videos == real
  assert dataset.label_names == ("dive", "jump", "run")
  assert dataset.features["x"].shape == (80, 64)
  assert np.isfinite(dataset.features["x"]).all()
  assert list(simulated.make(data, ["test"]).videos) == ["y"]
  annotations.write_annotations(path, {"x": dataclasses.replace(real["x"], duration=None)})
  with pytest.raises(UserError, match="'x' has no duration"):
    simulated.make(data)


def test_written_by_the_program(tmp_path, capsys):
  output = tmp_path / "made"
  flags = [f"--output={output}", "--videos=3", "--eval_videos=2", "--classes=2", "--width=8"]
  assert cli.run(simulated.__name__, flags) == 0
  assert "5 videos of 2 classes" in capsys.readouterr().out
  data = fields(str(output), step_seconds=0.64)
  s = sequences.load(data, split="train", batch_size=1, **ARGS)
  assert s.num_videos == 3
  assert next(s.train_batches())["features"].shape == (1, 6, 8)
  assert cli.run(simulated.__name__, [f"--output={output}", "--width=0"]) == 2
  assert "must be positive" in capsys.readouterr().err


@pytest.mark.parametrize(
  "options", [{"classes": 0}, {"shot_seconds": 0.0}, {"memory": 1.0}, {"context": 2.0}]
)
def test_bad_input_is_named(options):
  with pytest.raises(UserError, match="untrimmed"):
    SimulationSettings(**options)


def test_videos_made_to_be_held_out_have_the_times_of_training_videos(tmp_path):
  videos = {f"v{i}": video((3.0 + i, 9.0, "ab"[i]), duration=20.0) for i in range(2)}
  path = tmp_path / "gt.json"
  annotations.write_annotations(path, videos)
  data = fields(annotations=str(path), validation_videos=5, step_seconds=1.0)
  made = simulated.make(data)
  split = sequences.held_out(data)
  train, held = ({n: v for n, v in made.videos.items() if v.subset == s} for s in ("train", split))
  assert (len(train), len(held)) == (2, 5)
  for i, (name, again) in enumerate(held.items()):
    assert again.segments == videos[f"v{i % 2}"].segments
    assert np.abs(made.features[name] - made.features[f"v{i % 2}"]).max() > 0.1
  of = lambda s: sequences.LocalizationSource(data, made, split=s, batch_size=1, **ARGS).num_videos
  assert (of("train"), of(split)) == (2, 5)
