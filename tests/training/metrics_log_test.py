"""The JSONL history: valid JSON, cut back on resume, torn lines dropped."""

import json
import math
import sys

import pytest

from data_pipelines import optional
from vssl_jax.training import metrics_log


def test_rows_round_trip_and_stay_valid_json(tmp_path):
  with metrics_log.open_writer(tmp_path, tensorboard=False) as w:
    w.write(1, {"loss": 1.5})
    w.write(2, {"loss": math.nan, "lr": math.inf})
  assert metrics_log.read(tmp_path) == [
    {"step": 1, "loss": 1.5},
    {"step": 2, "loss": "nan", "lr": "inf"},
  ]


def test_cut_back_keeps_rows_up_to_the_step_and_drops_a_torn_line(tmp_path):
  with metrics_log.open_writer(tmp_path, tensorboard=False) as w:
    for step in (1, 2, 3):
      w.write(step, {"loss": float(step)})
  with (tmp_path / metrics_log.FILE).open("a") as f:
    f.write('{"step": 4, "lo')
  assert [r["step"] for r in metrics_log.read(tmp_path)] == [1, 2, 3]
  metrics_log.cut_back(tmp_path, 2)
  assert [r["step"] for r in metrics_log.read(tmp_path)] == [1, 2]
  metrics_log.cut_back(tmp_path, 0)
  assert metrics_log.read(tmp_path) == []


@pytest.mark.parametrize("torn", [b"{", b"4", b'{"step"', b'{"step": 4, "\xce', b"\0\0\0"])
def test_a_line_cut_short_anywhere_is_skipped(tmp_path, torn):
  (tmp_path / metrics_log.FILE).write_bytes(b'{"step": 1}\n' + torn)
  assert metrics_log.read(tmp_path) == [{"step": 1}]
  metrics_log.cut_back(tmp_path, 9)
  assert (tmp_path / metrics_log.FILE).read_bytes() == b'{"step": 1}\n'


def test_cut_back_of_a_new_run_is_nothing(tmp_path):
  metrics_log.cut_back(tmp_path, 5)
  assert list(tmp_path.iterdir()) == []


def test_only_the_enabled_process_writes(tmp_path):
  with metrics_log.open_writer(tmp_path, enabled=False) as w:
    w.write(1, {"loss": 1.0})
  assert list(tmp_path.iterdir()) == []


def test_tensorboard_holds_the_same_scalars(tmp_path, tf):
  with metrics_log.open_writer(tmp_path) as w:
    w.write(3, {"loss": 0.25})
  (events,) = tmp_path.glob("events*")
  found = [
    (e.step, v.tag, float(tf.make_ndarray(v.tensor)))
    for e in tf.compat.v1.train.summary_iterator(str(events))
    for v in e.summary.value
  ]
  assert (3, "loss", 0.25) in found
  assert json.loads((tmp_path / metrics_log.FILE).read_text()) == {"step": 3, "loss": 0.25}


def test_without_tensorboards_packages_one_line_says_so(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "clu", None)
  monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
  with metrics_log.open_writer(tmp_path) as w:
    w.write(3, {"loss": 0.25})
  assert metrics_log.read(tmp_path) == [{"step": 3, "loss": 0.25}]
  assert [p.name for p in tmp_path.iterdir()] == [metrics_log.FILE]
  said = capsys.readouterr().out
  assert said.count("\n") == 1
  assert f"clu, which is not installed: {optional.install('data')}" in said
