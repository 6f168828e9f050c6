"""A name from a file becomes no path outside the folder that the user named."""

import json

import numpy as np
import pytest

from data_pipelines.sources import features
from data_pipelines.untrimmed import sequences
from tests.data_pipelines import tiny
from tests.hostile import readers
from vssl_jax import methods
from vssl_jax.encoder import exported
from vssl_jax.errors import UserError
from vssl_jax.evaluation import run
from vssl_jax.localization import annotations
from vssl_jax.localization.annotations import Segment, Video

NAMES = ("../../x", "/tmp/x", "a/../../x", "nul\0", "", "a\\..\\..\\x", "x" * 300, "\ud800")
SEGMENT = {"segment": [0.5, 1.0], "label": "run", "score": 0.5}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_videos_in_annotations(tmp_path, name):
  entry = {"subset": "train", "duration": 2.0, "annotations": [SEGMENT]}
  path = tmp_path / "annotations.json"
  path.write_text(json.dumps({"database": {name: entry}}))
  with pytest.raises(UserError, match=r"annotations\.json: the name .* rename it"):
    annotations.read_annotations(path)
  path.write_text(json.dumps({"results": {name: [SEGMENT]}}))
  with pytest.raises(UserError, match=r"annotations\.json: the name .* rename it"):
    annotations.read_predictions(path)


@pytest.mark.parametrize("name", [n for n in NAMES if n.isprintable()])
def test_names_of_videos_in_durations_and_labels(tmp_path, name):
  readers._durations(tmp_path)
  (tmp_path / "durations.csv").write_text(f'video_id,duration_s\n"{name}",2.0\n')
  with pytest.raises(UserError, match=r"durations\.csv, line 2: the name .* rename it"):
    readers.READERS["durations"].read(tmp_path)
  (tmp_path / "labels.csv").write_text(f'path,label\n"{name}",run\n')
  data = tiny.data(tmp_path, source="features")
  with pytest.raises(UserError, match=r"labels\.csv, line 2: the name .* rename it"):
    features.load(data, **readers.SEQUENCE)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_written_outside_the_folder_of_a_data_set(tmp_path, name):
  videos = {name: Video("train", 2.0, (Segment(0.5, 1.0, "run"),))}
  made = sequences.Dataset(videos, {name: np.ones((3, 2))}, 0.64)
  with pytest.raises(UserError, match="the name"):
    made.write(tmp_path / "a" / "b")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [*NAMES[:4], "sub/encoder.safetensors"])
def test_the_weights_of_a_card_lie_beside_it(tmp_path, name):
  readers._card(tmp_path)
  card = json.loads((tmp_path / "encoder.json").read_text())
  card["weights"]["file"] = name
  (tmp_path / "encoder.json").write_text(json.dumps(card))
  with pytest.raises(UserError, match=r"encoder\.json: weights\.file"):
    exported.load_exported(tmp_path)


@pytest.mark.parametrize(
  ("name", "folder"),
  [("../../x", "x"), ("/tmp/x", "tmp/x"), ("..", "data"), ("ucf101/ucf101_1", "ucf101/ucf101_1")],
)
def test_a_pair_of_splits_has_its_folder_in_the_output(name, folder):
  """The name of the data is a stranger's where a checkpoint is."""
  config = methods.base_config("cvrl")
  config.data.source, config.data.name = "tfds", name
  (case,) = run._cases(config)
  assert case.name == folder
