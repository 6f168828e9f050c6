"""Lists of videos of whatever a user gives."""

import pytest

from data_pipelines.listing import given
from data_pipelines.listing.video_list import Entry
from vssl_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
  for name in ("train/jump/a.mp4", "train/run/b.mp4", "test/run/c d.mp4"):
    (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "v" / name).write_text("")
  return tmp_path


def text(folder, name, content):
  (folder / name).write_text(content)
  return folder / name


def test_folders_and_csvs(folder):
  found = given.videos(folder / "v")
  assert {(e.path, e.split, e.label) for e in found.entries} == {
    ("train/jump/a.mp4", "train", "jump"),
    ("train/run/b.mp4", "train", "run"),
    ("test/run/c d.mp4", "test", "run"),
  }
  table = text(folder, "a.csv", "path,part\nv/train/jump/a.mp4,one\n")
  assert given.videos(table, split_column="part").entries[0].split == "one"
  assert given.videos(folder / "v", flat=True, split="all").entries[0] == Entry(
    "test/run/c d.mp4", "all"
  )


def test_lists_of_videos(folder):
  one = text(folder, "kinetics_train_list.txt", "v/train/jump/a.mp4 2\n\nv/train/run/b.mp4 10\n")
  two = text(folder, "val.txt", "v/test/run/c d.mp4 2\n")
  found = given.videos(f"{one},{two}")
  assert found.root == folder
  assert found.labels == ("2", "10")
  assert found.entries == (
    Entry("v/train/jump/a.mp4", "train", "2"),
    Entry("v/train/run/b.mp4", "train", "10"),
    Entry("v/test/run/c d.mp4", "val", "2"),
  )


def test_a_list_without_labels_and_splits(folder):
  path = text(folder, "mine.txt", "test/run/c d.mp4\ntrain/jump/a.mp4")
  found = given.videos(path, split="here", root=folder / "v")
  assert found.root == folder / "v"
  assert [(e.path, e.split, e.label) for e in found.entries] == [
    ("test/run/c d.mp4", "here", ""),
    ("train/jump/a.mp4", "here", ""),
  ]


def test_names_of_lists_and_videos_may_hold_commas_and_separators(folder):
  (folder / "a,b").mkdir()
  path = text(folder, "a,b/val.txt", "c\u2028d.mp4 1\ne\x85f,g.mp4 2\n")
  found = given.videos(path)
  assert [(e.path, e.split) for e in found.entries] == [
    ("c\u2028d.mp4", "val"),
    ("e\x85f,g.mp4", "val"),
  ]
  (folder / "v").rename(folder / "v.txt")
  assert len(given.videos(folder / "v.txt").entries) == 3


def test_a_list_that_is_no_text_or_holds_a_nul(folder):
  (folder / "a.txt").write_text("a.mp4 1\n", encoding="utf-16")
  with pytest.raises(UserError, match=r"a\.txt: not a UTF-8 text file: save it in UTF-8"):
    given.videos(folder / "a.txt")
  table = "path,label\n" + "a.mp4,x\n" * 600 + "b\0.mp4,x\n"
  for path in (text(folder, "b.txt", "a.mp4 1\nb\0.mp4 1\n"), text(folder, "b.csv", table)):
    with pytest.raises(UserError, match=r"the listed path 'b.x00\.mp4' has a NUL"):
      given.videos(path)


@pytest.mark.parametrize(
  ("content", "message"),
  [("", "lists no videos"), ("a.mp4 1\nb 2\n", "line 2: expected a video"), ("a 1.mp4x", "line 1")],
)
def test_bad_lists(folder, content, message):
  with pytest.raises(UserError, match=message):
    given.videos(text(folder, "a.txt", content))


def test_what_does_not_fit(folder):
  listed, table = text(folder, "a.txt", "a.mp4"), text(folder, "a.csv", "path\na.mp4\n")
  for path, arguments in (
    (listed, {"flat": True}),
    (listed, {"split_column": "x"}),
    (table, {"split_list": ["x"]}),
    (folder, {"root": "x"}),
    (folder / "none.txt", {}),
  ):
    with pytest.raises(UserError):
      given.videos(path, **arguments)
