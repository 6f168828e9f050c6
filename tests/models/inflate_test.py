"""Inflated networks see in equal frames what the 2-D network sees in one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import weights
from vssl_jax import config, models
from vssl_jax.errors import UserError
from vssl_jax.models.inflate import inflate, inflated
from vssl_jax.models.layers.conv import conv3d


def _variables(temporal, frames, size=32):
  c = config.encoder()
  c.depth, c.width, c.dtype, c.temporal = 18, 0.0625, "float32", temporal
  encoder = models.build_encoder(c)
  clip = jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.float32)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), clip)
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)


@pytest.mark.parametrize("how", ["mean", "centre"])
def test_equal_frames_away_from_the_ends(how):
  rng = np.random.default_rng(0)
  kernel = jnp.asarray(rng.normal(size=(1, 3, 3, 2, 4)), jnp.float32)
  frame = jnp.asarray(rng.normal(size=(1, 1, 6, 6, 2)), jnp.float32)
  like = {"kernel": jnp.zeros((5, 3, 3, 2, 4))}
  big = inflate({"kernel": kernel}, like, how=how)["kernel"]
  want = conv3d(frame, kernel, (1, 1, 1), "SAME")
  got = conv3d(jnp.repeat(frame, 9, 1), big, (1, 1, 1), "SAME")[:, 2:-2]
  np.testing.assert_allclose(got, np.repeat(want, 5, 1), rtol=1e-5, atol=1e-5)


def test_whole_network_takes_the_video_networks_shapes():
  flat = _variables(False, 1)
  video = _variables(True, 8)
  assert flat["params"]["stem_conv"]["kernel"].shape[0] == 1
  big = inflate(flat, video)
  assert jax.tree.map(jnp.shape, big) == jax.tree.map(jnp.shape, video)
  np.testing.assert_allclose(
    big["params"]["stem_conv"]["kernel"].sum(0), flat["params"]["stem_conv"]["kernel"][0], rtol=1e-5
  )


def test_a_network_of_single_frames_may_stay_one():
  """Its feature of a clip is the mean of its features of the frames."""
  c = config.shared()
  c.encoder.depth, c.encoder.width, c.encoder.dtype, c.encoder.temporal = (
    18,
    0.0625,
    "float32",
    False,
  )
  c.data.eval.frames, c.data.eval.size = 3, 16
  flat = _variables(False, 1, 16)
  flat["batch_stats"] = jax.tree.map(jnp.abs, flat["batch_stats"])
  assert inflated(c, flat)[0].encoder.temporal
  c.encoder.inflate = False
  kept, same = inflated(c, flat)
  assert same is flat
  assert not kept.encoder.temporal
  clip = jnp.asarray(np.random.default_rng(1).normal(size=(1, 3, 16, 16, 3)), jnp.float32)
  encoder = models.build_encoder(kept.encoder)
  apply = jax.jit(lambda clips: encoder.apply(flat, clips))
  frames = apply(clip.reshape(3, 1, 16, 16, 3)).mean(0, keepdims=True)
  np.testing.assert_allclose(apply(clip), frames, rtol=1e-5, atol=1e-6)


def test_a_2d_resnet_becomes_the_slow_pathway():
  c = config.encoder()
  c.width, c.dtype = 0.0625, "float32"
  shapes = {}
  for name, frames in (("c2d", 1), ("slow", 8)):
    c.name = name
    clip = jax.ShapeDtypeStruct((1, frames, 32, 32, 3), jnp.float32)
    shapes[name] = jax.eval_shape(models.build_encoder(c).init, jax.random.key(0), clip)
  flat = weights.fill(shapes["c2d"])
  big = inflate(flat, shapes["slow"])
  assert jax.tree.map(jnp.shape, big) == jax.tree.map(lambda x: x.shape, shapes["slow"])
  for name in ("conv_a", "conv_b"):
    small = flat["params"]["res5_2"][name]["kernel"]
    np.testing.assert_allclose(
      big["params"]["res5_2"][name]["kernel"].sum(0), small[0], rtol=1e-5, atol=1e-7
    )


def test_other_networks_are_refused_by_name():
  flat = _variables(False, 1)
  with pytest.raises(UserError, match=r"lacks .*extra"):
    inflate(flat, {**flat, "params": {**flat["params"], "extra": jnp.zeros(3)}})
  with pytest.raises(UserError, match=r"video network has no .*stem_conv"):
    inflate(flat, {**flat, "params": {k: v for k, v in flat["params"].items() if k != "stem_conv"}})
  with pytest.raises(UserError, match=r"cannot become \[2, 3\]"):
    inflate({"kernel": jnp.zeros((1, 3))}, {"kernel": jnp.zeros((2, 3))})
  with pytest.raises(UserError, match="median"):
    inflate(flat, flat, how="median")
