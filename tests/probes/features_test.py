"""Features: every view once, in order, whatever the batch, the chunk, the devices."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.probes import features

SHAPE = (2, 3, 3, 1)  # T, H, W, C


def _apply(variables, clips):
  flat = clips.reshape(len(clips), -1).astype(jnp.float32)
  return jnp.tanh(flat @ variables["params"]["kernel"])


def _variables(seed=0):
  kernel = np.random.default_rng(seed).normal(size=(np.prod(SHAPE), 4)) / 100
  return {"params": {"kernel": jnp.asarray(kernel, jnp.float32)}}


def _split(videos, views, seed=1):
  rng = np.random.default_rng(seed)
  return {
    "clips": rng.integers(0, 256, (videos, views, *SHAPE), np.uint8),
    "label": rng.integers(0, 3, videos).astype(np.int32),
    "video": np.arange(videos, dtype=np.int64),
    "offset": rng.integers(0, 50, (videos, views)).astype(np.int32),
  }


def _batches(data, n):
  """Ordered batches, the last padded with copies of the last row."""
  videos = len(data["label"])
  for i in range(0, videos, n):
    rows = np.minimum(np.arange(i, i + n), videos - 1)
    yield {k: x[rows] for k, x in data.items()} | {"valid": np.arange(i, i + n) < videos}


def _expected(data, variables):
  flat = data["clips"].reshape(*data["clips"].shape[:2], -1).astype(np.float64)
  return np.tanh(flat @ np.asarray(variables["params"]["kernel"], np.float64))


@settings(max_examples=15, deadline=None)
@given(
  videos=st.integers(1, 9),
  views=st.integers(1, 3),
  n=st.integers(1, 5),
  chunk=st.integers(0, 7),
  devices=st.sampled_from([1, 3]),
  alone=st.booleans(),
)
def test_equals_numpy_for_any_batching(videos, views, n, chunk, devices, alone):
  data, variables = _split(videos, views), _variables()
  mesh = parallel.make_mesh(jax.devices()[:devices])
  with pytest.MonkeyPatch.context() as patch:
    if alone:  # as on a pod where each device has a program of its own
      patch.setattr(parallel, "local_meshes", lambda d, n: [parallel.make_mesh([x]) for x in d])
    found = features.extract(_apply, variables, _batches(data, n), mesh=mesh, chunk=chunk)
  np.testing.assert_allclose(found.features, _expected(data, variables), rtol=1e-5, atol=1e-6)
  for key in ("label", "video", "offset"):
    np.testing.assert_array_equal(getattr(found, key), data[key])
  assert found.features.dtype == np.float32


def test_one_shape_is_compiled():
  shapes = []

  def apply(variables, clips):
    shapes.append(clips.shape)
    return _apply(variables, clips)

  features.extract(apply, _variables(), _batches(_split(7, 3), 4), chunk=5)
  assert shapes == [(8, *SHAPE)]  # traced once; 5 rounded up to the 8 devices


def test_average_keeps_the_mean_over_views():
  data, variables = _split(5, 3), _variables()
  found = features.extract(_apply, variables, _batches(data, 2), average=True)
  assert found.features.shape == (5, 1, 4)
  expected = _expected(data, variables).mean(1)
  np.testing.assert_allclose(found.features[:, 0], expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(found.mean(), expected, rtol=1e-5, atol=1e-6)


def test_videos_out_of_order_and_twice_come_sorted_and_once():
  data = _split(6, 2)
  order = np.array([4, 1, 5, 1, 0, 2, 3, 4])
  shuffled = {k: x[order] for k, x in data.items()}
  names = [f"video{i}" for i in range(6)]
  found = features.extract(_apply, _variables(), _batches(shuffled, 3), names=names)
  np.testing.assert_array_equal(found.video, np.arange(6))
  np.testing.assert_array_equal(found.offset, data["offset"])
  assert found.names == tuple(names)


def test_padding_may_stand_anywhere():
  data = _split(6, 2)
  valid = np.array([False, True, True, False, True, False])
  found = features.extract(_apply, _variables(), [data | {"valid": valid}])
  np.testing.assert_array_equal(found.video, [1, 2, 4])
  expected = _expected(data, _variables())[valid]
  np.testing.assert_allclose(found.features, expected, rtol=1e-5, atol=1e-6)


def test_names_follow_the_video_index_of_a_share():
  data = {k: x[[1, 3]] for k, x in _split(4, 1).items()}
  found = features.extract(_apply, _variables(), _batches(data, 2), names=list("abcd"))
  assert found.names == ("b", "d")


def test_no_video_is_an_error():
  with pytest.raises(UserError, match="no video"):
    features.extract(_apply, _variables(), [])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("average", [False, True])
def test_outputs_that_are_not_finite_are_an_error(value, average):
  def apply(variables, clips):
    first = clips.reshape(len(clips), -1)[:, :1]
    return jnp.where(first == 7, value, jnp.ones((len(clips), 2)))

  data = _split(5, 2)
  data["clips"].reshape(5, 2, -1)[..., 0] = [[0, 0], [0, 7], [1, 1], [7, 7], [0, 0]]
  with pytest.raises(UserError, match=r"split 'held'.*2 of 5 videos.*earlier checkpoint"):
    features.extract(apply, {}, _batches(data, 2), average=average, split="held")


def test_variables_stay_as_they_are():
  variables = _variables()
  before = np.array(variables["params"]["kernel"])
  features.extract(_apply, variables, _batches(_split(3, 2), 2))
  np.testing.assert_array_equal(before, variables["params"]["kernel"])


def test_save_and_load(tmp_path):
  data = _split(4, 2)
  found = features.extract(
    _apply,
    _variables(),
    _batches(data, 4),
    names=["ä", "b", "c", "d e"],
    label_names=("x", "y", "z"),
    info={"config_sha256": "abc", "views": {"clips": 2}},
  )
  features.save(tmp_path / "new" / "f.npz", found)
  again = features.load(tmp_path / "new" / "f.npz")
  for key in ("features", "label", "video", "offset"):
    np.testing.assert_array_equal(getattr(again, key), getattr(found, key))
    assert getattr(again, key).dtype == getattr(found, key).dtype
  assert (again.names, again.label_names, again.info) == (
    found.names,
    found.label_names,
    found.info,
  )
  assert [p.name for p in (tmp_path / "new").iterdir()] == ["f.npz"]


def test_load_tells_what_is_wrong(tmp_path):
  with pytest.raises(UserError, match="no such feature file"):
    features.load(tmp_path / "f.npz")
  features.save(tmp_path / "f.npz", features.Features(*(np.zeros((2, 1)) for _ in range(4))))
  whole = (tmp_path / "f.npz").read_bytes()
  for damaged in (b"", b"not a zip", whole[: len(whole) // 2]):
    (tmp_path / "f.npz").write_bytes(damaged)
    with pytest.raises(UserError, match="not a complete feature file"):
      features.load(tmp_path / "f.npz")
  np.savez(tmp_path / "g.npz", features=np.zeros(3))
  with pytest.raises(UserError, match="not a complete feature file"):
    features.load(tmp_path / "g.npz")


_PROCESS = """
import sys
import jax
import numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from tests.probes import features_test as t
from vssl_jax.probes import features
data, me = t._split(7, 2), int(sys.argv[2])
data["video"] += 2**40  # more than 32 bits must survive
mine = {k: x[me::2] for k, x in data.items()}
found = features.extract(t._apply, t._variables(), t._batches(mine, 2))
np.savez(sys.argv[3], features=found.features, video=found.video, label=found.label)
"""


@pytest.mark.slow
def test_two_processes_gather_each_others_rows(tmp_path):
  with socket.socket() as s:
    s.bind(("localhost", 0))
    address = f"localhost:{s.getsockname()[1]}"
  root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
  env = os.environ | {"PYTHONPATH": root, "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", _PROCESS, address, str(i), str(tmp_path / f"{i}.npz")], env=env
    )
    for i in range(2)
  ]
  assert [p.wait(timeout=300) for p in processes] == [0, 0]
  data = _split(7, 2)
  for i in range(2):
    with np.load(tmp_path / f"{i}.npz") as f:
      np.testing.assert_array_equal(f["video"], data["video"] + 2**40)
      np.testing.assert_array_equal(f["label"], data["label"])
      np.testing.assert_allclose(f["features"], _expected(data, _variables()), rtol=1e-5, atol=1e-6)
