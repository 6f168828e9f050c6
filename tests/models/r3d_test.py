"""R3D: shapes by stage as in the paper's table, options that change no number, bad fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vssl_jax import config, models
from vssl_jax.errors import UserError


def _encoder(**fields):
  c = config.encoder()
  c.depth, c.width, c.dtype = 18, 0.0625, "float32"
  c.update(fields)
  return models.build_encoder(c)


def test_shapes_of_r3d50_are_the_papers():
  encoder = _encoder(depth=50, width=1.0)
  clip = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32)
  variables = jax.eval_shape(encoder.init, jax.random.key(0), clip)
  last = jax.eval_shape(lambda v, x: encoder.apply(v, x, pool=False), variables, clip)
  assert last.shape == (1, 8, 7, 7, 2048)
  assert jax.eval_shape(encoder.apply, variables, clip).shape == (1, encoder.features_dim)
  kernels = {
    name: block["conv_a"]["kernel"].shape[0]
    for name, block in variables["params"].items()
    if name.startswith("res")
  }
  assert {k[:4]: v for k, v in kernels.items()} == {"res2": 1, "res3": 1, "res4": 3, "res5": 3}
  assert len(kernels) == 3 + 4 + 6 + 3
  assert variables["params"]["stem_conv"]["kernel"].shape == (5, 7, 7, 3, 64)
  shortcuts = [n for n, b in variables["params"].items() if "conv_shortcut" in b]
  assert sorted(shortcuts) == ["res2_0", "res3_0", "res4_0", "res5_0"]


def test_r3d18_has_the_temporal_kernels_it_promises():
  encoder = _encoder(width=0.25)
  clip = jax.ShapeDtypeStruct((1, 8, 56, 56, 3), jnp.float32)
  params = jax.eval_shape(encoder.init, jax.random.key(0), clip)["params"]
  assert encoder.features_dim == 128
  first = [params[f"res{s}_0"]["conv_a"]["kernel"].shape[:3] for s in (2, 3, 4, 5)]
  assert first == [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)]
  assert params["res5_1"]["conv_b"]["kernel"].shape == (1, 3, 3, 128, 128)
  flat = jax.eval_shape(_encoder(temporal=False).init, jax.random.key(0), clip)["params"]
  assert all(x.shape[0] == 1 for x in jax.tree.leaves(flat) if x.ndim == 5)


def test_options_change_no_number():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 16, 16, 3)), jnp.float32)
  make = jax.jit(
    lambda: _encoder().init(jax.random.key(0), x),
    compiler_options={"xla_backend_optimization_level": 0},
  )
  variables = make()

  def run(**fields):
    encoder = _encoder(**fields)

    def loss(params):
      y, _ = encoder.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
      return jnp.sum(y**2)

    return jax.jit(jax.value_and_grad(loss))(variables["params"])

  value, grads = run()
  scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads))
  for fields in ({"remat": True}, {"conv": "lax"}):
    other, other_grads = run(**fields)
    np.testing.assert_allclose(value, other, rtol=1e-4)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * scale), grads, other_grads
    )


def test_bfloat16_keeps_parameters_statistics_and_features_in_float32():
  encoder = _encoder(dtype="bfloat16")
  clip = jax.ShapeDtypeStruct((2, 4, 16, 16, 3), jnp.float32)
  variables = jax.eval_shape(encoder.init, jax.random.key(0), clip)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  assert jax.eval_shape(encoder.apply, variables, clip).dtype == jnp.float32
  last = jax.eval_shape(lambda v, x: encoder.apply(v, x, pool=False), variables, clip)
  assert last.dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ("field", "value"), [("depth", 34), ("name", "r4d"), ("dtype", "float16"), ("conv", "fast")]
)
def test_bad_fields_are_named(field, value):
  with pytest.raises(UserError, match=rf"config\.encoder\.{field}"):
    _encoder(**{field: value})
