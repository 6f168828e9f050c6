"""File names of any bytes: in, out and on a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vssl_jax import text


@given(st.binary())
def test_any_bytes_survive(data):
  assert text.encode(text.decode(data)) == data
  text.printable(text.decode(data)).encode("utf-8")


def test_files(tmp_path):
  name = "ä " + text.decode(b"caf\xe9")
  text.write(tmp_path / "a.txt", f"{name}\n")
  assert (tmp_path / "a.txt").read_bytes() == "ä caf".encode() + b"\xe9\n"
  assert text.read(tmp_path / "a.txt") == f"{name}\n"
  assert len(list(tmp_path.iterdir())) == 1
  (tmp_path / "a.txt").write_bytes("\ufeffa\r\nb".encode())
  assert text.read(tmp_path / "a.txt") == "a\nb"


@pytest.mark.parametrize(
  ("name", "shown"),
  [
    ("été 吸.mp4", "été 吸.mp4"),
    (text.decode(b"caf\xe9"), r"caf\xe9"),
    ("a\nb\tc\x1b", r"a\nb\tc\x1b"),
    ("\ud800", r"\ud800"),
  ],
)
def test_printable(name, shown):
  assert text.printable(name) == shown
