"""A file appears whole or not at all; file names of any bytes survive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.binary())
def test_any_bytes_survive(data):
  assert files.encode(files.decode(data)) == data
  files.printable(files.decode(data)).encode("utf-8")


def test_texts(tmp_path):
  name = "ä " + files.decode(b"caf\xe9")
  files.write_text(tmp_path / "a.txt", f"{name}\n")
  assert (tmp_path / "a.txt").read_bytes() == "ä caf".encode() + b"\xe9\n"
  assert files.read_text(tmp_path / "a.txt") == f"{name}\n"
  assert len(list(tmp_path.iterdir())) == 1
  (tmp_path / "a.txt").write_bytes("\ufeffa\r\nb".encode())
  assert files.read_text(tmp_path / "a.txt") == "a\nb"


@pytest.mark.parametrize(
  ("name", "shown"),
  [
    ("été 吸.mp4", "été 吸.mp4"),
    (files.decode(b"caf\xe9"), r"caf\xe9"),
    ("a\nb\tc\x1b", r"a\nb\tc\x1b"),
    ("\ud800", r"\ud800"),
  ],
)
def test_printable(name, shown):
  assert files.printable(name) == shown
