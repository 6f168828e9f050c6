"""Fingerprints change with the videos, and with nothing that leaves them as they are."""

import dataclasses
import shutil
import sys
import types

import numpy as np
import pytest

from data_pipelines import source
from data_pipelines.prepare import prepare
from data_pipelines.records import fingerprint, index, manifest, tfrecord
from data_pipelines.sources.features import FeatureSource
from data_pipelines.untrimmed import simulated as simulated_lib
from data_pipelines.untrimmed import stitched
from data_pipelines.untrimmed.sequences import Dataset, LocalizationSource
from tests.data_pipelines import tiny
from tests.data_pipelines.untrimmed import sequences_test

ARGS = {"split": "train", "batch_size": 1, "seed": 0, "process_index": 0, "process_count": 1}


def of(data, split="train", **kwargs):
  found = source.load(data, split=split, batch_size=1, **{"seed": 0, **kwargs}).fingerprint
  assert len(found) == 64
  int(found, 16)
  return found


def videos(count=4, length=5):
  return [tiny.video(v, length) for v in range(count)]


@pytest.mark.usefixtures("tf")
class TestRecords:
  def test_place_seed_share_and_processes_do_not_matter(self, tmp_path):
    tiny.write(tmp_path / "a", videos())
    first = of(tiny.data(tmp_path / "a"))
    assert first == of(tiny.data(tmp_path / "a", fraction=0.5), seed=3)
    kwargs = {"split": "train", "batch_size": 2, "seed": 0, "process_count": 2}
    assert first == source.load(tiny.data(tmp_path / "a"), **kwargs, process_index=1).fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert first == of(tiny.data(tmp_path / "b"))

  def test_other_videos_other_shards_or_another_split_matter(self, tmp_path):
    made = {
      "base": tiny.write(tmp_path / "a", videos()),
      "fewer": tiny.write(tmp_path / "b", videos(3)),
      "longer": tiny.write(tmp_path / "c", videos(length=6)),
      "shards": tiny.write(tmp_path / "d", videos(), shards=4),
    }
    tiny.write(made["base"], videos(2), "test")
    found = {of(tiny.data(folder)) for folder in made.values()}
    found.add(of(tiny.data(made["base"]), "test"))
    assert len(found) == 5

  def test_the_manifest_tells_of_contents_of_equal_length(self, tmp_path, make_video):
    for name, grey in (("a", 40), ("b", 42)):
      make_video(tmp_path / name / "1.mp4", pattern=np.full(3, grey, np.uint8))
      prepare.prepare(tmp_path / name, tmp_path / f"{name}_records", workers=1, timeout=0)
    one, other = (tmp_path / f"{name}_records" for name in "ab")
    assert of(tiny.data(one)) != of(tiny.data(other))
    where = index.load(one, "train")
    stored = manifest.read(one)
    stored["splits"]["train"]["shards"][0]["sha256"] = "0" * 64
    manifest.write_json(one / manifest.MANIFEST, stored)
    changed = fingerprint.of_records(one, "train", where)
    assert changed not in (of(tiny.data(other)), fingerprint.of_records(tmp_path, "train", where))
    assert changed == fingerprint.of([("train-00000-of-00001.tfrecord", "0" * 64)])

  def test_records_without_a_manifest_keep_their_fingerprint(self, tmp_path, monkeypatch):
    """Runs of earlier versions continue: the numbers are hashed as one JSON text was."""
    monkeypatch.setattr(fingerprint, "_PART", 2)
    for number, count in enumerate((3, 0, 2)):
      with tfrecord.ShardWriter(tmp_path / f"train-{number:05d}-of-00003") as writer:
        for i in range(count):
          writer.write(b"x" * i)
    where = index.load(tmp_path, "train")
    names = [f"train-{i:05d}-of-00003" for i in range(3)]
    want = fingerprint.of(
      names, where.shard().tolist(), where.offset.tolist(), where.length().tolist()
    )
    assert fingerprint.of_records(tmp_path, "train", where) == want

  def test_a_split_that_joins_later_changes_nothing(self, tmp_path, make_video):
    make_video(tmp_path / "in" / "1.mp4")
    out = tmp_path / "out"
    prepare.prepare(tmp_path / "in", out, workers=1, timeout=0)
    before = of(tiny.data(out))
    prepare.prepare(tmp_path / "in", out, split="test", workers=1, timeout=0)
    assert of(tiny.data(out)) == before

  @pytest.mark.parametrize("text", ["[]", '{"format": 7}'])
  def test_a_manifest_of_others_is_passed_over(self, tmp_path, text):
    folder = tiny.write(tmp_path, videos())
    before = of(tiny.data(folder))
    (folder / manifest.MANIFEST).write_text(text)
    assert of(tiny.data(folder)) == before


def test_synthetic():
  data = tiny.data(source="synthetic")
  first = of(data)
  assert first == of(tiny.data(source="synthetic", size=16), seed=2)
  assert len({first, of(data, "test"), of(tiny.data(source="synthetic", synthetic__length=7))}) == 3


def test_features_of_a_file(tmp_path):
  arrays = {"features": np.zeros((4, 3, 2)), "label": np.arange(4), "subset": [0, 0, 1, 1]}
  found = []
  for name, value in (("a", 0), ("b", 0), ("c", 1)):
    (tmp_path / name).mkdir()
    arrays["features"][0, 0, 0] = value
    np.savez(tmp_path / name / f"{name}.npz", **arrays)
    data = tiny.data(tmp_path / name / f"{name}.npz", source="features")
    found += [of(data, split="0"), of(data, split="1")]
  assert found[:2] == found[2:4]
  assert len(set(found)) == 4


def test_features_of_a_folder(tmp_path):
  for name, length in (("a", 3), ("b", 3), ("c", 4)):
    for v in range(2):
      (tmp_path / name / f"class{v}").mkdir(parents=True)
      np.save(tmp_path / name / f"class{v}" / "x.npy", np.zeros((length, 2)))
  a, b, c = (of(tiny.data(tmp_path / n, source="features")) for n in "abc")
  assert a == b != c
  (tmp_path / "b" / "class1" / "x.npy").rename(tmp_path / "b" / "class0" / "y.npy")
  assert of(tiny.data(tmp_path / "b", source="features")) != a


def test_features_in_memory():
  def made(value, labels=(0,)):
    data = tiny.data(source="features")
    return FeatureSource(data, [np.full((2, 2), value)], np.array(labels), **ARGS).fingerprint

  assert made(1) == made(1)
  assert len({made(1), made(2), made(1, [1])}) == 3


def test_untrimmed_in_memory_and_simulated():
  def made(dataset):
    args = ARGS | {"batch_size": 1}
    return LocalizationSource(sequences_test.fields(), dataset, **args).fingerprint

  a, b, c = (sequences_test.dataset(lengths) for lengths in ([3, 4], [3, 4], [3, 5]))
  assert made(a) == made(b) != made(c)
  other = {**a.features, "v0": a.features["v0"] + 1}
  assert made(a) != made(Dataset(a.videos, other, 0.5))
  settings = simulated_lib.SimulationSettings(width=4)
  simulated = [
    simulated_lib.simulate(a.videos, ("a", "b"), s, seed=seed)
    for s, seed in (
      (settings, 0),
      (settings, 0),
      (settings, 1),
      (dataclasses.replace(settings, noise=2.0), 0),
    )
  ]
  found = [made(d) for d in simulated]
  assert found[0] == found[1]
  assert len(set(found)) == 3


def test_untrimmed_in_a_folder(tmp_path):
  found = []
  for name, lengths in (("a", [3, 4]), ("b", [3, 4]), ("c", [3, 5])):
    sequences_test.dataset(lengths).write(tmp_path / name)
    from data_pipelines.untrimmed import sequences

    data = sequences_test.fields(str(tmp_path / name), check=False)
    found.append(sequences.load(data, **ARGS).fingerprint)
  assert found[0] == found[1] != found[2]


def test_stitched(tmp_path):
  features = np.zeros((4, 4, 3), np.float32)
  found = []
  for value, seed in ((0, 0), (0, 0), (1, 0), (0, 1)):
    features[0, 0, 0] = value
    np.savez(tmp_path / "x.npz", features=features, label=[0, 0, 1, 1], subset=["train"] * 4)
    data = sequences_test.fields(str(tmp_path / "x.npz"), videos=3, max_seconds=20.0, seed=seed)
    found.append(stitched.load(data, **ARGS).fingerprint)
  assert found[0] == found[1]
  assert len(set(found)) == 3


@pytest.mark.usefixtures("tf")
def test_dmvr(monkeypatch):
  module = types.ModuleType("user_factory")
  module.make = lambda data, split: (None, 5 if split == "train" else 6)
  monkeypatch.setitem(sys.modules, "user_factory", module)
  data = tiny.data(source="dmvr", name="user_factory:make")
  assert of(data) == of(data, seed=1) != of(data, "test")


@pytest.mark.usefixtures("tf")
def test_dmvr_of_shards(monkeypatch, tmp_path):
  module = types.ModuleType("user_factory")
  monkeypatch.setitem(sys.modules, "user_factory", module)
  data = tiny.data(source="dmvr", name="user_factory:make")
  found = []
  for folder, size in (("a", 3), ("b", 3), ("c", 4)):
    (tmp_path / folder).mkdir()
    shard = tmp_path / folder / "train-00000-of-00001.tfrecord"
    shard.write_bytes(b"x" * size)
    factory = types.SimpleNamespace(_shards=[str(shard), "gs://elsewhere/x.tfrecord"])
    module.make = lambda data, split, factory=factory: (factory, 5)
    found.append(of(data))
  assert found[0] == found[1] != found[2]


def test_tfds(tmp_path):
  tfds = pytest.importorskip("tensorflow_datasets")
  from tests.data_pipelines.sources.tfds_test import TinyVideos

  TinyVideos(data_dir=str(tmp_path / "a")).download_and_prepare()
  shutil.copytree(tmp_path / "a", tmp_path / "b")
  a, b = (tiny.data(tmp_path / n, source="tfds", name="tiny_videos") for n in "ab")
  assert tfds.builder_cls("tiny_videos") is TinyVideos
  assert of(a) == of(b) != of(a, "train[:4]")


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_tfds_made_anew_of_other_videos(tmp_path, monkeypatch, file_format):
  pytest.importorskip("tensorflow_datasets")
  from tests.data_pipelines.sources.tfds_test import TinyVideos

  whole, found = TinyVideos._generate_examples, []
  for name, label in (("a", 0), ("b", 1)):  # the first video's label, under the same name

    def relabeled(self, label=label):
      for v, example in whole(self):
        yield v, {**example, "label": example["label"] if v else label}

    monkeypatch.setattr(TinyVideos, "_generate_examples", relabeled)
    TinyVideos(data_dir=str(tmp_path / name), file_format=file_format).download_and_prepare()
    found.append(of(tiny.data(tmp_path / name, source="tfds", name="tiny_videos")))
  assert found[0] != found[1]
