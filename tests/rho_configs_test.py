"""The shipped configs of the ρ-methods: they trace at their own size, run small, and a change of
theirs changes what it names.
"""

import json

import jax
import numpy as np
import pytest

from tests import small
from tests.methods import conftest
from vssl_jax import methods, models
from vssl_jax.evaluation import classifier
from vssl_jax.jobs import pretrain
from vssl_jax.methods import network
from vssl_jax.training import metrics_log

METHODS = ("rho_simclr", "rho_moco", "rho_byol", "rho_swav")


def _changes(name):
  module = small.module(f"{name}.py")
  return module.CHANGES


class Source:
  steps_per_epoch, label_names, fingerprint = 100, ("a", "b"), ""


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_kinetics_recipe_traces_at_its_own_size(name):
  config = methods.resolve(small.load(f"{name}.py", "k400,rho3").lock(), Source)
  method = methods.load(name).build(config, None)

  def step(batch):
    params, state = method.init(jax.random.key(0), batch)
    z, state = method.embed(params, state, batch)
    loss, (state, _) = method.objective(params, state, z, batch, jax.random.key(0), 0)
    return loss, method.after_update(params, state, 1), method.encoder(params, state)["params"]

  loss, _, encoder = jax.eval_shape(step, method.example(config.batch_size))
  assert loss.shape == ()
  assert sum(x.size for x in jax.tree.leaves(encoder)) == 31_634_496  # Slow-R50
  assert (config.optim.warmup_epochs, config.data.interval.distribution) == (35.0, "independent")


@pytest.mark.parametrize("name", METHODS)
def test_changes_change_what_they_name(name):
  base = small.load(f"{name}.py")
  changed = {}
  for change in _changes(name):
    config = small.load(f"{name}.py", f"k400,{change}")
    assert config.name == f"{name}_k400_{change}"
    methods.load(name).build(config)
    changed[change] = small.changes(base, config)
  assert not changed.pop("rho2")  # the recipe's own
  assert all(changed.values())
  assert changed["rho4"] == {"data.clips"}
  assert (
    changed["rho1"] == changed["span0"] == changed["no_temporal"] == {"data.interval.distribution"}
  )
  assert changed["span10"] == {"data.interval.max_seconds"}
  assert changed["16x4"] == {
    f"{part}.{x}" for part in ("data", "data.eval", "probe") for x in ("frames", "stride")
  }
  assert changed["no_color"] == {f"augment.{x}" for x in ("jitter_p", "gray_p", "blur_p")}
  assert changed["no_spatial"] == {"augment.flip", "data.crop.random", "probe.flip"}
  own = {"rho_moco": "sum", "rho_byol": "no_target", "rho_simclr": "eq1", "rho_swav": "all_codes"}
  assert {k.split(".")[0] for k in changed[own[name]]} == {name}
  if name in ("rho_moco", "rho_byol"):
    assert changed["fixed"] == {f"{name}.anneal"}
    assert changed["momentum0"] == {f"{name}.anneal", f"{name}.momentum"}
    assert changed["sequential"] == {f"{name}.sequential"}


@pytest.mark.parametrize("name", METHODS)
def test_recipes_are_the_released_code_s(name):
  """What PySlowFast's defaults and its contrastive_ssl configs set, beside rates and widths."""
  c = small.load(f"{name}.py", "k400,aug_plus")
  a, d = c.augment, c.data
  assert (a.saturation_space, a.contrast_mean, a.blur_padding) == ("luma", "grey", "edge")
  assert (d.target_fps, d.frames, d.stride) == (30.0, 8, 8)
  assert (d.eval.placement, d.eval.clips, d.eval.crops) == ("starts", 10, 3)
  assert (d.crop.log_aspect, d.crop.short) == (True, (0.0, 0.0))
  assert c.head.init == "c2_xavier"
  c.head.hidden = (32,)  # quicker
  head = network.build(c).head.init(jax.random.key(0), np.zeros((2, 64)))["params"]
  for layer in head.values():
    if "kernel" in layer:
      limit = np.sqrt(3 / layer["kernel"].shape[0])
      assert 0.99 * limit < np.abs(layer["kernel"]).max() <= limit
      assert not np.any(layer["bias"])
  probe = classifier.linear_config(c, 10)
  assert (probe.optim.nesterov, probe.optim.momentum, probe.optim.schedule) == (True, 0.9, "cosine")
  assert (probe.data.target_fps, probe.data.eval.placement) == (30.0, "starts")


def test_small_recipes_and_cvrl_keep_their_forms():
  for name, variant in (("cvrl", "k400"), ("rho_moco", "demo"), ("rho_moco", "ucf6")):
    c = small.load(f"{name}.py", variant)
    a, d = c.augment, c.data
    assert (a.saturation_space, a.blur_padding, c.head.init) == ("hsv", "zeros", "glorot")
    assert (d.target_fps, d.eval.placement, d.crop.log_aspect) == (0.0, "ends", False)
    assert not classifier.linear_config(c, 10).optim.nesterov


def test_probes_keep_the_study_s_protocol_and_no_span():
  config = small.load("rho_byol.py", "k400,span10")
  config.data.interval.min_seconds = 2.0
  probe = classifier.linear_config(config, 10)
  assert (probe.classify.normalize, probe.optim.lr, probe.optim.lr_batch) == (False, 8.0, 1024)
  assert probe.data.interval.distribution == "independent"
  assert probe.data.interval.max_seconds == probe.data.interval.min_seconds == 0
  assert probe.data.crop.short == (0.7, 0.875)
  # Groups of pre-training's batch are not those of a probe's.
  assert config.encoder.bn_groups == 8
  assert probe.encoder.bn_groups == 1
  assert classifier.linear_config(small.load("cvrl.py"), 10).classify.normalize


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "variant"), [*((name, "demo") for name in METHODS), ("rho_swav", "ucf6")]
)
def test_small_recipes_run(name, variant, tmp_path, monkeypatch):
  flat = lambda config, mesh=None: conftest.Flat(config.bn_groups)
  monkeypatch.setattr(models, "build_encoder", flat)
  values = {
    "probe.run": False,
    "knn.every_epochs": 1.0,
    "data.clips": 3,
    "log_every": 1,
    "augment.jitter_p": 0.0,
    "augment.gray_p": 0.0,  # slow to compile
  }
  if name == "rho_moco":
    values["rho_moco.queue"] = 24
  config = small.shrink(small.load(f"{name}.py", variant), **values)
  pretrain.pretrain(config.lock(), tmp_path, allow_config_change=False)
  rows = metrics_log.read(tmp_path)
  assert [r["step"] for r in rows] == [1, 2, 3, 4]
  assert all(0 <= r["knn_top1"] <= 1 for r in rows[2:])
  assert {"loss", "embedding_std", "effective_rank"} <= rows[-1].keys()
  own = {"rho_moco": "queue_age", "rho_swav": "prototype_entropy"}
  assert own.get(name, "positive_similarity") in rows[-1]
  result = json.loads((tmp_path / "result.json").read_text())
  assert result["final"]["knn_top1"] == rows[-1]["knn_top1"]
  assert json.loads((tmp_path / "config.json").read_text())["steps_per_epoch"] == 3
