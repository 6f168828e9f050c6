"""torchvision's video networks, and its image networks inflated."""

import numpy as np
import pytest

from tests.oracles import originals
from tests.weights import stages
from vssl_jax.errors import UserError
from vssl_jax.weights import resnet2d, torchvision

CASES = stages.cases("torchvision")


@pytest.mark.parametrize(
  "name", ["r3d_18", *(pytest.param(x, marks=pytest.mark.slow) for x in ("r2plus1d_18", "s3d"))]
)
def test_every_stage(name):
  case = CASES[name]
  found = torchvision.read(stages.state_of(case), name)
  stages.compare(found, case)
  assert found.left_out == [k for k in sorted(case["tensors"]) if k.startswith(("fc", "class"))]
  assert found.left_out
  assert found.config.augment.mean == (0.43216, 0.394666, 0.37645)
  assert found.config.augment.std == (0.22803, 0.22145, 0.216989)
  d, p = found.config.data, found.config.probe
  assert (p.frames, p.stride, p.size) == (d.eval.frames, d.eval.stride, d.size)


def test_images():
  case = CASES["resnet18"]
  found = resnet2d.read(stages.state_of(case), "resnet18", encoder="c2d")
  stages.compare(found, case)
  assert found.left_out == ["fc.bias", "fc.weight"]
  assert found.config.augment.mean == (0.485, 0.456, 0.406)
  assert found.config.augment.std == (0.229, 0.224, 0.225)


def _narrow():
  """resnet18 an eighth as wide."""
  shapes = CASES["resnet18"]["tensors"].items()
  return {k: originals.draw(k, [n // 8 if n > 7 else n for n in s]) for k, s in shapes}


def test_still_clips_look_like_images():
  image = originals.clips(1, 1, 32)
  flat = stages.outputs(resnet2d.read(_narrow(), "x", encoder="c2d"), image, ["res3_1", "res5_1"])
  seen = stages.outputs(resnet2d.read(_narrow(), "x"), np.repeat(image, 9, 1), list(flat))
  # Four convolutions see three frames each: the middle one of nine frames sees no border.
  for name, frames in (("res3_1", slice(None)), ("res5_1", slice(4, 5))):
    want = np.broadcast_to(flat[name], seen[name].shape)[:, frames]
    np.testing.assert_allclose(seen[name][:, frames], want, rtol=0, atol=1e-4 * want.max())


def test_images_for_cvrls_network():
  found = resnet2d.read(_narrow(), "x", encoder="r3d")
  kernel = found.variables["params"]["stem_conv"]["kernel"]
  assert kernel.shape == (5, 7, 7, 3, 8)
  np.testing.assert_allclose(
    kernel.sum(0), _narrow()["conv1.weight"].transpose(2, 3, 1, 0), rtol=1e-5, atol=1e-6
  )


def test_misfits_are_named():
  state = _narrow()
  del state["layer2.0.downsample.0.weight"]
  state["layer1.0.se.weight"] = np.zeros(2)
  with pytest.raises(UserError, match=r"missing: layer2\.0\.downsample.*extra: layer1\.0\.se\.wei"):
    resnet2d.read(state, "x")
  with pytest.raises(UserError, match=r"neither stem\.0\.weight nor"):
    torchvision.read(state, "x")
  with pytest.raises(UserError, match=r"no conv1\.weight"):
    resnet2d.read({"stem.0.weight": np.zeros(2)}, "x")
  with pytest.raises(UserError, match=r"\[2, 2, 2, 3\]|\(2, 2, 2, 3\) blocks"):
    resnet2d.read({**_narrow(), "layer4.2.conv1.weight": np.zeros(2)}, "x")
  with pytest.raises(UserError, match="--encoder=vit"):
    resnet2d.read(_narrow(), "x", encoder="vit")
  video = {k: originals.draw(k, s) for k, s in CASES["s3d"]["tensors"].items()}
  video["features.12.branch1.1.0.0.weight"] = np.zeros((3, 3, 1, 3, 3))
  with pytest.raises(UserError, match=r"misshapen: features\.12\.branch1\.1\.0\.0\.weight \[3, 3"):
    torchvision.read(video, "x")
