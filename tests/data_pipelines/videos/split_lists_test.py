"""Official UCF101 and HMDB51 lists, in the form in which they are published."""

import pytest

from data_pipelines.videos import split_lists, video_list
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
  assert videos.notes == ("2 videos of the folder are in no list",)


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
  assert videos.notes == ("1 of the lists' 2 classes are not in the folder",)


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
  assert videos.notes == ("1 videos are in neither split by the lists",)


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
