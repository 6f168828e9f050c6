"""Result lines that programs can compare, files that appear whole, hashes of every bit."""

import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vssl_jax import results


def test_result_line_is_one_stable_line():
  a = {"top1": 0.123456, "b": {"z": (1, 2), "a": np.float32(0.5)}, "n": np.int64(3), "ok": True}
  b = {"ok": True, "n": 3, "b": {"a": 0.5, "z": [1, 2]}, "top1": 0.12346}
  line = results.result_line(a)
  assert line == results.result_line(b)
  assert line == 'RESULT {"b": {"a": 0.5, "z": [1, 2]}, "n": 3, "ok": true, "top1": 0.1235}'
  assert "\n" not in results.result_line({"text": "two\nlines"})


def test_per_class_is_for_the_file_only(tmp_path):
  result = {"top1": 0.5, "per_class": {"a": 0.5}, "linear": {"per_class": {}, "top1": 1.0}}
  assert json.loads(results.result_line(result)[7:]) == {"linear": {"top1": 1.0}, "top1": 0.5}
  results.write_json(result, tmp_path / "new" / "result.json")
  assert json.loads((tmp_path / "new" / "result.json").read_text()) == result


def test_plain_numbers():
  assert results.plain(np.array([[1.00004, 2.0]])) == [[1.0, 2.0]]
  assert results.plain(jnp.float32(0.25)) == 0.25
  assert results.plain(1.23456e-5) == 1.235e-5
  assert results.plain(123456.78918) == 123456.7892
  assert results.plain([math.nan, math.inf, -0.0]) == [None, None, 0.0]
  exact = [0.1 + 0.2, math.pi * 1e5, 1e-7 / 3, 1.0000000000000002]
  assert results.plain(exact, results.EXACT) == exact
  assert results.plain(ConfigDict({"x": (1, 2)})) == {"x": [1, 2]}
  assert results.plain(np.True_) is True
  assert results.plain({1: None}) == {"1": None}
  with pytest.raises(TypeError, match="object"):
    results.plain({"x": object()})


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
  file = tmp_path / "result.json"
  results.write_json({"top1": 1}, file)

  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(OSError, match="disk full"):
    results.write_json({"top1": 2}, file)
  assert json.loads(file.read_text()) == {"top1": 1}
  assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_tree_hash_sees_every_bit():
  tree = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.float32(0.0)}
  same = {"b": jnp.float32(0.0), "params": {"a": jnp.arange(6.0).reshape(2, 3)}}
  assert results.tree_hash(tree) == results.tree_hash(same)
  a = tree["params"]["a"]
  others = [
    {"params": {"a": np.nextafter(a, 9)}, "b": tree["b"]},
    {"params": {"a": a.reshape(3, 2)}, "b": tree["b"]},
    {"params": {"a": a.astype(np.float64)}, "b": tree["b"]},
    {"params": {"c": a}, "b": tree["b"]},
    {"params": {"a": a}, "b": np.float32(-0.0)},
    {"params": {"a": np.asfortranarray(a)[::-1]}, "b": tree["b"]},
  ]
  hashes = {results.tree_hash(x) for x in others}
  assert len(hashes) == len(others)
  assert results.tree_hash(tree) not in hashes


def test_config_hash_ignores_order_and_tuples_against_lists():
  a = ConfigDict({"x": (1, 2), "y": {"b": 1, "a": 2}})
  b = ConfigDict({"y": {"a": 2, "b": 1}, "x": [1, 2]})
  assert results.config_hash(a) == results.config_hash(b)
  b.x = (1, 3)
  assert results.config_hash(a) != results.config_hash(b)
