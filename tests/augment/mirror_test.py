"""Class names that tell a side."""

import pytest

from vssl_jax.augment import mirror


@pytest.mark.parametrize(
  "name",
  [
    "swipe_left",
    "Turn Right",
    "turnRight",
    "LEFT",
    "left-hand throw",
    "rotate_clockwise",
    "HandLeft2",
  ],
)
def test_a_side_is_found(name):
  assert mirror.directional(["walk", name]) == [name]


@pytest.mark.parametrize(
  "name", ["bright", "cleft", "upright", "copyright", "Archery", "", "up", "3"]
)
def test_parts_of_words_and_other_names_are_not(name):
  assert mirror.directional([name]) == []


def test_the_note_is_for_mirrored_clips_alone():
  names = ["swipe_left", "swipe_right", "wave"]
  assert "2 of 3 classes tell left from right, such as 'swipe_left'" in mirror.note(0.5, names)
  assert mirror.note(0.0, names) == mirror.note(0.5, ["wave"]) == ""
