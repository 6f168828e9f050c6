"""The transformer of scikit-learn: equal to `extract_features`, and a good citizen there."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn import base, linear_model, pipeline
from sklearn.utils import estimator_checks

import vssl_jax
from tests.data_pipelines.conftest import _make_video
from tests.encoder.encoder_test import make
from vssl_jax.errors import UserError

CUT = {"frames": 3, "stride": 2, "fps": 10, "resize": 20, "size": 16, "batch_size": 4}
ALONE = {"workers": 1, "timeout": 0}  # in this process


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """A checkpoint, a folder of videos, what `extract_features` says of each, and the encoder."""
  folder = tmp_path_factory.mktemp("world")
  make(folder / "exported")
  for name, frames in (("b", 12), ("a", 7), ("deep/c", 1), ("d", 9)):
    pattern = np.random.default_rng(frames).integers(0, 256, (24, 32, 3), np.uint8)
    _make_video(folder / "videos" / f"{name}.mp4", frames=frames, fps=10, pattern=pattern)
  vssl_jax.extract_features(folder / "exported", folder / "videos", folder / "out", **CUT, **ALONE)
  known = {p.stem: np.load(p).mean(axis=0) for p in (folder / "out").glob("*.npy")}
  assert len(known) == 4
  return folder, known, vssl_jax.VideoEncoder(folder / "exported", **CUT, **ALONE)


def test_it_equals_extract_features_to_the_bit(world):
  folder, known, encoder = world
  found = encoder.fit(None).transform(folder / "videos")
  assert (found.dtype, found.shape) == (np.float32, (4, len(known["a"])))
  np.testing.assert_array_equal(found, [known[name] for name in "abcd"])
  assert len(np.unique(found, axis=0)) == 4
  d, b = (folder / "videos" / f"{name}.mp4" for name in "db")
  for wanted in ([d, str(b), d], np.array([d, b, d], object), np.array([[str(d)], [b], [d]])):
    np.testing.assert_array_equal(encoder.transform(wanted), [known[name] for name in "dbd"])
  assert len(encoder.get_feature_names_out()) == found.shape[1]


def test_arrays_are_their_files(world, tmp_path):
  folder, _, encoder = world
  videos = np.random.default_rng(0).integers(0, 256, (3, 8, 20, 26, 3), np.uint8)
  for i, video in enumerate(videos):
    np.save(tmp_path / f"{i}.npy", video)
  rated = base.clone(encoder).set_params(stream_fps=20)
  args = {**CUT, **ALONE, "stream_fps": 20}
  vssl_jax.extract_features(folder / "exported", tmp_path, tmp_path / "out", **args)
  known = [np.load(tmp_path / "out" / f"{i}.npy").mean(axis=0) for i in range(3)]
  np.testing.assert_array_equal(rated.transform(videos), known)
  np.testing.assert_array_equal(rated.transform([videos[1], tmp_path / "0.npy"]), known[1::-1])
  # Without a rate, frames are taken as they are.
  plain, own = base.clone(encoder), base.clone(encoder).set_params(stream_fps=10)
  np.testing.assert_array_equal(plain.transform(list(videos)), own.transform(videos))
  assert np.any(plain.transform(videos) != known)


def test_a_span_is_the_video_of_its_frames(world, tmp_path):
  folder, known, encoder = world
  rng = np.random.default_rng(3)
  frames = rng.integers(0, 256, (12, 24, 32, 3), np.uint8)
  np.save(tmp_path / "v.npy", frames)
  rated = base.clone(encoder).set_params(stream_fps=10)
  spans = [(tmp_path / "v.npy", 0.3, 0.9), (tmp_path / "v.npy", 0, 1e9), (tmp_path / "v.npy", 1, 2)]
  wanted = rated.transform([frames[3:9], frames, frames[10:]])
  np.testing.assert_array_equal(rated.transform(spans), wanted)
  table = np.array([[str(x) for x in span] for span in spans])
  np.testing.assert_array_equal(rated.transform(table), wanted)
  video = folder / "videos" / "b.mp4"
  whole, part = encoder.transform([(video, 0, 9), (video, 0.5, 1.0)])
  np.testing.assert_array_equal(whole, known["b"])
  assert np.any(part != whole)
  with pytest.raises(UserError, match=r"b\.mp4: cannot be read: no frames from 7 to 8 s\.$"):
    encoder.transform([(video, 7, 8)])


def test_a_pipeline_a_clone_and_a_pickle(world):
  folder, known, encoder = world
  videos = [folder / "videos" / f"{name}.mp4" for name in ("a", "b", "d")]
  labels = [0, 1, 0]
  line = pipeline.make_pipeline(base.clone(encoder), linear_model.LogisticRegression())
  stored = pickle.dumps(line.fit(videos, labels))
  features = np.stack([known[name] for name in "abd"])
  expected = linear_model.LogisticRegression().fit(features, labels).predict_proba(features)
  np.testing.assert_array_equal(line.predict_proba(videos), expected)
  np.testing.assert_array_equal(pickle.loads(stored).predict_proba(videos), expected)

  encoder.transform(videos[:1])
  data = pickle.dumps(encoder)
  assert len(data) < 1000
  again = pickle.loads(data)
  assert again.get_params() == encoder.get_params() == base.clone(encoder).get_params()
  assert set(vars(again)) == set(encoder.get_params())
  # Another argument takes effect, also after the encoder was loaded.
  again.transform(videos[:1])
  again.set_params(stride=1)
  assert np.any(again.transform(videos[:1]) != encoder.transform(videos[:1]))


def test_bad_input_is_one_line(world, tmp_path):
  folder, _, encoder = world
  video = folder / "videos" / "a.mp4"
  (tmp_path / "bad.mp4").write_bytes(b"no video")
  for wrong, told in (
    ([tmp_path / "no.mp4"], r"X\[0\]: .*no\.mp4 is no folder and no video"),
    ([video, tmp_path / "bad.mp4"], r"bad\.mp4: cannot be read: .*decoded"),
    ([video, folder / "videos"], r"X\[1\]: .*videos is a folder"),
    ([(video, 2, 1)], r"X\[0\]: its span is 2 to 1 s"),
    ([(video, "x", 1)], r"X\[0\]: start and end"),
    ([(video, float("nan"), 1)], r"X\[0\]: its span"),
    ([3], r"X\[0\] is of type int"),
    ([], "X is empty"),
    (None, "X is of type NoneType"),
    (np.zeros((4, 8, 8, 3), np.uint8), r"X is uint8\[4, 8, 8, 3\]"),
    ([np.zeros((4, 8, 8, 3))], r"X\[0\] is float64\[4, 8, 8, 3\]"),
    ([np.zeros((4, 8, 8, 1), np.uint8)], r"X\[0\]: cannot be read: it has 1 channels"),
  ):
    with pytest.raises(UserError, match=told) as error:
      encoder.transform(wrong)
    assert "\n" not in str(error.value)
  with pytest.raises(UserError, match="path: give the folder"):
    vssl_jax.VideoEncoder().transform([video])
  with pytest.raises(UserError, match=r"no config\.json"):
    vssl_jax.VideoEncoder(tmp_path).transform([video])


class OfTables(vssl_jax.VideoEncoder):
  """Says that it takes tables of numbers, without which scikit-learn makes next to no checks."""

  def __sklearn_tags__(self):
    tags = super().__sklearn_tags__()
    tags.input_tags.two_d_array = True
    return tags


_TABLE = "has it transform a table of numbers, which is no video"
NOT_APPLICABLE = {
  "check_fit_score_takes_y": _TABLE,
  "check_estimators_dtypes": _TABLE,
  "check_pipeline_consistency": _TABLE,
  "check_estimators_pickle": _TABLE,
  "check_f_contiguous_array_estimator": _TABLE,
  "check_transformer_general": _TABLE,
  "check_transformers_unfitted_stateless": _TABLE,
  "check_methods_sample_order_invariance": _TABLE,
  "check_methods_subset_invariance": _TABLE,
  "check_dict_unchanged": _TABLE,
  "check_fit_idempotent": _TABLE,
  "check_estimator_sparse_tag": "wants `fit` to refuse sparse tables; ours looks at nothing",
  "check_array_api_input": "is skipped unless SCIPY_ARRAY_API is set",
}


@pytest.mark.skipif(not hasattr(estimator_checks, "_yield_api_checks"), reason="before 1.6")
def test_the_checks_of_scikit_learn():
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    found = estimator_checks.check_estimator(OfTables(), on_fail=None, on_skip=None)
  lost = {row["check_name"]: str(row["exception"]) for row in found if row["status"] != "passed"}
  assert lost.keys() <= NOT_APPLICABLE.keys()
  for name, told in lost.items():
    if NOT_APPLICABLE[name] is _TABLE:
      assert told.startswith("X is float"), name
  assert len(found) - len(lost) > 15
