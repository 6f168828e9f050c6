"""Accumulated gradients equal the single pass's, batch statistics and all."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.losses import info_nce
from vssl_jax.ops import grad_cache

N, D, MICRO = 48, 10, 3


class Encoder(nn.Module):
  """A layer, batch normalization over each of `groups` strided groups of rows, a layer."""

  groups: int = 1

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(16)(x)
    norm = nn.BatchNorm(use_running_average=False, momentum=0.9)
    parts = [norm(x[i :: self.groups]) for i in range(self.groups)]
    x = jnp.stack(parts, axis=1).reshape(x.shape)
    return nn.Dense(5)(nn.relu(x))


@functools.cache
def problem(groups=1):
  """A two-view model with a learnable temperature, a predictor and a state that counts calls."""
  model = Encoder(groups)
  rng = np.random.default_rng(0)
  batch = {
    "x": rng.standard_normal((N, 2, D)).astype(np.float32),
    "key": jax.random.split(jax.random.key(1), N),
  }
  variables = jax.jit(model.init)(jax.random.key(0), batch["x"][:, 0])
  params = {
    "model": variables["params"],
    "scale": jnp.float32(1.5),
    "predictor": jnp.asarray(rng.standard_normal((5, 5)), jnp.float32),
  }
  state = {"batch_stats": variables["batch_stats"], "embedded": jnp.int32(0), "steps": jnp.int32(0)}

  def embed(params, state, batch):
    noise = jax.vmap(lambda key: jax.random.uniform(key, (2, D)))(batch["key"])
    x = batch["x"] + 0.1 * noise
    views, stats = {}, state["batch_stats"]
    for view in range(2):
      views[f"view{view}"], updated = model.apply(
        {"params": params["model"], "batch_stats": stats}, x[:, view], mutable=["batch_stats"]
      )
      stats = updated["batch_stats"]
    return views, state | {"batch_stats": stats, "embedded": state["embedded"] + 1}

  def loss(params, state, z, batch):
    value, metrics = info_nce(
      z["view0"] @ params["predictor"], z["view1"], jnp.exp(-params["scale"])
    )
    order = jnp.arange(1.0, N + 1)  # the loss depends on the embeddings' order and on the batch
    value += 0.1 * jnp.mean(order * z["view0"][:, 0] * batch["x"][:, 0, 0])
    return value, (state | {"steps": state["steps"] + 1}, metrics)

  return embed, loss, params, state, batch


def single_pass(embed, loss, params, state, batch):
  def whole(params):
    z, after = embed(params, state, batch)
    return loss(params, after, z, batch)

  return jax.jit(jax.value_and_grad(whole, has_aux=True))(params)


def accumulated(embed, loss, params, state, batch, num_micro=MICRO):
  f = functools.partial(grad_cache.value_and_grad, embed, loss, num_micro=num_micro)
  return jax.jit(f)(params, state, batch)


def assert_equal(got, want):
  def check(path, x, y):
    np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6, err_msg=jax.tree_util.keystr(path))

  jax.tree_util.tree_map_with_path(check, got, want)


@pytest.fixture(scope="module")
def result():
  return accumulated(*problem())


def test_equals_the_single_pass_with_the_same_groups(result):
  (value, (state, metrics)), grads = result
  (want_value, (_, want_metrics)), want_grads = single_pass(*problem(groups=MICRO))
  assert_equal((value, metrics, grads), (want_value, want_metrics, want_grads))
  assert np.abs(grads["scale"]) > 1e-3
  assert state["steps"] == 1
  assert state["embedded"] == MICRO


def test_running_statistics_advance_once_a_micro_batch(result):
  embed, _, params, state, batch = problem()
  embed = jax.jit(embed)
  for i in range(MICRO):
    _, state = embed(params, state, jax.tree.map(lambda x, i=i: x[i::MICRO], batch))
  assert_equal(result[0][1][0]["batch_stats"], state["batch_stats"])


@pytest.mark.parametrize("num_micro", [1, 3])
def test_a_stateful_embedding_finds_the_same_state_in_both_passes(num_micro):
  def embed(params, state, batch):
    return params * batch * (1 + state), state + 1

  def loss(params, state, z, batch):
    del params, batch
    return jnp.sum(z), (state, {})

  arguments = jnp.float32(2), jnp.float32(0), jnp.ones(6)
  (value, (state, _)), grad = accumulated(embed, loss, *arguments, num_micro=num_micro)
  assert grad == {1: 6, 3: 2 * (1 + 2 + 3)}[num_micro]
  assert value == 2 * grad
  assert state == num_micro


def test_eight_devices_equal_one(result):
  embed, loss, params, state, batch = problem()
  mesh = parallel.make_mesh(jax.devices()[:8])
  split = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
  f = functools.partial(grad_cache.value_and_grad, embed, loss, num_micro=MICRO)
  compiled = jax.jit(f).lower(params, state, split).compile()
  assert_equal(compiled(params, state, split), result)
  # Strided micro-batches stay where they are: no device ever holds another's inputs.
  assert f"f32[{N},2,{D}]" not in compiled.as_text()


def test_memory_falls_with_micro_batches():
  def embed(params, state, x):
    for _ in range(4):
      x = jnp.tanh(x @ params)
    return x[:, :2], state

  def loss(params, state, z, batch):
    del params, batch
    return jnp.sum(z**2), (state, {})

  def temporary(num_micro):
    f = functools.partial(grad_cache.value_and_grad, embed, loss, num_micro=num_micro)
    shapes = (
      jax.ShapeDtypeStruct((64, 64), jnp.float32),
      jax.ShapeDtypeStruct((8192, 64), jnp.float32),
    )
    lowered = jax.jit(f).lower(shapes[0], {}, shapes[1])
    return lowered.compile().memory_analysis().temp_size_in_bytes

  # Two of the single pass's arrays remain: the batch and its reordering.
  assert temporary(16) < 0.5 * temporary(1)


@pytest.mark.parametrize(
  ("batch", "num_micro"),
  [({"x": jnp.ones((6, 2))}, 4), ({"x": jnp.ones(6), "y": jnp.ones(3)}, 3), (jnp.ones(6), 0)],
)
def test_bad_input_is_named(batch, num_micro):
  with pytest.raises(UserError, match="micro-batches"):
    grad_cache.value_and_grad(None, None, {}, {}, batch, num_micro)
