"""Stages after pre-training, compiled for virtual devices: sizes, work and exchange."""

import math

import pytest

import vssl_jax
from tests.planning.plan_test import small
from vssl_jax import config_file, parallel
from vssl_jax.errors import UserError
from vssl_jax.models import build_encoder, cost
from vssl_jax.planning import isolated, machines, report, run, stages
from vssl_jax.planning import plan as plan_lib
from vssl_jax.probes import knn

VIDEOS = 4_000


@pytest.fixture(scope="module")
def shrunk():
  c = small(batch_size=16)
  with c.unlocked():
    e = c.data.eval
    e.frames, e.size, e.resize, e.batch_size = 4, 16, 16, 12
    c.probe.frames, c.probe.size, c.probe.batch_size = 4, 16, 16
  return c


@pytest.fixture(scope="module")
def plans(shrunk):
  machine = machines.find("cpu:8")
  return {
    name: plan_lib.plan(shrunk, machine, videos=VIDEOS, stage=name)
    for name in stages.STAGES
    if name != stages.TRAIN
  }


def test_every_stage_is_a_table(plans):
  assert stages.STAGES == run.STAGES
  text = report.table(list(plans.values()))
  for name in ("stage", "work", "memory", "FLOPs per device", "devices that work", *plans):
    assert name in text
  # Without the entry, a plan is as it was before there were stages.
  assert "stage" not in report.table([{k: v for k, v in _step(plans).items() if k != "stage"}])


def _step(plans):
  return plans["linear_probe"]


def test_the_linear_probe_trains_a_classifier_alone(plans, shrunk):
  p = _step(plans)
  assert p["config"]["method"] == "classify"
  width = build_encoder(shrunk.encoder).features_dim
  assert p["parameters"] == stages.CLASSES * (width + 1)
  clip = cost.count(build_encoder(shrunk.encoder), (4, 16, 16, 3)).macs
  clips = p["config"]["clips"] / 8
  assert clips == 2 * shrunk.probe.clips
  # They go forward only, less what falls on padding.
  forward, head = 2 * clips * clip, 2 * clips * stages.CLASSES * width
  assert 0.4 * forward < p["flops"]["program"] - 2 * head < forward
  assert p["steps"] == shrunk.probe.epochs * (VIDEOS // 16)


def test_fine_tuning_trains_all_of_the_network(plans, shrunk):
  p = plans["finetune"]
  width = build_encoder(shrunk.encoder).features_dim
  head = stages.CLASSES * (width + 1)
  assert p["config"]["clips"] == 32  # one clip of each video of the default batch
  clip = cost.count(build_encoder(shrunk.encoder), (4, 16, 16, 3)).macs
  # Forward and backward, less what falls on padding.
  assert 1.2 * clip * 4 < p["flops"]["program"] < 6 * clip * 4 + 6 * 4 * head
  assert p["flops"]["compiled"] == pytest.approx(p["flops"]["program"], rel=0.02)
  whole = sum(c["bytes"] * c["times"] for c in p["collectives"] if c["kind"] == "all-reduce")
  assert 4 * p["parameters"] <= whole < 1.3 * 4 * p["parameters"]
  assert {c["kind"] for c in p["collectives"]} == {"all-reduce"}


def test_the_first_state_is_made_on_every_device_without_any_exchange(plans):
  p = plans["init"]
  assert p["collectives"] == []
  assert p["device_bytes"] == p["checkpoint_bytes"]  # all of it is replicated
  assert p["memory"]["results"] == pytest.approx(p["device_bytes"], rel=0.02)
  assert p["flops"]["compiled"] == 0  # shapes alone matter, no network runs


def test_a_restored_checkpoint_is_checked_where_it_lies(plans, shrunk):
  p = plans["restore"]
  assert p["checkpoint_bytes"] == plans["init"]["checkpoint_bytes"]
  assert p["memory"]["arguments"] == pytest.approx(p["device_bytes"], rel=0.02)
  assert p["collectives"] == []
  text = report.table([p])
  for name in ("checkpoint", "  of it on a device"):
    assert name in text
  # A memory that is split over the devices: each reads its own part, and they add up digests.
  c = config_file.load("dcc:demo")
  with c.unlocked():
    c.batch_size, c.data.frames = 8, 16
    c.dcc.update(hidden=8, filter=4, dim=4, width=8, videos=64, labels=3, classes=4)
  p = plan_lib.plan(c, machines.find("cpu:8"), videos=64, stage="restore")
  assert p["device_bytes"] < p["checkpoint_bytes"]
  assert p["memory"]["arguments"] == pytest.approx(p["device_bytes"], rel=0.1)
  assert all(c["bytes"] <= 64 and c["kind"] == "all-reduce" for c in p["collectives"])
  assert p["collectives"]


def test_features_are_extracted_without_any_exchange(plans):
  p = plans["features"]
  assert p["config"]["clips"] == 16  # 12, rounded up to the devices
  assert p["collectives"] == []
  assert p["flops"]["compiled"] == pytest.approx(p["flops"]["program"], rel=0.02)


def test_devices_share_the_queries_of_nearest_neighbors(plans, shrunk):
  p = plans["knn"]
  width = build_encoder(shrunk.encoder).features_dim
  assert p["machine"]["devices"] == 8
  assert p["collectives"] == []
  each = stages.QUERIES // 8
  blocks = -(-each // knn.CHUNK)  # of one size
  tiled = (-(-each // blocks) * blocks, -(-VIDEOS // knn.CHUNK) * knn.CHUNK)
  assert p["flops"]["compiled"] == 2 * width * math.prod(tiled)  # the last tiles overlap
  assert p["memory"]["arguments"] >= 4 * width * (VIDEOS + stages.QUERIES / 8)


def test_the_regression_is_split_by_videos(plans, shrunk):
  p = plans["logistic"]
  width = build_encoder(shrunk.encoder).features_dim
  product = 2 * VIDEOS * width * stages.CLASSES / 8
  # Before and after the loop the logits and a gradient, and in it both once more.
  assert 6 * product <= p["flops"]["compiled"] < 6.5 * product
  assert p["flops"]["compiled"] == pytest.approx(p["flops"]["program"], rel=0.05)
  assert p["unknown_loops"] == 2
  assert {c["kind"] for c in p["collectives"]} == {"all-reduce"}
  assert max(c["bytes"] for c in p["collectives"]) <= 2 * 4 * (width + 2) * stages.CLASSES
  assert (
    p["memory"]["arguments"] < 4 * (VIDEOS / 8 * (width + 2) + 2 * width * stages.CLASSES) + 1e5
  )


def test_seconds_of_a_machine_with_speed(shrunk):
  cpu = machines.find("cpu:8")
  machine = machines.Machine("v5e:2x4", machines.CHIPS["v5e"], cpu.mesh, 8)
  p = plan_lib.plan(shrunk, machine, videos=VIDEOS, stage="logistic")
  assert p["seconds"]["bound"] == pytest.approx(
    max(p["flops"]["compiled"] / 197e12, p["bytes"] / 0.819e12)
  )
  text = report.table([p])
  assert "step, memory traffic" in text
  assert "chip-hours" not in text


def test_a_method_without_an_encoder_of_clips_has_no_stages():
  c = config_file.load("dcc:demo")
  for name in (*stages.STEPS, "features", "knn", "logistic"):
    with pytest.raises(UserError, match=f"--stage={name}: dcc has no encoder of clips"):
      plan_lib.plan(c, machines.find("cpu:8"), videos=VIDEOS, stage=name)


def test_what_is_wrong_is_said_before_anything_is_compiled(monkeypatch, shrunk):
  monkeypatch.setattr(isolated, "plan", lambda *_, **__: pytest.fail("compiled"))
  with pytest.raises(UserError, match="--stage: 'test' is unknown; there are train, init, restore"):
    vssl_jax.plan(shrunk, "cpu:8", stage="test")
  with pytest.raises(UserError, match="--fit: it searches settings of the train step"):
    vssl_jax.plan(shrunk, "cpu:8", stage="knn", fit=True)


def test_the_stage_reaches_the_process(monkeypatch, shrunk):
  seen = []

  def plan(config, topology, videos, stage):
    seen.append(stage)
    raise UserError("no compiler")

  monkeypatch.setattr(isolated, "plan", plan)
  with pytest.raises(UserError, match="no compiler"):
    vssl_jax.plan(shrunk, "cpu:8", stage="knn")
  assert seen == ["knn"]
  assert parallel.make_mesh().size == 8
