"""What is found out about many videos, and what of it is kept."""

import errno
import os
import pathlib

import av
import pytest

from data_pipelines.videos import container, decode, survey, wanted
from vssl_jax import files
from vssl_jax.errors import UserError


@pytest.fixture
def spans(make_video, tmp_path):
  make_video(tmp_path / "v" / "a.mp4", 12)
  make_video(tmp_path / "v" / "b.avi", 30, fps=10)
  (tmp_path / "v" / "c.mp4").write_bytes(b"no video")
  paths = [str(tmp_path / "v" / name) for name in ("a.mp4", "b.avi", "c.mp4", "none.mp4")]
  settings = decode.FrameSettings(max_seconds=2)
  return [wanted.Span(path, str(tmp_path / "cache"), settings) for path in paths]


@pytest.fixture
def seen(monkeypatch):
  """Paths of the videos that were looked at."""
  paths, cut = [], wanted.cut
  monkeypatch.setattr(wanted, "cut", lambda s, i: paths.append(s.path) or cut(s, i))
  return paths


def look(spans, **kwargs):
  return survey.survey(
    spans, survey.cache_folder(spans[0].cache), **({"processes": 1, "timeout": 0} | kwargs)
  )


def test_facts_are_found_once(spans, seen):
  a, b, c, none = found = look(spans)
  assert a.parts == ((12, 25.0),)
  assert b.parts == ((15, 10.0), (15, 10.0))  # 3 s in two parts
  assert a.size == os.path.getsize(spans[0].path)
  assert "cannot be decoded" in c.error
  assert not c.parts
  assert (none.error, none.size) == ("no such file", -1)
  assert len(seen) == 2
  assert look(spans) == found
  assert len(seen) == 2


def test_a_change_is_noticed(spans, seen, make_video):
  look(spans)
  make_video(pathlib.Path(spans[2].path), 20)
  assert look(spans)[2].parts == ((20, 25.0),)
  os.unlink(spans[0].path)
  assert look(spans)[0].error == "no such file"


def test_damage_of_the_summary_is_repaired(spans, seen, tmp_path):
  found = look(spans)
  (own,) = (tmp_path / "cache").glob("*.json")
  content = own.read_bytes()
  for text in (b"", b"rubble", content[:-1], content.replace(b"12", b"13", 1), b"[]\n" + b"0" * 64):
    own.write_bytes(text)
    assert look(spans) == found
  assert own.read_bytes() == content


def crash_at_b(group, report):
  """As `survey._look`, but `b.avi` ends the process."""
  for place, span in enumerate(group.spans):
    if "b.avi" in span.path and place not in group.crashed:
      report(place)
      os._exit(3)
  return survey._look(group, report)


def test_a_video_that_crashes_the_decoder_is_left_out_and_tried_again(spans, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(survey, "_look", crash_at_b)
    found = look(spans, timeout=100)
  assert (found[1].error, found[1].lost) == ("the process ended with status 3", True)
  assert found[0].parts == ((12, 25.0),)
  seen = []
  with monkeypatch.context() as patch:
    cut = wanted.cut
    patch.setattr(wanted, "cut", lambda s, i: seen.append(s.path) or cut(s, i))
    assert look(spans)[1].parts
  assert seen == [spans[1].path]  # the others are known


@pytest.mark.parametrize(
  "fault",
  [
    OSError(errno.EIO, "Input/output error"),
    PermissionError(errno.EACCES, "Permission denied"),
    av.error.PermissionError(errno.EACCES, "Permission denied", "a.mp4"),
    av.error.FFmpegError(errno.ESTALE, "Stale file handle", "a.mp4"),
    FileNotFoundError(errno.ENOENT, "no such file"),
    MemoryError(),
  ],
)
def test_faults_that_pass_are_not_kept(spans, monkeypatch, fault):
  def failing(path):
    raise fault

  with monkeypatch.context() as patch:
    patch.setattr(container, "open_file", failing)
    found = look(spans[:2])
  assert all(facts.error and facts.lost for facts in found)
  assert not found[0].error.endswith(": ")
  assert [facts.error for facts in look(spans[:2])] == ["", ""]


def test_another_decoder_tries_again_what_could_not_be_read(spans, monkeypatch, seen):
  look(spans)
  monkeypatch.setattr(container, "open_file", lambda path: av.open(spans[0].path))
  assert look(spans)[2].error
  monkeypatch.setattr(av, "__version__", "99.0")
  assert not look(spans)[2].error


def test_a_cache_that_cannot_be_written_is_read(spans, monkeypatch):
  def crashed(group, report):
    return [survey.Facts(error="the process ended with status 3", lost=True) for _ in group.spans]

  look(spans[:1])
  monkeypatch.setattr(survey, "_look", crashed)
  found = look(spans[1:])
  monkeypatch.setattr(files, "write_atomic", None)
  assert look(spans[:1])[0].parts
  assert look(spans[1:]) == found


def test_the_folder_of_the_cache(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
  assert survey.cache_folder("") == tmp_path / "x" / "vssl_jax" / "videos"
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert survey.cache_folder("") == tmp_path / ".cache" / "vssl_jax" / "videos"
  (tmp_path / "taken").write_text("")
  with pytest.raises(UserError, match=r"config\.data\.videos\.cache"):
    survey.cache_folder(str(tmp_path / "taken"))
