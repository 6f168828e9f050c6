"""Clips of arrays: the frames that were saved, whatever the restarts, hosts and lists."""

import itertools
import math

import numpy as np
import pytest

from tests.data_pipelines import tiny
from vssl_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("tf")  # it cuts the clips

LENGTHS = {"train/sea/0.npy": 20, "train/sea/1.npz": 17, "train/ice/2.npy": 24, "test/ice/3.npy": 9}
SIDE, BANDS = 8, 12


def _video(v, length):
  """The value says which frame of which video it is, and which band."""
  frame, band = np.arange(length)[:, None], np.arange(BANDS)
  values = (10 * frame + band + 3 * v).astype(np.uint8)
  return np.ascontiguousarray(np.broadcast_to(values[:, None, None], (length, SIDE, SIDE, BANDS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("arrays")
  for v, (name, length) in enumerate(LENGTHS.items()):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (np.savez_compressed if path.suffix == ".npz" else np.save)(path, _video(v, length))
  return root


def load(path, **fields):
  own = {
    "source": "arrays",
    "channels": BANDS,
    "size": SIDE,
    "crop__random": False,
    "batch_size": 3,
  }
  return tiny.load(path, **own | fields)


def _origin(s, video):
  name = s.video_names[video]
  return list(LENGTHS).index(name), LENGTHS[name]


def test_clips_are_the_frames_of_their_offsets(folder):
  s = load(folder)
  assert (s.num_videos, s.label_names, s.unreadable) == (3, ("ice", "sea"), 0)
  for batch in itertools.islice(s.train_batches(), 3):
    assert batch["clips"].shape == (3, 2, 4, SIDE, SIDE, BANDS)
    for clips, video, label, offsets in zip(
      batch["clips"], batch["video"], batch["label"], batch["offset"], strict=True
    ):
      v, length = _origin(s, video)
      assert s.label_names[label] in s.video_names[video]
      for clip, first in zip(clips, offsets, strict=True):
        frames = np.minimum(first + 2 * np.arange(4), length - 1)
        np.testing.assert_array_equal(clip, _video(v, length)[frames])
  views = {"clips": 2, "crops": 1, "frames": 3, "stride": 1, "resize": SIDE, "size": SIDE}
  (batch,) = load(folder, split="test").eval_batches(1, **views)
  np.testing.assert_array_equal(batch["clips"][0], _video(3, 9)[[[0, 1, 2], [6, 7, 8]]])


def test_batches_depend_on_seed_and_number_alone(folder):
  reference = list(itertools.islice(load(folder).train_batches(), 4))
  resumed = next(load(folder, threads=1).train_batches(3))
  hosts = [next(load(folder, process=(p, 3)).train_batches(3)) for p in range(3)]
  for k, expected in reference[3].items():
    np.testing.assert_array_equal(resumed[k], expected)
    np.testing.assert_array_equal(np.concatenate([h[k] for h in hosts]), expected)


def test_lists_with_spans_and_ranges(folder, tmp_path):
  rows = ["path,label,start,end", "train/sea/0.npy,sea,0.5,1.5", "train/ice/2.npy,ice,,"]
  (tmp_path / "list.csv").write_text("\n".join(rows))
  how = {"videos__root": str(folder), "batch_size": 2, "videos__stream_fps": 10.0}
  s = load(tmp_path / "list.csv", **how, value_range=(0, 510))
  batch = next(s.train_batches())
  row = int(np.argmax([s.video_names[v] == "train/sea/0.npy" for v in batch["video"]]))
  first = int(batch["offset"][row, 0])  # counted from the beginning of the span
  frames = 5 + np.minimum(first + 2 * np.arange(4), 9)
  expected = np.floor(_video(0, 20)[frames] / 2 + 0.5).astype(np.uint8)
  np.testing.assert_array_equal(batch["clips"][row, 0], expected)
  assert s.fingerprint != load(tmp_path / "list.csv", **how).fingerprint
  with pytest.raises(UserError, match=r"span.*stream_fps"):
    load(tmp_path / "list.csv", **how | {"videos__stream_fps": 0.0})


@pytest.mark.parametrize(
  ("fields", "told"),
  [
    ({"channels": 3}, r"\.np[yz]: its frames have 12 channels.*channels is 3; set it to 12"),
    ({"videos__fps": 5.0}, r"videos\.fps: arrays have no time stamps"),
    ({"interval__unit": "seconds", "interval__max_seconds": 2.0}, "stream_fps"),
    ({"value_range": (1, 0)}, "value_range"),
    ({"source": "tfrecord"}, r"hold JPEGs.*is 12; set it to 1 or 3.*source=arrays"),
    ({"source": "videos"}, r"RGB or gray.*is 12; set it to 1 or 3"),
    ({"source": "videos", "channels": 3}, r"no videos.*source=arrays"),
    ({"channels": 0}, "channels: 0; set it to 1"),
  ],
)
def test_what_does_not_fit_stops_with_one_line(folder, fields, told):
  with pytest.raises(UserError, match=told) as error:
    load(folder, **fields)
  assert "\n" not in str(error.value)


def test_broken_files_are_left_out_and_others_need_a_range(folder, tmp_path):
  for i in range(3):
    np.save(tmp_path / f"{i}.npy", _video(i, 9))
  (tmp_path / "bad.npy").write_bytes(b"no array")
  assert load(tmp_path).num_videos == 3
  with pytest.raises(UserError, match=r"bad\.npy cannot be read.*strict=False"):
    load(tmp_path, strict=True)
  floats = _video(0, 9).astype(np.float32)
  floats[:, 0, 0, 0] = math.nan
  np.save(tmp_path / "0.npy", floats)
  with pytest.raises(UserError, match=r"0\.npy: its values are float32.*value_range"):
    load(tmp_path)
  s = load(tmp_path, value_range=(0, 255), batch_size=1)
  names = {s.video_names[int(next(s.train_batches(k))["video"][0])] for k in range(4)}
  assert names == {"1.npy", "2.npy"}  # another one replaces what has NaN
  assert s.unreadable
