"""File names of any bytes survive in texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.files import text


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


def test_json_of_any_damage_is_a_value_error(tmp_path):
  path = tmp_path / "x.json"
  path.write_text('{"a": [1, 2.5]}')
  assert files.read_json(path) == {"a": [1, 2.5]}
  for data in (b"", b"{", b"[" * 200_000, b"9" * 5000, b"\xff{}"):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"."):
      files.read_json(path)


def test_a_text_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(text, "MOST", 1 << 20)
  path = tmp_path / "x.txt"
  path.write_bytes(b"a" * (1 << 20))
  assert len(files.read_text(path)) == 1 << 20
  path.write_bytes(b"a" * ((1 << 20) + 1))
  with pytest.raises(UserError, match="more than 1 MiB"):
    files.read_text(path)
  with pytest.raises(UserError, match="more than 1 MiB"):
    files.read_text("/dev/zero")


def test_bytes_that_are_not_utf8_are_refused_if_asked(tmp_path):
  (tmp_path / "x").write_bytes(b"a\r\nb\xff")
  assert files.read_text(tmp_path / "x") == "a\nb\udcff"
  with pytest.raises(UnicodeDecodeError):
    files.read_text(tmp_path / "x", strict=True)


@pytest.mark.parametrize(
  ("name", "shown"),
  [
    ("hand_stand", "hand_stand"),
    ("_a_", r"\_a\_"),
    ("a|b", r"a\|b"),
    ("*a* `b` [c](d) ~e $f\\", r"\*a\* \`b\` \[c\](d) \~e \$f\\"),
    ("<script>&", "&lt;script&gt;&amp;"),
    ("a\nb\x1b", r"a\\nb\\x1b"),
  ],
)
def test_a_name_in_markdown_is_shown_as_it_is(name, shown):
  assert files.markdown(name) == shown
