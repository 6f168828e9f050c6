"""DCC's shipped config: variants trace at their own size, change what they name, run and resume."""

import json

import jax
import numpy as np
import pytest

from data_pipelines.untrimmed import simulated
from tests import small
from vssl_jax import cli, methods
from vssl_jax.encoder import encoder
from vssl_jax.errors import UserError
from vssl_jax.evaluation import splits
from vssl_jax.jobs import dry_run, pretrain
from vssl_jax.localization import annotations
from vssl_jax.training import metrics_log, optim

CONFIG = small.module("dcc.py")


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
    2048,
    512,
    512,
    0.7,
    8,
    1e-4,
  )
  assert (d.regions, d.proposals.class_threshold, d.proposals.scale) == (5, 0.25, 24)
  assert (d.proposals.gamma, d.proposals.outer, d.proposals.nms) == (0.2, 0.25, 0.7)
  text = dry_run.describe(c.lock())
  convolutions, filters = 2 * (3 * 2048**2 + 2048), 2048 * 512 + 512 + 513
  total = convolutions + filters + 2048 * 21 + 2048 * 512 + 512
  assert f"parameters: {total:,}; state" in text


def test_changes_change_what_they_name():
  base = small.load("dcc.py", "demo")
  changed = {x: small.changes(base, small.load("dcc.py", f"demo,{x}")) for x in CONFIG.CHANGES}
  assert not changed.pop("memory_bank")  # the recipe's own
  assert not changed.pop("input_clusters")
  assert changed == {
    "bas_net": {"dcc.contrast"},
    "no_denoising": {"dcc.denoise"},
    "intra_video": {"dcc.contrast"},
    "mini_batch": {"dcc.contrast"},
    "dataset_clusters": {"dcc.cluster_scope"},
    "embedding_clusters": {"dcc.cluster_on"},
    "as_reviewed": {"dcc.beta"},
    "balanced": {"dcc.balance", "dcc.beta"},
    "query_only": {"dcc.keys_learn"},
    "true_pseudo_labels": {"dcc.pseudo", "data.localization.truth"},
  }


def test_what_is_wrong_with_test_videos_is_said_before_training(tmp_path, capsys):
  folder, run = tmp_path / "features", tmp_path / "run"
  flags = [f"--output={folder}", "--videos=16", "--eval_videos=4", "--classes=2", "--width=5"]
  assert cli.run(simulated.__name__, flags) == 0
  written = annotations.read_annotations(folder / "annotations.json")
  name = next(n for n, v in written.items() if v.subset == "test")
  broken = np.load(folder / f"{name}.npy")
  np.save(folder / f"{name}.npy", broken[: len(broken) // 2])
  config = _config(
    "demo", batch_size=8, **{"data.source": "localization", "data.path": str(folder)}
  )
  splits.splits(config)
  splits.splits(config)
  assert capsys.readouterr().err.count(f"note: {name}: features cover") == 1
  np.save(folder / f"{name}.npy", np.full_like(broken, np.nan))
  with pytest.raises(UserError, match=f"'{name}': .*NaN or infinity"):
    pretrain.pretrain(config, run, allow_config_change=False)
  assert not run.exists()


def _config(variant, **values):
  config = small.load("dcc.py", variant)
  config.update_from_flattened_dict(
    {
      "batch_size": 4,
      "steps": 4,
      "log_every": 1,
      "save.every": 2,
      "data.frames": 24,
      "dcc.hidden": 8,
      "dcc.filter": 4,
      "dcc.dim": 4,
      "dcc.clusters": 3,
      "dcc.regions": 2,
      "data.localization.videos": 12,
      "data.localization.eval_videos": 6,
      "dcc.warmup": 0.3,
      "data.localization.untrimmed.classes": 2,
      "data.localization.untrimmed.width": 5,
      "dcc.proposals.scale": 4,
      "data.localization.validation": 0.0,
      **values,
    }
  )
  return config.lock()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("variant", "videos"),
  [
    ("demo", 11),
    ("demo,true_pseudo_labels", 11),
    ("demo,dataset_clusters", 12),
    ("demo,balanced", 12),
  ],
)
def test_demo_resumes_bit_for_bit_with_its_memory(variant, videos, tmp_path):
  values = {"data.localization.sampling": "pad", "data.localization.videos": videos}
  config = _config(variant, **values, **({"steps": 5} if videos == 11 else {}))
  whole = small.cut_and_resumed(config, tmp_path)
  row = metrics_log.read(tmp_path / "whole")[-1]
  assert row["bank_filled"] == 1
  assert {"loss_dcc", "beta", "confidence", "pseudo_share", "contrast_positive"} <= row.keys()
  counted = {"demo": 3, "demo,true_pseudo_labels": 3, "demo,dataset_clusters": 2}
  # What nothing happens to between epochs counts none.
  assert whole.state.method.epochs == counted.get(variant, 0)


@pytest.mark.slow
def test_a_run_ends_in_a_result_with_the_table_and_leaves_pictures(tmp_path):
  shared = {"data.localization.validation": 0.25, "dcc.timelines": 1, "dcc.snippets": 40}
  shared["dcc.threshold_sets"] = ((0.0, 0.2, 0.1), (0.5, 0.6, 0.1))
  config = _config("demo", batch_size=8, **shared)
  result = pretrain.pretrain(config, tmp_path, allow_config_change=False)
  assert set(result["dcc"]["mAP"]) == {f"0.{i}" for i in range(1, 8)}
  assert result["headline"]["mAP@0.1:0.7"].keys() == {"trained", "validation_chosen"}
  assert result["train_videos"] == 9  # of 12
  assert set(result["dcc"]["snippets"]) == {"input features", "trunk", "contrasted embedding"}
  assert set(result["dcc"]["pseudo_labels"]["action"]) == {"share", "before", "after", "agreeing"}
  assert "per_class" in json.loads((tmp_path / "result.json").read_text())["dcc"]
  assert len(annotations.read_predictions(tmp_path / "predictions.json")) == 6
  assert (tmp_path / "tsne.png").stat().st_size > 1000
  assert len(list((tmp_path / "timelines").glob("*.png"))) == 1
  rows = {row["step"]: row for row in metrics_log.read(tmp_path)}
  assert [k for k, row in rows.items() if "validation_mAP" in row] == [2, 4]
  chosen = result["dcc"]["validation_chosen"]["step"]
  assert chosen == max((2, 4), key=lambda s: (rows[s]["validation_mAP"], -s))
  for scored, step in ((result["dcc"], 4), (result["dcc"]["validation_chosen"], chosen)):
    tried = scored["chosen"]["held_out_mAP"]
    best = max(tried, key=lambda x: x["average"])
    assert scored["chosen"]["thresholds"][0] == best["first"]
    assert best["average"] == pytest.approx(rows[step]["validation_mAP"], rel=1e-3)
    assert scored["chosen"]["held_out_videos"] == 3
  held_out = {str(s): rows[s]["validation_mAP"] for s in (2, 4)}
  assert result["dcc"]["validation"] == pytest.approx(held_out, rel=1e-3)
  # A finished run is scored again, with other proposals if so wished.
  config = _config("demo", **{"batch_size": 8, "dcc.proposals.nms": 0.5, **shared})
  pretrain.pretrain(config, tmp_path, allow_config_change=False)
  with pytest.raises(UserError, match="dcc, which has no encoder of clips"):
    encoder.load_encoder(tmp_path)
  with pytest.raises(UserError, match="dcc has no encoder of clips to probe"):
    pretrain.pretrain(_config("demo", **{"probe.run": True}), tmp_path, allow_config_change=False)
