"""PySlowFast's networks and contrastive models, into ours and back."""

import jax
import numpy as np
import pytest
import yaml

from tests.oracles import originals
from tests.weights import stages
from vssl_jax.errors import UserError
from vssl_jax.models import build, r3d
from vssl_jax.weights import pyslowfast

CASES = stages.cases("pyslowfast")


@pytest.fixture(autouse=True)
def depth_14(monkeypatch):
  """The oracles' small depth, a block a stage."""
  monkeypatch.setitem(r3d.DEPTHS, 14, (originals.BLOCKS[14], True))
  monkeypatch.setattr(build, "RESIDUAL", (*build.RESIDUAL, 14))
  monkeypatch.setattr(pyslowfast, "KNOWN", (50, 14))


def _read(name, state=None, **options):
  if state is None:
    state = stages.state_of(CASES[name])
  return pyslowfast.read(state, _rest(name), name, **options)


def _rest(name):
  return {"cfg": yaml.safe_dump(CASES[name]["cfg"]), "epoch": 3}


@pytest.mark.parametrize("name", originals.PYSLOWFAST)
def test_every_stage(name):
  found = _read(name)
  stages.compare(found, CASES[name])
  assert found.config.augment.mean == (0.45, 0.4, 0.35)
  assert found.config.augment.std == (0.225, 0.25, 0.2)
  d, p = found.config.data, found.config.probe
  assert (d.frames, d.stride, d.size, d.eval.size) == (8, 4, 40, 48)
  assert (p.frames, p.stride, p.size) == (8, 4, 40)


def test_what_the_config_tells():
  moco, byol, swav = (_read(n).config for n in ("moco", "byol", "swav"))
  assert (moco.method, byol.method, swav.method) == ("rho_moco", "rho_byol", "rho_swav")
  assert (moco.rho_moco.temperature, moco.rho_moco.momentum) == (0.2, 0.98)
  assert (moco.rho_moco.queue, moco.head.hidden, moco.head.out) == (24, (10, 10), 6)
  assert (moco.head.bn, byol.head.bn) == (False, True)
  assert (byol.head.hidden, byol.rho_byol.predictor) == ((10,), (10,))
  assert (swav.rho_swav.prototypes, swav.rho_swav.queue) == (1000, 12)
  assert (moco.optim.name, byol.optim.name) == ("sgd", "lars")
  slowfast = _read("slowfast").config.encoder
  assert (slowfast.alpha, slowfast.beta, slowfast.lateral, slowfast.slow_to_last) == (4, 8, 7, True)
  assert _read("c2d").config.encoder.time_pool == 2
  assert _read("slow_c2d").config.encoder.time_pool == 1


def test_queue_and_prototypes():
  state = stages.state_of(CASES["moco"])
  state["queue_x"][20:] *= 0.5  # noise, never written
  _, moco = _read("moco", state).whole
  np.testing.assert_array_equal(moco.queue.items, state["queue_x"])
  assert (int(moco.queue.pointer), int(moco.queue.filled)) == (5, 20)
  state = stages.state_of(CASES["swav"])
  state["queue_swav"][:, 9:] = 0  # newest first
  params, swav = _read("swav", state).whole
  np.testing.assert_array_equal(swav.queues.items[0, -1], state["queue_swav"][0, 0])
  np.testing.assert_array_equal(swav.queues.filled, [9, 9])
  np.testing.assert_array_equal(params["prototypes"]["kernel"], state["swav_prototypes.weight"].T)


@pytest.mark.parametrize("name", originals.PYSLOWFAST)
def test_and_back(name):
  state = stages.state_of(CASES[name])
  found = _read(name, state)
  tensors, cfg = pyslowfast.to_theirs(found.config, found.variables, found.whole)
  want = {k: v for k, v in state.items() if k not in found.left_out}
  if name == "c2d":  # which was given BGR and now is not
    stem = "s1.pathway0_stem.conv.weight"
    want[stem] = want[stem][:, ::-1]
  assert set(want) - set(tensors) == set()
  # Their momentum network has a predictor that nothing reads; a count of steps starts anew.
  assert {k for k in tensors if k not in want} <= {
    k for k in state if k == "iter" or "hist.head.predictors" in k
  }
  for k, v in want.items():
    np.testing.assert_array_equal(tensors[k], v, err_msg=k)
    assert tensors[k].flags.c_contiguous
  again, before = yaml.safe_load(cfg), CASES[name]["cfg"]
  for section, values in again.items():
    for field, value in values.items():
      if field != "MODEL_NAME" or found.whole is not None:
        assert before.get(section, {}).get(field, value) == value or section == "CONTRASTIVE", field
  for field in ("TYPE", "T", "DIM", "NUM_MLP_LAYERS", "BN_MLP", "PREDICTOR_DEPTHS"):
    if found.whole is not None:
      assert again["CONTRASTIVE"][field] == before["CONTRASTIVE"][field]
  assert tensors.get("iter", [1])[0] == 1


def test_a_bias_before_batch_norm_moves_into_the_mean():
  found = _read("byol")
  params, _ = found.whole
  for name in ("head", "predictor"):
    params[name]["dense_0"]["bias"] = np.linspace(-1, 1, 10, dtype=np.float32)
  clips = originals.clips(1, 5, 20)
  want = stages.outputs(found, clips, ["head", "predictor"])
  tensors, cfg = pyslowfast.to_theirs(found.config, found.variables, found.whole)
  again = pyslowfast.read(tensors, {"cfg": cfg}, "again")
  got = stages.outputs(again, clips, ["head", "predictor"])
  for name, y in want.items():
    np.testing.assert_allclose(got[name], y, rtol=1e-5, atol=1e-5)
  with_bias = again.whole[0]["head"]["dense_0"]["bias"]
  assert not with_bias.any()


def test_the_encoder_alone():
  whole = _read("byol")
  alone = _read("byol", encoder_only=True)
  assert alone.whole is None
  assert alone.config.method == "classify"
  assert {"backbone.head.projection.projection.0.weight", "queue_x"} <= set(alone.left_out)
  jax.tree.map(np.testing.assert_array_equal, alone.variables, whole.variables)


def test_the_supervised_classifier_is_left_out_and_named():
  assert _read("slow").left_out == ["head.projection.bias", "head.projection.weight"]


def test_without_a_config():
  state = {n: stages.state_of(CASES[n]) for n in ("slow_c2d", "slowfast", "moco", "byol", "swav")}
  with pytest.raises(UserError, match=r"c2d or slow_c2d, .*give --arch"):
    pyslowfast.read(state["slow_c2d"], {}, "x.pyth")
  found = pyslowfast.read(state["slow_c2d"], {}, "x.pyth", arch="c2d")
  assert (found.config.encoder.name, found.config.encoder.time_pool) == ("c2d", 2)
  assert found.config.augment.mean == (0.45,) * 3
  slowfast = pyslowfast.read(state["slowfast"], {}, "x.pyth").config.encoder
  assert (slowfast.alpha, slowfast.lateral) == (4, 7)
  # Kernels of length 5 go with an alpha of 8 in one model of the zoo and of 4 in another.
  short = {k: x[:, :, 1:6] if "conv_f2s" in k else x for k, x in state["slowfast"].items()}
  with pytest.raises(UserError, match=r"kernels of length 5 are used with several: give --alpha"):
    pyslowfast.read(short, {}, "x.pyth")
  found = pyslowfast.read(short, {}, "x.pyth", alpha=4).config.encoder
  assert (found.alpha, found.lateral) == (4, 5)
  for kind in ("moco", "byol", "swav"):
    found = pyslowfast.read(state[kind], {}, "x.pyth")
    assert found.config.method == f"rho_{kind}"
    assert found.config.encoder.name == "slow"


def test_an_alpha_that_contradicts_the_file_is_refused():
  assert _read("slowfast", alpha=4).config.encoder.alpha == 4
  with pytest.raises(UserError, match=r"--alpha=8, but the cfg of slowfast says 4"):
    _read("slowfast", alpha=8)
  with pytest.raises(UserError, match=r"--alpha=-1: give 1 or more"):
    _read("slowfast", alpha=-1)
  with pytest.raises(UserError, match=r"--alpha=8 is only for slowfast, but slow is slow"):
    _read("slow", alpha=8)


@pytest.mark.parametrize("section", pyslowfast.SECTIONS)
def test_a_section_without_fields_is_named(section):
  cfg = yaml.safe_dump({**CASES["slow"]["cfg"], section: None})
  with pytest.raises(UserError, match=rf"x\.pyth: its cfg has {section}: None"):
    pyslowfast.read(stages.state_of(CASES["slow"]), {"cfg": cfg}, "x.pyth")


def test_null_fields_are_as_left_out():
  theirs = CASES["slow"]["cfg"]
  nulls = {
    "BN": {"EPSILON": None},
    "DATA": {**theirs["DATA"], "MEAN": None, "NUM_FRAMES": None},
    "RESNET": {**theirs["RESNET"], "SPATIAL_STRIDES": None},
  }
  state = stages.state_of(CASES["slow"])
  found = pyslowfast.read(state, {"cfg": yaml.safe_dump({**theirs, **nulls})}, "x.pyth").config
  assert found.augment.mean == pyslowfast.MEAN
  assert found.data.frames == 8


def test_misfits_are_named():
  state = stages.state_of(CASES["slow_c2d"])
  state["s3.pathway0_res0.branch2.b.weight"] = np.zeros((16, 16, 1, 5, 5), np.float32)
  del state["s4.pathway0_res0.branch1_bn.running_var"], state["s5.pathway0_res0.branch2.a.weight"]
  state["s2.pathway0_nonlocal0.conv_phi.bias"] = np.zeros(3, np.float32)
  with pytest.raises(UserError) as e:
    _read("slow_c2d", {**state, "s5.pathway0_res0.branch2.a.weight": np.zeros(())})
  text = str(e.value)
  assert "\n" not in text
  assert "missing: s4.pathway0_res0.branch1_bn.running_var [128]" in text
  assert "extra: s2.pathway0_nonlocal0.conv_phi.bias" in text
  assert "s3.pathway0_res0.branch2.b.weight [16, 16, 1, 5, 5] for [16, 16, 1, 3, 3]" in text
  assert "s5.pathway0_res0.branch2.a.weight [] for [64, 128, 1, 1, 1]" in text


def test_weights_that_are_no_finite_floats_are_named():
  state = stages.state_of(CASES["slow_c2d"])
  stem, mean, var = (
    f"s1.pathway0_stem.{x}" for x in ("conv.weight", "bn.running_mean", "bn.running_var")
  )
  state[stem] = np.zeros(state[stem].shape, np.int64)
  state[mean] = state[mean] * np.nan
  state[var] = np.full(state[var].shape, 1e300)  # more than float32 holds
  with pytest.raises(UserError) as e:
    _read("slow_c2d", state)
  text = str(e.value)
  assert "\n" not in text
  assert f"not floats: {stem} int64; not finite: {mean}, {var}." in text


@pytest.mark.parametrize(
  ("part", "field", "value"),
  [
    ("RESNET", "SPATIAL_STRIDES", [[1], [2], [2], [1]]),
    ("RESNET", "SPATIAL_DILATIONS", [[1], [1], [1], [2]]),
    ("RESNET", "STRIDE_1X1", True),
    ("BN", "EPSILON", 1e-3),
  ],
)
def test_networks_that_their_tensors_do_not_tell_are_refused(part, field, value):
  cfg = {**CASES["slow_c2d"]["cfg"]}
  cfg[part] = {**cfg.get(part, {}), field: value}
  state = stages.state_of(CASES["slow_c2d"])
  with pytest.raises(UserError, match=rf"its cfg has {part}\.{field}"):
    pyslowfast.read(state, {"cfg": yaml.safe_dump(cfg)}, "x.pyth")


def test_an_embedding_with_batch_norm_has_no_place_there():
  found = _read("byol")
  found.config.head.out_bn = True
  with pytest.raises(UserError, match="out_bn is True"):
    pyslowfast.to_theirs(found.config, found.variables, found.whole)


def test_other_networks_are_refused():
  with pytest.raises(UserError, match=r"no s1\.pathway0_stem\.conv\.weight"):
    pyslowfast.read({"conv1.weight": np.zeros(3)}, {}, "x.pyth")
  state = stages.state_of(CASES["slow_c2d"])
  del state["s4.pathway0_res0.branch2.a.weight"]
  with pytest.raises(UserError, match=r"\[1, 1, 0, 1\] bottleneck blocks per stage"):
    _read("slow_c2d", state)
  with pytest.raises(UserError, match="architecture 'mvit'"):
    _read("slow_c2d", arch="mvit")
  with pytest.raises(UserError, match="cfg is not YAML"):
    pyslowfast.read(state, {"cfg": "a: [1"}, "x.pyth")
  found = _read("slow")
  found.config.encoder.name = "r3d"
  with pytest.raises(UserError, match="PySlowFast has only slow, c2d and slowfast"):
    pyslowfast.to_theirs(found.config, found.variables, None)
  found.config.encoder.update({"name": "slow", "depth": 18})
  with pytest.raises(UserError, match="50 and 101"):
    pyslowfast.to_theirs(found.config, found.variables, None)
