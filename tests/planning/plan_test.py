"""Plans: of a small recipe on virtual devices, of too large ones, and their tables."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import vssl_jax
from vssl_jax import config_file
from vssl_jax.encoder import encoder
from vssl_jax.errors import UserError
from vssl_jax.models import build_encoder, cost
from vssl_jax.planning import fit, isolated, machines, report
from vssl_jax.planning import plan as plan_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def small(**changes):
  c = config_file.load("cvrl:demo")
  with c.unlocked():
    c.encoder.width, c.encoder.conv, c.batch_size = 0.0625, "lax", 16
    c.data.frames, c.data.size = 4, 16
    c.head.hidden, c.head.out = (16,), 8
    c.update_from_flattened_dict(changes)
  return c


@pytest.fixture(scope="module")
def found():
  return plan_lib.plan(small(), machines.find("cpu:8"), videos=800)


def test_a_plan_of_virtual_devices(found):
  assert found["config"]["clips"] == 32
  assert found["clips_per_chip"] == 4
  assert found["steps"] == round(small().epochs * 50)
  assert found["memory"]["fits"]
  assert "seconds" not in found
  c = small()
  clip = cost.count(build_encoder(c.encoder), (4, 16, 16, 3)).macs
  # Six FLOPs per multiply-add of each of four clips, less those on padding, which are many here.
  assert clip * 4 < found["flops"]["program"] < 6 * clip * 4


def test_the_compiled_program_computes_what_is_written(found):
  assert found["flops"]["compiled"] == pytest.approx(found["flops"]["program"], rel=0.02)
  assert set(found["flops"]["by_dtype"]) == {"f32"}


def test_gradients_are_reduced_once(found):
  whole = sum(c["bytes"] * c["times"] for c in found["collectives"] if c["kind"] == "all-reduce")
  assert 4 * found["parameters"] <= whole < 1.3 * 4 * found["parameters"]


def test_a_table_shows_all(found):
  text = report.table([found | {"machine": found["machine"]}])
  assert "cvrl" in text.splitlines()[0]
  for name in ("clips per chip", "FLOPs per device", "all-reduce, f32", "temporaries"):
    assert name in text


def test_figures_of_a_machine_with_speed(found):
  """The arithmetic of the table, from a program compiled for virtual devices."""
  cpu = machines.find("cpu:8")
  machine = machines.Machine("v5e:2x4", machines.CHIPS["v5e"], cpu.mesh, 8)
  p = plan_lib.plan(small(), machine, videos=800)
  bound = max(p["flops"]["compiled"] / 197e12, p["bytes"] / 0.819e12)
  assert p["seconds"]["bound"] == pytest.approx(bound)
  assert p["clips_per_second"] == pytest.approx(32 / bound)
  assert p["chip_hours"] == pytest.approx(p["steps"] * bound * 8 / 3600)
  assert p["host_cores"]["needed"] == pytest.approx(32 / bound / 2 / plan_lib.CLIPS_PER_CORE)
  assert "chip-hours of the run" in report.table([p])


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(UserError, match=r"config.batch_size is 12: it must be a multiple"):
    plan_lib.plan(small(batch_size=12), machines.find("cpu:8"), videos=800)


@pytest.mark.parametrize(
  ("message", "total", "limit"),
  [
    ("RESOURCE_EXHAUSTED: … Used 30.12G of 15.75G hbm. Exceeded …", 30.12 * 2**30, 15.75 * 2**30),
    ("RESOURCE_EXHAUSTED: no numbers", None, None),
  ],
)
def test_what_the_compiler_says_of_memory(message, total, limit):
  memory = plan_lib._exceeded(message)
  assert memory == {"fits": False, "total": pytest.approx(total), "limit": pytest.approx(limit)}
  assert plan_lib._exceeded("INTERNAL: something else") is None


def test_a_plan_without_a_program_is_a_table_too(found):
  short = {k: found[k] for k in ("config", "machine", "clips_per_chip", "parameters")}
  short |= {"checkpoint_bytes": 10, "memory": plan_lib._exceeded("RESOURCE_EXHAUSTED")}
  assert "does NOT fit" in report.table([short])
  aborted = {k: found[k] for k in ("config", "machine")} | {"aborted": "Check failed: x"}
  assert "the compiler aborted: Check failed: x" in report.table([found, aborted])


def test_candidates_go_from_fast_to_small():
  c = small()
  got = list(fit.candidates(c, 8))
  assert got[0] == {"accumulate": 1, "encoder.remat": False}
  assert got[1] == {"accumulate": 1, "encoder.remat": True}
  assert [s["accumulate"] for s in got[2:]] == [2]  # 16 videos among 8 devices
  momentum = config_file.load("rho_moco:k400")
  got = list(fit.candidates(momentum, 64))
  assert [s["rho_moco.sequential"] for s in got] == [False, True, True, False, False, False]
  # One clip at a time excludes micro-batches.
  assert not any(s["rho_moco.sequential"] and s["accumulate"] > 1 for s in got)
  c.checkpoint = "run"  # its encoder replaces the config's
  assert list(fit.candidates(c, 8)) == [{"accumulate": 1}, {"accumulate": 2}]


def test_fit_stops_at_the_first_that_fits():
  asked = []

  def compile(config):
    asked.append((config.accumulate, config.encoder.remat))
    return {"memory": {"fits": config.encoder.remat}}

  tried = list(fit.fit(small(), 8, compile))
  assert asked == [(1, False), (1, True)]
  assert tried[-1]["settings"] == {"accumulate": 1, "encoder.remat": True}


def test_fit_goes_on_after_a_candidate_that_is_impossible(found):
  def compile(config):
    if config.accumulate == 1 and config.encoder.remat:
      raise UserError("config.x is 1: impossible.")
    return found | {"memory": found["memory"] | {"fits": config.accumulate > 1}}

  first, refused, last = fit.fit(small(), 8, compile)
  assert not first["memory"]["fits"]
  assert last["memory"]["fits"]
  assert refused == {
    "refused": "config.x is 1: impossible.",
    "settings": {"accumulate": 1, "encoder.remat": True},
  }
  refused |= {k: found[k] for k in ("config", "machine")}
  assert "refused: config.x is 1: impossible." in report.table([first, refused, last])

  def never(config):
    raise UserError("impossible")

  with pytest.raises(UserError, match="impossible"):
    list(fit.fit(small(), 8, never))


@pytest.fixture
def known(monkeypatch, found):
  """Plans of machines without compiling; `h100:8` is refused and `h200:8` crashes."""

  def plan(config, topology, videos, stage):
    if topology == "h100:8":
      raise UserError("--topology: h100:8 needs JAX's CUDA plugin.")
    if topology == "h200:8":
      raise RuntimeError("Traceback: a crash")
    return found

  monkeypatch.setattr(isolated, "plan", plan)


def test_a_machine_that_is_refused_leaves_the_plans_of_others(known, tmp_path):
  file = tmp_path / "new" / "plan.json"
  for names in ("cpu:8", "h100:8"), ("h100:8", "cpu:8"):
    plans = vssl_jax.plan(small(), names, output=file)
    refused = plans[names.index("h100:8")]
    assert refused["refused"] == "--topology: h100:8 needs JAX's CUDA plugin."
    assert refused["machine"] == {"topology": "h100:8"}
    assert [("flops" in p) for p in plans] == [name == "cpu:8" for name in names]
    written = json.loads(file.read_text())["plans"]
    assert [p["machine"]["topology"] for p in written] == list(names)
    assert "refused: --topology: h100:8 needs" in report.table(plans)


def test_what_was_planned_before_a_crash_is_written(known, tmp_path):
  with pytest.raises(RuntimeError, match="a crash"):
    vssl_jax.plan(small(), ["cpu:8", "h200:8"], output=tmp_path / "plan.json")
  (written,) = json.loads((tmp_path / "plan.json").read_text())["plans"]
  assert written["machine"]["topology"] == "cpu:8"


def test_without_any_plan_the_error_is_raised_and_no_file_replaced(known, tmp_path):
  (tmp_path / "plan.json").write_text("before")
  with pytest.raises(UserError, match="needs JAX's CUDA plugin"):
    vssl_jax.plan(small(), "h100:8", output=tmp_path / "plan.json")
  assert (tmp_path / "plan.json").read_text() == "before"


@pytest.mark.parametrize(
  ("topology", "output", "message"),
  [
    (("cpu:8", "m1:8"), None, r"--topology: 'm1:8' is unknown"),
    ((), None, r"--topology: '' is unknown"),
    ("cpu:8", "file/plan.json", r"file: no folder can be made here"),
    ("cpu:8", "", r"--output: .* is a folder; give a file"),
    ("cpu:8", "/proc/plan.json", r"--output: /proc/plan.json cannot be written"),
    ("cpu:8", "gs://bucket/plan.json", r"must be a file or folder in a file system"),
  ],
)
def test_what_is_wrong_is_said_before_anything_is_compiled(
  monkeypatch, tmp_path, topology, output, message
):
  monkeypatch.setattr(isolated, "plan", lambda *_, **__: pytest.fail("compiled"))
  (tmp_path / "file").touch()
  if output is not None and ":" not in output:
    output = tmp_path / output
  with pytest.raises(UserError, match=message):
    vssl_jax.plan(small(), topology, output=output)


def test_other_jobs_than_pre_training_are_refused():
  with pytest.raises(UserError, match=r"config\.job is 'linear_probe': only pre-training"):
    vssl_jax.plan("linear_probe:published", "cpu:8")


@pytest.mark.slow
def test_the_encoder_of_a_checkpoint_is_planned(monkeypatch, tmp_path):
  c = config_file.load("cvrl:ucf6_supervised")
  with c.unlocked():
    c.update_from_flattened_dict(
      {"checkpoint": str(tmp_path), "batch_size": 8, "data.frames": 4, "data.size": 16}
    )
    c.classify.classes = 2
  with pytest.raises(UserError, match=str(tmp_path)):
    plan_lib.plan(c, machines.find("cpu:8"), videos=80)
  trained = small()
  variables = build_encoder(trained.encoder).init(
    jax.random.key(0), jnp.zeros((1, 4, 16, 16, 3)), train=False
  )
  monkeypatch.setattr(encoder, "load_encoder", lambda _: (trained, variables, None))
  c.encoder.width = 1.0  # not the checkpoint's
  own = cost.parameters(variables["params"])
  found = plan_lib.plan(c, machines.find("cpu:8"), videos=80)
  assert own < found["parameters"] < 1.1 * own


def test_the_reason_of_an_abort_is_one_line(tmp_path):
  log = (tmp_path / "log").open("w+b")
  log.write(b"W0101 noise\nF1130 11:00:00.123456  77 memory.cc:12] Conflicting aliased  use\n*** x")
  assert isolated._reason(log, -6) == "memory.cc:12] Conflicting aliased use"
  assert isolated._reason(log, 1) == "memory.cc:12] Conflicting aliased use"
  other = (tmp_path / "other").open("w+b")
  assert isolated._reason(other, -9) == "SIGKILL"
  other.write(b"bad\n")
  with pytest.raises(RuntimeError, match="exit status 1; last line: bad; a script must plan under"):
    isolated._reason(other, 1)


def test_an_error_in_the_process_is_no_abort():
  """It is raised with its traceback."""
  with pytest.raises(RuntimeError, match=r"for cpu:8:\nTraceback (.|\n)*TypeError"):
    isolated.plan(small(), "cpu:8", "many")


@pytest.mark.slow
def test_a_script_without_a_guard_is_told(tmp_path):
  script = tmp_path / "script.py"
  call = "vssl_jax.plan('cvrl:demo', 'cpu:2', videos=80)"
  script.write_text(f"import vssl_jax\n\n{call}\n")
  run = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=ROOT)
  assert run.returncode == 1
  assert 'a script must plan under if __name__ == "__main__":' in run.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_function_compiles_in_a_process_of_its_own(tmp_path):
  """Also on more virtual devices than this process has."""
  c = small(batch_size=32)
  (p,) = vssl_jax.plan(c, "cpu:16", videos=800, output=tmp_path / "plan.json")
  assert p["machine"]["devices"] == 16
  written = json.loads((tmp_path / "plan.json").read_text())
  assert written["plans"][0]["flops"] == p["flops"]
  with pytest.raises(UserError, match="--videos is 0"):
    vssl_jax.plan(c, "cpu:16", videos=0)
  with pytest.raises(UserError, match=r"config\.batch_size is 32"):
    vssl_jax.plan(c, "cpu:24", videos=800)


def test_fit_tries_nothing_else_without_an_encoder_of_clips():
  asked = []

  def compile(config):
    asked.append(config.accumulate)
    return {"config": {"decodes": False}, "memory": {"fits": False}}

  assert len(list(fit.fit(small(), 8, compile))) == len(asked) == 1
