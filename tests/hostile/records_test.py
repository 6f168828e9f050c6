"""Records that were cut, emptied or listed wrongly are refused; rubble is written anew."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from data_pipelines.prepare import prepare, resume
from data_pipelines.records import index, manifest, tfrecord
from tests import small
from tests.hostile import readers
from vssl_jax.errors import UserError

ONE = "train-00000-of-00002.tfrecord"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp("written")
  readers._manifest(folder)
  return folder


@pytest.fixture
def records(written, tmp_path):
  return shutil.copytree(written, tmp_path / "records")


def _cut(path):
  """Cuts the last record, so that what is left is a valid shard."""
  offsets, _ = tfrecord.scan(path)
  path.write_bytes(path.read_bytes()[: offsets[-1] - tfrecord.HEADER])


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("damage", [_cut, lambda path: path.write_bytes(b"")], ids=["cut", "empty"])
def test_a_shard_cut_where_a_record_ends_loses_no_video_in_silence(records, damage, indexed):
  damage(records / ONE)
  if not indexed:
    (records / "train.index.npz").unlink()
  with pytest.raises(UserError, match=rf"{ONE}: has [01] records in [\d,]+ bytes, .* says 2 rec"):
    index.load(records, "train")


def test_a_shard_of_as_many_bytes_and_fewer_records_is_seen(records):
  whole = (records / ONE).stat().st_size
  with tfrecord.ShardWriter(records / ONE) as writer:
    writer.write(b"x" * (whole - tfrecord.HEADER - tfrecord.FOOTER))
  (records / "train.index.npz").unlink()
  with pytest.raises(UserError, match=rf"has 1 records in {whole:,} bytes, .* says 2 records"):
    index.load(records, "train")


def test_shards_that_the_manifest_does_not_have(records):
  for number in range(2):
    old = records / f"train-{number:05d}-of-00002.tfrecord"
    old.rename(records / f"train-{number:05d}-of-00002")
  with pytest.raises(UserError, match="not in manifest"):
    index.load(records, "train")


def test_a_damaged_manifest_stops_and_a_split_that_it_lacks_does_not(records):
  told = json.loads((records / "manifest.json").read_text())
  manifest.write_json(records / "manifest.json", {**told, "splits": {}})
  assert len(index.load(records, "train")) == 4
  (records / "manifest.json").write_text('{"format": 1, "splits"')
  with pytest.raises(manifest.DamagedError, match=r"manifest\.json: damaged, cannot be read"):
    index.load(records, "train")


@pytest.mark.parametrize("key", ["labels", "splits", "sha256"])
def test_a_manifest_without_a_part_is_damaged(records, key):
  told = json.loads((records / "manifest.json").read_text())
  del told[key]
  manifest.write_json(records / "manifest.json", told)
  with pytest.raises(manifest.DamagedError, match=f"damaged, without its {key[:6]}|labels or sha"):
    manifest.read(records)


@pytest.mark.parametrize("name", ["../x", "/x", "", "..", "a\0", 5])
def test_a_shard_of_a_manifest_lies_in_its_folder(records, name):
  told = json.loads((records / "manifest.json").read_text())
  told["splits"]["train"]["shards"][0]["name"] = name
  manifest.write_json(records / "manifest.json", told)
  with pytest.raises(manifest.DamagedError, match="its split 'train'"):
    manifest.verify(records)


def test_every_byte_is_verified_on_demand(records, capsys):
  told = json.loads((records / "manifest.json").read_text())
  shards = told["splits"]["train"]["shards"]
  for shard in shards:
    shard["sha256"] = hashlib.sha256((records / shard["name"]).read_bytes()).hexdigest()
  manifest.write_json(records / "manifest.json", told)
  assert manifest.verify(records) == manifest.verify(records, ["train"]) == 2
  with pytest.raises(UserError, match="has no split 'test'"):
    manifest.verify(records, ["test"])
  data = bytearray((records / ONE).read_bytes())
  data[-1] ^= 1
  (records / ONE).write_bytes(data)
  assert len(index.load(records, "train")) == 4  # of the same length
  with pytest.raises(UserError, match=rf"{ONE}: damaged or replaced: its sha256"):
    manifest.verify(records)
  assert (
    small.vssl(
      "inspect", records, "--config=cvrl:demo", "--config.data.source=tfrecord", "--verify"
    )
    == 2
  )
  assert "its sha256 is" in capsys.readouterr().err
  (records / ONE).unlink()
  with pytest.raises(UserError, match="cannot be read"):
    manifest.verify(records)
  (records / "manifest.json").unlink()
  with pytest.raises(UserError, match=r"no manifest\.json"):
    manifest.verify(records)


BIG = 1 << 60
INDICES = {
  "lengths of 2^60": {"offset": np.array([12, BIG, 12, BIG])},
  "lengths that wrap around": {"offset": np.array([12, 1 << 62, -(1 << 62), 12])},
  "past the end": {"offset": np.array([12, 10_000, 12, 10_000])},
  "negative": {"offset": np.array([-4, 80, 12, 80])},
  "backwards": {"offset": np.array([80, 12, 12, 80])},
  "too few": {"offset": np.array([12])},
  "two axes": {"offset": np.array([[12, 80], [12, 80]])},
  "floats": {"offset": np.array([12.0, 80.0, 12.0, 80.0])},
  "32 bits": {"offset": np.array([12, 80, 12, 80], np.int32)},
  "starts of 2^60": {"starts": np.array([0, BIG, 4])},
  "starts that fall": {"starts": np.array([0, 5, 4])},
  "no starts": {"starts": np.array([], np.int64)},
  "other sizes": {"sizes": np.array([BIG, BIG])},
  "other shards": {"files": np.array(["a", "b"])},
  "paths outside": {"files": np.array(["../a", "../b"])},
  "an old form of 2^60 shards": {
    "starts": None,
    "shard": np.array([0, 0, 1, BIG]),
    "length": np.array([1, 1, 1, 1]),
  },
  "an old form of lengths of 2^60": {
    "starts": None,
    "shard": np.array([0, 0, 1, 1]),
    "length": np.array([BIG] * 4),
  },
}


@pytest.mark.parametrize("change", INDICES.values(), ids=INDICES)
def test_an_index_that_does_not_fit_is_not_used(records, change, caplog):
  path = records / "train.index.npz"
  good = index.load(records, "train").offset.tolist()  # a copy of what is mapped
  with np.load(path) as stored:
    fields = {k: stored[k] for k in stored.files}
  fields = {k: x for k, x in {**fields, **change}.items() if x is not None}
  np.savez(path, **fields)
  assert index.read(path, index.find(records, "train")) is None
  found = index.load(records, "train")
  assert "does not fit its shards" in caplog.text
  assert found.offset.tolist() == good
  assert index.read(path, index.find(records, "train")) is not None  # it is made anew


RUBBLE = {
  "manifest.json": (
    b"{",
    b"",
    b"\xff\x00",
    b"[" * 100_000,
    b"[]",
    b'{"format": 1}',
    b'{"a": 1}',
    b'{"format": 1, "labels": [], "sha256": "", "splits": {"train": {}}}',
    None,
  ),
  ".prepare/train.job.json": (b"{", b"", b"[]", b'{"shards": "x"}', b'{"shards": -1}', None),
  "train.index.npz": (b"x", b"", None),
  "labels.txt": (b"\xff\xfe\x00", b"", None),
  f".prepare/{ONE}.json": (b"{", b'{"bytes": []}', None),
  ONE: (b"", b"rubbish", None),
}
CASES = [(name, data) for name, several in RUBBLE.items() for data in several]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Four unreadable videos in two splits: records without any decoding."""
  folder = tmp_path_factory.mktemp("prepared")
  rows = [f"{i}.mp4,{'ab'[i % 2]},{'train' if i < 3 else 'test'}" for i in range(4)]
  for i in range(4):
    (folder / f"{i}.mp4").write_bytes(b"no video")
  (folder / "videos.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
  _prepare(folder, folder / "out")
  return folder


def _prepare(folder, out, **options):
  options = {"shards": 2, "workers": 1, "timeout": 0.0, **options}
  return prepare.prepare(folder / "videos.csv", out, **options)


def _contents(folder):
  kept = (p for p in folder.iterdir() if p.is_file() and ".damaged" not in p.name)
  return {p.name: p.read_bytes() for p in kept if not p.name.endswith(".npz")}


@pytest.mark.parametrize(("name", "data"), CASES)
def test_overwriting_works_on_any_rubble(prepared, tmp_path, name, data):
  out = shutil.copytree(prepared / "out", tmp_path / "out")
  (out / name).unlink()
  if data is not None:
    (out / name).write_bytes(data)
  _prepare(prepared, out, overwrite=True)
  assert _contents(out) == _contents(prepared / "out")
  if name == "manifest.json" and data is not None:  # nothing is lost
    assert (out / "manifest.json.damaged").read_bytes() == data


def test_folders_where_files_should_be_are_cleared_away(prepared, tmp_path):
  out = shutil.copytree(prepared / "out", tmp_path / "out")
  for name in ("train.index.npz", ".prepare/train.job.json"):
    (out / name).unlink()
    (out / name).mkdir()
  _prepare(prepared, out, overwrite=True)
  assert _contents(out) == _contents(prepared / "out")


@pytest.mark.parametrize("data", RUBBLE["manifest.json"][:4])
def test_a_damaged_manifest_is_made_anew_with_all_splits(prepared, tmp_path, data, caplog):
  out = shutil.copytree(prepared / "out", tmp_path / "out")
  (out / "manifest.json").write_bytes(data)
  _prepare(prepared, out)
  assert _contents(out) == _contents(prepared / "out")
  assert (out / "manifest.json.damaged").read_bytes() == data
  assert "made anew with the splits test, train" in caplog.text
  found = resume.earlier(out)["splits"]
  assert list(found) == ["test", "train"]


def test_a_manifest_of_another_program_is_not_overwritten_in_silence(prepared, tmp_path):
  out = shutil.copytree(prepared / "out", tmp_path / "out")
  (out / "manifest.json").write_text('{"format": 7}')
  before = _contents(out)
  with pytest.raises(manifest.ForeignError, match="not a manifest of format 1"):
    _prepare(prepared, out)
  assert _contents(out) == before


def test_reading_comes_before_deleting(prepared, tmp_path, monkeypatch):
  out = shutil.copytree(prepared / "out", tmp_path / "out")
  before = _contents(out)

  def fails(folder):
    raise KeyboardInterrupt

  monkeypatch.setattr(manifest, "read", fails)
  with pytest.raises(KeyboardInterrupt):
    _prepare(prepared, out, overwrite=True)
  assert _contents(out) == before
