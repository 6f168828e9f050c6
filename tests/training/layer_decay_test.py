"""Layer-wise rates: the order of every family's modules, and one update by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax import config as config_lib
from vssl_jax import models
from vssl_jax.errors import UserError
from vssl_jax.training import layer_decay, optim


def _modules(name):
  """Top-level modules in the order in which the network calls them."""
  c = config_lib.encoder()
  c.name, c.dtype = name, "float32"
  encoder, order = models.build_encoder(c), []

  def create(key, x):
    variables = encoder.init(key, x)
    order.extend(variables["params"])
    return variables

  clip = jax.ShapeDtypeStruct((1, 16, 32, 32, 3), jnp.float32)
  jax.eval_shape(create, jax.random.key(0), clip)
  return order


@pytest.mark.parametrize(
  "name", ["r3d", "r2plus1d", pytest.param("s3dg", marks=pytest.mark.slow), "vit"]
)
def test_places_rise_from_input_to_output(name):
  places = [layer_decay.place(n) for n in _modules(name)]
  assert places == sorted(places)
  assert len(set(places)) > 5


def test_parallel_pathways_share_their_layers():
  assert layer_decay.place("slow_res3_1") == layer_decay.place("fast_res3_1")
  assert layer_decay.place("slow_stem_conv") == layer_decay.place("stem_lateral_conv")
  later = layer_decay.place("res3_lateral_conv")
  assert layer_decay.place("slow_res3_22") < later < layer_decay.place("slow_res4_0")
  assert layer_decay.place("block_9") < layer_decay.place("block_10")


def _params():
  return {
    "encoder": {
      "stem_conv": {"kernel": np.ones((2, 2))},
      "stem_norm": {"scale": np.ones(2)},
      "res2_0": {"conv_a": {"kernel": np.ones((2, 2))}},
      "res10_0": {"kernel": np.ones(3)},
    },
    "classifier": {"out": {"kernel": np.ones((2, 2))}},
  }


def test_scales_by_hand():
  found = layer_decay.scales(_params(), 0.5)
  assert found["encoder"] == {
    "stem_conv": {"kernel": 0.125},
    "stem_norm": {"scale": 0.125},
    "res2_0": {"conv_a": {"kernel": 0.25}},
    "res10_0": {"kernel": 0.5},
  }
  assert found["classifier"]["out"]["kernel"] == 1.0


def _beit(name, depth):
  """The factor's power by the rule of BEiT and MAE: layers 0 (tokens, positions), 1 to depth (the
  blocks), and depth + 1 (all else: norm and head), whose factor is 1."""
  last = depth + 1
  if name.startswith(("patch_embed", "cls_token", "pos_embed")):
    return last
  return last - (int(name.split(".")[1]) + 1) if name.startswith("blocks.") else 0


@pytest.mark.parametrize("depth", [3, 12])
def test_a_transformer_is_layered_as_beit_and_mae_are(depth):
  theirs = {"embed": "patch_embed.proj", "norm": "norm"}
  theirs |= {f"block_{i}": f"blocks.{i}.mlp.fc1" for i in range(depth)}
  modules = _modules("vit")
  assert set(modules) == {"embed", "norm", *(f"block_{i}" for i in range(12))}
  kept = [m for m in modules if m in theirs]
  params = {"encoder": {m: {"x": np.ones(1)} for m in kept}, "head": {"x": np.ones(1)}}
  found = layer_decay.scales(params, 0.75)
  for module in kept:
    want = 0.75 ** _beit(theirs[module], depth)
    assert found["encoder"][module]["x"] == pytest.approx(want), module
  assert found["head"]["x"] == 0.75 ** _beit("head", depth) == 1.0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_updates_are_the_plain_ones_times_the_scale(name):
  params = jax.tree.map(jnp.asarray, _params())
  rng = np.random.default_rng(0)
  grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
  updates = {}
  for decay in (1.0, 0.5):
    c = config_lib.optim()
    c.name, c.weight_decay, c.layer_decay = name, 0.1, decay
    tx = optim.build(c, lambda _: 0.3)
    updates[decay] = tx.update(grads, tx.init(params), params)[0]
  expected = jax.tree.map(lambda u, s: u * s, updates[1.0], layer_decay.scales(params, 0.5))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates[0.5], expected)


def test_an_impossible_factor_names_the_field():
  c = config_lib.optim()
  c.layer_decay = 0.0
  with pytest.raises(UserError, match=r"config\.optim\.layer_decay is 0"):
    optim.build(c, lambda _: 0.0)
