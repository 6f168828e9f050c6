"""Digests see any change, and arrays that all devices hold are written without being cut."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from vssl_jax import parallel
from vssl_jax.training import stored


def test_digest_sees_any_single_word_and_swaps():
  x = jnp.arange(24.0).reshape(4, 6)
  base = int(stored.digest({"x": x})[0])
  for i in range(4):
    for j in range(6):
      assert int(stored.digest({"x": x.at[i, j].add(1e-3)})[0]) != base
  assert int(stored.digest({"x": x[::-1]})[0]) != base
  assert int(stored.digest({"x": x.T.reshape(4, 6)})[0]) != base


@pytest.mark.parametrize("dtype", ["bool", "int8", "bfloat16", "float32", "uint32"])
def test_digest_is_the_weighted_sum_of_the_words(dtype):
  x = np.random.default_rng(0).integers(0, 2, (3, 5)).astype(jnp.dtype(dtype))
  words = x.view(f"uint{8 * x.itemsize}").astype(np.uint64).ravel()
  weights = (np.arange(x.size, dtype=np.uint64) * 2654435761) | np.uint64(1)
  assert int(stored.digest([jnp.asarray(x)])[0]) == int((words * weights).sum() % 2**32)


def test_digest_of_keys_and_of_split_arrays():
  keys = jax.random.split(jax.random.key(1), 4)
  assert stored.digest([keys]) == stored.digest([jax.random.key_data(keys)])
  x = jnp.arange(32.0).reshape(16, 2)
  assert stored.digest([jax.device_put(x, parallel.split(parallel.make_mesh()))]) == stored.digest(
    [x]
  )


def test_layout_names_each_array():
  tree = {"a": {"w": jnp.zeros((2, 3))}, "b": [jnp.zeros((), jnp.int32)]}
  assert stored.layout(tree) == {"a/w": "float32[2, 3]", "b/0": "int32[]"}


@pytest.fixture
def compiled():
  """The names of the events of compiling, as they happen."""
  events = []
  listen = lambda name, _, **__: "backend_compile" in name and events.append(name)
  jax.monitoring.register_event_duration_secs_listener(listen)
  yield events
  jax.monitoring.unregister_event_duration_listener(listen)


def _checkpoints(folder):
  return ocp.CheckpointManager(folder, handler_registry=stored.handlers())


def test_saving_what_eight_devices_hold_compiles_nothing(tmp_path, compiled):
  mesh = parallel.make_mesh(jax.devices()[:8])
  rng = np.random.default_rng(0)
  tree = {f"w{i}": rng.normal(size=(8 + 8 * i, 3)).astype(np.float32) for i in range(4)}
  kept = jax.device_put(tree, parallel.replicated(mesh))
  kept["queue"] = jax.device_put(rng.normal(size=(16, 2)), parallel.split(mesh))
  with _checkpoints(tmp_path) as manager:
    compiled.clear()
    manager.save(1, args=ocp.args.Composite(state=ocp.args.PyTreeSave(kept)))
    manager.wait_until_finished()
    assert not compiled
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, kept)
    how = ocp.checkpoint_utils.construct_restore_args(abstract)
    args = ocp.args.Composite(state=ocp.args.PyTreeRestore(abstract, restore_args=how))
    found = manager.restore(1, args=args)["state"]
  for name, x in kept.items():
    np.testing.assert_array_equal(found[name], x)
    assert found[name].sharding == x.sharding


def test_what_orbax_writes_by_default_is_read(tmp_path):
  """So checkpoints of earlier versions are."""
  tree = {"w": jnp.arange(16.0), "n": jnp.int32(3)}
  with ocp.CheckpointManager(tmp_path, item_names=("state", "digest")) as manager:
    saved = {"state": ocp.args.StandardSave(tree), "digest": ocp.args.JsonSave({"a": 1})}
    manager.save(1, args=ocp.args.Composite(**saved))
  abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
  how = ocp.checkpoint_utils.construct_restore_args(abstract)
  with _checkpoints(tmp_path) as manager:
    asked = {"state": ocp.args.PyTreeRestore(abstract, restore_args=how)}
    found = manager.restore(1, args=ocp.args.Composite(digest=ocp.args.JsonRestore(), **asked))
  assert found["digest"] == {"a": 1}
  np.testing.assert_array_equal(found["state"]["w"], tree["w"])


def test_a_seal_sees_any_change_of_the_facts():
  facts = {"arrays": [1, 2], "layout": {"w": "float32[2]"}, "step": 3, "metrics": {"loss": 0.5}}
  sealed = stored.seal(facts)
  stored.check_seal(sealed)
  stored.check_seal(json.loads(json.dumps(sealed)))
  stored.check_seal(facts)  # as earlier versions wrote them
  for field, value in (("arrays", [2, 1]), ("step", 4), ("metrics", {}), ("more", 1)):
    with pytest.raises(ValueError, match="its digest differs"):
      stored.check_seal(sealed | {field: value})
