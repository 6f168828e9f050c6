"""Arrays come whole and exact, or not at all; no file asks for more memory than it has."""

import copy
import io
import resource
import zipfile

import numpy as np
import pytest

from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.files import arrays

ARRAYS = [
  np.arange(12, dtype=np.float32).reshape(3, 4),
  np.asfortranarray(np.arange(12).reshape(3, 4)),
  np.array(["a", "bc"]),
  np.zeros((0, 4), np.int8),
  np.array(2.5),
]


def _npy(header, data=b""):
  """A `.npy` file of any header."""
  text = header.encode() + b"\n"
  return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def _header(shape, descr="<f8"):
  return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda x: str(x.dtype))
def test_an_array_comes_as_it_was_saved(tmp_path, array, mapped):
  np.save(tmp_path / "x.npy", array)
  found = files.read_npy(tmp_path / "x.npy", mapped=mapped)
  assert found.dtype == array.dtype
  np.testing.assert_array_equal(found, array)
  assert isinstance(found, np.memmap) == (mapped and bool(array.size))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_comes_as_it_was_saved(tmp_path, save):
  save(tmp_path / "x.npz", **{f"a{i}": x for i, x in enumerate(ARRAYS)})
  found = files.read_npz(tmp_path / "x.npz")
  assert list(found) == [f"a{i}" for i in range(len(ARRAYS))]
  for i, array in enumerate(ARRAYS):
    np.testing.assert_array_equal(found[f"a{i}"], array)
  assert list(files.read_npz(tmp_path / "x.npz", ("a2", "none"))) == ["a2"]


BAD = {
  "terabytes": (_npy(_header((1 << 40,))), "more than the file has"),
  "2^60": (_npy(_header((1 << 60,))), "more than the file has"),
  "beyond 64 bits": (_npy(_header((1 << 62, 1 << 62, 0))), "more than the file has"),
  "negative": (_npy(_header((-1,))), "shape"),
  "objects": (_npy(_header((1,), "|O"), b"x" * 8), "Python objects"),
  "a program": (_npy("__import__('os').system('false')"), "cannot be read"),
  "short": (_npy(_header((3,)), b"x" * 23), "more than the file has"),
  "version": (b"\x93NUMPY\x09\x00\x04\x00{}\n\n", "version"),
  "empty": (b"", "cannot be read"),
  "text": (b"no array", "cannot be read"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_a_file_that_lies_is_refused(tmp_path, data, message):
  (tmp_path / "x.npy").write_bytes(data)
  for mapped in (False, True):
    with pytest.raises(UserError, match=message) as error:
      files.read_npy(tmp_path / "x.npy", mapped=mapped)
    assert "\n" not in str(error.value)
  with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
    archive.writestr("x.npy", data)
  with pytest.raises(UserError, match="not a complete"):
    files.read_npz(tmp_path / "x.npz")


def test_an_archive_is_no_array_and_what_is_missing_is_told(tmp_path):
  np.savez(tmp_path / "x.npz", a=np.ones(3))
  with pytest.raises(UserError, match="archive of arrays"):
    files.read_npy(tmp_path / "x.npz")
  with pytest.raises(UserError, match="missing"):
    files.read_npy(tmp_path / "none.npy")
  with pytest.raises(FileNotFoundError):
    files.read_npz(tmp_path / "none.npz")


def test_a_bomb_is_named_before_it_grows(tmp_path):
  """Two GiB of zeros in two MB: the memory of this process hardly grows."""
  size = 2 << 30
  path = tmp_path / "bomb.npz"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
    # Enough to be compressed more than a hundred times.
    archive.writestr("features.npy", _npy(_header((size // 8,)), bytes(16 << 20)))
  # The listing says what the bomb would have; it need not be written to be refused.
  _lie(path, size)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(UserError, match=r"its arrays would grow from .* to 2,147,48"):
    files.read_npz(path)
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def _lie(path, size):
  data = bytearray(path.read_bytes())
  at = data.rfind(b"PK\x01\x02")
  data[at + 24 : at + 28] = min(size + 200, 0xFFFFFFFE).to_bytes(4, "little")
  path.write_bytes(data)


def test_the_limit_is_of_what_is_compressed_too_much(tmp_path, monkeypatch):
  monkeypatch.setattr(arrays, "MOST_EXPANDED", 1 << 16)
  np.savez_compressed(tmp_path / "noise.npz", x=np.random.default_rng(0).random(1 << 15))
  np.savez(tmp_path / "zeros.npz", x=np.zeros(1 << 15))
  for name in ("noise", "zeros"):
    assert files.read_npz(tmp_path / f"{name}.npz")["x"].shape == (1 << 15,)
  np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(1 << 15))
  with pytest.raises(UserError, match="would grow"):
    files.read_npz(tmp_path / "bomb.npz")


def test_the_limit_is_of_all_chosen_members_together(tmp_path, monkeypatch):
  """Each would fit alone; what is not asked for does not count."""
  monkeypatch.setattr(arrays, "MOST_EXPANDED", 1 << 16)
  path = tmp_path / "x.npz"
  np.savez_compressed(path, **{f"a{i}": np.zeros((1 << 13) - 16) for i in range(4)})
  assert list(files.read_npz(path, ("a2",))) == ["a2"]
  with pytest.raises(UserError, match=r"arrays would grow from [\d,]+ to 131,072 bytes"):
    files.read_npz(path, ("a0", "a3"))
  with pytest.raises(UserError, match=r"arrays would grow from [\d,]+ to 262,144 bytes"):
    files.read_npz(path)


def test_members_that_share_their_bytes_count_once(tmp_path, monkeypatch):
  """The listing names one member many times, so that its packed sizes add up to any sum."""
  monkeypatch.setattr(arrays, "MOST_EXPANDED", 1 << 16)
  path = tmp_path / "x.npz"
  noise = np.random.default_rng(0).integers(0, 256, 1 << 16).astype(np.uint8)
  np.savez_compressed(path, a=noise)
  with zipfile.ZipFile(path, "a") as archive:
    first = archive.filelist[0]
    for i in range(1000):
      again = copy.copy(first)
      again.filename = f"c{i}.npy"
      archive.filelist.append(again)
    archive._didModify = True
  with pytest.raises(UserError, match="would grow"):
    files.read_npz(path)


def test_a_flipped_bit_of_a_member_is_seen(tmp_path):
  buffer = io.BytesIO()
  np.savez(buffer, x=np.arange(1000))
  data = bytearray(buffer.getvalue())
  data[len(data) // 2] ^= 1
  (tmp_path / "x.npz").write_bytes(data)
  with pytest.raises(UserError, match="CRC"):
    files.read_npz(tmp_path / "x.npz")
