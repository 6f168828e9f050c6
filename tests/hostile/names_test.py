"""A name from a file becomes no path outside the folder that the user named."""

import json

import numpy as np
import pytest

from data_pipelines.sources import features
from data_pipelines.untrimmed import sequences
from tests.data_pipelines import tiny
from tests.hostile import readers
from vssl_jax import methods
from vssl_jax.encoder import card, exported, snippet_features
from vssl_jax.errors import UserError
from vssl_jax.evaluation import run
from vssl_jax.files import text as files_text
from vssl_jax.jobs import pretrain
from vssl_jax.localization import annotations
from vssl_jax.localization.annotations import Segment, Video
from vssl_jax.training import loop

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


@pytest.mark.parametrize("name", [*NAMES[:4], "..", *NAMES[5:]])
def test_a_pair_of_splits_has_its_folder_in_the_output(name):
  """The name of the data is a stranger's where a checkpoint is."""
  config = methods.base_config("cvrl")
  config.data.source, config.data.name = "tfds", name
  with pytest.raises(UserError, match=r"config\.data of the checkpoint: the name .* rename it"):
    run._cases(config)
  config.data.name = "ucf101/ucf101_1:2.0.0"
  assert [case.name for case in run._cases(config)] == ["ucf101/ucf101_1:2.0.0"]


DEEP = "[" * 100_000


@pytest.mark.parametrize("text", ["{", DEEP, "[1]", "3", "caf\xe9"])
def test_files_of_a_run_that_are_read_again_may_be_damaged(tmp_path, text, monkeypatch):
  file = tmp_path / pretrain.TRAINING
  file.write_bytes(text.encode("latin-1"))
  finished = loop.Result(None, None, 3, False, 0.0, 0.0, {})
  with pytest.raises(UserError, match=r"training\.json: damaged, not .* restore or remove it"):
    pretrain._training(finished, tmp_path)
  monkeypatch.setattr(files_text, "MOST", 0)
  with pytest.raises(UserError, match=r"training\.json: more than .* too much for a text"):
    pretrain._training(finished, tmp_path)


@pytest.mark.parametrize("text", ["{", DEEP, "[1]", "caf\xe9"])
def test_results_that_are_damaged_are_none(tmp_path, text):
  (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
  assert run._stored(tmp_path / "x.json") is None
  (tmp_path / card.RESULT).write_bytes(text.encode("latin-1"))
  config = methods.base_config("cvrl")
  opened = pretrain.Run(config, tmp_path, None, None, None, None, [], None, "why")
  assert pretrain._kept(opened, {}) == ({"protocol": "none: why"} if config.probe.run else {})


@pytest.mark.parametrize(
  "line", ["{", DEEP, "[1]", '{"name": "a", "by', '{"name": "b"}', "caf\xe9"]
)
def test_a_journal_of_features_may_be_damaged(tmp_path, line):
  path, head = tmp_path / "progress.jsonl", {"encoder": "0"}
  good = {"name": "a", "bytes": 3, "snippets": 2, "seconds": 0.5}
  lines = [json.dumps(head), line, json.dumps(good)]
  path.write_bytes("\n".join(lines).encode("latin-1"))
  journal = snippet_features._Journal(path, head)
  assert journal.facts(tmp_path / "a.mp4") == {k: v for k, v in good.items() if k != "name"}
  assert not journal.has(tmp_path / "b.mp4")
  assert path.read_text() == "".join(f"{json.dumps(row)}\n" for row in (head, good))
