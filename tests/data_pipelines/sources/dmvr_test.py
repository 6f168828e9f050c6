import sys
import types

import numpy as np
import pytest

from data_pipelines import source
from data_pipelines.records import sequence_example
from tests.data_pipelines import tiny
from vssl_jax.errors import UserError

tf = pytest.importorskip("tensorflow")
from data_pipelines.clips import steps  # noqa: E402
from data_pipelines.sources import dmvr  # noqa: E402


class Factory:
  """Stands for a configured DMVR factory: makes the features it was given, for ever."""

  def __init__(self, **features):
    self.features = features

  def make_dataset(self, *, shuffle, num_epochs, batch_size, drop_remainder):
    assert shuffle
    assert drop_remainder
    one = tf.data.Dataset.from_tensors(self.features)
    return one.repeat(num_epochs).batch(batch_size, drop_remainder=True)


def load(monkeypatch, made, name="user_factory:make", **kwargs):
  module = types.ModuleType("user_factory")
  module.make = lambda data, split: made
  monkeypatch.setitem(sys.modules, "user_factory", module)
  data = tiny.data(source="dmvr", name=name)
  return source.load(data, split="train", batch_size=2, seed=0, **kwargs)


def image(shape, dtype=np.uint8):
  values = np.arange(np.prod(shape)).reshape(shape) % 256
  return values.astype(np.uint8) if dtype == np.uint8 else (values / 255).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(2, 4, 8, 8, 3), (8, 8, 8, 3)])
def test_batches_of_a_factory(monkeypatch, shape, dtype):
  s = load(monkeypatch, (Factory(image=image(shape, dtype), label=np.eye(5)[3]), 9, list("abcx")))
  batch = next(s.train_batches())
  assert batch["clips"].dtype == np.uint8
  np.testing.assert_array_equal(batch["clips"][1], image((2, 4, 8, 8, 3)))
  assert batch["label"].tolist() == [3, 3]
  assert batch["video"].tolist() == [-1, -1]
  assert batch["offset"].tolist() == [[-1, -1]] * 2
  assert (s.num_videos, s.steps_per_epoch, s.label_names) == (9, 4, tuple("abcx"))


def test_each_process_takes_its_rows(monkeypatch):
  made = Factory(image=image((2, 4, 8, 8, 3))), 9
  batch = next(load(monkeypatch, made, process_index=1, process_count=2).train_batches())
  assert batch["clips"].shape[0] == 1
  assert batch["label"].tolist() == [-1]


def test_wrong_features_are_named(monkeypatch):
  with pytest.raises(UserError, match=r"\[3, 8, 8, 3\]|does not make"):
    next(load(monkeypatch, (Factory(image=image((3, 8, 8, 3))), 9)).train_batches())
  with pytest.raises(UserError, match="'frames'"):
    next(load(monkeypatch, (Factory(frames=image((8, 8, 8, 3))), 9)).train_batches())


def test_a_label_without_a_name_stops(monkeypatch):
  made = Factory(image=image((2, 4, 8, 8, 3)), label=3), 9, ["a", "b", "c"]
  with pytest.raises(UserError, match=r"the factory's 'label': .* label 3, but the 3 class names"):
    next(load(monkeypatch, made).train_batches())


def test_evaluation_is_refused(monkeypatch):
  with pytest.raises(UserError, match="tfrecord"):
    load(monkeypatch, (Factory(), 9)).eval_batches(2, clips=1)
  with pytest.raises(UserError, match="tfrecord"):
    load(monkeypatch, (Factory(), 9)).only([1])


@pytest.mark.parametrize("name", ["", "user_factory", "no_such_module:make", "user_factory:other"])
def test_bad_names(monkeypatch, name):
  with pytest.raises(UserError, match=r"config\.data\.name"):
    load(monkeypatch, (Factory(), 9), name=name)


def test_a_real_factory_with_our_steps(monkeypatch, tmp_path):
  video_dataset = pytest.importorskip("dmvr.video_dataset", reason="DMVR is not installed")
  from dmvr import sources

  tiny.write(tmp_path, [tiny.video(v) for v in range(4)])
  data = tiny.data()

  class Videos(video_dataset.BaseVideoDatasetFactory):
    def _build(self):
      steps.add_parsing(self.parser_builder)
      steps.add_train_steps(self, data)

  shards = [str(p) for p in sorted(tmp_path.glob("*.tfrecord"))]
  factory = Videos(shards, source=sources.TFRecordsSource()).configure()
  factory.tune(shuffle_buffer=4)
  batch = next(load(monkeypatch, (factory, 4)).train_batches())
  assert batch["clips"].shape == (2, 2, 4, 8, 8, 3)
  red = batch["clips"][..., 0].mean((3, 4))
  times = batch["offset"][..., None] + 2 * np.arange(4)
  np.testing.assert_allclose(red, 2 * times, atol=3)


def test_our_records_in_dmvrs_own_image_pipeline(tmp_path):
  """What DMVR itself makes of a record of ours."""
  modalities = pytest.importorskip("dmvr.modalities", reason="DMVR is not installed")
  from dmvr import builders

  parser = builders.SequenceExampleParserBuilder()
  sampler, decoder = builders.SamplerBuilder(), builders.DecoderBuilder()
  preprocessor, postprocessor = builders.PreprocessorBuilder(), builders.PostprocessorBuilder()
  modalities.add_image(
    parser,
    sampler,
    decoder,
    preprocessor,
    postprocessor,
    is_training=False,
    num_frames=4,
    stride=2,
    min_resize=12,
    crop_size=8,
  )
  modalities.add_label(parser, decoder, preprocessor, num_classes=3, one_hot_label=False)
  features = parser.build()(tf.constant(sequence_example.encode(tiny.video(4))))
  for builder in (sampler, decoder, preprocessor):
    features = builder.build()(features)
  assert features["image"].shape == (4, 8, 8, 3)
  assert int(features["label"][0]) == 1


def test_a_factory_that_cannot_be_imported_is_named(monkeypatch, tmp_path):
  (tmp_path / "needs_dmvr.py").write_text("import dmvr.video_dataset\n")
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setitem(sys.modules, "dmvr", None)
  for name, told in {
    "nowhere_at_all:make": r"No module named 'nowhere_at_all'\)\.",
    "needs_dmvr:make": r"\); pip install .*dmvr",
  }.items():
    with pytest.raises(UserError, match=rf"config\.data\.name: {name} cannot be imported .*{told}"):
      dmvr.load(tiny.data(source="dmvr", name=name), split="train", seed=0, batch_size=2)
