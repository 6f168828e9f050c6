"""TF Garden's CVRL checkpoints, as drawn from an oracle's names and as TensorFlow writes them."""

import numpy as np
import pytest

from tests.weights import stages
from vssl_jax.errors import UserError
from vssl_jax.weights import convert, tf_garden

CASE = stages.cases("tf_garden")["cvrl"]
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def test_every_stage():
  found = tf_garden.read(stages.state_of(CASE), "ckpt-1")
  stages.compare(found, CASE)
  c = found.config
  assert (c.method, c.encoder.name, c.encoder.depth, c.encoder.width) == ("cvrl", "r3d", 50, 0.125)
  assert (c.head.hidden, c.head.out) == ((16, 16, 16), 8)
  assert (c.augment.mean, c.augment.std) == ((0.0,) * 3, (1.0,) * 3)
  assert found.facts["step"] == 7
  assert all("layer_with" not in k for k in found.left_out), found.left_out


def _save(tf, state, folder):
  """Writes the variables under their names, as the object graph of a trainer does."""
  tree = {}
  for name, value in state.items():
    *path, last = name.removesuffix(SUFFIX).split("/")
    branch = tree
    for part in path:
      branch = branch.setdefault(part, {})
    branch[last] = tf.Variable(value)

  def node(branch):
    return tf.train.Checkpoint(
      **{k: node(v) if isinstance(v, dict) else v for k, v in branch.items()}
    )

  del tree["save_counter"]
  return node(tree).save(f"{folder}/ckpt")


def test_a_checkpoint_of_tensorflow(tmp_path, tf):
  state = stages.state_of(CASE)
  path = _save(tf, state, tmp_path)
  want = tf_garden.read(state, "x")
  for where in (path, f"{path}.index", str(tmp_path)):
    found = convert.read(where, "tf_garden")
    np.testing.assert_array_equal(
      found.variables["params"]["res4_5"]["conv_a"]["kernel"],
      want.variables["params"]["res4_5"]["conv_a"]["kernel"],
    )
    d, p = found.config.data, found.config.probe
  assert found.whole is not None
  assert (d.frames, p.frames, p.stride, p.size) == (16, 32, 2, 224)  # as CVRL probes
  with pytest.raises(UserError, match="not a TensorFlow checkpoint"):
    convert.read(str(tmp_path / "other"), "tf_garden")


def test_the_encoder_alone():
  state = stages.state_of(CASE)
  found = tf_garden.read(state, "x", encoder_only=True)
  assert found.whole is None
  assert f"model/layer_with_weights-7/kernel{SUFFIX}" in found.left_out
  # Linear evaluation: a classifier on the backbone.
  probe = {k: v for k, v in state.items() if not k.startswith("model/")}
  probe |= {
    f"model/layer_with_weights-1/{k}{SUFFIX}": np.zeros(s, np.float32)
    for k, s in (("kernel", (256, 400)), ("bias", (400,)))
  }
  found = tf_garden.read(probe, "x")
  assert found.whole is None
  assert f"model/layer_with_weights-1/kernel{SUFFIX}" in found.left_out
  # A model saved alone has its backbone as the first layer.
  nested = {k.replace("backbone/", "model/layer_with_weights-0/"): v for k, v in state.items()}
  assert tf_garden.read(nested, "x").whole is not None


def test_misfits_are_named():
  state = stages.state_of(CASE)
  del state[f"backbone/layer_with_weights-9/_norm2/gamma{SUFFIX}"]
  state[f"backbone/layer_with_weights-3/_self_gating/bias{SUFFIX}"] = np.zeros(3)
  with pytest.raises(
    UserError,
    match=r"missing: backbone/layer_with_weights-9/_norm2/gamma.*"
    r"extra: backbone/layer_with_weights-3/_self_gating",
  ):
    tf_garden.read(state, "x")
  with pytest.raises(UserError, match="not a checkpoint of TF Garden's CVRL"):
    tf_garden.read({"a": np.zeros(3)}, "x")
  few = {k: v for k, v in state.items() if "layer_with_weights-17" not in k}
  with pytest.raises(UserError, match="15 bottleneck blocks"):
    tf_garden.read(few, "x")
