"""Class-balanced subsets: counts by hand, nested, seeded; files there and back."""

import numpy as np
import pytest

from vssl_jax.errors import UserError
from vssl_jax.evaluation import subsets

LABEL = np.array([0] * 50 + [1] * 30 + [2] * 20 + [-1] * 10)


def _counts(chosen):
  return np.bincount(LABEL[chosen], minlength=3).tolist()


@pytest.mark.parametrize(
  ("fraction", "each"), [(0.01, [1, 1, 1]), (0.1, [3, 3, 3]), (0.75, [25, 25, 20])]
)
def test_as_many_of_each_class(fraction, each):
  # 100 labeled videos of 3 classes: 0.33, 3.3 and 25 a class; the smallest has but 20.
  chosen = subsets.balanced(LABEL, fraction, 0)
  assert _counts(chosen) == each
  assert np.array_equal(chosen, np.unique(chosen))


def test_halves_are_rounded_up():
  label = np.repeat([0, 1], 25)  # 10 % of 50 are 2.5 a class
  assert np.bincount(label[subsets.balanced(label, 0.1, 0)]).tolist() == [3, 3]


def test_seeds_choose_and_small_subsets_lie_within_larger_ones():
  small, large = (subsets.balanced(LABEL, f, 7) for f in (0.1, 0.3))
  assert set(small) < set(large)
  np.testing.assert_array_equal(small, subsets.balanced(LABEL, 0.1, 7))
  assert not np.array_equal(small, subsets.balanced(LABEL, 0.1, 8))
  # Every video of a class is as likely as another.
  hits = sum(np.isin(np.arange(110), subsets.balanced(LABEL, 0.1, s)) for s in range(2000))
  np.testing.assert_allclose(hits[80:100] / 2000, 3 / 20, atol=0.04)
  assert hits[100:].sum() == 0


@pytest.mark.parametrize(
  ("label", "fraction", "message"),
  [
    (LABEL, 1.0, "not between 0 and 1"),
    (LABEL, 0.0, "not between 0 and 1"),
    (np.array([0, 1, -1]), 0.1, "too few videos"),
    (np.array([0, 0, 0, -1]), 0.1, "a subset needs two"),
  ],
)
def test_impossible_subsets_are_one_line(label, fraction, message):
  with pytest.raises(UserError, match=message) as e:
    subsets.balanced(label, fraction, 0)
  assert "\n" not in str(e.value)


def test_files_there_and_back(tmp_path):
  file = tmp_path / "few" / "subset.tsv"
  names = ["a.avi", "b.avi", "b.avi", "", "e.avi"]
  subsets.write(file, [0, 2, 3], [1, 0, 1], ["a.avi", "b.avi", ""], ("x", "y"))
  assert file.read_text().splitlines() == [
    "video\tclass\tname",
    "0\ty\ta.avi",
    "2\tx\tb.avi",
    "3\ty\t",
  ]
  np.testing.assert_array_equal(subsets.read(file, names, 5), [0, 2, 3])
  # In a split in another order names decide, where they are one video's alone.
  subsets.write(file, [0, 4], [0, 0], ["e.avi", "a.avi"], ("x",))
  np.testing.assert_array_equal(subsets.read(file, names, 5), [0, 4])
  subsets.write(file, [3], [0], ["a.avi"], ("x",))
  np.testing.assert_array_equal(subsets.read(file, names, 5), [0])
  file.write_text("e.avi\n\na.avi\n")
  np.testing.assert_array_equal(subsets.read(file, names, 5), [0, 4])
  # Names of the same videos somewhere else: of class and file, or of the file, one has them.
  names = ["run/a.avi", "run/b.avi", "jump/b.avi"]
  file.write_text("/data/run/b.avi\nC/a.avi\n")
  np.testing.assert_array_equal(subsets.read(file, names, 3), [0, 1])
  file.write_text("fly/b.avi\n")
  with pytest.raises(UserError, match=r"line 1: .* does not match exactly one video"):
    subsets.read(file, names, 3)
  subsets.write(file, [1, 2], [0, 0], ["", ""], ("x",))
  np.testing.assert_array_equal(subsets.read(file, (), 3), [1, 2])


@pytest.mark.parametrize(
  ("text", "names", "message"),
  [
    ("", ("a",), "names no video"),
    ("z.avi\n", ("a",), "line 1: .* does not match exactly one video"),
    ("0\tx\tz.avi\n", ("a",), "no video 'z.avi'"),
    ("7\tx\t\n", (), "does not match exactly one video"),
    ("b\n", ("b", "b"), "does not match exactly one video"),
  ],
)
def test_bad_files_name_the_line(tmp_path, text, names, message):
  file = tmp_path / "s.tsv"
  file.write_text(text)
  with pytest.raises(UserError, match=message):
    subsets.read(file, names, 2)
  with pytest.raises(UserError, match="cannot be read"):
    subsets.read(tmp_path / "missing.tsv", names, 2)
