"""A file appears whole or not at all, in a file system and in a bucket."""

import pytest

from vssl_jax import files
from vssl_jax.errors import UserError


def test_appears_when_complete(tmp_path):
  path = tmp_path / "a.bin"
  with files.replacing(path) as file:
    file.write(b"new")
    assert not path.exists()
  assert path.read_bytes() == b"new"
  assert list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_what_was_there(tmp_path):
  path = tmp_path / "a.bin"
  path.write_bytes(b"old")
  with pytest.raises(TypeError), files.replacing(path) as file:
    file.write(b"half" + file.write(b"half"))
  assert path.read_bytes() == b"old"
  assert list(tmp_path.iterdir()) == [path]
  with files.replacing(path) as file:
    file.write(b"new")
  assert path.read_bytes() == b"new"


def test_folders_are_made_or_refused_in_a_line(tmp_path):
  assert files.make_folder(tmp_path / "a" / "b").is_dir()
  files.make_folder(str(tmp_path / "a" / "b"))
  (tmp_path / "file").touch()
  for path in (tmp_path / "file", tmp_path / "file" / "below"):
    with pytest.raises(UserError, match=f"^{path}: no folder can be made here"):
      files.make_folder(path)


def test_no_folder(tmp_path):
  with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "none" / "a.bin"):
    pass


def test_an_object_appears_when_complete(bucket):
  where = bucket / "a.bin"
  with files.replacing(where) as file:
    file.write(b"half")
    assert not where.exists()
    file.seek(0)
    file.write(b"whole")
  assert where.read_bytes() == b"whole"
  with pytest.raises(TypeError), files.replacing(where) as file:
    file.write(b"new" + file.write(b"new"))
  assert where.read_bytes() == b"whole"
  assert files.tree(bucket) == {"a.bin": 5}
  files.write_atomic(str(bucket / "b" / "c.txt"), b"c")
  assert files.read_text(bucket / "b" / "c.txt") == "c"


def test_a_bucket_needs_no_folder_but_an_object_is_none(bucket):
  assert files.make_folder(str(bucket / "a" / "b")) == bucket / "a" / "b"
  files.write_atomic(bucket / "a", b"x")
  with pytest.raises(UserError, match="no folder can be made here"):
    files.make_folder(bucket / "a")


@pytest.fixture(params=["file system", "bucket"])
def place(request, tmp_path, bucket):
  return bucket if request.param == "bucket" else tmp_path


def test_a_folder_takes_the_place_of_another(place):
  for name in ("old", "new"):
    with files.replacing_folder(place / "f") as folder:
      (folder / "below").mkdir()
      (folder / "below" / name).write_text(name)
      if name == "new":
        assert (place / "f" / "below" / "old").exists()
  assert [p.name for p in (place / "f" / "below").iterdir()] == ["new"]
  with pytest.raises(TypeError), files.replacing_folder(place / "f") as folder:
    (folder / "half").write_bytes(b"half" + (folder / "other").write_bytes(b"half"))
  assert (place / "f" / "below" / "new").read_text() == "new"
  assert [p.name for p in place.iterdir()] == ["f"]
