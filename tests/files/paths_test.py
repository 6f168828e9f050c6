"""Paths are of files or of addresses; an address is never taken for a folder `gs:`."""

import concurrent.futures
import pathlib

import pytest

from vssl_jax import files
from vssl_jax.errors import UserError


@pytest.mark.parametrize("path", ["a", "/a/b", "C:/runs", "a:b", "./gs:/x", pathlib.Path("a")])
def test_paths(path):
  for make in (files.path, files.local):
    assert make(path) == pathlib.Path(path)
  assert not files.is_address(path)
  assert not files.is_remote(files.path(path))


@pytest.mark.parametrize("path", ["gs://b/c", "s3://b", "hf://a/b", pathlib.Path("gs://a")])
def test_what_must_be_a_file_is_none(path):
  with pytest.raises(UserError, match="must be a file or folder in a file system; copy it"):
    files.local(path)


@pytest.mark.parametrize("path", ["gs:/b/c", pathlib.Path("gs://b/c"), "s3:///b"])
def test_a_lost_slash_is_told(path):
  with pytest.raises(UserError, match="give it as scheme://bucket/name, with two slashes"):
    files.path(path)


def test_an_unknown_scheme_is_told():
  with pytest.raises(UserError, match=r"nosuch://b/c: no support for nosuch:// is installed"):
    files.path("nosuch://b/c")


def test_a_missing_library_is_named(monkeypatch):
  import fsspec

  def missing(name, **kwargs):
    raise ImportError("Please install gcsfs")

  monkeypatch.setattr(fsspec, "filesystem", missing)
  monkeypatch.setattr("upath.core.get_filesystem_class", missing, raising=False)
  monkeypatch.setitem(__import__("sys").modules, "upath", None)
  with pytest.raises(UserError, match=r"pip install .*gcs"):
    files.path("gs://b/c")
  with pytest.raises(UserError, match=r"pip install .*s3"):
    files.path("s3://b/c")


def test_an_address_is_no_argument_of_open(bucket):
  with pytest.raises(TypeError), open(bucket / "a"):
    pass


def test_both_are_listed(bucket, tmp_path):
  both = [bucket / "a", tmp_path]
  assert files.listed(both) == [str(bucket / "a"), str(tmp_path)]
  assert files.listed(bucket) == [str(bucket)]
  assert files.listed("") == []
  assert files.listed(x for x in "ab") == ["a", "b"]


def test_sizes_and_ranges(bucket, tmp_path):
  data = bytes(range(200))
  for folder in (tmp_path, bucket):
    files.write_atomic(folder / "a", data)
    files.write_atomic(folder / "below" / "b", b"12")
    assert files.size(folder / "a") == 200
    assert files.sizes(folder) == {"a": 200}
    assert files.sizes(folder / "none") == {}
    assert files.read_range(folder / "a", 5, 10) == data[5:15]
    assert files.read_range(folder / "a", 190, 20) == data[190:]
    assert files.read_range(folder / "a", 5, 0) == b""
    with files.open_read(folder / "a") as file:
      file.seek(3)
      assert file.read() == data[3:]
    for ask in (files.size, files.open_read, lambda p: files.read_range(p, 0, 1)):
      with pytest.raises(FileNotFoundError):
        ask(folder / "none")
  assert files.tree(bucket) == {"a": 200, "below/b": 2}


def test_threads_read_at_once(bucket):
  files.write_atomic(bucket / "a", bytes(range(256)))
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = pool.map(lambda i: files.read_range(bucket / "a", i, 1), range(256))
    assert b"".join(found) == bytes(range(256))


def test_a_copy_here_of_a_file_and_of_a_folder(bucket, tmp_path):
  files.write_atomic(bucket / "f" / "a.mp4", b"a")
  files.write_atomic(bucket / "f" / "below" / "b", b"b")
  with files.local_copy(bucket / "f" / "a.mp4") as file:
    assert file.name == "a.mp4"
    assert file.read_bytes() == b"a"
  assert not file.exists()
  with files.local_copy(str(bucket / "f")) as folder:
    assert (folder / "below" / "b").read_bytes() == b"b"
  with pytest.raises(FileNotFoundError), files.local_copy(bucket / "none"):
    pass
  with files.local_copy(tmp_path) as itself:
    assert itself == tmp_path


def test_a_name_that_leads_out_of_the_folder_is_refused(bucket, tmp_path):
  files.write_atomic(bucket / "f" / "a", b"a")
  system, key = files.system_of(str(bucket / "f"))
  system.store[f"{key}/../../x"] = system.store.pop(f"{key}/a")
  with pytest.raises(UserError, match="a name that leads out of the folder"):
    files.download(str(bucket / "f"), tmp_path / "here")
  assert not (tmp_path / "here").exists()


def test_a_bracket_is_no_pattern(bucket):
  for name in ("a[1]", "a1"):
    for file in ("x.json", "below/y.json"):
      files.write_atomic(bucket / name / file, name.encode())
  odd, other = bucket / "a[1]", bucket / "a1"
  assert [p.name for p in files.matching(odd, "*.json")] == ["x.json"]
  assert [p.name for p in files.matching(odd, "*/y*")] == ["y.json"]
  with files.local_copy(odd) as folder:
    assert (folder / "below" / "y.json").read_text() == "a[1]"
  files.unlink(odd / "x.json")
  files.move_tree(odd, bucket / "b[1]")
  assert set(files.tree(bucket / "b[1]")) == {"below/y.json"}
  files.remove_tree(bucket / "b[1]")
  files.remove_tree(odd)
  assert set(files.tree(bucket)) == {"a1/x.json", "a1/below/y.json"}
  assert other.is_dir()


def test_matching_here_and_there(bucket, tmp_path):
  for folder in (tmp_path, bucket):
    for name in ("a/x", "b/x", "b/y", "c"):
      files.write_atomic(folder / name, b"")
    assert files.matching(folder, "*") == [folder / n for n in "abc"]
    assert files.matching(folder, "*/x") == [folder / "a" / "x", folder / "b" / "x"]
    assert files.matching(folder / "none", "*") == []
    assert files.names(folder) == ["c"]
    files.unlink(folder / "c")
    files.unlink(folder / "c", missing_ok=True)
    with pytest.raises(FileNotFoundError):
      files.unlink(folder / "c")


def test_a_file_that_vanishes_has_no_size(tmp_path, monkeypatch):
  (tmp_path / "a").write_text("a")
  monkeypatch.setattr("vssl_jax.files.contents.names", lambda folder: ["a", "gone"])
  assert files.sizes(tmp_path) == {"a": 1}


def test_trees_move_and_go(bucket, tmp_path):
  for folder in (tmp_path, bucket):
    files.write_atomic(folder / "f" / "below" / "b", b"b")
    files.move_tree(folder / "f", folder / "g")
    assert (folder / "g" / "below" / "b").read_bytes() == b"b"
    assert [p for p in (folder / "f").rglob("*") if p.is_file()] == []
    files.remove_tree(folder / "g")
    files.remove_tree(folder / "g")
    assert not (folder / "g").exists()


def test_an_error_of_a_storage_becomes_one_with_the_address():
  with (
    pytest.raises(OSError, match=r"the storage answered with an error \(KeyError: odd\)") as e,
    files.storage_errors("gs://b/c"),
  ):
    raise KeyError("odd")
  assert e.value.filename == "gs://b/c"


@pytest.mark.parametrize("name", ["v_1", "Run/v 1 (a)", "a..b", "...", "é", "x\udcff", "-1", "C:x"])
def test_a_name_of_a_file_within_the_folder_is_kept(name):
  assert files.check_name(name, "here") == name


@pytest.mark.parametrize(
  ("name", "why"),
  [
    ("", "empty"),
    ("a\0b", "empty, or has characters"),
    ("\ud800", "empty, or has characters"),
    ("/etc/x", "absolute"),
    ("\\\\host\\x", "absolute"),
    ("C:\\x", "absolute"),
    ("gs://bucket/x", "absolute"),
    ("..", "leads out"),
    ("../../x", "leads out"),
    ("a/../../x", "leads out"),
    ("a\\..\\x", "leads out"),
    (".", "leads out"),
    ("a" * 241, "longer"),
    ("a/" + "é" * 121, "longer"),
  ],
)
def test_a_name_that_leads_elsewhere_is_refused(name, why):
  with pytest.raises(UserError, match=f"^here: the name .* is .*{why}.*; rename it"):
    files.check_name(name, "here")


def test_an_error_of_the_storage_gets_its_path():
  with pytest.raises(OSError, match="No space left") as error, files.named_errors("runs/x"):
    raise OSError(28, "No space left on device")
  assert (error.value.errno, error.value.filename) == (28, "runs/x")
  with pytest.raises(OSError, match="No space left") as error, files.named_errors("runs/x"):
    raise ValueError('Failed writing: "/data/a.__lock": Failed: No space left on device [x]')
  assert error.value.filename == "/data/a.__lock"
  with pytest.raises(OSError, match="own") as error, files.named_errors("runs/x"):
    raise OSError(13, "Permission denied", "its own")
  assert error.value.filename == "its own"
  with pytest.raises(KeyError, match="x"), files.named_errors("runs/x"):
    raise KeyError("x")
