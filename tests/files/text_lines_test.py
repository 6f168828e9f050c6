"""Lines of text files, of which none fills the memory."""

import os
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.files import contents, text, text_lines


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("a\n\r\udcff\u2028é"), max_size=40))
def test_lines_are_those_of_the_text(tmp_path, content):
  (tmp_path / "x").write_bytes(files.encode(content))
  found = list(files.lines(tmp_path / "x"))
  assert "".join(found) == content
  stripped = [line.rstrip("\r\n") for line in found]
  assert stripped == files.read_text(tmp_path / "x").removesuffix("\n").split("\n") or not content


def test_a_byte_order_mark_is_dropped_and_other_bytes_refused_if_asked(tmp_path):
  (tmp_path / "x").write_bytes("\ufeffa\r\nb".encode() + b"\xff")
  assert list(files.lines(tmp_path / "x")) == ["a\r\n", "b\udcff"]
  with pytest.raises(UnicodeDecodeError):
    list(files.lines(tmp_path / "x", strict=True))


def test_a_large_file_is_refused_before_it_is_read(tmp_path, bucket, monkeypatch):
  path = tmp_path / "x"
  path.touch()
  os.truncate(path, text.MOST + 1)
  monkeypatch.setattr(contents, "open_read", None)
  for read in (files.read_text, files.read_json, lambda p: list(files.lines(p))):
    with pytest.raises(UserError, match="x: more than 1024 MiB, too much for a text file"):
      read(path)
  files.write_atomic(bucket / "x", b"abc")
  monkeypatch.setattr(text, "MOST", 2)
  with pytest.raises(UserError, match="too much for a text file"):
    list(files.lines(bucket / "x"))


def test_a_long_line_is_refused_before_it_is_read(tmp_path):
  path = tmp_path / "x"
  with open(path, "wb") as file:
    file.write(b"one\n")
    for _ in range(64):
      file.write(b"a" * (1 << 20))
  tracemalloc.start()
  with pytest.raises(UserError, match=r"x, line 2: more than 1 MiB without a line break: is it"):
    list(files.lines(path))
  assert tracemalloc.get_traced_memory()[1] < 16 << 20
  tracemalloc.stop()
  (tmp_path / "y").write_bytes(b"a" * text_lines.LONGEST + b"\nb")
  with pytest.raises(UserError, match=r"line 1: more than"):
    list(files.lines(tmp_path / "y"))
  (tmp_path / "y").write_bytes(b"a" * (text_lines.LONGEST - 1) + b"\nb")
  assert [len(line) for line in files.lines(tmp_path / "y")] == [text_lines.LONGEST, 1]


def test_lines_take_the_memory_of_one(tmp_path):
  with open(tmp_path / "x", "wb") as file:
    for _ in range(1 << 15):
      file.write(b"a" * 1023 + b"\n")
  tracemalloc.start()
  assert sum(map(len, files.lines(tmp_path / "x"))) == 32 << 20
  assert tracemalloc.get_traced_memory()[1] < 1 << 20
  tracemalloc.stop()


def test_what_has_no_size_is_limited_too(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="/dev/zero: not a UTF-8 text file: ask"):
    list(files.lines("/dev/zero", instead="ask"))
  monkeypatch.setattr(text, "check_size", lambda path: None)
  monkeypatch.setattr(text, "MOST", 7)
  (tmp_path / "x").write_bytes(b"abc\n" * 2)
  with pytest.raises(UserError, match="too much for a text file"):
    list(files.lines(tmp_path / "x"))
