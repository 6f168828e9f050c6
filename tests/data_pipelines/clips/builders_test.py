import numpy as np
import pytest

from data_pipelines.records import sequence_example as example
from tests.data_pipelines import tiny

tf = pytest.importorskip("tensorflow")
from data_pipelines.clips import builders as builders_lib  # noqa: E402
from data_pipelines.clips import steps  # noqa: E402


def ours():
  return builders_lib.Graph()


def dmvrs():
  """DMVR's own builders, under the names that its factories give them."""
  builders = pytest.importorskip("dmvr.builders", reason="DMVR is not installed")

  class Builders:
    parser_builder = builders.SequenceExampleParserBuilder()
    sampler_builder = builders.SamplerBuilder()
    decoder_builder = builders.DecoderBuilder()
    preprocessor_builder = builders.PreprocessorBuilder()
    postprocessor_builder = builders.PostprocessorBuilder()

  return Builders


both = pytest.mark.parametrize("make", [ours, dmvrs])


def names(builder):
  return [step.fn_name for step in builder.get_summary()]


@both
class TestBuilder:
  def test_steps_run_in_order_on_a_feature_or_on_all(self, make):
    run = (
      make()
      .sampler_builder.add_fn(lambda x: x + 1, feature_name="a")
      .add_fn(lambda f: f | {"b": f["a"] * 10})
      .build()
    )
    features = {"a": 1}
    assert run(features) == {"a": 2, "b": 20}
    assert features == {"a": 1}

  def test_stateful_steps_share_a_state_anew_for_each_video(self, make):
    builder = make().decoder_builder

    def note(x, state):
      state["seen"] = [*state.get("seen", []), x]
      return x

    builder.add_fn(note, "a", "note", stateful=True)
    builder.add_fn(lambda f, state: f | {"b": state["seen"]}, None, "take", stateful=True)
    run = builder.build()
    assert run({"a": 1})["b"] == [1]
    assert run({"a": 2})["b"] == [2]

  def test_insert_replace_remove_reset(self, make):
    builder = make().preprocessor_builder
    builder.add_fn(lambda x: x + 1, "a", "one").add_fn(lambda x: x * 2, "a", "two")
    builder.add_fn(lambda x: x * 100, "a", "zero", add_before_fn_name="one")
    assert names(builder) == ["zero", "one", "two"]
    before = builder.build()
    builder.replace_fn("one", lambda x: x - 1)
    assert builder.build()({"a": 1})["a"] == 198
    assert before({"a": 1})["a"] == 202  # built before the edit
    builder.remove_fn("two")
    assert builder.build()({"a": 1})["a"] == 99
    assert names(builder.reset()) == []

  def test_unnamed_steps_get_names_and_names_are_unique(self, make):
    builder = make().sampler_builder.add_fn(lambda f: f).add_fn(lambda f: f)
    assert names(builder) == ["fn_0", "fn_1"]
    with pytest.raises(ValueError, match="fn_0"):
      builder.add_fn(lambda f: f, fn_name="fn_0")
    with pytest.raises(ValueError, match=r"other|exist"):
      builder.replace_fn("other", lambda f: f)
    with pytest.raises(ValueError, match=r"other|exist"):
      builder.add_fn(lambda f: f, add_before_fn_name="other")

  def test_parser_names_and_checks_features(self, make):
    parser = make().parser_builder
    string = tf.io.FixedLenSequenceFeature((), tf.string)
    parser.parse_feature(example.FRAMES, string, "image")
    parser.parse_feature(example.FRAMES, string, "image_again")
    integer = tf.io.VarLenFeature(tf.int64)
    parser.parse_feature(example.LABEL_INDEX, integer, is_context=True)
    with pytest.raises(ValueError, match="image"):
      parser.parse_feature("other", string, "image")
    with pytest.raises(ValueError, match="type"):
      parser.parse_feature(example.FRAMES, integer, "third")
    video = tiny.video(5, length=3)
    features = parser.build()(tf.constant(example.encode(video)))
    assert features["image"].numpy().tolist() == list(video.frames)
    assert features["image_again"].shape == [3]
    assert features[example.LABEL_INDEX].values.numpy().tolist() == [2]


@both
def test_train_steps_give_the_same_clip_on_both_builders(make):
  builders, data = make(), tiny.data(interval__distribution="constant", interval__gap=0.4)
  data.interval.unit = "seconds"
  steps.add_parsing(builders.parser_builder, with_frame_rate=True)
  steps.add_train_steps(builders, data)
  features = builders.parser_builder.build()(tf.constant(example.encode(tiny.video(3))))
  features["draw"] = tf.constant([7, 11 << 16], tf.int64)
  for phase in ("sampler", "decoder", "preprocessor"):
    features = getattr(builders, f"{phase}_builder").build()(features)
  image, offset = features["image"].numpy(), features["offset"].numpy()
  assert image.shape == (2, 4, 8, 8, 3)
  assert abs(offset[0] - offset[1]) == 10
  # The pixels tell the frame: red is twice its number.
  expected = 2 * (offset[:, None] + 2 * np.arange(4))
  np.testing.assert_allclose(image[..., 0].mean((2, 3)), expected, atol=3)
  assert int(features["label"]) == 0
  assert offset.tolist() == [24, 14]  # by the key alone, on either


@both
def test_train_steps_draw_afresh_without_a_key(make):
  builders, data = make(), tiny.data()
  steps.add_parsing(builders.parser_builder)
  steps.add_train_steps(builders, data)
  features = builders.parser_builder.build()(tf.constant(example.encode(tiny.video(3, 120))))
  sample = builders.sampler_builder.build()
  assert len({tuple(sample(features)["offset"].numpy()) for _ in range(8)}) > 1


@both
def test_eval_steps_attach(make):
  builders = make()
  steps.add_parsing(builders.parser_builder)
  steps.add_eval_steps(builders, clips=2, crops=3, frames=4, stride=2, resize=12, size=8)
  features = builders.parser_builder.build()(tf.constant(example.encode(tiny.video(3))))
  for phase in ("sampler", "decoder", "preprocessor"):
    features = getattr(builders, f"{phase}_builder").build()(features)
  assert features["image"].shape == (6, 4, 8, 8, 3)
  assert features["offset"].numpy().tolist() == [0, 0, 0, 32, 32, 32]


@both
def test_a_named_step_can_be_replaced(make):
  builders, data = make(), tiny.data()
  steps.add_parsing(builders.parser_builder)
  steps.add_train_steps(builders, data)
  assert names(builders.sampler_builder) == ["clip_frames"]
  assert names(builders.decoder_builder) == ["crop_window", "decode_crop"]

  def corner(features, state):
    state["windows"] = tf.broadcast_to([0, 0, 8, 8], [2, 4, 4])
    return features

  builders.decoder_builder.replace_fn("crop_window", corner)
  frames = tf.fill([40], tiny.jpeg(tiny.ramp()))
  features = builders.sampler_builder.build()({"image": frames})
  image = builders.decoder_builder.build()(features)["image"].numpy()
  np.testing.assert_allclose(image[0, 0].astype(int), tiny.ramp()[:8, :8], atol=6)


def test_tensorflow_leaves_the_accelerator_alone():
  assert tf.config.get_visible_devices("GPU") == []
