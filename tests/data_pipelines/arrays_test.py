"""Videos in NumPy's files: their frames exactly, or the reason why not."""

import os

import numpy as np
import pytest

from data_pipelines import arrays, pixels
from data_pipelines.listing import finding
from data_pipelines.videos import decode, snippets
from vssl_jax.errors import UserError

RNG = np.random.default_rng(0)
BANDS = RNG.integers(0, 256, (9, 6, 8, 12), np.uint8)


def _saved(path, array, save=np.save):
  save(path, array)
  return str(path)


def test_extensions_are_those_of_folders():
  assert arrays.EXTENSIONS == finding.ARRAYS


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_wanted_frames_are_those_of_the_array(tmp_path, save):
  path = _saved(tmp_path / f"a.{'npy' if save is np.save else 'npz'}", BANDS, save)
  found = arrays.look(path)
  assert (found.length, found.size, found.channels) == (9, (6, 8), 12)
  frames = [7, 0, 7, 3]
  np.testing.assert_array_equal(arrays.read(found, frames), BANDS[frames])


@pytest.mark.parametrize("dtype", ["uint16", ">u2", "int32", "float16", "float64", "bool"])
def test_values_become_uint8_by_their_range(tmp_path, dtype):
  depth = (RNG.random((5, 6, 8)) * (1 if dtype == "bool" else 3000)).round().astype(dtype)
  found = arrays.look(_saved(tmp_path / "a.npy", depth))
  assert found.channels == 1
  low, high = 100.0, 2500.0
  x = depth.astype(int) - 100
  expected = np.clip((510 * x + 2400) // 4800, 0, 255)  # rounded, in whole numbers
  out = arrays.read(found, range(5), (low, high))
  assert out.dtype == np.uint8
  np.testing.assert_array_equal(out[..., 0], expected)


def test_each_channel_may_have_its_range():
  values = np.array([[0, 0], [5, 50], [10, 100], [20, 200]])
  out = pixels.to_uint8(values, (0, 10, 0, 100))
  np.testing.assert_array_equal(out, [[0, 0], [128, 128], [255, 255], [255, 255]])
  assert pixels.value_range((0, 10, 0, 100), 2) == (0.0, 10.0, 0.0, 100.0)
  for bad in ((1,), (2, 1), (0, 1, 2), (0, float("nan")), (0, 1, 0, 1), "01", (3, 3)):
    with pytest.raises(UserError, match=r"^config\.data\.value_range: .*low < high"):
      pixels.value_range(bad, 1)


def _header(shape, descr="|u1", order=False):
  text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
  return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


BAD = {
  "more than it has": (_header((1 << 40, 64, 64, 12)) + b"x" * 64, "more than the file has"),
  "objects": (_header((1, 1, 1, 1), "|O") + b"x" * 8, "Python objects"),
  "text": (b"path,label\n", "cannot be read"),
  "empty": (b"", "cannot be read"),
  "features": (_header((2, 3)) + b"x" * 6, r"is \[2, 3\]: \[T, H, W, C\] is needed"),
  "no frames": (_header((0, 2, 2, 3)), "of one or more"),
  "complex": (_header((1, 1, 1, 1), "<c8") + b"x" * 8, "not real"),
  "order": (_header((1, 2, 2, 3), order=True) + b"x" * 12, "ascontiguousarray"),
  "narrow": (_header((1, 1, 400, 1)) + b"x" * 400, "400 x 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_video_says_why(tmp_path, name):
  data, why = BAD[name]
  (tmp_path / "a.npy").write_bytes(data)
  with pytest.raises(arrays.BadArrayError, match=why) as error:
    arrays.look(str(tmp_path / "a.npy"))
  assert "\n" not in str(error.value)


def test_archives_have_one_array(tmp_path):
  np.savez(tmp_path / "a.npz", x=BANDS, y=BANDS)
  with pytest.raises(arrays.BadArrayError, match="it has 2: x, y"):
    arrays.look(str(tmp_path / "a.npz"))
  (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 cut")
  with pytest.raises(arrays.BadArrayError, match="not a complete"):
    arrays.look(str(tmp_path / "b.npz"))


def test_files_that_change_break_or_have_gaps(tmp_path):
  path = _saved(tmp_path / "a.npy", BANDS)
  found = arrays.look(path)
  os.truncate(path, os.path.getsize(path) - 10)
  with pytest.raises(arrays.BadArrayError, match="changed"):
    arrays.read(found, [8])
  os.remove(path)
  with pytest.raises(arrays.BadArrayError, match="no such file"):
    arrays.read(found, [8])
  hollow = BANDS.astype(np.float32)
  hollow[3, 2, 2, 5] = np.nan
  found = arrays.look(_saved(tmp_path / "b.npy", hollow))
  np.testing.assert_array_equal(arrays.read(found, [2, 4], (0, 255)), BANDS[[2, 4]])
  with pytest.raises(arrays.BadArrayError, match="frame 3: it has NaN"):
    arrays.read(found, [2, 3], (0, 255))


def test_memory_is_bounded(tmp_path):
  """A request of frames that would not fit is refused before anything is read."""
  path = tmp_path / "a.npy"
  with open(path, "wb") as file:
    file.write(_header((3, 1 << 13, 1 << 13, 12)))
    file.truncate(file.tell() + 3 * (1 << 26) * 12)  # a sparse file
  found = arrays.look(str(path))
  with pytest.raises(arrays.BadArrayError, match="exceed 2 GB"):
    arrays.read(found, [0, 1, 2])


def test_snippets_are_cut_from_arrays(tmp_path):
  square = np.ascontiguousarray(BANDS[:, :, :6])
  path = tmp_path / "a.npy"
  np.save(path, square)
  how = {"frames": 2, "stride": 3, "fps": 0, "resize": 6, "size": 4, "channels": 12}
  settings = snippets.SnippetSettings(**how, stream_fps=2.0)
  found = list(snippets.read(path, settings))
  assert [facts["seconds"] for _, facts in found] == [1.0, 2.5, 4.0]
  for (snippet, _), first in zip(found, (0, 3, 6), strict=True):
    np.testing.assert_array_equal(snippet, square[first : first + 2, 1:5, 1:5])
  halved = snippets.SnippetSettings(**how | {"fps": 1.0}, stream_fps=2.0)
  (snippet, _), _ = snippets.read(path, halved)
  np.testing.assert_array_equal(snippet, square[[0, 2], 1:5, 1:5])
  for wrong, told in (
    ({"channels": 3}, "has 12 channels, the encoder takes 3"),
    ({}, "stream_fps"),
  ):
    with pytest.raises(decode.UnreadableError, match=told):
      next(snippets.read(path, snippets.SnippetSettings(**how | wrong)))
