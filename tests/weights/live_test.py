"""The originals themselves, where they are installed: every number of every stage.

The other tests compare with digests of what the originals gave; this one runs them. PySlowFast is
found as `slowfast` on the path, PyTorch and torchvision as installed. (TF Garden's networks live
beside another TensorFlow than ours: `make_weights.py` runs them.)
"""

import importlib.util
import pathlib

import numpy as np
import pytest

from tests.oracles import originals
from tests.weights import stages
from tests.weights.pyslowfast_test import depth_14  # noqa: F401  a fixture
from vssl_jax.weights import pyslowfast, resnet2d, torchvision


def _worst(found, seen, clips):
  got = stages.outputs(found, clips, seen)
  worst = {k: np.abs(got[k] - y).max() / np.abs(y).max() for k, y in seen.items()}
  print({k: f"{v:.1e}" for k, v in worst.items()})
  assert max(worst.values()) < 1e-4, worst


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18", "s3d", "resnet18"])
def test_torchvision(name):
  pytest.importorskip("torch")
  pytest.importorskip("torchvision.models")
  state, seen, clips = originals.torchvision(name)
  read = resnet2d.read if name == "resnet18" else torchvision.read
  _worst(read(state, name, **({"encoder": "c2d"} if name == "resnet18" else {})), seen, clips)


@pytest.fixture(scope="module")
def modules():
  pytest.importorskip("torch")
  spec = importlib.util.find_spec("slowfast")
  if spec is None:
    pytest.skip("PySlowFast is not on the path")
  return originals.load_pyslowfast(pathlib.Path(spec.origin).parent)


@pytest.mark.parametrize("name", originals.PYSLOWFAST)
def test_pyslowfast(name, modules):
  state, seen, clips, cfg = originals.pyslowfast(modules, name)
  found = pyslowfast.read(state, {"cfg": originals.dump(cfg)}, name)
  _worst(found, seen, clips)
  # Ours in their network: they take the tensors and give the same.
  import torch

  tensors, _ = pyslowfast.to_theirs(found.config, found.variables, found.whole)
  model, _ = originals.pyslowfast_model(modules, name)
  lacks, extra = model.load_state_dict(
    {k: torch.from_numpy(v) for k, v in tensors.items()}, strict=False
  )
  assert not extra
  unused = ("queue_x", "ptr") if name == "byol" else ()
  classifier = ("head.projection.weight", "head.projection.bias")
  assert {k for k in lacks if "num_batches" not in k} <= {*unused, *classifier}
  if name != "c2d":  # theirs was given BGR, ours is not
    again, _ = originals.pyslowfast_run(model.eval(), name)
    for k, y in seen.items():
      np.testing.assert_allclose(again[k], y, rtol=1e-4, atol=1e-5 * np.abs(y).max())
