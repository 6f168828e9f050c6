"""The encoder that slides is that of the evaluation, and says what it is."""

import numpy as np
import pytest

from data_pipelines.videos.snippets import SnippetSettings
from tests import small
from tests.encoder.export_test import _config
from vssl_jax import results as results_lib
from vssl_jax.encoder import encoder, snippet_encoder
from vssl_jax.errors import UserError


@pytest.fixture(scope="module")
def loaded():
  config = _config()
  return config, small.weights(config), {"checkpoint": "here", "step": 3}


def test_features_are_those_of_the_loaded_encoder(loaded):
  settings = SnippetSettings(frames=2, resize=10, size=8)
  encode, made = snippet_encoder.build(loaded, settings, 3)
  clips = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 8, 3), np.uint8)
  wanted = encoder.build(*loaded)
  features = encode(clips)
  assert features.dtype == np.float32
  np.testing.assert_allclose(features, wanted.apply(wanted.params, clips), rtol=1e-5, atol=1e-6)
  assert (made.settings, made.width) == (settings, features.shape[1])
  assert made.origin["encoder_sha256"] == results_lib.tree_hash(loaded[1])
  assert made.origin["checkpoint"] == {"checkpoint": "here", "step": 3}
  assert made.origin["preprocessing"]["size"] == 8


def test_sizes_are_the_checkpoint_s_unless_they_are_given(loaded):
  cut = {"frames": 2, "step": 1, "stride": 4, "fps": 0.0, "resize": None, "size": None}
  assert snippet_encoder.settings_of(loaded, cut) == SnippetSettings(2, 1, 4, 0.0, 8, 8)
  assert snippet_encoder.settings_of(loaded, {**cut, "resize": 9}).resize == 9
  with pytest.raises(UserError, match="cannot crop 8 pixels"):
    snippet_encoder.settings_of(loaded, {**cut, "resize": 7})
