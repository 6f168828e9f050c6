"""Official UCF101 and HMDB51 lists, in the form in which they are published."""

import pytest

from data_pipelines.listing import split_lists, video_list
from vssl_jax.errors import UserError

TRAIN = "JumpingJack/v_JumpingJack_g08_c01.avi 48\nJumpRope/v_JumpRope_g09_c02.avi 49\n"
TEST = "JumpingJack/v_JumpingJack_g01_c01.avi\r\nJumpRope/v_JumpRope_g01_c01.avi\r\n"
CLASSES = "1 ApplyEyeMakeup\n48 JumpingJack\n49 JumpRope\n"
VIDEOS = (
  "v_JumpingJack_g08_c01",
  "v_JumpRope_g09_c02",
  "v_JumpingJack_g01_c01",
  "v_JumpRope_g01_c01",
)


def write(folder, **texts):
  paths = []
  for name, text in texts.items():
    paths.append(folder / f"{name}.txt")
    paths[-1].write_text(text, encoding="utf-8", newline="")
  return paths


def ucf(folder, names=VIDEOS, extension=".avi"):
  for name in names:
    path = folder / "UCF-101" / name.split("_")[1] / f"{name}{extension}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
  return video_list.from_folder(folder / "UCF-101")


def found(videos):
  return sorted((e.split, e.label, e.path.rpartition("/")[2]) for e in videos.entries)


EXPECTED = [
  ("test", "JumpRope", "v_JumpRope_g01_c01.avi"),
  ("test", "JumpingJack", "v_JumpingJack_g01_c01.avi"),
  ("train", "JumpRope", "v_JumpRope_g09_c02.avi"),
  ("train", "JumpingJack", "v_JumpingJack_g08_c01.avi"),
]


def test_ucf101(tmp_path):
  files = write(tmp_path, trainlist01=TRAIN, testlist01=TEST, classInd=CLASSES)
  videos = split_lists.apply(ucf(tmp_path), files)
  assert found(videos) == EXPECTED
  assert videos.labels == ("JumpingJack", "JumpRope")  # the published order, not the sorted one
  assert not videos.notes


def test_ucf101_numbers_come_from_the_train_list_too(tmp_path):
  files = write(tmp_path, testlist01=TEST, trainlist01=TRAIN)
  assert split_lists.apply(ucf(tmp_path), files).labels == ("JumpingJack", "JumpRope")


def test_the_test_list_alone_sorts_the_names(tmp_path):
  files = write(tmp_path, testlist01=TEST)
  videos = split_lists.apply(ucf(tmp_path), files)
  assert videos.labels == ("JumpRope", "JumpingJack")
  assert found(videos) == EXPECTED[:2]
  assert videos.notes == (
    "2 videos of the folder in no list: JumpRope/v_JumpRope_g09_c02.avi, "
    "JumpingJack/v_JumpingJack_g08_c01.avi",
  )
  assert videos.left_out == 2


def test_reencoded_copies_match_by_name(tmp_path):
  files = write(tmp_path, trainlist01=TRAIN, testlist01=TEST)
  videos = split_lists.apply(ucf(tmp_path, extension=".mp4"), files)
  assert found(videos) == [(s, c, n.replace(".avi", ".mp4")) for s, c, n in EXPECTED]


def test_flat_folder(tmp_path):
  (tmp_path / "flat").mkdir()
  for name in VIDEOS:
    (tmp_path / "flat" / f"{name}.avi").write_bytes(b"x")
  files = write(tmp_path, trainlist01=TRAIN, testlist01=TEST)
  videos = split_lists.apply(video_list.from_folder(tmp_path / "flat"), files)
  assert found(videos) == EXPECTED
  assert all("/" not in e.path for e in videos.entries)


def test_a_subset_of_the_classes(tmp_path):
  files = write(tmp_path, trainlist01=TRAIN, testlist01=TEST)
  videos = split_lists.apply(ucf(tmp_path, names=[VIDEOS[0]]), files)
  assert videos.labels == ("JumpingJack",)
  assert found(videos) == [EXPECTED[1], EXPECTED[3]]  # the missing test video stays, to be reported
  assert videos.notes == (
    "1 of the lists' 2 classes is not in the folder: JumpRope",
    "1 video of the lists not in the folder: JumpingJack/v_JumpingJack_g01_c01.avi",
  )
  assert not videos.left_out


def listing(tmp_path, paths, **texts):
  """What the lists make of a folder with these files."""
  for path in paths:
    (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "in" / path).write_bytes(b"x")
  return split_lists.apply(video_list.unsorted(tmp_path / "in"), write(tmp_path, **texts))


def test_capitals_and_separators_do_not_matter(tmp_path):
  """UCF101's list, folder and files write HandstandPushups in two ways."""
  videos = listing(
    tmp_path,
    [
      "HandStandPushups/v_HandstandPushups_g01_c01.avi",
      "Brush Hair/B_1_0.mp4",
      "Brush Hair/b_10.mp4",
    ],
    trainlist01="HandstandPushups/v_HandStandPushups_g01_c01.avi 37\nbrush_hair/b_1_0.avi 2\n"
    "brush_hair/b_10.avi 2\n",
  )
  assert videos.labels == ("brush_hair", "HandstandPushups")
  assert [(e.label, e.path) for e in videos.entries] == [
    ("HandstandPushups", "HandStandPushups/v_HandstandPushups_g01_c01.avi"),
    ("brush_hair", "Brush Hair/b_10.mp4"),
    ("brush_hair", "Brush Hair/B_1_0.mp4"),
  ]
  assert not videos.notes
  assert not videos.left_out


def test_names_that_differ_by_capitals_alone_stay_apart(tmp_path):
  videos = listing(
    tmp_path, ["c/a.avi", "c/A.avi", "c/B.avi"], trainlist01="c/a.avi 1\nc/A.avi 1\nc/b.avi 1\n"
  )
  assert [e.path for e in videos.entries] == ["c/A.avi", "c/a.avi", "c/B.avi"]
  assert not videos.notes


def test_what_lists_and_folder_do_not_share_is_named(tmp_path):
  videos = listing(
    tmp_path,
    ["walk/1.avi", "walk/9.avi", "walk/1.mp4", "skate/1.avi", "skate/2.avi"],
    trainlist01="walk/1.avi 1\nwalk/2.avi 1\nrun/1.avi 2\n",
  )
  assert [(e.label, e.path) for e in videos.entries] == [
    ("walk", "walk/1.avi"),
    ("walk", "walk/2.avi"),
  ]
  assert videos.notes == (
    "1 of the lists' 2 classes is not in the folder: run",
    "1 folder named like no class of the lists: skate",
    "3 videos of the folder in no list: skate/1.avi, skate/2.avi, walk/9.avi",
    "1 video left out, a copy of another: walk/1.mp4",
    "1 video of the lists not in the folder: walk/2.avi",
  )
  assert videos.left_out == 4


def test_what_is_much_is_counted(tmp_path):
  train = "".join(f"c{n}/{n}.avi {n + 1}\n" for n in range(10))
  videos = listing(tmp_path, ["c0/0.avi", *(f"c0/x{n}.avi" for n in range(8))], trainlist01=train)
  assert videos.notes == (
    "9 of the lists' 10 classes are not in the folder: c1, c2, c3, c4, c5, c6 and 3 more",
    "8 videos of the folder in no list: "
    + ", ".join(f"c0/x{n}.avi" for n in range(6))
    + " and 2 more",
  )


@pytest.mark.parametrize("above", ["train/", "a/Test/", "part1/flat/"])
def test_folders_of_any_layout(tmp_path, above):
  """The lists say the splits, whatever the folders are called."""
  paths = [f"{above}{name.split('_')[1]}/{name}.mp4" for name in VIDEOS]
  videos = listing(tmp_path, [*paths, "test/x.avi"], trainlist01=TRAIN, testlist01=TEST)
  assert found(videos) == [(s, c, n.replace(".avi", ".mp4")) for s, c, n in EXPECTED]
  assert videos.left_out == 1


def test_a_name_of_two_classes_needs_class_folders(tmp_path):
  with pytest.raises(UserError, match=r"a\.avi: may be run/a and walk/a of the lists"):
    listing(tmp_path, ["a.avi"], trainlist01="walk/a.avi 1\nrun/a.avi 2\n")


def test_hmdb51(tmp_path):
  for path in ("brush_hair/a b_0.avi", "brush_hair/x!.avi", "brush_hair/z.avi", "wave/w.avi"):
    (tmp_path / "hmdb" / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "hmdb" / path).write_bytes(b"x")
  files = write(
    tmp_path,
    brush_hair_test_split1="a b_0.avi 1 \nx!.avi 2 \nz.avi 0 \n",
    wave_test_split1="w.avi 1 \n",
  )
  videos = split_lists.apply(video_list.from_folder(tmp_path / "hmdb"), files)
  assert found(videos) == [
    ("test", "brush_hair", "x!.avi"),
    ("train", "brush_hair", "a b_0.avi"),
    ("train", "wave", "w.avi"),
  ]
  assert videos.labels == ("brush_hair", "wave")
  assert videos.notes == ("1 video in neither split by the lists: brush_hair/z.avi",)
  assert not videos.left_out  # the lists say so


@pytest.mark.parametrize(
  ("texts", "message"),
  [
    ({"trainlist01": TRAIN, "testlist02": TEST}, "different numbers"),
    ({"trainlist01": TRAIN, "testlist01": TRAIN}, "testlist01.txt, line 1: .* in two splits"),
    ({"trainlist01": "no_folder.avi 1\n"}, "trainlist01.txt, line 1: expected"),
    ({"trainlist01": TRAIN + "A/b.avi one\n"}, "line 3: expected"),
    ({"trainlist01": TRAIN, "classInd": "5 JumpRope\n"}, "line 1: class JumpRope has number 5"),
    ({"trainlist01": TRAIN, "classInd": "JumpRope\n"}, "classInd.txt, line 1: expected"),
    ({"wave_test_split1": "w.avi 3\n"}, "wave_test_split1.txt, line 1: expected"),
    ({"mine": "a b\n"}, "mine.txt: no list is known by this name"),
    ({"classInd": CLASSES}, "name no videos"),
    ({"trainlist01": "Other/o.avi 1\n"}, "none of its videos"),
  ],
)
def test_bad_lists(tmp_path, texts, message):
  files = write(tmp_path, **texts)
  with pytest.raises(UserError, match=message):
    split_lists.apply(ucf(tmp_path), files)


def test_a_list_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match=r"trainlist01\.txt: cannot be read"):
    split_lists.apply(ucf(tmp_path), [tmp_path / "trainlist01.txt"])
