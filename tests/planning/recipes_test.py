"""Every method on 16 virtual devices: what its compiled train step computes and exchanges."""

import importlib.util

import pytest

import vssl_jax
from vssl_jax import config_file

DEVICES = 16
METHODS = ("cvrl", "rho_simclr", "rho_moco", "rho_byol", "rho_swav", "provico", "dcc")
# Bytes per video that may be gathered: embeddings, queues, memories, statistics and random keys.
# One video's clips have at least 24,576 bytes, its features 20,480, and activations more.
MOST_GATHERED = 4_000


def shrunk(method):
  """The published recipe with a small network, as it is lowered for TPUs."""
  c = config_file.load(method)
  with c.unlocked():
    if method == "dcc":
      c.batch_size, c.data.frames = 32, 80
      c.dcc.update(hidden=32, filter=16, dim=16, width=64, videos=320, labels=3, classes=20)
      return c
    c.batch_size, c.data.frames, c.data.size = 128, 4, 32
    c.encoder.depth, c.encoder.width, c.encoder.conv = 18, 0.125, "lax"
    for part in (c.encoder, c.head):
      part.bn_groups = min(part.bn_groups, 16)
    c.head.hidden, c.head.out = tuple(64 for _ in c.head.hidden), 32
    fields = {
      "rho_moco": {"queue": 1024},
      "rho_byol": {"predictor": (64,)},
      "rho_swav": {"prototypes": 64},
      "provico": {"samples": 2, "block_size": 16},
    }
    c[method].update(fields.get(method, {}))
  return c


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_step_is_split_over_the_devices(method):
  c = shrunk(method)
  (p,) = vssl_jax.plan(c, f"cpu:{DEVICES}", videos=2400)
  assert p["flops"]["compiled"] <= 1.1 * p["flops"]["program"]
  per_device, embeddings = c.batch_size // DEVICES, c.batch_size * MOST_GATHERED
  for found in p["collectives"]:
    if found["kind"] == "all-reduce":  # gradients of parameters or embeddings, and statistics
      assert found["bytes"] < max(1.1 * 4 * p["parameters"], embeddings), found
    elif found["kind"] == "all-to-all":  # the shuffle: the clips of one device
      clips = c.data.clips * c.data.frames * c.data.size**2 * 3
      assert found["bytes"] <= per_device * clips, found
    else:
      assert found["bytes"] < embeddings, found
    assert found["dtype"] != "u8" or found["kind"] == "all-to-all", found
  if method == "rho_moco":
    assert any(x["dtype"] == "u8" for x in p["collectives"])


@pytest.mark.slow
def test_a_shuffle_of_the_whole_batch_gathers_clips():
  """The check above finds what it looks for."""
  c = shrunk("rho_moco")
  c.rho_moco.shuffle_block = 0
  (p,) = vssl_jax.plan(c, f"cpu:{DEVICES}", videos=2400)
  assert p["flops"]["compiled"] <= 1.1 * p["flops"]["program"]
  clips = c.batch_size * c.data.clips * c.data.frames * c.data.size**2 * 3
  assert max(x["bytes"] for x in p["collectives"] if x["kind"] != "all-reduce") >= clips / 2


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("method", METHODS)
def test_the_step_compiles_for_a_tpu_slice(method):
  (p,) = vssl_jax.plan(shrunk(method), "v5e:2x4", videos=2400)
  assert p["memory"]["fits"], p
  assert p["flops"]["compiled"] <= 1.1 * p["flops"]["program"]
  # The state is donated, so the results are new metrics alone.
  assert p["memory"]["results"] < p["checkpoint_bytes"] / 2 + 100_000
