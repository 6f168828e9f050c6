"""Every family behind one interface: what `config.encoder` says reaches every layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax import config, models
from vssl_jax.errors import UserError
from vssl_jax.models.layers.conv import Conv
from vssl_jax.models.layers.norm import BatchNorm

CLIP = (8, 32, 32, 3)
# name -> blocks that `remat` wraps, at the usual depth
BLOCKS = {
  "r3d": 16,
  "slow": 16,
  "c2d": 16,
  "slowfast": 32,
  "r2plus1d": 8,
  "r3d_torchvision": 8,
  "s3dg": 9,
  "vit": 12,
}


def _build(name, **fields):
  c = config.encoder()
  c.name = name
  c.update(width=0.125, **fields)
  return models.build_encoder(c)


def _trace(encoder, train=True, **kwargs):
  """Shapes of result and variables, and each layer's module with its arguments."""
  seen = []

  def observe(next_fn, args, kw, context):
    if context.method_name == "__call__":
      seen.append((context.module, args))
    return next_fn(*args, **kw)

  def run(rng, clips):
    with nn.intercept_methods(observe):
      return encoder.init_with_output(rng, clips, train=train, **kwargs)

  clips = jax.ShapeDtypeStruct((2, *CLIP), jnp.float32)
  y, variables = jax.eval_shape(run, jax.random.key(0), clips)
  return y, variables, seen


def test_all_families_are_tested():
  assert set(BLOCKS) == set(models.ENCODERS)


@pytest.mark.parametrize(
  "name",
  [pytest.param(x, marks=pytest.mark.slow if x in ("s3dg", "slowfast") else ()) for x in BLOCKS],
)
def test_settings_reach_every_layer(name):
  encoder = _build(
    name, dtype="bfloat16", bn_momentum=0.7, bn_epsilon=0.01, bn_groups=2, conv="fold"
  )
  y, variables, seen = _trace(encoder)
  assert (y.shape, y.dtype) == ((2, encoder.features_dim), jnp.float32)
  assert {a.dtype.name for a in jax.tree.leaves(variables)} == {"float32"}
  norms = [(layer, args) for layer, args in seen if isinstance(layer, BatchNorm)]
  for layer, args in norms:
    assert (layer.momentum, layer.epsilon, layer.groups) == (0.7, 0.01, 2)
    assert layer.dtype == jnp.bfloat16
    assert args[1] is True  # train
  convolutions = [layer for layer, _ in seen if isinstance(layer, Conv)]
  assert {(layer.lowering, layer.dtype) for layer in convolutions} <= {("fold", jnp.bfloat16)}
  assert {layer.padding for layer in convolutions} <= {"SAME" if name == "r3d" else "symmetric"}
  if name == "vit":
    assert not norms
    dense = [layer for layer, _ in seen if isinstance(layer, nn.Dense | nn.LayerNorm)]
    assert {layer.dtype for layer in dense} == {jnp.bfloat16}
  else:  # each convolution has a norm, and no bias
    assert len(norms) == len(convolutions) > 15
    assert not any(layer.use_bias for layer in convolutions)
  maps, _, _ = _trace(encoder, train=False, pool=False)
  assert maps.shape[0] == 2
  assert (maps.shape[-1], maps.dtype, maps.ndim) == (encoder.features_dim, jnp.bfloat16, 5)


@pytest.mark.parametrize("name", BLOCKS)
def test_remat_wraps_every_block_and_renames_nothing(name):
  clips = jax.ShapeDtypeStruct((1, *CLIP), jnp.float32)
  plain, wrapped = (_build(name, remat=remat, dtype="float32") for remat in (False, True))
  variables = jax.eval_shape(plain.init, jax.random.key(0), clips)
  program = jax.make_jaxpr(wrapped.apply)(variables, clips)
  found = sum("checkpoint" in str(e.primitive) or "remat" in str(e.primitive) for e in program.eqns)
  assert found == BLOCKS[name]


@pytest.mark.parametrize(
  ("name", "fields", "message"),
  [
    ("r2plus1d", {"depth": 50}, r"depth = 50 is unknown to r2plus1d: use 0, 18"),
    ("r3d_torchvision", {"depth": 34}, r"depth = 34 is unknown to r3d_torchvision"),
    ("s3dg", {"depth": 18}, r"depth = 18 is unknown to s3dg, which has only one depth: use 0"),
    ("vit", {"depth": -1}, r"depth = -1: give 0 or more"),
    ("vit", {"positions": "learnt"}, r"positions = 'learnt' is unknown to vit: use sine, rotary"),
    ("vit", {"grid": (8, 14)}, r"grid = \(8, 14\): give the tokens"),
    ("vit", {"size": "XL"}, r"size = 'XL' is unknown to vit: use S, B"),
    ("slowfast", {"depth": 34}, r"depth = 34 is unknown to slowfast: use 0, 50, 18"),
    *(
      (name, {"temporal": False}, rf"temporal = False: {name} has no version")
      for name in ("slowfast", "r2plus1d", "r3d_torchvision", "s3dg", "vit")
    ),
  ],
)
def test_impossible_combinations(name, fields, message):
  with pytest.raises(UserError, match=rf"config\.encoder\.{message}"):
    _build(name, **fields)


@pytest.mark.parametrize("temporal", [True, False])
def test_c2d_has_no_time_and_slow_has_it_where_table_17_says(temporal):
  _, variables, _ = _trace(_build("c2d", temporal=temporal))
  flat = jax.tree_util.tree_leaves_with_path(variables["params"])
  assert {a.shape[0] for path, a in flat if path[-1].key == "kernel"} == {1}
  _, variables, _ = _trace(_build("slow", temporal=temporal))
  flat = jax.tree_util.tree_leaves_with_path(variables["params"])
  deep = {path[0].key for path, a in flat if path[-1].key == "kernel" and a.shape[0] == 3}
  want = {f"res{s}_{i}" for s, n in ((4, 6), (5, 3)) for i in range(n)}
  assert deep == (want if temporal else set())


def test_configs_of_older_runs_still_build():
  """Runs saved before the later families came have none of their fields."""
  c = config.encoder()
  with c.unlocked():
    for field in ("alpha", "beta", "lateral", "gating", "size", "tubelet"):
      del c[field]
  c.depth = 50
  assert models.build_encoder(c).features_dim == 2048


@pytest.mark.parametrize(
  ("name", "depth"), [("slow", 18), ("slowfast", 18), ("r2plus1d", 18), ("s3dg", 0)]
)
def test_kernels_start_as_he_proposed(name, depth):
  encoder = _build(name, depth=depth)
  _, _, seen = _trace(encoder)
  for layer in {layer.kernel_init for layer, _ in seen if isinstance(layer, Conv)}:
    kernel = np.asarray(layer(jax.random.key(0), (3, 3, 3, 32, 64)))
    assert kernel.std() == pytest.approx((2 / (27 * 64)) ** 0.5, rel=0.02)
    assert np.abs(kernel).max() > 4 * kernel.std()  # not truncated
