"""Commands with addresses of buckets: what they write there, and what they refuse in one line.

The bucket is in the memory of this process. Servers that answer as real ones do are in
`tests/slow/buckets_test.py`.
"""

import json
import pathlib

import numpy as np
import pytest

import vssl_jax
from data_pipelines.records import index
from data_pipelines.records import sequence_example as example
from tests import small
from vssl_jax import files, results
from vssl_jax.errors import UserError
from vssl_jax.training import run_folder

pytest.importorskip("upath")
pytestmark = pytest.mark.usefixtures("one_device")
AT = "gs://bucket/there"
REFUSED = {
  "train from features": ["train", "--config=dcc", f"--config.data.path={AT}"],
  "plan": ["plan", "--config=cvrl:demo", "--topology=cpu:8", f"--output={AT}"],
  "convert": ["convert", f"--from={AT}", "--format=pyslowfast", "--to=out"],
  "score": ["score", f"--annotations={AT}", f"--predictions={AT}"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_commands_refuse(name, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert small.vssl(*REFUSED[name]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: ")
  assert "gs://bucket/there: this must be a file or folder in a file system; copy it" in line
  assert not (tmp_path / "gs:").exists()


@pytest.mark.parametrize(
  "argv",
  [
    ["prepare", "memory://none", "records"],
    ["evaluate", "--checkpoint=memory://none"],
    ["export", "--checkpoint=memory://none", "--output=out"],
    ["extract", "--checkpoint=memory://none", "--videos=memory://none", "--output=out"],
    ["train", "--config=cvrl:ucf6", "--config.data.path=memory://none"],
    ["prepare", "gs:/one/slash", "records"],
    ["export", "--checkpoint=nosuch://a/b", "--output=out"],
  ],
  ids=lambda argv: " ".join(argv)[:60],
)
def test_what_is_not_there_is_one_line(argv, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert small.vssl(*argv) == 2
  assert [line[:7] for line in capsys.readouterr().err.splitlines()][-1] == "error: "


@pytest.fixture(scope="module")
def bucket():
  folder = files.path("memory://bucket/addresses")
  yield folder
  files.remove_tree(folder)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  return small.write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def places(tmp_path_factory, bucket, videos):
  """A folder here and an address; what lies below each is made from the other's kind of input."""
  files.upload(videos, str(bucket / "videos"))
  here = tmp_path_factory.mktemp("here")
  for place, source in ((here, bucket / "videos"), (bucket, videos)):
    argv = ["prepare", source, place / "records", "--timeout=0", "--workers=1", "--shards=2"]
    assert small.vssl(*argv) == 0
  return here, bucket


def test_records_are_the_same(places, bucket, capsys):
  here, there = (p / "records" for p in places)
  for name in ("train-00000-of-00002.tfrecord", "train.index.npz", "manifest.json", "labels.txt"):
    assert (here / name).read_bytes() == (there / name).read_bytes()
  found = [index.load(p, "train") for p in (here, there)]
  assert len(found[0]) == len(found[1]) == 8
  for i in range(8):
    read = [example.decode(index.read_record(x, i, verify=True)) for x in found]
    assert read[0].frames == read[1].frames
  before = files.tree(bucket / "records")
  again = ["prepare", bucket / "videos", bucket / "records", "--timeout=0", "--workers=1"]
  assert small.vssl(*again, "--shards=2") == 0
  assert files.tree(bucket / "records") == before
  assert small.vssl(*again, "--shards=3") == 2
  assert "already has split 'train' with shards=2 (now 3)" in capsys.readouterr().err


def test_a_split_of_fewer_classes_keeps_the_labels_whatever_the_folder_is_called(bucket, tmp_path):
  for name, folders in (("train", "ab"), ("test", "b")):
    source = tmp_path / name
    small.write_videos(source, folders)
    argv = ["prepare", source, bucket / "of[1]", f"--split={name}", "--timeout=0", "--workers=1"]
    assert small.vssl(*argv, "--shards=1") == 0
  assert files.read_text(bucket / "of[1]" / "labels.txt") == "a\nb\n"
  found = index.load(bucket / "of[1]", "test")
  assert example.decode(index.read_record(found, 0)).label == 1


def test_a_storage_that_fails_stops_the_run_and_replaces_no_video(places, monkeypatch):
  pytest.importorskip("tensorflow")
  from data_pipelines import source as source_lib
  from data_pipelines.sources import tfrecord
  from vssl_jax import config

  data = config.data()
  data.path, data.size, data.frames = str(places[1] / "records"), 16, 4
  read = index.read_record
  tries = []

  def failing(where, i, *, verify=False):
    tries.append(i)
    if len(tries) in broken:
      raise OSError(5, "the storage answered with an error", where.files[0])
    return read(where, i, verify=verify)

  monkeypatch.setattr(index, "read_record", failing)
  monkeypatch.setattr(tfrecord, "_PAUSES", (0.0, 0.0))

  def first():
    tries.clear()
    batches = source_lib.load(data, split="train", batch_size=4, seed=0).train_batches()
    batch = next(batches)["video"].tolist()
    batches.close()
    return batch

  broken = range(0)
  whole = first()
  broken = range(1, 3)
  assert first() == whole
  broken = range(1, 1000)
  with pytest.raises(UserError, match="the storage answered with an error: the records cannot be"):
    first()


def test_a_csv_names_objects(bucket, places, tmp_path, videos):
  names = sorted(files.tree(bucket / "videos"))
  rows = [f"{bucket}/videos/{names[0]},x", f"../videos/{names[1]},y", "videos/none.mp4,y"]
  rows.append(f"{videos / names[2]},x")
  files.write_text(bucket / "lists" / "a.csv", "\n".join(["path,label", *rows]) + "\n")
  argv = ["prepare", bucket / "lists" / "a.csv", tmp_path, "--timeout=0", "--workers=1"]
  assert small.vssl(*argv) == 3
  manifest = json.loads((tmp_path / "manifest.json").read_text())
  assert manifest["splits"]["train"]["videos"] == 3
  assert manifest["splits"]["train"]["unreadable"] == [
    {"path": "videos/none.mp4", "reason": "no such file"}
  ]


def _train(place, workdir):
  data = {"data.source": "tfrecord", "data.path": str(place / "records"), "batch_size": 8}
  data |= {
    "data.eval_split": "train",
    "data.eval.batch_size": 8,
    "steps": 2,
    "save.every": 1,
    "probe.run": False,
  }
  flags = small.flags(**data)
  return small.vssl("train", "--config=cvrl:demo", f"--workdir={workdir}", *flags)


@pytest.fixture(scope="module")
def runs(places):
  pytest.importorskip("tensorflow")
  for place, records in zip(places, reversed(places), strict=True):
    assert _train(records, place / "run") == 0
  return [place / "run" for place in places]


@pytest.mark.slow
def test_runs_are_the_same(runs):
  states = [run_folder.load_state(run)[2] for run in runs]
  assert results.tree_hash(states[0]) == results.tree_hash(states[1])
  assert small.rows(runs[0]) == small.rows(runs[1])


@pytest.mark.slow
def test_exported_evaluated_and_loaded(places, runs, bucket, videos):
  here, there = places
  for place, run in zip(places, runs, strict=True):
    argv = [f"--checkpoint={run}", f"--output={place / 'encoder'}", "--features", "--split=train"]
    assert small.vssl("export", *argv) == 0
    argv = [f"--checkpoint={run}", "--protocols=knn,logistic", "--splits=train:train"]
    assert small.vssl("evaluate", *argv) == 0
    argv = [f"--checkpoint={place / 'encoder'}", f"--output={place / 'features'}", "--workers=1"]
    source = videos if place is there else bucket / "videos"
    argv += [f"--videos={source}", "--timeout=0", "--fps=10", "--frames=4", "--size=16"]
    for _ in range(2):
      assert small.vssl("extract", *argv) == 0
  for name in ("encoder.safetensors", "features_train.npz"):
    assert (here / "encoder" / name).is_file()
    assert (there / "encoder" / name).is_file()
  weights = [(p / "encoder" / "encoder.safetensors").read_bytes() for p in places]
  assert weights[0] == weights[1]
  for name in ("0.npy", "5.npy"):
    assert (here / "features" / name).read_bytes() == (there / "features" / name).read_bytes()
  summaries = [
    json.loads((p / "run" / "evaluation" / "summary.json").read_text())["mean"] for p in places
  ]
  assert summaries[0] == summaries[1]
  clips = np.zeros((1, 4, 16, 16, 3), np.uint8)
  encoders = [vssl_jax.load(str(p / "encoder")) for p in places]
  features = [encoder.apply(encoder.params, clips) for encoder in encoders]
  np.testing.assert_array_equal(*features)


@pytest.mark.parametrize("path", [AT, "s3://b", "hf://a/b"])
def test_a_path_that_must_be_here(path):
  with pytest.raises(UserError, match="must be a file or folder in a file system"):
    files.local(path)
  assert files.local("a") == pathlib.Path("a")
