"""Which files below a folder are videos, here and in a bucket."""

import os
import pathlib
import uuid

import pytest

from data_pipelines.listing import finding
from vssl_jax import files
from vssl_jax.errors import UserError

NAMES = (
  "b/2.MP4",
  "a/deep/1.avi",
  "a/12:30.mkv",
  "cam:/front.mov",
  "._b.mp4",
  "a/._1.avi",
  ".hidden/4.mp4",
  "a/.cache/5.mp4",
  "notes.txt",
  "a/README",
)
VIDEOS = ("a/12:30.mkv", "a/deep/1.avi", "b/2.MP4", "cam:/front.mov")
NOTE = "files left out because their extension is not of a video: 1 without extension, 1 .txt"


@pytest.fixture
def folder(tmp_path):
  for name in NAMES:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x" * len(name))
  return tmp_path


def test_hidden_files_and_those_of_other_kinds_are_left_out(folder):
  found = finding.find(folder)
  assert found.paths == VIDEOS
  assert found.notes == (NOTE,)
  assert [p.read_bytes() for p in found.files()] == [b"x" * len(name) for name in VIDEOS]


def test_a_bucket_is_listed_alike_and_tells_the_sizes(folder):
  pytest.importorskip("upath")
  at = files.path(f"memory://{uuid.uuid4().hex}/videos")
  for name in NAMES:
    with files.replacing(f"{at}/{name}") as file:
      file.write(b"x" * len(name))
  found = finding.find(at)
  assert (found.paths, found.notes) == (VIDEOS, (NOTE,))
  assert found.sizes == {name: len(name) for name in VIDEOS}
  assert files.size(str(found.files()[0])) == len(VIDEOS[0])


def test_a_name_with_a_colon_is_no_address(folder, monkeypatch):
  monkeypatch.chdir(folder)
  found = finding.find(pathlib.Path())
  assert not any(files.is_address(path) for path in found.files())
  assert all(path.is_file() for path in found.files())
  inside = finding.find("./cam:/")
  assert inside.paths == ("front.mov",)
  assert inside.files()[0].is_file()


def test_folders_that_cannot_be_listed_are_noted(folder, monkeypatch):
  def scandir(path):
    if os.fspath(path).endswith("deep"):
      raise PermissionError(13, "Permission denied", os.fspath(path))
    return real(path)

  real = os.scandir
  monkeypatch.setattr(os, "scandir", scandir)
  found = finding.find(folder)
  assert "a/deep/1.avi" not in found.paths
  assert found.notes[0] == found.lost == f"1 folder cannot be read: {folder / 'a' / 'deep'}"


def test_folders_that_cannot_be_entered_are_noted(folder, monkeypatch):
  def stat(path, **how):
    if os.fspath(path).endswith("deep"):
      raise PermissionError(13, "Permission denied", os.fspath(path))
    return real(path, **how)

  real = os.stat
  monkeypatch.setattr(os, "stat", stat)
  found = finding.find(folder)
  assert "a/deep/1.avi" not in found.paths
  assert found.lost == f"1 folder cannot be read: {folder / 'a' / 'deep'}"


def test_nothing_to_find(tmp_path):
  (tmp_path / "empty").mkdir()
  for name in ("empty", "missing"):
    with pytest.raises(UserError, match=name):
      finding.find(tmp_path / name)


def test_few_and_counted():
  assert finding.few(["a", "b"]) == "a, b"
  assert finding.few([*"abcdefgh"]) == "a, b, c, d, e, f and 2 more"
  assert finding.counted(["a"], "class") == "1 class"
  assert finding.counted([], "class") == "0 classes"
  assert finding.counted([*"ab"], "video") == "2 videos"
