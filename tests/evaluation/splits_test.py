"""Whether the probes can run is told in one line that others end, and which classes they lack."""

import re
import types

import jax
import numpy as np
import pytest

from data_pipelines.source import check_labels
from tests import small
from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.evaluation import splits


@pytest.mark.parametrize("told", ["no records of split 'test'", "no records of split 'test'."])
def test_what_is_missing_has_no_full_stop_of_its_own(monkeypatch, told):
  def fails(config):
    raise UserError(told)

  monkeypatch.setattr(splits, "splits", fails)
  config = small.load("cvrl.py", "demo")
  mesh = parallel.make_mesh(jax.devices()[:1])
  assert splits.missing(config, mesh) == "no records of split 'test'"


def _task(train, test, names=tuple("abcdefghij"), **more):
  """A task whose sources know their classes, or do not."""

  def source(classes):
    return types.SimpleNamespace(occurring=lambda: classes)

  data = types.SimpleNamespace(train_split="train", eval_split="val")
  return types.SimpleNamespace(
    config=types.SimpleNamespace(data=data),
    train=source(train),
    test=source(test),
    label_names=names,
    **more,
  )


@pytest.mark.parametrize(
  ("train", "test", "told"),
  [
    ({0, 1, 2}, {0, 2}, ""),
    (set(), set(), ""),
    (None, {0}, ""),
    ({0}, None, ""),
    ({0, 5}, {0, 3}, "1 class of evaluation split 'val' without any video .* 'train': d;"),
    ({0}, {0, 1, 9}, "2 classes of .*: b, j;"),
    (set(), set(range(10)), "10 classes of .*: a, b, c, d, e, f and 4 more;"),
    ({0}, {0, 12}, "1 class of .*: 12;"),
  ],
)
def test_classes_of_the_evaluation_split_alone(train, test, told):
  found = splits.unseen(_task(train, test))
  assert len(found) == bool(told)
  for note in found:
    assert re.match(told, note)


def test_features_know_best():
  """They have only the videos that could be read."""
  bank = types.SimpleNamespace(label=np.array([0, 0, -1]))
  assert not splits.unseen(_task({0, 1}, {1}))
  (note,) = splits.unseen(_task({0, 1}, {1}, bank=bank))
  assert ": b;" in note
  queries = types.SimpleNamespace(label=np.array([-1, 0]))
  assert not splits.unseen(_task({0, 1}, {1}, bank=bank, queries=queries))


def test_a_source_need_not_know_its_classes():
  task = _task({0}, {1})
  task.train = types.SimpleNamespace()
  assert splits.unseen(task) == []


@pytest.mark.parametrize("label", [[0, 2], [0, -2]])
def test_labels_of_a_users_source_stop_before_a_probe(monkeypatch, label):
  from vssl_jax.evaluation import task as task_lib

  found = types.SimpleNamespace(label=np.array(label))
  monkeypatch.setattr(task_lib.feature_cache, "extract", lambda *_, **__: found)
  names = types.SimpleNamespace(label_names=("a", "b"))
  config = types.SimpleNamespace(data=types.SimpleNamespace(train_split="train"))
  task = task_lib.Task(config, None, {}, names, names, None, "features", None)
  with pytest.raises(UserError, match=f"split 'train': video 1 has label {label[1]}"):
    _ = task.bank
  assert check_labels(np.array([0, 1]), 2, ("a", "b"), "").tolist() == [0, 1]
