"""Lists of videos from folders and CSVs."""

import math
import os

import pytest

from data_pipelines.listing import video_list
from data_pipelines.listing.video_list import Entry
from vssl_jax.errors import UserError


def touch(root, *names):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"x")


def csv(root, text):
  (root / "list.csv").write_text(text, encoding="utf-8")
  return root / "list.csv"


def test_class_folders(tmp_path):
  touch(tmp_path, "b/2.mp4", "a/1.avi", "a/deep/3.MKV", "notes.txt", ".hidden/4.mp4", "a/.5.mp4")
  found = video_list.from_folder(tmp_path)
  assert found.entries == (
    Entry("a/1.avi", "train", "a"),
    Entry("a/deep/3.MKV", "train", "a"),
    Entry("b/2.mp4", "train", "b"),
  )
  assert found.labels == ("a", "b")
  assert any("1 .txt" in note for note in found.notes)
  assert any("class folders have sub-folders" in note for note in found.notes)


def test_flat_folder_has_no_labels(tmp_path):
  touch(tmp_path, "2.webm", "1.mov")
  found = video_list.from_folder(tmp_path, split="all")
  assert found.entries == (Entry("1.mov", "all"), Entry("2.webm", "all"))
  assert found.labels == ()
  assert not found.notes


def test_mixed_folder_needs_flat(tmp_path):
  touch(tmp_path, "a/1.mp4", "2.mp4")
  with pytest.raises(UserError, match="--flat"):
    video_list.from_folder(tmp_path)
  found = video_list.from_folder(tmp_path, flat=True)
  assert [(e.path, e.label) for e in found.entries] == [("2.mp4", ""), ("a/1.mp4", "")]


def test_split_folders(tmp_path):
  touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "Val/a/3.mp4")
  found = video_list.from_folder(tmp_path, split="ignored")
  assert [e.split + e.label for e in found.entries] == ["vala", "traina", "trainb"]
  assert found.labels == ("a", "b")


def test_folders_of_splits_are_no_classes(tmp_path):
  touch(tmp_path, "k/train/1.mp4", "k/val/2.mp4")
  found = video_list.from_folder(tmp_path)
  assert [(e.split, e.label) for e in found.entries] == [("train", ""), ("val", "")]
  assert found.labels == ()
  flat = video_list.from_folder(tmp_path, split="mine", flat=True)
  assert {(e.split, e.label) for e in flat.entries} == {("mine", "")}
  assert flat.notes == ("--flat: all videos are of split 'mine', also those of train, val",)
  listed = video_list.unsorted(tmp_path)
  assert [e.path for e in listed.entries] == ["k/train/1.mp4", "k/val/2.mp4"]
  assert not listed.notes


def test_a_folder_of_one_split_is_told(tmp_path):
  touch(tmp_path, "Val/a/1.mp4", "train/b/2.mp4")
  found = video_list.from_folder(tmp_path / "Val")
  assert [(e.split, e.label) for e in found.entries] == [("train", "a")]
  assert found.notes == ("--split: the videos of Val become split 'train'",)
  assert not video_list.from_folder(tmp_path / "Val", split="val").notes
  assert not video_list.from_folder(tmp_path / "train").notes


def test_ambiguous_folders_need_flat(tmp_path):
  touch(tmp_path, "walk/1.mp4", "run/2.mp4", "test/3.mp4")
  with pytest.raises(UserError, match=r"test is named like a split, but not run, walk beside it"):
    video_list.from_folder(tmp_path)
  assert len(video_list.from_folder(tmp_path, flat=True).entries) == 3


def test_labels_and_splits_that_differ_by_capitals(tmp_path):
  touch(tmp_path, "Walk/1.mp4", "walk/2.mp4", "run/3.mp4")
  found = video_list.from_folder(tmp_path)
  assert found.labels == ("Walk", "run", "walk")
  assert found.notes == (
    "labels that differ only by capitals or accents are different classes: 'Walk' and 'walk'",
  )
  with pytest.raises(UserError, match="split names 'Train' and 'train' differ only by capitals"):
    video_list.from_csv(csv(tmp_path, "path,split\na,train\nb,Train\n"))


def test_links_are_followed_but_not_in_circles(tmp_path):
  touch(tmp_path, "store/a/1.mp4")
  (tmp_path / "set").mkdir()
  os.symlink(tmp_path / "store" / "a", tmp_path / "set" / "a")
  os.symlink(tmp_path / "set", tmp_path / "store" / "a" / "loop")
  found = video_list.from_folder(tmp_path / "set")
  assert [e.path for e in found.entries] == ["a/1.mp4"]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_no_videos(tmp_path, name):
  touch(tmp_path, "empty/readme.md")
  with pytest.raises(UserError, match=name):
    video_list.from_folder(tmp_path / name)


def test_csv_with_everything(tmp_path):
  text = "\ufeffpath, label,start,end,split1,caption\nx/1.mp4,b, 1.5,3,test,hi\n2.mp4,,,,train,\n"
  found = video_list.from_csv(csv(tmp_path, text), split_column="split1")
  assert found.root == tmp_path
  assert found.labels == ("b",)
  assert found.entries == (
    Entry("x/1.mp4", "test", "b", 1.5, 3.0, "hi"),
    Entry("2.mp4", "train", "", 0.0, math.inf, ""),
  )


def test_csv_as_dmvr_has_it(tmp_path):
  text = 'video_path,start,end,label,caption\n"a, b.mp4",0,10,jump,"one, two"\n'
  found = video_list.from_csv(csv(tmp_path, text), root=tmp_path / "videos", split="val")
  assert found.root == tmp_path / "videos"
  assert found.entries == (Entry("a, b.mp4", "val", "jump", 0.0, 10.0, "one, two"),)


def test_split_column_is_found_by_name_and_empty_values_leave_out(tmp_path):
  found = video_list.from_csv(csv(tmp_path, "path,split\na,train\nb,\nc,test\n"))
  assert [(e.path, e.split) for e in found.entries] == [("a", "train"), ("c", "test")]
  assert found.notes == ("1 video without a split in 'split': b",)


def test_a_video_on_both_sides_is_noted(tmp_path):
  found = video_list.from_csv(csv(tmp_path, "path,split\na,train\n./a,test\nb,test\n"))
  assert found.notes == ("1 video in more than one split: a",)
  many = "".join(f"{n},train\n{n},test\n" for n in range(9))
  (note,) = video_list.from_csv(csv(tmp_path, f"path,split\n{many}")).notes
  assert note == "9 videos in more than one split: 0, 1, 2, 3, 4, 5 and 3 more"


def test_a_video_that_is_listed_twice_is_named(tmp_path):
  text = "path,label,start\na.mp4,x,0\nb.mp4,x,0\nx/../a.mp4,y,\na.mp4,x,5\n"
  found = video_list.from_csv(csv(tmp_path, text))
  assert len(found.entries) == 4  # both rows stay
  assert found.notes == (
    "1 video listed more than once: a.mp4 (lines 2 and 4)",
    "1 video with more than one label: a.mp4 ('x' and 'y')",
  )


def test_columns_that_are_not_read_are_named(tmp_path):
  found = video_list.from_csv(csv(tmp_path, ",path,lable\n0,a.mp4,x\n1,b.mp4,y\n"))
  assert found.labels == ()
  assert found.notes == ("columns that are not read: lable",)


def test_a_label_that_looks_unlabeled_is_noted(tmp_path):
  found = video_list.from_csv(csv(tmp_path, "path,label\na,-1\nb,3\n"))
  assert found.labels == ("-1", "3")
  assert found.notes == (
    "label -1 is a class like any other; leave the label of unlabeled videos empty",
  )


def test_a_path_with_a_colon_is_no_address(tmp_path):
  touch(tmp_path, "cam:/1.mp4")
  found = video_list.from_csv(csv(tmp_path, "path\ncam:/1.mp4\ngs://bucket/2.mp4\n"))
  assert [video_list.locate(found.root, e.path) for e in found.entries] == [
    str(tmp_path / "cam:" / "1.mp4"),
    "gs://bucket/2.mp4",
  ]
  with pytest.raises(
    UserError, match=r"line 2: 'gs:/bucket/2\.mp4' is neither a file in .* two slashes"
  ):
    video_list.from_csv(csv(tmp_path, "path\ngs:/bucket/2.mp4\n"))


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "first line must name the columns"),
    ("a.mp4 0\nb.mp4 1\n", "first line must name the columns"),
    ("path\n", "lists no videos"),
    ("path,label\na,x\n,y\n", "line 3: empty 'path'"),
    ("path,start\na,one\n", "line 2: start must be seconds.*'one'"),
    ("path,start\na,-1\n", "line 2: start must be seconds"),
    ("path,end\na,nan\n", "line 2: end must be seconds"),
    ("path,start,end\na,0,1\nb,5,5\n", "line 3: end .* not after start"),
    ("path,split\na,x/y\n", "split name 'x/y'"),
  ],
)
def test_bad_csvs_name_the_line(tmp_path, text, message):
  with pytest.raises(UserError, match=message) as error:
    video_list.from_csv(csv(tmp_path, text))
  assert "\n" not in str(error.value)


def test_unknown_split_column_lists_the_columns(tmp_path):
  with pytest.raises(UserError, match="no column 'split1'; it has path, label"):
    video_list.from_csv(csv(tmp_path, "path,label\na,b\n"), split_column="split1")


def test_a_file_that_is_no_text(tmp_path):
  (tmp_path / "list.csv").write_bytes(b"\xff\xfe\x00\x01" * 10)
  with pytest.raises(UserError, match="not a UTF-8 text file"):
    video_list.from_csv(tmp_path / "list.csv")


@pytest.mark.parametrize(
  ("names", "expected"),
  [
    (["b", "a", "", "b"], ("a", "b")),
    (["10", "9", "0"], ("0", "9", "10")),
    (["2", "10", "1", ""], ("1", "2", "10")),
    (["10.0", "2.0", "-1", "1.0"], ("-1", "1.0", "2.0", "10.0")),
    (["10", "9", "x"], ("10", "9", "x")),
    ([""], ()),
  ],
)
def test_sort_labels(names, expected):
  assert video_list.sort_labels(names) == expected


@pytest.mark.parametrize("label", ["a\nb", "a\x0bb", "a\x85b", "a\u2028b", "a\tb", "a\x00b"])
def test_a_label_is_one_line(tmp_path, label):
  touch(tmp_path, "1.mp4", "2.mp4")
  with pytest.raises(UserError, match=r"list\.csv, line \d, field 'label': .*control|UTF-8") as e:
    video_list.from_csv(csv(tmp_path, f'path,label\n1.mp4,x\n2.mp4,"{label}"\n'))
  assert str(e.value).isprintable()
  if "\0" not in label:
    touch(tmp_path, f"in/{label}/1.mp4")
    with pytest.raises(UserError, match=r"class folder.*control"):
      video_list.from_folder(tmp_path / "in")
    assert video_list.from_folder(tmp_path / "in", flat=True).labels == ()


def test_paths_and_captions_may_hold_line_breaks(tmp_path):
  found = video_list.from_csv(csv(tmp_path, 'path,caption\n"a\nb.mp4","one\ntwo"\n'))
  assert [(e.path, e.caption) for e in found.entries] == [("a\nb.mp4", "one\ntwo")]


def test_a_video_or_another_file_instead_of_a_csv(tmp_path, make_video):
  video = make_video(tmp_path / "clip.MP4")
  with pytest.raises(UserError, match=r"clip\.MP4 is a video: give its folder or a CSV"):
    video_list.from_csv(video)
  with pytest.raises(UserError, match="not a UTF-8 text file: give a folder of videos or a CSV"):
    video_list.from_csv(video.rename(tmp_path / "clip"))
  (tmp_path / "wide.csv").write_text("path\na.mp4\n", encoding="utf-16")
  with pytest.raises(UserError, match="not a UTF-8 text file"):
    video_list.from_csv(tmp_path / "wide.csv")
