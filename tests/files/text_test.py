"""File names of any bytes survive in texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vssl_jax import files


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
