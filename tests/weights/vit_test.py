"""VideoMAE and V-JEPA 2 of transformers: every block, gradients, and what the command writes.

The folders in tests/oracles/vit hold weights and what transformers gave with them, so that nothing
of PyTorch is needed. Where PyTorch and transformers are installed, further classes are run.
"""

import contextlib
import json
import shutil
from unittest import TestCase

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import vssl_jax
from tests import small
from tests.oracles import make_vit
from vssl_jax import models
from vssl_jax.errors import UserError
from vssl_jax.models.vit import Block, ViT, rotary, sine
from vssl_jax.weights import convert

FAST = {"xla_backend_optimization_level": 0}
NAMES = ("videomae", "vjepa2")
# Float32's rounding of sums of about a hundred terms, 2⁻²⁴ times a hundred times their size: tokens
# are up to 14, features up to 3, gradients below 1.
CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def _outputs(encoder, variables, clip):
  """What `make_vit.outputs` gives, of our network."""

  def run(clip):
    y, seen = encoder.apply(
      variables,
      clip,
      capture_intermediates=lambda module, _: isinstance(module, Block),
      mutable=["intermediates"],
    )
    blocks = {k: v["__call__"][0] for k, v in seen["intermediates"].items()}
    return (y @ jnp.cos(jnp.arange(y.shape[1]))).sum(), {**blocks, "features": y}

  x = jnp.asarray(clip).transpose(0, 1, 3, 4, 2)
  (_, found), gradient = jax.jit(jax.value_and_grad(run, has_aux=True), compiler_options=FAST)(x)
  return {**found, "gradient": gradient.transpose(0, 1, 4, 2, 3)}


def _compare(found, want):
  got = _outputs(models.build_encoder(found.config.encoder), found.variables, want["clip"])
  assert got.keys() == want.keys() - {"clip"}
  for name, x in got.items():
    np.testing.assert_allclose(x, want[name], **CLOSE, err_msg=name)
  assert np.abs(want["gradient"]).max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_every_block_and_the_gradient(name):
  folder = make_vit.FOLDER / name
  with np.load(folder / "golden.npz") as golden:
    found = convert.read(str(folder), name)
    _compare(found, dict(golden))
  e = found.config.encoder  # too small to be seen in the features
  want = {"videomae": (1e-12, 1e-5), "vjepa2": (1e-6, 0.0)}[name]
  assert (e.norm_epsilon, e.final_epsilon) == want


@pytest.mark.parametrize(
  ("kind", "fields", "norm"),
  [
    ("VideoMAEModel", {"num_hidden_layers": 3}, "none"),
    ("VideoMAEModel", {"use_mean_pooling": False, "layer_norm_eps": 1e-3}, "tokens"),
    ("VideoMAEForPreTraining", {"use_mean_pooling": False, "qv_bias": False}, "tokens"),
    ("VideoMAEForVideoClassification", {"num_hidden_layers": 3, "hidden_size": 48}, "mean"),
    ("VJEPA2Model", {"num_hidden_layers": 3, "hidden_size": 40, "mlp_ratio": 4.37}, "tokens"),
    ("VJEPA2Model", {"qkv_bias": False}, "tokens"),
    ("VJEPA2ForVideoClassification", {}, "tokens"),
  ],
)
def test_live(tmp_path, kind, fields, norm):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  model = make_vit.build(kind, **fields)
  want = make_vit.outputs(model)
  make_vit.save(model, tmp_path)
  found = convert.read(str(tmp_path), model.config.model_type)
  assert found.config.encoder.final_norm == norm
  _compare(found, want)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_writes_an_encoder(name, tmp_path, capsys):
  folder, to = make_vit.FOLDER / name, tmp_path / "out"
  assert small.vssl("convert", f"--from={folder}", f"--format={name}", f"--to={to}") == 0
  said = capsys.readouterr().out
  assert "mean [0.485, 0.456, 0.406]" in said
  assert ("classifier.weight" if name == "videomae" else "predictor.layernorm.weight") in said
  encoder = vssl_jax.load(to)
  assert encoder.clip_shape == (4, 12, 12, 3)
  e = encoder.config.data.eval
  assert (e.stride, e.resize, encoder.config.data.size) == (4, 14, 12)
  assert encoder.info["origin"]["file"] == "model.safetensors"
  assert len(encoder.info["origin"]["sha256"]) == 64
  with np.load(folder / "golden.npz") as golden:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 12, 12, 3), np.uint8)
    mean, std = (np.array(make_vit.PREPROCESSOR[k]) for k in ("image_mean", "image_std"))
    clip = ((pixels / 255 - mean) / std).astype(np.float32)
    want = encoder.network.apply(encoder.params, clip)
    assert want.shape == golden["features"].shape
  np.testing.assert_allclose(encoder.apply(encoder.params, pixels), want, **CLOSE)
  # Clips of other lengths and sizes, whose positions are those of rotations or interpolated.
  longer = np.repeat(pixels[:, :, :, :8], 2, axis=1)
  told = TestCase().assertLogs("absl") if name == "videomae" else contextlib.nullcontext()
  with told as log:
    assert np.isfinite(encoder.apply(encoder.params, longer)).all()
  if name == "videomae":
    assert "clips of [4, 3, 2] tokens" in log.output[0]
    assert "those of training, [2, 3, 3]" in log.output[0]


@pytest.fixture
def copy(tmp_path):
  """Copies a golden folder, and changes fields of its JSON files and tensors."""

  def made(name, *, config=None, how=None, change=None):
    folder = tmp_path / "copy"
    shutil.copytree(make_vit.FOLDER / name, folder)
    for file, fields in (("config.json", config), ("preprocessor_config.json", how)):
      old = json.loads((folder / file).read_text())
      new = {k: v for k, v in {**old, **(fields or {})}.items() if v != "absent"}
      (folder / file).write_text(json.dumps(new))
    if change:
      tensors = load_file(folder / "model.safetensors")
      change(tensors)
      save_file(tensors, folder / "model.safetensors")
    return folder

  return made


EMBED = "videomae.embeddings.patch_embeddings.projection.weight"


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (
      {"change": lambda t: t.pop("videomae.encoder.layer.1.output.dense.bias")},
      r"missing: videomae\.encoder\.layer\.1\.output\.dense\.bias \[24\]",
    ),
    (
      {"change": lambda t: t.update({"videomae.encoder.cls": np.zeros(2, np.float32)})},
      r"extra: videomae\.encoder\.cls",
    ),
    ({"change": lambda t: t.pop("fc_norm.weight")}, r"missing: fc_norm\.weight"),
    ({"change": lambda t: t.pop(EMBED)}, r"missing: .*projection\.weight"),
    ({"config": {"num_hidden_layers": 1}}, r"extra: videomae\.encoder\.layer\.1\."),
    ({"config": {"num_hidden_layers": 10**9}}, r"has 1000000000 layers, but"),
    ({"config": {"hidden_size": 48}}, r"projection\.weight is \[24, 3, 2, 4, 4\], but \[48"),
    ({"config": {"tubelet_size": 4}}, r"but \[24, 3, 4, 4, 4\] by config\.json"),
    ({"config": {"num_attention_heads": 5}}, r"24 is no multiple of 5 heads"),
    ({"config": {"num_attention_heads": "2"}}, r"num_attention_heads is '2'; it must be a whole"),
    ({"config": {"hidden_act": "relu"}}, r"hidden_act is 'relu'; only 'gelu'"),
    ({"config": {"model_type": "vit"}}, r"model_type is 'vit', not 'videomae'"),
    ({"config": {"image_size": [12, 16]}}, r"image_size is \[12, 16\]: only squares"),
    ({"how": {"rescale_factor": 1 / 127.5}}, r"rescale_factor is 0\.00784"),
    ({"how": {"do_center_crop": False}}, r"do_center_crop is False"),
    ({"how": {"image_mean": "absent"}}, r"has no image_mean"),
    ({"how": {"image_std": [0.1, 0.0, 0.1]}}, r"image_std .* three positive numbers"),
  ],
)
def test_misfits_are_named(copy, given, message):
  with pytest.raises(UserError, match=message):
    convert.read(str(copy("videomae", **given)), "videomae")


def test_what_preprocessors_say(copy):
  folder = copy("videomae", how={"crop_size": "absent", "sampling_rate": 2, "do_normalize": False})
  found = convert.read(str(folder), "videomae")
  assert (found.config.data.eval.size, found.config.data.eval.stride) == (12, 2)
  assert (found.config.augment.mean, found.config.augment.std) == ((0.0,) * 3, (1.0,) * 3)
  assert found.facts["stride"] == "sampling_rate of preprocessor_config.json"
  (folder / "preprocessor_config.json").unlink()
  with pytest.raises(UserError, match=r"preprocessor_config\.json: no such file"):
    convert.read(str(folder), "videomae")


def test_weights_in_several_files(copy):
  folder = copy("vjepa2")
  whole = load_file(folder / "model.safetensors")
  (folder / "model.safetensors").unlink()
  places = {k: f"part-{i % 2}.safetensors" for i, k in enumerate(whole)}
  for name in set(places.values()):
    save_file({k: whole[k] for k in whole if places[k] == name}, folder / name)
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": places}))
  found, want = (convert.read(str(p), "vjepa2") for p in (folder, make_vit.FOLDER / "vjepa2"))
  jax.tree.map(np.testing.assert_array_equal, found.variables, want.variables)
  save_file({"more": np.zeros(1, np.float32)}, folder.parent / "x.safetensors")
  outside = r"\.\./x\.safetensors' is a path that leads out"
  for name, message in (("../x.safetensors", outside), ("part-0.safetensors", "more is not both")):
    index.write_text(json.dumps({"weight_map": {**places, "more": name}}))
    with pytest.raises(UserError, match=message):
      convert.read(str(folder), "vjepa2")


def test_interpolated_positions_by_numpy():
  trained, channels = (2, 3, 4), 6
  table = sine.positions(24, channels).reshape(*trained, channels).astype(np.float64)
  got = sine.on_grid((2, 5, 4), trained, channels).reshape(2, 5, 4, channels)
  at = (np.arange(5) + 0.5) * 3 / 5 - 0.5
  for t, w, c in np.ndindex(2, 4, channels):
    np.testing.assert_allclose(
      got[t, :, w, c], np.interp(at, np.arange(3), table[t, :, w, c]), atol=1e-6
    )
  np.testing.assert_array_equal(sine.on_grid(trained, trained, channels), sine.positions(24, 6))
  doubled = sine.on_grid((4, 3, 4), trained, channels).reshape(4, 3, 4, channels)
  np.testing.assert_allclose(doubled[0], table[0], atol=1e-6)
  np.testing.assert_allclose(doubled[1], 0.75 * table[0] + 0.25 * table[1], atol=1e-6)


def test_rotations_keep_norms_of_equal_pairs_and_the_rest():
  table = rotary.turns((2, 3, 4), 17)
  assert table.shape == (2, 24, 17)
  np.testing.assert_array_equal(table[:, :, 12:], np.stack([np.ones((24, 5)), np.zeros((24, 5))]))
  x = jax.random.normal(jax.random.key(0), (1, 24, 2, 17))
  y = rotary.turn(x, jnp.asarray(table))
  np.testing.assert_array_equal(y[..., 12:], x[..., 12:])
  np.testing.assert_array_equal(y[:, 0], x[:, 0])  # the first token is not turned at all
  # Token (1, 2, 3): channel 0 of the columns has frequency 1, channel 1 has 1/100.
  want = x[0, 23, 1, 8] * np.cos(3.0) - x[0, 23, 1, 9] * np.sin(3.0)
  assert y[0, 23, 1, 8] == pytest.approx(float(want), abs=1e-5)
  want = x[0, 23, 1, 5] * np.cos(0.02) + x[0, 23, 1, 4] * np.sin(0.02)
  assert y[0, 23, 1, 5] == pytest.approx(float(want), abs=1e-5)


def test_norms_are_float32_in_bfloat16():
  """The mean of the tokens and the norm on it are not rounded, and features are close to those of
  float32 by the rounding of the blocks alone."""
  make = {"size": "S", "width": 0.0625, "tubelet": (2, 4, 4), "depth": 0, "final_norm": "mean"}
  clips = jnp.full((1, 4, 8, 8, 3), 3.0)
  wide, narrow = (ViT(**make, dtype=d) for d in (jnp.float32, jnp.bfloat16))
  variables = wide.init(jax.random.key(0), clips)
  got, want = narrow.apply(variables, clips), wide.apply(variables, clips)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=0.05)
  assert not np.array_equal(got, got.astype(jnp.bfloat16).astype(jnp.float32))
