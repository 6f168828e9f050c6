"""Records against TensorFlow's protocol buffers and DMVR's feature specification."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.records import sequence_example as example
from vssl_jax.errors import UserError

VIDEO = example.Video(
  frames=(b"\xff\xd8one", b"\xff\xd8two", b"\xff\xd8" + bytes(range(256))),
  fps=29.97,
  label=3,
  label_text="HorseRace",
  filename="HorseRace/a.mp4",
  start=1_000_000,
  end=1_100_100,
  caption="a horse, ä",
)


@pytest.fixture
def parse(tf):
  """TensorFlow's reading of a record, by keys that DMVR's add_label, add_text and generator use."""
  ragged = {
    "clip/label/index": tf.io.VarLenFeature(tf.int64),
    "clip/label/text": tf.io.VarLenFeature(tf.string),
    "caption/string": tf.io.VarLenFeature(tf.string),
  }
  context_spec = ragged | {
    "video/filename": tf.io.FixedLenFeature((), tf.string),
    "clip/start/timestamp": tf.io.FixedLenFeature((), tf.int64),
    "clip/end/timestamp": tf.io.FixedLenFeature((), tf.int64),
    "image/frame_rate": tf.io.FixedLenFeature((), tf.float32),
  }
  lists_spec = {"image/encoded": tf.io.FixedLenSequenceFeature((), tf.string)}

  def parse(record):
    context, lists = tf.io.parse_single_sequence_example(record, context_spec, lists_spec)
    dense = {k: tf.sparse.to_dense(v) if k in ragged else v for k, v in context.items()}
    return {k: v.numpy() for k, v in (dense | lists).items()}

  return parse


def test_tensorflow_parses_dmvr_keys(parse):
  found = parse(example.encode(VIDEO))
  assert found["clip/label/index"].tolist() == [3]
  assert found["clip/label/text"].tolist() == [b"HorseRace"]
  assert found["caption/string"].tolist() == ["a horse, ä".encode()]
  assert found["video/filename"] == b"HorseRace/a.mp4"
  assert found["clip/start/timestamp"] == 1_000_000
  assert found["clip/end/timestamp"] == 1_100_100
  assert found["image/frame_rate"] == np.float32(29.97)
  assert found["image/encoded"].tolist() == list(VIDEO.frames)


def test_the_bytes_are_those_of_tensorflows_message(tf):
  message = tf.train.SequenceExample.FromString(example.encode(VIDEO))
  assert message.SerializeToString(deterministic=True) == example.encode(VIDEO)
  assert not message.context.feature["image/frame_rate"].int64_list.value


def test_round_trip():
  found = example.decode(example.encode(VIDEO))
  assert found.fps == pytest.approx(29.97, rel=1e-6)
  assert example.Video(**{**vars(found), "fps": 29.97}) == VIDEO


def test_an_unlabeled_video_has_a_label_that_batches(parse, tf):
  found = parse(example.encode(example.Video(frames=(b"a", b"b"), fps=25)))
  assert found["clip/label/index"].tolist() == [-1]
  assert found["clip/label/text"].tolist() == [b""]
  assert not tf.one_hot(found["clip/label/index"], 5).numpy().any()
  assert example.decode(example.encode(example.Video(frames=(b"a",)))).label == -1


def test_a_name_that_is_no_utf8_survives(parse):
  name = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
  record = example.encode(example.Video(frames=(b"a",), fps=1, filename=name))
  assert parse(record)["video/filename"] == b"caf\xe9.mp4"
  assert example.decode(record).filename == name


def dmvr_record(tf, **context):
  """As DMVR's generate_from_file.py writes it: no frame rate, labels only where there are some."""
  message = tf.train.SequenceExample()
  for frame in (b"a", b"b", b"c"):
    feature = message.feature_lists.feature_list["image/encoded"].feature.add()
    feature.bytes_list.value[:] = [frame]
  for key, value in context.items():
    kind = "int64_list" if isinstance(value, int) else "bytes_list"
    getattr(message.context.feature[key.replace("__", "/")], kind).value[:] = [value]
  return message.SerializeToString()


def test_reads_dmvrs_records(tf):
  times = {"clip__start__timestamp": 2_000_000, "clip__end__timestamp": 2_300_000}
  found = example.decode(
    dmvr_record(tf, clip__label__index=4, video__filename=b"/x/y.mp4", **times)
  )
  assert found.frames == (b"a", b"b", b"c")
  assert (found.label, found.label_text, found.filename) == (4, "", "/x/y.mp4")
  assert found.fps == pytest.approx(10.0)


def test_reads_a_record_with_frames_alone(tf):
  found = example.decode(dmvr_record(tf))
  assert (found.fps, found.label, found.filename) == (0.0, -1, "")


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b""])  # b"": an empty message
def test_other_bytes_are_refused(data):
  with pytest.raises(UserError, match="SequenceExample"):
    example.decode(data)


def test_frames_under_another_key_are_named(tf):
  message = tf.train.SequenceExample()
  message.feature_lists.feature_list["video/frames"].feature.add().bytes_list.value[:] = [b"a"]
  with pytest.raises(UserError, match=r"image/encoded.*video/frames"):
    example.decode(message.SerializeToString())


@pytest.mark.parametrize("values", [[], [b"a", b"b"]])
def test_a_frame_that_is_not_one_jpeg_is_named(tf, values):
  message = tf.train.SequenceExample.FromString(dmvr_record(tf))
  frames = message.feature_lists.feature_list["image/encoded"].feature
  frames[1].bytes_list.value[:] = values
  with pytest.raises(UserError, match=f"{len(values)} values for frame 1 under 'image/encoded'"):
    example.decode(message.SerializeToString())
  frames[1].int64_list.value[:] = [7]  # another kind of value
  with pytest.raises(UserError, match="0 values for frame 1"):
    example.decode(message.SerializeToString())


@pytest.mark.parametrize(
  ("context", "expected"),
  [
    ({"image/frame_rate": 12.5}, 12.5),
    ({"image/frame_rate": np.float32(12.5), "clip/end/timestamp": 1}, 12.5),
    ({"image/frame_rate": np.array([12.5])}, 12.5),
    ({"image/frame_rate": [], "clip/start/timestamp": [0], "clip/end/timestamp": [4_000_000]}, 5.0),
    ({"clip/start/timestamp": np.int64(10**6), "clip/end/timestamp": np.int64(3 * 10**6)}, 10.0),
    ({"clip/end/timestamp": 500_000}, 40.0),
  ],
)
def test_fps_of(context, expected):
  assert example.fps_of(context, 20) == pytest.approx(expected)


@pytest.mark.parametrize("context", [{}, {"image/frame_rate": 0.0}, {"clip/end/timestamp": 0}])
def test_fps_of_names_the_video_where_it_is_unknown(context):
  with pytest.raises(UserError, match=r"x/y\.avi.*frame rate is unknown"):
    example.fps_of({"video/filename": [b"x/y.avi"], **context}, 20)


@pytest.mark.parametrize("key", [example.FRAME_RATE, example.START, example.END])
@pytest.mark.parametrize("value", [[b"fast"], [float("inf")], "soon"])
def test_fps_of_what_is_no_number(key, value):
  with pytest.raises(UserError, match=f"as '{key}', which must be a number"):
    example.fps_of({example.FILENAME: [b"a.mp4"], key: value}, 5)


def test_neither_records_nor_prepare_import_tensorflow():
  code = "import sys, data_pipelines.prepare; print(*(m in sys.modules for m in sys.argv[1:]))"
  command = [sys.executable, "-c", code, "tensorflow", "jax"]
  root = pathlib.Path(__file__).parents[2]
  out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
  assert out.stdout == "False False\n"


def test_the_name_is_read_from_the_first_bytes():
  record = example.encode(VIDEO)
  context = len(record) - sum(map(len, VIDEO.frames)) - 40
  assert example.filename_of(record) == VIDEO.filename
  whole = next(n for n in range(len(record)) if example.filename_of(record[:n]) is not None)
  assert whole <= context + 40
  assert example.filename_of(record[:whole]) == VIDEO.filename
  assert all(example.filename_of(record[:n]) is None for n in range(whole))


def test_the_name_of_a_foreign_record(tf):
  frames = {"image/encoded": tf.train.FeatureList(feature=[])}
  lists = tf.train.FeatureLists(feature_list=frames)
  bare = tf.train.SequenceExample(context=tf.train.Features(), feature_lists=lists)
  assert example.filename_of(bare.SerializeToString()) == ""
  assert example.filename_of(b"\x12\x00") is None  # frames first: decode the record
  assert example.filename_of(b"\x0a\x04" + b"\xff" * 4) is None  # no message
