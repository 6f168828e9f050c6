"""DCC's shipped config: variants trace at their own size, change what they name, run and resume."""

import json

import jax
import numpy as np
import pytest

from tests import small
from vssl_jax import jobs, methods, optim, parallel, probing, train
from vssl_jax.errors import UserError
from vssl_jax.io import bundle, writers

CONFIG = small.module("dcc.py")


def _flat(tree, prefix=""):
  for k, v in tree.items():
    if isinstance(v, dict):
      yield from _flat(v, f"{prefix}{k}.")
    else:
      yield f"{prefix}{k}", v


@pytest.mark.parametrize("variant", list(CONFIG.VARIANTS))
def test_every_variant_traces_at_its_own_size(variant):
  config = methods.resolve(small.load("dcc.py", variant), None).lock()
  method = methods.load("dcc").build(config)

  def step(batch):
    params, state = method.init(jax.random.key(0), batch)
    return method.loss(params, state, batch, jax.random.key(0), 0)[0]

  assert jax.eval_shape(step, method.example(2)).shape == ()


def test_published_settings():
  c = small.load("dcc.py")
  o, d = c.optim, c.dcc
  assert (o.name, o.lr, o.momentum, o.weight_decay) == ("adam", 1e-4, 0.9, 5e-4)
  rate = optim.learning_rate(o, c.batch_size, c.steps, 0)
  np.testing.assert_allclose([rate(0), rate(1499)], 1e-4, rtol=1e-6)
  assert (c.batch_size, c.steps, c.data.frames) == (16, 1500, 750)
  assert (d.hidden, d.filter, d.dim, d.dropout, d.share, d.sparsity) == (
    2048, 512, 512, 0.7, 8, 1e-4
  )  # fmt: skip
  assert (d.regions, d.proposals.class_threshold, d.proposals.scale) == (5, 0.25, 24)
  assert (d.proposals.gamma, d.proposals.outer, d.proposals.nms) == (0.2, 0.25, 0.7)
  text = jobs.describe(c.lock())
  convolutions, filters = 2 * (3 * 2048**2 + 2048), 2048 * 512 + 512 + 513
  total = convolutions + filters + 2048 * 21 + 2048 * 512 + 512
  assert f"parameters: {total:,}; state" in text


def test_changes_change_what_they_name():
  base = dict(_flat(small.load("dcc.py", "demo").to_dict()))
  changed = {}
  for change in CONFIG.CHANGES:
    new = dict(_flat(small.load("dcc.py", f"demo,{change}").to_dict()))
    assert new.keys() == base.keys()
    changed[change] = {k for k, v in new.items() if base[k] != v} - {"name"}
  assert not changed.pop("memory_bank")  # the recipe's own
  assert changed == {
    "bas_net": {"dcc.contrast"}, "no_denoising": {"dcc.denoise"},
    "intra_video": {"dcc.contrast"}, "mini_batch": {"dcc.contrast"},
    "dataset_clusters": {"dcc.cluster_scope"}, "as_reviewed": {"dcc.beta"},
    "query_only": {"dcc.keys_learn"},
  }  # fmt: skip


def _config(variant, **values):
  config = small.load("dcc.py", variant)
  config.update_from_flattened_dict({
    "batch_size": 4, "steps": 4, "log_every": 1, "save.every": 2, "data.frames": 24,
    "dcc.hidden": 8, "dcc.filter": 4, "dcc.dim": 4, "dcc.clusters": 3, "dcc.regions": 2,
    "data.localization.videos": 12, "data.localization.eval_videos": 6, "dcc.warmup": 0.3,
    "data.localization.untrimmed.classes": 2, "data.localization.untrimmed.width": 5,
    "dcc.proposals.scale": 4, **values,
  })  # fmt: skip
  return config.lock()


class _Dies:
  """A source that breaks at batch `at`, as a machine would."""

  def __init__(self, source, at):
    self.source, self.at = source, at

  def __getattr__(self, name):
    return getattr(self.source, name)

  def train_batches(self, start=0):
    for k, batch in enumerate(self.source.train_batches(start), start):
      if k == self.at:
        raise InterruptedError
      yield batch


@pytest.mark.parametrize("variant", ["demo", "demo,dataset_clusters"])
def test_demo_resumes_bit_for_bit_with_its_memory(variant, tmp_path):
  config = _config(variant, **{"data.localization.sampling": "pad"})
  source = probing.load_source(config, "train")
  config = methods.resolve(config, source)
  mesh = parallel.make_mesh(jax.devices()[:1])
  method = methods.load("dcc").build(config, mesh)
  run = lambda name, source: train.train(
    config, tmp_path / name, source, method, mesh, tensorboard=False
  )
  whole = run("whole", source)
  with pytest.raises(InterruptedError):
    run("cut", _Dies(source, 3))
  resumed = run("cut", source)
  assert whole.steps == resumed.steps == 4
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get((whole.state, resumed.state)))
  row = writers.read(tmp_path / "whole")[-1]
  assert row["bank_filled"] == 1
  assert {"loss_dcc", "beta", "confidence", "pseudo_share", "contrast_positive"} <= row.keys()
  assert whole.state.method.epochs == (2 if "dataset" in variant else 0)


def test_main_ends_in_one_result_with_the_table(tmp_path, capsys):
  config = _config("demo,bas_net", steps=2, batch_size=8)
  jobs.pretrain(config, tmp_path, allow_config_change=False)
  (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("RESULT ")]
  result = json.loads(line.removeprefix("RESULT "))
  assert set(result["dcc"]["mAP"]) == {f"0.{i}" for i in range(1, 8)}
  assert result["headline"].keys() == {"mAP@0.1:0.7"}
  assert "per_class" in json.loads((tmp_path / "result.json").read_text())["dcc"]
  # A finished run is scored again, with other proposals if so wished.
  config = _config("demo,bas_net", **{"steps": 2, "batch_size": 8, "dcc.proposals.nms": 0.5})
  jobs.pretrain(config, tmp_path, allow_config_change=False)
  with pytest.raises(UserError, match="dcc, which has no encoder of clips"):
    bundle.load_encoder(tmp_path)
  with pytest.raises(UserError, match="dcc has no encoder of clips to probe"):
    jobs.pretrain(_config("demo", **{"probe.run": True}), tmp_path, allow_config_change=False)
