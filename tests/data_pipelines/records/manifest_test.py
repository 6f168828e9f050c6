"""Counts that add up shard by shard, and the files that hold them."""

import json

import pytest

from data_pipelines.records import manifest
from vssl_jax import files
from vssl_jax.errors import UserError


def tally(*videos, unreadable=()):
  counts = manifest.Tally()
  for label, seconds, fps, size in videos:
    counts.add_video(
      label=label,
      records=2,
      frames=10,
      seconds=seconds,
      fps=fps,
      size=size,
      stored_size=(20, 10),
    )
  for path in unreadable:
    counts.add_unreadable(path, "because")
  return counts.counts


def test_shards_add_up():
  a = tally(("x", 0.5, 25.0, (320, 240)), ("y", 3.0, 30000 / 1001, (320, 240)), unreadable=["q"])
  b = tally(("x", 90.0, 25.0, (1280, 720)), unreadable=["p"])
  total = manifest.Tally.merge([a, tally(), b])
  assert (total["videos"], total["records"], total["frames"]) == (3, 6, 30)
  assert (total["seconds"], total["shortest"], total["longest"]) == (93.5, 0.5, 90.0)
  assert total["classes"] == {"x": 2, "y": 1}
  assert total["fps"] == {"25": 2, "29.97": 1}
  assert total["size"] == {"320x240": 2, "1280x720": 1}
  assert list(total["size"]) == ["320x240", "1280x720"]
  assert total["stored_size"] == {"20x10": 3}
  assert total["durations"] == {"0-1": 1, "2-5": 1, "60-120": 1}
  assert [file["path"] for file in total["unreadable"]] == ["p", "q"]
  assert manifest.Tally.merge([b, a]) == total


def test_remarks_about_videos_that_are_kept():
  counts = manifest.Tally()
  counts.add_notes("q", ("cut", "odd"))
  counts.add_notes("r", ())
  counts.add_notes("p", ("damaged",))
  old = tally()
  del old["noted"]  # as an earlier version wrote it
  total = manifest.Tally.merge([counts.counts, old])
  assert total["noted"] == [
    {"path": "p", "notes": ["damaged"]},
    {"path": "q", "notes": ["cut", "odd"]},
  ]


def test_merging_survives_json():
  a = tally(("x", 0.5, 25.0, (320, 240)))
  assert manifest.Tally.merge([json.loads(json.dumps(a))]) == manifest.Tally.merge([a])


def test_no_videos():
  total = manifest.Tally.merge([tally()])
  assert (total["videos"], total["shortest"]) == (0, None)
  built = manifest.build([], {"train": {**total, "shards": []}})
  assert "train" in manifest.summary(built)


def test_the_hash_follows_names_and_contents():
  def build(name, sha):
    shards = [{"name": name, "sha256": sha}]
    return manifest.build([], {"train": {**tally(), "shards": shards}})["sha256"]

  assert build("a", "0") == build("a", "0")
  assert len({build("a", "0"), build("a", "1"), build("b", "0")}) == 3


def test_files(tmp_path):
  assert manifest.read(tmp_path) is None
  assert manifest.read_labels(tmp_path) == ()
  built = manifest.build(["ä", "b c"], {})
  manifest.write_json(tmp_path / manifest.MANIFEST, built)
  files.write_text(tmp_path / manifest.LABELS, "ä\nb c\n")
  assert manifest.read(tmp_path) == built
  assert manifest.read_labels(tmp_path) == ("ä", "b c")
  assert len(list(tmp_path.iterdir())) == 2


def test_a_blank_line_among_the_labels_keeps_its_index(tmp_path):
  (tmp_path / manifest.LABELS).write_text("a\n\nb\n\n\n")
  assert manifest.read_labels(tmp_path) == ("a", "", "b")
  with pytest.raises(FileNotFoundError):
    manifest.label_lines(tmp_path / "none.txt")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}'])
def test_other_files_are_refused(tmp_path, text):
  (tmp_path / manifest.MANIFEST).write_text(text)
  with pytest.raises(UserError, match=r"manifest\.json"):
    manifest.read(tmp_path)


def test_summary_names_what_matters():
  counts = manifest.Tally.merge(
    [tally(("x", 1.5, 25.0, (9, 8)), ("x", 3.0, 30.0, (9, 8)), ("", 3.0, 30.0, (9, 8)))]
  )
  text = manifest.summary(manifest.build(["x"], {"train": {**counts, "shards": []}}))
  for part in (
    "1 class of 2 videos",
    "1 without label",
    "1.5 to 3.0 s",
    "30 (2), 25 (1)",
    "size 9x8, stored 20x10",
  ):
    assert part in text


@pytest.mark.parametrize(
  ("found", "why"),
  [
    ({"a": (3, 90)}, "b: missing, but manifest.json has it"),
    ({"a": (3, 90), "b": (1, 40), "c": (1, 1)}, "c: not in manifest.json"),
    (
      {"a": (3, 90), "b": (0, 40)},
      "b: has 0 records in 40 bytes, but manifest",
    ),
    ({"a": (3, 89), "b": (1, 40)}, "a: has 3 records in 89 bytes"),
  ],
)
def test_shards_that_are_not_the_manifests(tmp_path, found, why):
  told = [("a", 3, 90), ("b", 1, 40)]
  shards = [{"name": n, "records": r, "bytes": b, "sha256": ""} for n, r, b in told]
  split = {**manifest.Tally.merge([]), "shards": shards}
  manifest.write_json(tmp_path / manifest.MANIFEST, manifest.build((), {"train": split}))
  manifest.check_shards(tmp_path, "train", {"a": (3, 90), "b": (1, 40)})
  manifest.check_shards(tmp_path, "another", found)
  with pytest.raises(UserError, match=why):
    manifest.check_shards(tmp_path, "train", found)
