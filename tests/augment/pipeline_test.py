"""The whole augmentation: against TensorFlow, consistent in time, the same on any layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vssl_jax import augment, config, parallel
from vssl_jax.augment import branch, draws, pipeline, presets, settings
from vssl_jax.errors import UserError

N, R, T, S = 8, 2, 3, 32  # of the fixture `clips`


def strong():
  """Everything on, so that a few clips meet every operation."""
  cfg = config.augment()
  cfg.rotation_p, cfg.gray_p = 0.5, 0.3
  cfg.blur_p, cfg.solarize_p, cfg.invert_p = (1.0, 0.5), (0.0, 0.5), 0.5
  cfg.mean, cfg.std = (0.4, 0.45, 0.5), (0.2, 0.25, 0.3)
  return cfg


def light():
  """Without jitter, the costly part to compile."""
  cfg = strong()
  cfg.jitter_p = 0.0
  return cfg


@pytest.fixture(scope="module")
def run():
  return jax.jit(augment.build(strong(), S))


@pytest.fixture(scope="module")
def keys():
  return jax.random.split(jax.random.key(11), N)


@pytest.fixture(scope="module")
def whole(run, keys, clips):
  return np.asarray(run(keys, clips))


def draw_of(cfg, key, v):
  view = settings.view(cfg, v, S)
  return draws.draw(jax.random.fold_in(key, v), view), view


def normalized(clip, cfg):
  return (clip - np.array(cfg.mean)) / np.array(cfg.std)


def near(a, b):
  np.testing.assert_allclose(a, b, rtol=0, atol=4e-5)  # 1e-5 before the division by std


def test_against_tensorflow(run, clips, tf_clip):
  cfg = strong()
  orders, ops = set(), np.zeros(7, int)
  for seed in range(4):
    keys = jax.random.split(jax.random.key(seed), N)
    ours = np.asarray(run(keys, clips))
    for i in range(N):
      for v in range(R):
        d, view = draw_of(cfg, keys[i], v)
        near(ours[i, v], normalized(tf_clip(clips[i, v], d, view), cfg))
        orders |= {int(d.order)} if d.jitter else set()
        ops += [bool(x) for x in (d.flip, d.turns, d.jitter, d.gray, d.blur, d.solarize, d.invert)]
  assert len(orders) > 12
  assert ((ops > 4) & (ops < 4 * N * R)).all()  # each was met both ways


def test_rest_is_bit_exact(clips, keys):
  """Clips that the draw leaves alone come out untouched, not nearly so."""
  cfg = presets.no_geometry(config.augment())
  cfg.gray_p, cfg.blur_p, cfg.solarize_p = 0.0, (0.0,), (0.0,)
  out = np.asarray(jax.jit(augment.build(cfg, S))(keys, clips))
  spared = [i for i in range(N) if not draw_of(cfg, keys[i], 0)[0].jitter]
  assert spared
  np.testing.assert_array_equal(out[spared, 0], clips[spared, 0] * np.float32(1 / 255))


def test_a_still_clip_stays_still(run, clips, keys):
  out = np.asarray(run(keys, np.repeat(clips[:, :, :1], T, axis=2)))
  for t in range(1, T):
    np.testing.assert_array_equal(out[:, :, t], out[:, :, 0])


def test_every_frame_gets_the_same_parameters(clips, keys):
  """Each frame of a changing clip, alone, comes out as it does among the others."""
  cfg = presets.plain(config.augment())
  cfg.contrast = 0.0  # its mean is the clip's
  run = jax.jit(augment.build(cfg, S))
  whole = np.asarray(run(keys, clips))
  for t in range(T):
    alone = np.repeat(clips[:, :, t : t + 1], T, axis=2)
    near(run(keys, alone)[:, :, 0], whole[:, :, t])


def test_contrast_mean_is_over_the_clip():
  cfg = presets.none(config.augment())
  cfg.jitter_p, cfg.brightness, cfg.saturation, cfg.hue = 1.0, 0.0, 0.0, 0.0
  clip = np.zeros((1, 1, 2, S, S, 3), np.uint8)
  clip[:, :, 1] = 102  # 0.4: the mean is 0.2
  keys = jax.random.split(jax.random.key(0), 1)
  out = jax.jit(augment.build(cfg, S))(keys, clip)[0, 0, :, 0, 0, 0]
  d, _ = draw_of(cfg, keys[0], 0)
  expected = np.clip(0.2 + float(d.contrast) * np.array([-0.2, 0.2]), 0, 1)
  np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_inconsistent_draws_differ_by_frame(clips, keys, tf_clip, monkeypatch, one_by_one):
  monkeypatch.setattr(branch, "one_by_one", lambda mesh: one_by_one)
  cfg = presets.none(config.augment())
  cfg.consistent, cfg.jitter_p, cfg.blur_p = False, 1.0, (1.0,)
  cfg.contrast = cfg.saturation = cfg.hue = 0.0
  still = np.repeat(clips[:, :, :1], T, axis=2)
  out = np.asarray(jax.jit(augment.build(cfg, S))(keys, still))
  for i in range(N):
    for v in range(R):
      assert len(np.unique(out[i, v].reshape(T, -1), axis=0)) == T
  view = settings.view(cfg, 1, S)
  key = jax.random.fold_in(jax.random.fold_in(keys[3], 1), 2)  # view 1, frame 2
  d = draws.draw(key, view)._replace(contrast=1.0, saturation=1.0, hue=0.0)
  near(out[3, 1, 2], tf_clip(still[3, 1, 2:3], d, view)[0])


def test_alone_in_micro_batches_and_in_another_order(run, clips, keys, whole):
  halves = [run(keys[i : i + 4], clips[i : i + 4]) for i in (0, 4)]
  near(np.concatenate(halves), whole)
  near(run(keys[5:6], clips[5:6])[0], whole[5])
  order = np.random.default_rng(0).permutation(N)
  near(run(keys[order], clips[order]), whole[order])


def test_views_and_keys_differ(clips, keys):
  cfg = presets.plain(config.augment())
  cfg.jitter_p = 1.0
  same = np.broadcast_to(clips[:1, :1], clips.shape)
  out = np.asarray(jax.jit(augment.build(cfg, S))(keys, same)).reshape(N * R, -1)
  assert len(np.unique(out, axis=0)) == N * R


@pytest.mark.parametrize("r", [1, 3, 4])
def test_settings_follow_the_view(r):
  cfg = presets.none(config.augment())
  cfg.solarize_p = (0.0, 1.0)
  clips = np.full((1, r, 1, 4, 4, 3), 255, np.uint8)
  out = jax.jit(augment.build(cfg, 4))(jax.random.split(jax.random.key(0), 1), clips)
  np.testing.assert_array_equal(out[0, :, 0, 0, 0, 0], [1.0, 0.0, 1.0, 0.0][:r])


def test_a_view_does_not_depend_on_how_many_there_are(clips, keys):
  run = jax.jit(augment.build(light(), S))
  three = np.asarray(run(keys, np.concatenate([clips, clips[:, :1]], axis=1)))
  near(three[:, :2], run(keys, clips))
  assert (np.abs(three[:, 2] - three[:, 0]).max(axis=(1, 2, 3, 4)) > 0.01).all()


@pytest.mark.slow
@pytest.mark.parametrize("one_by_one", [True, False])
def test_sharded_over_eight_devices(clips, keys, whole, monkeypatch, one_by_one):
  mesh = parallel.make_mesh()
  assert mesh.size == 8
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  settings = strong()
  if not one_by_one:  # several steps on each device
    settings = light()
    monkeypatch.setattr(branch, "one_by_one", lambda mesh: False)
    monkeypatch.setattr(branch, "_STEP_BYTES", 1)
    keys, clips = jnp.concatenate([keys, keys]), np.concatenate([clips, clips])
    whole = np.asarray(jax.jit(augment.build(settings, S))(keys, clips))
  run = jax.jit(augment.build(settings, S, mesh))
  args = jax.device_put((keys, clips), rows)
  compiled = run.lower(*args).compile()
  out = compiled(*args)
  assert out.sharding.is_equivalent_to(rows, out.ndim)
  near(out, whole)
  text = compiled.as_text()
  for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
    assert word not in text


@pytest.mark.parametrize("traced", [False, True])
def test_one_clip_at_a_time_is_what_all_at_once_are(clips, keys, traced):
  run = augment.build(light(), S)  # settings that differ by view
  every = np.asarray(jax.jit(run)(keys, clips))
  one = jax.jit(run) if traced else jax.jit(run, static_argnums=2)
  for r in range(R):
    near(one(keys, clips[:, r : r + 1], r)[:, 0], every[:, r])


def test_looped_and_vectorized_agree(clips, keys, whole, monkeypatch):
  monkeypatch.setattr(branch, "one_by_one", lambda mesh: False)
  near(jax.jit(augment.build(strong(), S))(keys, clips), whole)


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255))
def test_finite_and_in_range(seed, low, high):
  """Any clip, flat ones among them, under the default settings."""
  rng = np.random.default_rng(seed)
  low, high = min(low, high), max(low, high)
  clips = rng.integers(low, high + 1, (1, R, T, S, S, 3)).astype(np.uint8)
  out = np.asarray(_DEFAULT(jax.random.split(jax.random.key(seed), 1), clips))
  assert out.dtype == jnp.float32
  assert out.shape == clips.shape
  assert np.isfinite(out).all()
  assert out.min() >= 0
  assert out.max() <= 1


_DEFAULT = jax.jit(augment.build(config.augment(), S))


def test_shapes_that_cannot_be():
  keys = jax.random.split(jax.random.key(0), 2)
  grey = np.zeros((2, 2, T, S, S, 1), np.uint8)
  with pytest.raises(UserError, match="channels=3: the clips have 1"):
    augment.build(config.augment(), S)(keys, grey)
  out = jax.jit(augment.build(presets.no_color(config.augment()), S, channels=1))(keys, grey)
  assert out.shape == grey.shape
  cfg = presets.none(config.augment())
  cfg.rotation_p = 0.5
  with pytest.raises(UserError, match=r"config\.augment\.rotation_p.*square"):
    augment.build(cfg, S)(keys, np.zeros((2, 2, T, S, S + 1, 3), np.uint8))
  with pytest.raises(ValueError, match=r"\[N, R, T, H, W, C\]"):
    augment.build(cfg, S)(keys, grey[:, 0])


def test_eval_preprocess():
  cfg = config.augment()
  cfg.mean, cfg.std = (0.45,), (0.225,)
  clips = np.arange(256, dtype=np.uint8).reshape(1, 2, 2, 8, 8, 1)
  theirs = (clips / 255.0 - 0.45) / 0.225
  # Six roundings of numbers up to 1 (1/255, its product, mean, difference, std, quotient).
  atol = 6 * 2.0**-24 / 0.225
  np.testing.assert_allclose(augment.eval_preprocess(cfg, 1)(clips), theirs, rtol=0, atol=atol)
  assert pipeline.eval_preprocess(cfg, 1)(clips).dtype == jnp.float32
