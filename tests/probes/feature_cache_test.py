"""Features are extracted once, and anew where anything that decides them differs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import source
from vssl_jax import methods, models, results
from vssl_jax.probes import feature_cache, features
from vssl_jax.probes import views as views_lib


class Net(nn.Module):
  @nn.compact
  def __call__(self, clips, train=False):
    return nn.Dense(3)(clips[:, :, ::4, ::4].reshape(len(clips), -1))


class Counted:
  """A source that counts its passes."""

  def __init__(self, inner):
    self._inner, self.passes = inner, 0

  def __getattr__(self, name):
    return getattr(self._inner, name)

  def eval_batches(self, *args, **kwargs):
    self.passes += 1
    return self._inner.eval_batches(*args, **kwargs)


@pytest.fixture
def setup(monkeypatch):
  monkeypatch.setattr(models, "build_encoder", lambda config, mesh=None: Net())
  c = methods.base_config("cvrl")
  c.data.source, c.data.synthetic.videos, c.data.synthetic.length = "synthetic", 5, 6
  e = c.data.eval
  e.clips, e.crops, e.frames, e.stride, e.resize, e.size, e.batch_size = 2, 1, 2, 1, 8, 8, 4
  variables = Net().init(jax.random.key(0), jnp.zeros((1, 2, 8, 8, 3)))
  loaded = source.load(c.data, split="train", batch_size=1, seed=0)
  return c, jax.device_get(variables), Counted(loaded)


def test_extracted_once_and_the_same(setup, tmp_path):
  config, variables, videos = setup
  first = feature_cache.extract(tmp_path, config, variables, videos, "train")
  assert first.features.shape == (5, 1, 3)  # of each video the mean of two views
  views = features.extract(
    views_lib.feature_fn(Net(), config), variables, views_lib.eval_batches(videos, config)
  )
  np.testing.assert_array_equal(first.mean(), views.mean())
  videos.passes = 1
  again = feature_cache.extract(tmp_path, config, variables, videos, "train")
  assert videos.passes == 1
  np.testing.assert_array_equal(again.features, first.features)
  assert again.label_names == first.label_names
  assert again.info["encoder_sha256"] == results.tree_hash(variables)
  assert again.info["videos"] == videos.fingerprint


class Parted(Counted):
  """A source that breaks off at its n-th pass, over parts of it as well."""

  def __init__(self, inner, breaks_at, of=None):
    super().__init__(inner)
    self.breaks_at, self.of = breaks_at, of or self

  def only(self, videos):
    return Parted(self._inner.only(videos), 0, self.of)

  def eval_batches(self, *args, **kwargs):
    self.of.passes += 1
    if self.of.passes == self.of.breaks_at:
      raise KeyboardInterrupt
    return self._inner.eval_batches(*args, **kwargs)


def test_an_extraction_that_was_broken_off_goes_on(setup, tmp_path, monkeypatch):
  config, variables, videos = setup
  videos.video_names = tuple("abcde")
  whole = feature_cache.extract(tmp_path / "whole", config, variables, videos, "train")
  monkeypatch.setattr(feature_cache, "_PART", 2)
  parted = Parted(videos, breaks_at=2)
  with pytest.raises(KeyboardInterrupt):
    feature_cache.extract(tmp_path / "parts", config, variables, parted, "train")
  assert len(list((tmp_path / "parts").iterdir())) == 1
  found = feature_cache.extract(tmp_path / "parts", config, variables, parted, "train")
  assert parted.passes == 4  # of three parts the first was there
  for name in ("features", "label", "video", "offset"):
    np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
  assert (found.names, found.info) == (whole.names, whole.info)
  (file,) = (tmp_path / "parts").iterdir()
  assert features.load(file).names == whole.names


def test_parts_without_lost_videos_are_kept(setup, tmp_path, monkeypatch):
  config, variables, videos = setup
  monkeypatch.setattr(feature_cache, "_PART", 3)
  parted = Parted(videos, breaks_at=0)
  only = parted.only

  def lossy(chosen):
    part = only(chosen)
    whole = part.eval_batches

    def bad(*args, **kwargs):
      for batch in whole(*args, **kwargs):
        yield batch | {"valid": batch["valid"] & ((batch["video"] != 1) | (chosen[0] > 0))}

    part.eval_batches = bad
    return part

  parted.only = lossy
  assert feature_cache.extract(tmp_path, config, variables, parted, "train").video.tolist() == [
    0,
    2,
    3,
    4,
  ]
  parted.only = only
  assert feature_cache.extract(tmp_path, config, variables, parted, "train").video.tolist() == [
    *range(5)
  ]
  assert parted.passes == 3  # the second part was kept


def _other_weights(config, variables):
  return config, jax.tree.map(lambda x: x + 1, variables)


def _set(name, value):
  def change(config, variables):
    config.update_from_flattened_dict({name: value})
    return config, variables

  return change


@pytest.mark.parametrize(
  "change",
  [
    _other_weights,
    _set("data.eval.clips", 3),
    _set("augment.mean", (0.5, 0.5, 0.5)),
    _set("augment.std", (1.00001, 1.0, 1.0)),
    _set("encoder.dtype", "float32"),
  ],
)
def test_anew_where_anything_differs(setup, tmp_path, change):
  config, variables, videos = setup
  feature_cache.extract(tmp_path, config, variables, videos, "train")
  config, variables = change(config, variables)
  found = feature_cache.extract(tmp_path, config, variables, videos, "train")
  assert videos.passes == 2
  assert found.info["encoder_sha256"] == results.tree_hash(variables)
  assert len(list(tmp_path.iterdir())) == 2


def test_other_videos_are_other_features(setup, tmp_path):
  config, variables, videos = setup
  feature_cache.extract(tmp_path, config, variables, videos, "train")
  config.data.synthetic.videos = 4
  others = source.load(config.data, split="train", batch_size=1, seed=0)
  assert len(feature_cache.extract(tmp_path, config, variables, others, "train").label) == 4


@pytest.mark.parametrize("names", [("b", "a"), ("a", "c")])
def test_other_names_of_classes_are_other_features(setup, tmp_path, names):
  config, variables, videos = setup
  for videos.label_names in (("a", "b"), names):
    assert feature_cache.extract(tmp_path, config, variables, videos, "train").label_names == (
      videos.label_names
    )
  assert videos.passes == 2


def test_features_of_an_earlier_version_are_made_anew(setup, tmp_path, monkeypatch):
  config, variables, videos = setup
  feature_cache.extract(tmp_path, config, variables, videos, "train")
  monkeypatch.setattr(feature_cache, "_FORMAT", feature_cache._FORMAT + 1)
  feature_cache.extract(tmp_path, config, variables, videos, "train")
  assert videos.passes == 2


def test_a_damaged_file_is_made_anew(setup, tmp_path, capsys):
  config, variables, videos = setup
  first = feature_cache.extract(tmp_path, config, variables, videos, "train")
  (file,) = tmp_path.iterdir()
  file.write_bytes(file.read_bytes()[:100])
  found = feature_cache.extract(tmp_path, config, variables, videos, "train")
  assert "extracting again" in capsys.readouterr().out
  np.testing.assert_array_equal(found.features, first.features)
  assert features.load(file).info == found.info


def test_a_network_that_changes_is_noticed(setup, tmp_path, monkeypatch):
  config, variables, videos = setup
  variables = jax.tree.map(np.array, variables)
  whole = features.extract

  def extract(*args, **kwargs):
    variables["params"]["Dense_0"]["bias"][0] += 1e-6
    return whole(*args, **kwargs)

  monkeypatch.setattr(feature_cache.features, "extract", extract)
  with pytest.raises(RuntimeError, match="changed the variables"):
    feature_cache.extract(tmp_path, config, variables, videos, "train")
  assert not list(tmp_path.iterdir())


def test_features_of_a_bad_moment_are_not_kept(setup, tmp_path, capsys):
  config, variables, videos = setup
  whole = videos.eval_batches

  def bad(*args, **kwargs):
    for batch in whole(*args, **kwargs):
      batch["valid"] = batch["valid"] & (batch["video"] != 2)
      yield batch

  videos.eval_batches = bad
  assert len(feature_cache.extract(tmp_path, config, variables, videos, "train").label) == 4
  assert "1 videos of train could not be read" in capsys.readouterr().out
  videos.eval_batches = whole
  assert len(feature_cache.extract(tmp_path, config, variables, videos, "train").label) == 5
