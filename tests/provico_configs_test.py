"""ProViCo's shipped config: it traces at its own size, changes what it names, runs and resumes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.methods import conftest
from vssl_jax import methods, models, parallel
from vssl_jax.jobs import pretrain
from vssl_jax.ops import bhattacharyya, mining

CHANGES = small.module("provico.py").CHANGES


def test_kinetics_recipe_traces_at_its_own_size():
  config = small.load("provico.py").lock()
  method = methods.load("provico").build(config)

  def step(batch):
    params, state = method.init(jax.random.key(0), batch)
    z, state = method.embed(params, state, batch)
    return method.objective(params, state, z, batch, jax.random.key(0), 0)[0], params

  loss, params = jax.eval_shape(step, method.example(64))
  assert loss.shape == ()
  assert sum(x.size for x in jax.tree.leaves(params["encoder"])) == 31_634_496  # Slow-R50
  head = sum(x.size for x in jax.tree.leaves(params["head"]))
  assert head == 2 * (2048 * 256 + 256) + 2 * 256


def test_changes_change_what_they_name():
  base = small.load("provico.py")
  changed = {}
  for change in CHANGES:
    config = small.load("provico.py", f"k400,{change}")
    methods.load("provico").build(config)
    changed[change] = small.changes(base, config)
  assert not changed.pop("n4")  # the recipe's own
  for change, fields in {
    "n8": "data.clips",
    "k16": "provico.samples",
    "d64": "head.out",
    "lambda1": "provico.distance",
    "tau1": "provico.threshold",
    "no_kl": "provico.beta",
    "moments": "provico.distance_on",
    "own": "provico.mining",
    "halves": "provico.own",
    "geometric": "provico.scalar",
    "soft": "provico.stochastic",
    "classes": "provico.average",
    "kl_video": "provico.kl_on",
    "reviewed": "provico.form",
    "joint": "provico.statistics",
    "log": "provico.parametrization",
  }.items():
    assert changed[change] == {fields}, change
  assert changed["mutual"] == {f"provico.{x}" for x in ("mining", "threshold", "combine")}
  assert changed["top1"] == changed["mutual"]
  assert changed["margin"] == {"provico.margin", "provico.offset"}
  assert changed["softmax"] == {"provico.match", "provico.slope"}
  assert all(changed.values())


def test_kinetics_mines_no_more_pairs_than_can_be_of_one_class():
  """Even where all pairs of one class are nearest, 5 % of the pairs would be right in one in 20."""
  c, classes = small.load("provico.py").provico, 400
  rng = np.random.default_rng(0)
  label = rng.permutation(np.arange(1600) % classes)[:256]
  mean = np.eye(classes, dtype=np.float32)[label] + 1e-3 * rng.normal(size=(256, classes))
  g = bhattacharyya.gaussians(jnp.float32(mean), jnp.full(mean.shape, 0.01))
  same = (label[:, None] == label) & ~np.eye(256, dtype=bool)

  def precision(rule):
    threshold = mining.thresholds(g, rule)
    positive = np.array(rule.positive(rule.distance(g, g), threshold, threshold))
    np.fill_diagonal(positive, False)
    return (same & positive).sum() / positive.sum()

  assert c.threshold <= 1 / classes
  assert precision(mining.Rule(c.mining, c.threshold)) > 0.6
  assert precision(mining.Rule("quantile", 0.05)) < 0.06
  top1 = small.load("provico.py", "k400,top1").provico
  assert precision(mining.Rule(top1.mining, top1.threshold, top1.combine)) > 0.4


def _config(variant, **values):
  return small.shrink(
    small.load("provico.py", variant),
    **{
      "probe.run": False,
      "log_every": 1,
      "data.clips": 2,
      "provico.samples": 2,
      "augment.jitter_p": 0.0,
      "augment.gray_p": 0.0,
      **values,
    },
  ).lock()


@pytest.fixture
def flat(monkeypatch):
  monkeypatch.setattr(
    models, "build_encoder", lambda config, mesh=None: conftest.Flat(config.bn_groups)
  )


@pytest.mark.slow
def test_small_recipe_runs_and_resumes_bit_for_bit(flat, tmp_path):
  config = _config("demo")
  small.cut_and_resumed(config, tmp_path)
  rows = small.rows(tmp_path / "whole")
  assert [r["step"] for r in rows] == [1, 2, 3, 4]
  wanted = {
    "loss_match",
    "loss_stochastic",
    "loss_kl",
    "positives_per_anchor",
    "mining_precision",
    "mining_recall",
    "slope",
    "offset",
    "log_variance_mean",
    "uncertainty",
    "effective_rank",
    "effective_rank_share",
  }
  assert wanted <= rows[-1].keys()


@pytest.mark.slow
def test_probes_and_the_method_s_own_scores(flat, tmp_path, monkeypatch):
  one = parallel.make_mesh(jax.devices()[:1])
  monkeypatch.setattr(parallel, "make_mesh", lambda devices=None: one)
  config = _config(
    "ucf6",
    **{
      "probe.run": True,
      "probe.linear": False,
      "probe.random_init": False,
      "probe.baselines": False,
      "steps": 1,
    },
  )
  pretrain.pretrain(config, tmp_path, allow_config_change=False)
  result = json.loads((tmp_path / "result.json").read_text())
  assert {"mean", "bhattacharyya", "uncertainty"} == result["provico"]["retrieval"].keys()
  assert 0 <= result["provico"]["retrieval"]["bhattacharyya"]["R@1"] <= 1
  assert np.isfinite(result["provico"]["retrieval"]["uncertainty"]["all"])
