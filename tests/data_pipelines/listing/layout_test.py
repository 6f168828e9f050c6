"""What folders of videos say of splits and classes, for the layouts that people have."""

import pytest

from data_pipelines.listing import layout
from vssl_jax.errors import UserError

# Classes of Kinetics-700 and VGGSound, some with a word that also names a split.
CLASSES = ("training dog", "battle rope training", "abseiling", "train horning", "testifying")


def places(*paths):
  found, _ = layout.read(paths, "IN")
  return {path: (place.split, place.label) for path, place in zip(paths, found, strict=True)}


def notes(*paths):
  return layout.read(paths, "IN")[1]


@pytest.mark.parametrize(
  ("name", "split"),
  [
    ("train", "train"),
    ("Train", "train"),
    ("TRAINING", "train"),
    ("videos_train", "train"),
    ("train-256", "train"),
    ("train_256p", "train"),
    ("k400_val", "val"),
    ("Val Videos", "val"),
    ("valid", "valid"),
    ("validation", "validation"),
    ("UCF101Test", "test"),
    ("testset", "test"),
    ("TestSet", "test"),
    ("test.1", "test"),
    ("videosTEST", "test"),
    ("replacement_for_corrupted_k400", "replacement"),
    ("train_val", "train_val"),
    ("trainval", "trainval"),
    ("fold1", "fold1"),
    ("Split_02", "split02"),
    ("all", ""),
    ("contest", ""),
    ("strain", ""),
    ("latest", ""),
    ("interval", ""),
    ("attestation", ""),
    ("folding clothes", ""),
    ("HandStandPushups", ""),
    ("tést", ""),
    ("", ""),
  ],
)
def test_names_of_splits(name, split):
  found = layout.parse(name)
  assert (found.split, found.rest if split else ()) == (split, ())


@pytest.mark.parametrize("name", CLASSES)
def test_names_that_may_be_classes(name):
  found = layout.parse(name)
  assert found.rest or not found.split
  assert not found.last


def test_kinetics_as_it_is_published():
  assert places(
    "k400/train/a.mp4",
    "k400/Val/b.mp4",
    "k400/test/c.mp4",
    "k400/replacement/replacement_for_corrupted_k400/d.mp4",
  ) == {
    "k400/train/a.mp4": ("train", ""),
    "k400/Val/b.mp4": ("val", ""),
    "k400/test/c.mp4": ("test", ""),
    "k400/replacement/replacement_for_corrupted_k400/d.mp4": ("replacement", ""),
  }
  assert notes("train/a.mp4", "val/b.mp4") == ["no class folders in the splits: no labels"]


@pytest.mark.parametrize("above", ["", "data/", "a/b/"])
@pytest.mark.parametrize(
  "pair",
  [("train", "val"), ("TRAIN", "TEST"), ("videos_train", "videos_val"), ("My_train", "MyTest")],
)
def test_class_folders_in_splits(above, pair):
  paths = [f"{above}{pair[0]}/walk/1.mp4", f"{above}{pair[1]}/run/2.mp4"]
  first, second = places(*paths).values()
  assert (first[1], second[1]) == ("walk", "run")
  assert first[0] == "train"
  assert second[0] == ("val" if "val" in pair[1] else "test")


def test_splits_in_class_folders():
  paths = ["in/walk/train/1.mp4", "in/walk/test/2.mp4", "in/run/test/3.mp4"]
  expected = [("train", "walk"), ("test", "walk"), ("test", "run")]
  assert [*places(*paths).values()] == expected
  assert notes(*paths) == [
    "the splits are within the class folders: the folder above a split is the label"
  ]


def test_one_split_may_be_flat():
  paths = ["train/walk/1.mp4", "train/run/cam/2.mp4", "test/3.mp4"]
  assert [*places(*paths).values()] == [("train", "walk"), ("train", "run"), ("test", "")]
  assert notes(*paths) == [
    "class folders have sub-folders: the first folder below a split is the label",
    "split 'test' has no class folders: its videos are unlabeled",
  ]


def test_no_splits_at_all():
  assert places("1.mp4") == {"1.mp4": ("", "")}
  assert places("walk/1.mp4", "run/x/2.mp4") == {
    "walk/1.mp4": ("", "walk"),
    "run/x/2.mp4": ("", "run"),
  }


def test_classes_with_such_a_word_stay_classes_and_are_noted():
  paths = [f"train/{name}/1.mp4" for name in CLASSES]
  assert [label for _, label in places(*paths).values()] == list(CLASSES)
  (note,) = notes(*paths)
  assert note.startswith("class folders, though a split is in their names: ")
  assert "train/training dog" in note
  assert "testifying" not in note
  assert [p.partition("/")[0] for p in ("knee replacement/1.mp4", "run/2.mp4")] == [
    label for _, label in places("knee replacement/1.mp4", "run/2.mp4").values()
  ]
  # Below a class folder no name is a label.
  assert places("walk/my_test/1.mp4", "run/2.mp4")["walk/my_test/1.mp4"] == ("", "walk")


AMBIGUOUS = {
  "class folders beside a split": ["walk/1.mp4", "run/2.mp4", "test/3.mp4"],
  "class folders beside a split of class folders": ["walk/1.mp4", "run/2.mp4", "test/walk/3.mp4"],
  "a class of vehicles": ["bus/1.mp4", "car/2.mp4", "train/3.mp4"],
  "the name of a data set": ["walk/1.mp4", "run/2.mp4", "UCF_mine_test/3.mp4"],
  "one folder alone": ["foo_train/1.mp4"],
  "each class with its test": ["walk/1.mp4", "walk_test/2.mp4", "test_run/3.mp4", "run/4.mp4"],
  "one class with its test": ["walk/1.mp4", "test_walk/2.mp4", "run/3.mp4"],
  "two folders of a split": ["train/1.mp4", "Train/2.mp4"],
  "parts of a split": ["train_part1/1.mp4", "train_part2/2.mp4", "val/3.mp4"],
  "official splits side by side": ["train1/a/1.mp4", "test1/a/2.mp4", "train2/a/3.mp4"],
  "a split in another": ["train/test/1.mp4", "train/walk/2.mp4"],
  "only splits in another": ["train/test/1.mp4"],
  "videos beside splits": ["1.mp4", "test/2.mp4"],
  "videos beside classes in a split": ["train/1.mp4", "train/walk/2.mp4"],
  "a class without splits": ["walk/train/1.mp4", "walk/test/2.mp4", "run/3.mp4"],
  "folders above and below": ["a/train/walk/1.mp4", "b/train/walk/2.mp4"],
  "splits at two depths": ["train/1.mp4", "k/val/2.mp4"],
  "below a split at two depths": ["train/walk/1.mp4", "k/val/run/2.mp4"],
  "videos beside class folders": ["1.mp4", "walk/2.mp4"],
}


@pytest.mark.parametrize("paths", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_is_ambiguous_stops(paths):
  with pytest.raises(UserError, match="--flat") as error:
    layout.read(paths, "IN")
  assert "\n" not in str(error.value)
  assert str(error.value).startswith("IN")


def test_no_evident_name_of_a_split_is_ever_a_label():
  """All pairs of plain and split names, at two depths, in any order."""
  names = ["walk", "train", "Val", "videos_test", "TESTING", "data"]
  paths = [f"{a}/{b}/1.mp4" for a in names for b in names] + [f"{a}/1.mp4" for a in names]
  for first in paths:
    for second in paths:
      try:
        found = places(first, second)
      except UserError:
        continue
      for path, (split, label) in found.items():
        assert not layout.parse(label).split, (first, second)
        named = [layout.parse(part).split for part in path.split("/")[:-1]]
        assert split == next(filter(None, named), ""), (first, second)


def test_splits_of():
  assert layout.splits_of(["a/Train/1.mp4", "val/2.mp4", "training dog/3.mp4"]) == ["train", "val"]
