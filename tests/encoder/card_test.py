"""What a card says is of these weights, or not said."""

import hashlib
import json

import pytest

from data_pipelines.records import fingerprint, index, tfrecord
from vssl_jax import methods, results
from vssl_jax.encoder import card
from vssl_jax.errors import UserError

SUMMARY = "evaluation/summary.json"
OURS, OTHER = "a" * 64, "b" * 64


def _write(folder, *, probed=OURS, evaluated=OURS):
  results.write_json({"seed": 3, "trained": {"encoder_sha256": probed}}, folder / card.RESULT)
  results.write_json({"mean": 0.5, "encoder_sha256": evaluated}, folder / SUMMARY)


def test_results_of_these_weights(tmp_path, capsys):
  assert card.results(tmp_path, {OURS}) == {}
  _write(tmp_path)
  found = card.results(tmp_path, {OURS, "c"})
  assert found == {
    "seed": 3,
    "trained": {"encoder_sha256": OURS},
    "evaluation": {"mean": 0.5, "encoder_sha256": OURS},
  }
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize("which", ["probed", "evaluated"])
@pytest.mark.parametrize("told", [OTHER, None])
def test_results_of_other_weights_are_left_out_and_noted(tmp_path, capsys, which, told):
  _write(tmp_path, **{which: told})
  found = card.results(tmp_path, {OURS})
  assert ("trained" in found) == (which == "evaluated")
  assert ("evaluation" in found) == (which == "probed")
  note = capsys.readouterr().err
  assert note.count("\n") == 1
  assert str(tmp_path / (card.RESULT if which == "probed" else SUMMARY)) in note
  assert ("other weights (sha256 bbbbbbbbbbbb…)" if told else "has no encoder_sha256") in note


@pytest.mark.parametrize("name", ["evaluation_best", "evaluation_500"])
def test_the_evaluation_of_another_checkpoint_is_found(tmp_path, capsys, name):
  _write(tmp_path, evaluated=OTHER)  # of the last checkpoint
  results.write_json({"mean": 0.25, "encoder_sha256": OURS}, tmp_path / name / "summary.json")
  assert card.results(tmp_path, {OURS})["evaluation"]["mean"] == 0.25
  assert card.results(tmp_path, {OTHER})["evaluation"]["mean"] == 0.5
  assert "evaluation" not in card.results(tmp_path, {"c" * 64})
  note = capsys.readouterr().err
  assert f"{tmp_path / SUMMARY} is of other weights" in note
  assert f"{tmp_path / name / 'summary.json'} is of other weights" in note


def test_a_run_without_probe_has_no_scores_of_others(tmp_path):
  results.write_json({"job": "pretrain", "steps": 4}, tmp_path / card.RESULT)
  assert card.results(tmp_path, {OURS}) == {"job": "pretrain", "steps": 4}


@pytest.mark.parametrize(("text", "told"), [("{", "not JSON"), ("[]", "holds no results")])
def test_results_that_cannot_be_read_are_named(tmp_path, text, told):
  (tmp_path / card.RESULT).write_text(text)
  with pytest.raises(UserError, match=rf"result\.json: {told}"):
    card.results(tmp_path, {OURS})


def _records(folder, count=2):
  """A folder of records, and `config.data` of a run that was trained on them."""
  folder.mkdir()
  with tfrecord.ShardWriter(folder / "train-00000-of-00001.tfrecord") as writer:
    for i in range(count):
      writer.write(bytes([i]))
  (folder / card.MANIFEST).write_text('{"splits": {}}')
  d = methods.base_config("cvrl").data
  d.source, d.path, d.train_split = "tfrecord", str(folder), "train"
  d.fingerprint = fingerprint.of_records(folder, "train", index.load(folder, "train"))
  return d


def test_the_manifest_of_what_was_trained_on(tmp_path, capsys):
  d = _records(tmp_path / "records")
  found = card.data(d)
  assert found["manifest_sha256"] == hashlib.sha256(b'{"splits": {}}').hexdigest()
  assert found["fingerprint"] == d.fingerprint
  d.path = str(tmp_path / "gone")
  assert card.data(d) == {**found, "manifest_sha256": None}
  assert capsys.readouterr().err == ""


def test_other_records_in_its_place_give_no_manifest(tmp_path, capsys):
  d = _records(tmp_path / "records")
  d.path = _records(tmp_path / "others", 3).path
  assert card.data(d)["manifest_sha256"] is None
  note = capsys.readouterr().err
  assert note.count("\n") == 1
  assert f"{d.path}: its split 'train' is not what the encoder was trained on" in note
  for shard in (tmp_path / "others").glob("train-*"):
    shard.unlink()
  assert card.data(d)["manifest_sha256"] is None
  assert "not what the encoder was trained on" in capsys.readouterr().err


def test_a_run_that_kept_no_fingerprint_claims_no_manifest(tmp_path):
  d = _records(tmp_path / "records")
  d.fingerprint = ""
  assert card.data(d)["manifest_sha256"] is None


def test_hashes_of_programs(tmp_path):
  (tmp_path / "file").write_bytes(b"x")
  (tmp_path / "folder" / "variables").mkdir(parents=True)
  (tmp_path / "folder" / "variables" / "v").write_bytes(b"y")
  (tmp_path / "folder" / "graph.pb").write_bytes(b"z")
  found = card.programs(tmp_path, ["file", "folder"])
  x, y, z = (hashlib.sha256(b).hexdigest() for b in (b"x", b"y", b"z"))
  whole = hashlib.sha256(f"graph.pb {z}\nvariables/v {y}\n".encode()).hexdigest()
  assert json.loads(json.dumps(found)) == {"file": {"sha256": x}, "folder": {"sha256": whole}}
