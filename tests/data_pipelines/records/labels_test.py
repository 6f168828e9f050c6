"""Labels of records against their names: what does not fit stops before a probe looks a name up."""

import dataclasses
import json
import uuid

import numpy as np
import pytest

from data_pipelines.records import index, labels, manifest, tfrecord
from data_pipelines.records import sequence_example as example
from tests.data_pipelines import tiny
from vssl_jax import files
from vssl_jax.errors import UserError

NAMES = ("dive", "run", "walk")


def videos(numbers):
  return [example.Video(frames=[b"x"] * 2, label=n, filename=f"{n}.avi") for n in numbers]


def records(folder, numbers=(0, 2, -1, 0, 2), names=NAMES):
  """Two shards of records with these labels."""
  tiny.write(folder, videos(numbers))
  if names is not None:
    (folder / manifest.LABELS).write_text("".join(f"{name}\n" for name in names))
  return folder


def prepared(folder, **kwargs):
  """As `prepare` leaves them, with a manifest; class `run` has no video."""
  records(folder, **kwargs)
  found = index.load(folder, "train")
  counts = np.diff(found.starts).tolist()
  shards = [
    {"name": f.rpartition("/")[2], "records": count, "bytes": int(size), "sha256": ""}
    for f, size, count in zip(found.files, found.sizes, counts, strict=True)
  ]
  classes = {"dive": 2, "walk": 2, "": 1}
  split = {**manifest.Tally.merge([]), "classes": classes, "shards": shards}
  manifest.write_json(folder / manifest.MANIFEST, manifest.build(NAMES, {"train": split}))
  return folder


def occurring(folder):
  return labels.occurring(
    folder, "train", index.load(folder, "train"), manifest.read_labels(folder)
  )


@pytest.mark.parametrize("make", [records, prepared])
def test_the_classes_that_occur(tmp_path, make, monkeypatch):
  if make is prepared:  # then no record is read
    monkeypatch.setattr(labels, "_read", None)
  assert occurring(make(tmp_path)) == {0, 2}
  assert occurring(make(tmp_path, names=(*NAMES, "more"))) == {0, 2}


@pytest.mark.parametrize("make", [records, prepared])
@pytest.mark.parametrize("names", [NAMES[:2], NAMES[:1]])
def test_too_few_names_stop(tmp_path, make, names):
  with pytest.raises(UserError, match=rf"labels\.txt: names {len(names)} class.* label 2") as error:
    occurring(make(tmp_path, names=names))
  assert "\n" not in str(error.value)


def test_names_of_prepare_may_not_be_lost_or_moved(tmp_path):
  folder = prepared(tmp_path, names=None)
  with pytest.raises(UserError, match=r"labels\.txt: names 0 classes"):
    occurring(folder)
  (folder / manifest.LABELS).write_text("dive\nwalk\nrun\n")
  with pytest.raises(UserError, match=r"labels\.txt, line 2: class 'walk'.*'run' as number 1"):
    occurring(folder)
  (folder / manifest.LABELS).write_text(
    "Diving\nrun\nwalking\n"
  )  # other words for the same classes
  assert occurring(folder) == {0, 2}


def test_records_without_names_are_not_read(tmp_path, monkeypatch):
  monkeypatch.setattr(labels, "_read", None)
  assert occurring(records(tmp_path, names=None)) is None


@pytest.mark.parametrize("text", ["[]", '{"format": 0}', '{"videos": 3}'])
def test_the_manifest_of_another_program_counts_for_nothing(tmp_path, text):
  records(tmp_path)
  (tmp_path / manifest.MANIFEST).write_text(text)
  assert occurring(tmp_path) == {0, 2}


def test_a_split_that_the_manifest_lacks_is_read(tmp_path):
  prepared(tmp_path)
  stored = json.loads((tmp_path / manifest.MANIFEST).read_text())
  stored["splits"]["test"] = stored["splits"].pop("train")
  (tmp_path / manifest.MANIFEST).write_text(json.dumps(stored))
  assert occurring(tmp_path) == {0, 2}


@pytest.mark.parametrize("odd", ["long", "words", "half", "not a number", "frames first"])
def test_labels_that_are_not_known_are_not_taken_for_none(tmp_path, odd):
  """A record like this may be of any class, also of one that `occurring` would leave out."""
  video = videos([1])[0]
  payload = example.encode(dataclasses.replace(video, caption="x" * 5000 * (odd == "long")))
  if odd == "frames first":
    end = 2 + payload[1]
    payload = payload[end:] + payload[:end]
  elif odd != "long":
    message = example._sequence_example().FromString(payload)
    feature = message.context.feature[example.LABEL_INDEX]
    if odd == "words":
      feature.bytes_list.value[:] = [b"run"]
    else:
      feature.float_list.value[:] = [{"half": 0.5, "not a number": np.nan}[odd]]
    payload = message.SerializeToString()
    with pytest.raises(UserError, match="'clip/label/index', which must be"):
      example.decode(payload)
  records(tmp_path)
  assert occurring(tmp_path) == {0, 2}
  with tfrecord.ShardWriter(tmp_path / "train-00001-of-00002.tfrecord") as writer:
    writer.write(payload)
  assert occurring(tmp_path) is None


def test_of_a_large_bucket_only_some_are_read(tmp_path, monkeypatch):
  pytest.importorskip("upath")
  monkeypatch.setattr(labels, "_SAMPLE", 3)
  at = f"memory://{uuid.uuid4().hex}/records"
  for file in records(tmp_path, numbers=(1, 0, 5, 0, 0)).iterdir():
    with files.replacing(f"{at}/{file.name}") as copy:
      copy.write(file.read_bytes())
  with pytest.raises(UserError, match="has label 5"):  # first, middle and last
    occurring(at)
  with files.replacing(f"{at}/{manifest.LABELS}") as copy:
    copy.write(b"a\nb\nc\nd\ne\nf\n")
  assert occurring(at) is None


def test_label_of_the_first_bytes():
  for number in (0, 7, -1):
    payload = example.encode(videos([number])[0])
    assert example.label_of(payload) == example.decode(payload).label == number
    assert example.label_of(payload[:20]) is None
  assert example.label_of(b"") is example.label_of(b"\x0a\xff") is None
  assert example.label_of(b"\x0a\x00") == -1  # a context without any label
  rng = np.random.default_rng(0)
  for _ in range(300):
    assert (example.label_of(b"\x0a" + rng.bytes(40)) or 0) < 1 << 63
