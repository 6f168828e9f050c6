"""What is said of the training behind an encoder, and when its scores are too good."""

import sys
import types

import ml_collections
import pytest

from tests import small
from vssl_jax import methods
from vssl_jax.evaluation import pretraining


def _data(fingerprint):
  return {"train": {"fingerprint": "a"}, "eval": {"name": "test", "fingerprint": fingerprint}}


def _trained(method="cvrl", **values):
  config = methods.base_config(method)
  config.data.path, config.data.fraction, config.data.fingerprint = "videos", 0.5, "f" * 64
  values = {"data.source": "tfrecord", "data.path": "videos", "classify.frozen": False, **values}
  if method != "classify":
    values.pop("classify.frozen")
  return small.shrink(config, **values)


def test_a_run_without_labels():
  found = pretraining.describe(_trained(), {"step": 10})
  assert found == {
    "method": "cvrl",
    "supervised": False,
    "started_from": "",
    "data": {
      "source": "tfrecord",
      "path": "videos",
      "name": "",
      "split": "train",
      "fraction": 0.5,
      "fingerprint": "f" * 64,
    },
  }


def test_a_run_with_labels_says_where_it_started():
  found = pretraining.describe(_trained("classify", checkpoint="runs/first"), {"step": 10})
  assert (found["supervised"], found["started_from"]) == (True, "runs/first")


def test_a_method_of_ones_own_says_itself_what_it_learns_from(monkeypatch):
  mine = types.ModuleType("vssl_jax.methods.mine")
  mine.defaults, mine.build = ml_collections.ConfigDict, lambda config, mesh: None
  mine.LEARNS_FROM_LABELS = True
  monkeypatch.setitem(sys.modules, mine.__name__, mine)
  trained = _trained("mine")
  found = pretraining.describe(trained, {"step": 10})
  assert found["supervised"] is True
  (note,) = pretraining.notes(found, _data("f" * 64))
  assert "with their labels" in note
  mine.freezes_encoder = lambda config: config.method == "mine"
  assert pretraining.describe(trained, {"step": 10})["data"] is None


@pytest.mark.parametrize(
  ("config", "step"), [(_trained(), 0), (_trained("classify", **{"classify.frozen": True}), 10)]
)
def test_weights_from_elsewhere_are_of_unknown_training(config, step):
  found = pretraining.describe(config, {"step": step})
  assert found["supervised"] is found["data"] is None
  assert pretraining.notes(found, _data("")) == []


def test_a_split_against_itself_is_noted():
  found = pretraining.describe(_trained(), {"step": 10})
  same = {"train": {"fingerprint": "a"}, "eval": {"name": "test", "fingerprint": "a"}}
  (note,) = pretraining.notes(found, same)
  assert "training and evaluation split hold the same videos: 'test'" in note
  found["data"]["fingerprint"] = "a"
  assert len(pretraining.notes(found, same)) == 2
  unknown = {"train": {"fingerprint": ""}, "eval": {"name": "test", "fingerprint": ""}}
  assert pretraining.notes(found, unknown) == []


@pytest.mark.parametrize(("method", "how"), [("cvrl", "without"), ("classify", "with their")])
def test_scores_on_videos_trained_on_are_noted(method, how):
  found = pretraining.describe(_trained(method), {"step": 10})
  (note,) = pretraining.notes(found, _data("f" * 64))
  assert how in note
  assert "'test' is its training split 'train'" in note
  assert pretraining.notes(found, _data("e" * 64)) == []
  found["data"]["fingerprint"] = ""  # of an early version's run
  assert pretraining.notes(found, _data("")) == []
