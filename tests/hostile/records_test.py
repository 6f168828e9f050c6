"""Records that were cut, emptied or listed wrongly are refused; rubble is written anew."""

import errno
import hashlib
import json
import shutil
import uuid

import numpy as np
import pytest

from data_pipelines.prepare import prepare, resume
from data_pipelines.records import index, manifest, tfrecord
from tests import small
from tests.hostile import readers
from vssl_jax import files
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
  path = records / "train.index.npz"
  before = path.read_bytes() if indexed else None
  with pytest.raises(UserError, match=rf"{ONE}: has [01] records in [\d,]+ bytes, .* says 2 rec"):
    index.load(records, "train")
  assert (path.read_bytes() if path.exists() else None) == before  # of the shards as they were


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
  with pytest.raises(UserError, match=r"not in manifest.*: copy the records again, or run prepare"):
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


NOTES = {
  "noted": (None, "x", ["x"], [{}], [{"path": 1, "notes": []}], [{"path": "a", "notes": [1]}]),
  "left_out": (None, -1, 1.5, True, "1", [1]),
  "notes": (None, "x", [1]),
  "settings": (None, [], 1),
}


@pytest.mark.parametrize("key", NOTES)
def test_remarks_in_a_manifest_are_of_their_form(records, key):
  told = json.loads((records / "manifest.json").read_text())
  for value in NOTES[key]:
    told["splits"]["train"][key] = value
    manifest.write_json(records / "manifest.json", told)
    with pytest.raises(manifest.DamagedError, match="its split 'train' lacks something"):
      manifest.read(records)
  for value in ({}, {"noted": [{"path": "a", "notes": ["odd"]}], "left_out": 3}):
    told["splits"]["train"] = {k: x for k, x in told["splits"]["train"].items() if k not in NOTES}
    told["splits"]["train"] |= value
    manifest.write_json(records / "manifest.json", told)
    assert manifest.read(records) == told


def test_the_manifest_is_read_once(records, monkeypatch, tf):
  from data_pipelines.sources import tfrecord as tfrecord_source

  read, reads = manifest.read, []
  monkeypatch.setattr(manifest, "read", lambda folder: reads.append(folder) or read(folder))
  tfrecord_source.RecordStore(str(records), "train")
  assert len(reads) == 1
  with pytest.raises(UserError, match="its sha256 is"):
    manifest.verify(records)
  assert len(reads) == 2


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
  for name, some in (("videos", rows), ("train", rows[:3])):
    (folder / f"{name}.csv").write_text("\n".join(["path,label,split", *some]) + "\n")
  _prepare(folder, folder / "out")
  return folder


def _prepare(folder, out, what="videos", **options):
  options = {"shards": 2, "workers": 1, "timeout": 0.0, **options}
  return prepare.prepare(folder / f"{what}.csv", out, **options)


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


def _told(folder):
  """The splits of a manifest, without what the results of the shards do not have."""
  with files.open_read(files.path(folder) / "manifest.json") as file:
    splits = json.load(file)["splits"]
  return {n: {k: v for k, v in s.items() if k != "left_out"} for n, s in splits.items()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("at", ["disk", "bucket"])
def test_a_damaged_manifest_loses_no_split_that_is_not_prepared_again(
  prepared, tmp_path, at, overwrite
):
  out = shutil.copytree(prepared / "out", tmp_path / "out")
  (out / "manifest.json").write_bytes(b"{")
  if at == "bucket":
    (out / ".prepare" / "lock").unlink()  # there it would be a lease
    out = files.path(f"memory://{uuid.uuid4().hex}/out")
    files.upload(tmp_path / "out", out)
  _prepare(prepared, out, "train", overwrite=overwrite)
  assert _told(out) == _told(prepared / "out")
  with files.open_read(out / "manifest.json.damaged") as file:
    assert file.read() == b"{"


def test_a_damaged_manifest_is_written_anew_before_anything_else(prepared, tmp_path):
  """A killed run, or one that is refused, loses nothing."""
  out = shutil.copytree(prepared / "out", tmp_path / "out")
  (out / "manifest.json").write_bytes(b"{")
  with pytest.raises(UserError, match=r"short_side=256 \(now 16\)"):
    _prepare(prepared, out, short_side=16)
  assert _told(out) == _told(prepared / "out")


def test_parts_leave_a_damaged_manifest_to_the_run_that_follows(prepared, tmp_path):
  """Of two that mend it at once, one would rename what the other has written."""
  out = shutil.copytree(prepared / "out", tmp_path / "out")
  (out / "manifest.json").write_bytes(b"{")
  for part in ("1/2", "2/2"):
    _prepare(prepared, out, part=part)
    assert (out / "manifest.json").read_bytes() == b"{"
  assert not (out / "manifest.json.damaged").exists()
  _prepare(prepared, out)
  assert _contents(out) == _contents(prepared / "out")


JOB = ".prepare/train.job.json"


@pytest.mark.parametrize("data", RUBBLE[JOB])
def test_shards_whose_job_is_lost_are_used_by_the_settings_in_the_manifest(
  prepared, tmp_path, data
):
  out = shutil.copytree(prepared / "out", tmp_path / "out")
  (out / JOB).unlink()
  if data is not None:
    (out / JOB).write_bytes(data)
  before = _contents(out)
  for options, why in (
    ({"short_side": 16}, "train.job.json is missing or damaged, and manifest.json does not say"),
    ({"raw_aspect": True}, "does not say that they have these settings"),
    ({"shards": 3}, r"with shards=2 \(now 3\)"),
  ):
    with pytest.raises(UserError, match=why):
      _prepare(prepared, out, "train", **options)
    assert _contents(out) == before
  _prepare(prepared, out, "train", shards=0)  # as many as there are
  assert _told(out) == _told(prepared / "out")
  assert (out / JOB).read_bytes() == (prepared / "out" / JOB).read_bytes()
  assert {n: x for n, x in _contents(out).items() if n != "manifest.json"} == {
    n: x for n, x in before.items() if n != "manifest.json"
  }


@pytest.mark.parametrize("stored", [b"{", b'{"format": 7}', None])
def test_shards_whose_job_and_manifest_are_lost_are_refused(prepared, tmp_path, stored):
  out = shutil.copytree(prepared / "out", tmp_path / "out")
  (out / JOB).unlink()
  (out / "manifest.json").unlink()
  if stored is not None:
    (out / "manifest.json").write_bytes(stored)
  with pytest.raises(UserError, match=r"does not say that they have|not a manifest of format 1"):
    _prepare(prepared, out, "train")
  _prepare(prepared, out, "train", overwrite=True)
  assert _told(out)["train"] == _told(prepared / "out")["train"]


@pytest.mark.parametrize("count", ["00003", "99999"])
def test_shards_of_another_count_beside_a_lost_job_are_refused(prepared, tmp_path, count):
  out = shutil.copytree(prepared / "out", tmp_path / "out")
  (out / JOB).unlink()
  for number in range(2):
    name = f"train-{number:05d}-of-00002.tfrecord"
    other = f"train-{number:05d}-of-{count}.tfrecord"
    if count == "00003" and number == 0:
      continue
    (out / name).rename(out / other)
    (out / ".prepare" / f"{name}.json").rename(out / ".prepare" / f"{other}.json")
  before = _contents(out)
  with pytest.raises(UserError, match=r"does not say that they|made from another list of videos"):
    _prepare(prepared, out, "train", shards=0)
  assert _contents(out) == before


def test_a_job_that_cannot_be_read_now_is_not_lost(prepared, tmp_path, monkeypatch):
  out = shutil.copytree(prepared / "out", tmp_path / "out")
  read, before = files.read_json, _contents(out)

  def fails(path):
    if path.name == "train.job.json":
      raise OSError(errno.EIO, "Input/output error", str(path))
    return read(path)

  monkeypatch.setattr(files, "read_json", fails)
  with pytest.raises(UserError, match=r"train\.job\.json: Input/output error: fix this and run"):
    _prepare(prepared, out)
  assert _contents(out) == before


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
