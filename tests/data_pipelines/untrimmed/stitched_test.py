import numpy as np
import pytest

from data_pipelines.untrimmed import sequences, stitched
from tests.data_pipelines.untrimmed.sequences_test import ARGS, fields
from vssl_jax.errors import UserError
from vssl_jax.localization import annotations
from vssl_jax.localization.annotations import Segment, Video

LABELS = [3, 3, 5, 5, 8, 8, 9, 9]


@pytest.fixture
def data(tmp_path):
  """Step t of source video v of class c holds (c, v, t); odd videos are for testing."""
  v, t = np.meshgrid(np.arange(8), np.arange(4), indexing="ij")
  features = np.stack([np.array(LABELS)[v], v, t], axis=-1).astype(np.float16)
  path = tmp_path / "clips.npz"
  np.savez(path, features=features, label=LABELS, subset=np.arange(8) % 2)
  names = tmp_path / "names.txt"
  names.write_text("3 jump\n\n5 run\n8 sit\n77 other\n")
  data = fields(str(path), videos=12, eval_videos=6, max_seconds=40.0)
  data.train_split, data.eval_split = "0", "1"
  data.localization.stitched.names = str(names)
  return data


def test_sequences_are_what_their_annotations_say(data):
  dataset = stitched.make(data)
  assert dataset.label_names == ("jump", "run")  # the first half of the labels
  assert len(dataset.videos) == 18
  for name, video in dataset.videos.items():
    x = dataset.features[name].astype(int)
    assert len(x) * 0.5 == video.duration
    want = np.zeros(len(x), int)
    for s in video.segments:
      assert s.end > s.start
      want[round(s.start * 2) : round(s.end * 2)] = {"jump": 3, "run": 5}[s.label]
    np.testing.assert_array_equal(np.where(x[:, 0] > 5, 0, x[:, 0]), want)
    assert (x[:, 1] % 2 == int(video.subset)).all()  # sources of train and test apart
    follows = (np.diff(x[:, 1]) == 0) & (np.diff(x[:, 2]) == 1)
    assert follows.mean() > 0.3
  assert len({x[0, 1] for x in dataset.features.values()}) > 2  # each sequence its own sources


def test_excerpts():
  rng = np.random.default_rng(0)
  pool = [np.arange(v, v + 6)[:, None] for v in (0, 100)]
  for count in (0, 1, 5, 6, 20):
    parts = stitched._take(pool, count, rng)
    assert sum(map(len, parts)) == count
    for part in parts:
      np.testing.assert_array_equal(np.diff(part[:, 0]), 1)
    assert all(len(p) == 6 for p in parts[:-1])  # whole sources, but for the last
  begins = {int(stitched._take(pool, 2, rng)[0][0, 0]) for _ in range(200)}
  assert begins == {*range(5), *range(100, 105)}


def test_short_and_adjacent_actions_keep_a_step_each():
  video = Video("0", 3.2, (Segment(0.1, 0.2, "a"), Segment(0.2, 0.3, "b"), Segment(2.0, 2.6, "a")))
  pools = {"": [np.zeros((2, 1))], "a": [np.ones((2, 1))], "b": [np.full((2, 1), 2)]}
  moved, x = stitched.stitch(video, pools, np.random.default_rng(0), step_seconds=0.5)
  assert x[:, 0].tolist() == [1, 2, 0, 0, 1, 0]
  assert moved.segments == (Segment(0.0, 0.5, "a"), Segment(0.5, 1.0, "b"), Segment(2.0, 2.5, "a"))
  assert moved.duration == 3.0


def test_lengths_of_real_actions(data, tmp_path):
  real = {"v": Video("any", 9.0, (Segment(1.0, 3.0, "x"), Segment(5.0, 7.0, "y")))}
  path = tmp_path / "gt.json"
  annotations.write_annotations(path, real)
  data.localization.annotations = str(path)
  for video in stitched.make(data).videos.values():
    assert {s.end - s.start for s in video.segments} == {2.0}
    assert video.segments[0].start in (1.0, 2.0)
    assert len(video.segments) == 2


def test_actions_by_name_or_label(data):
  data.localization.stitched.actions = ("sit", 9)
  dataset = stitched.make(data, ["1"])
  assert dataset.label_names == ("9", "sit")
  assert {v.subset for v in dataset.videos.values()} == {"1"}
  data.localization.stitched.actions = ("fly",)
  with pytest.raises(UserError, match="'fly'"):
    stitched.make(data)
  data.localization.stitched.actions = (3, 5, 8, 9)
  with pytest.raises(UserError, match="the background"):
    stitched.make(data)


def test_source(data):
  s = stitched.load(data, split="0", batch_size=4, **ARGS)
  batch = next(s.train_batches())
  assert batch["features"].shape == (4, 6, 3)
  again = next(stitched.load(data, split="0", batch_size=4, **ARGS).train_batches())
  np.testing.assert_array_equal(batch["features"], again["features"])
  whole = stitched.make(data)
  for name, x in zip(s.names, map(s.sequence, range(s.num_videos)), strict=True):
    np.testing.assert_array_equal(x, whole.features[name])


def test_lengths_of_sources_count(data, tmp_path):
  arrays = dict(np.load(data.path))
  np.savez(data.path, **arrays, length=np.full(8, 2))
  steps = np.concatenate([x[:, 2] for x in stitched.make(data).features.values()])
  assert steps.max() == 1


def test_a_folder_is_read_like_a_file(data, tmp_path):
  arrays = np.load(data.path)
  names = {3: "jump", 5: "run", 8: "sit", 9: "9"}
  for i, x in enumerate(arrays["features"]):
    folder = tmp_path / "clips" / str(arrays["subset"][i]) / names[int(arrays["label"][i])]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{i}.npy", x)
  data.localization.stitched.actions = ("jump", "run")
  whole = stitched.make(data)
  data.path, data.localization.stitched.names = str(tmp_path / "clips"), ""
  same = stitched.make(data)
  assert (same.label_names, same.videos) == (whole.label_names, whole.videos)
  own = {name: x[:, 0] for name, x in same.features.items()}
  for name, x in whole.features.items():  # the background's sources are in another order
    action = np.isin(x[:, 0], (3, 5))
    np.testing.assert_array_equal(own[name][action], x[action, 0])
    assert np.isin(own[name][~action], (8, 9)).all()
  np.save(tmp_path / "clips" / "0" / "jump" / "0.npy", np.ones((2, 5)))
  with pytest.raises(UserError, match=r"not \[L, 3\] as the first file"):
    stitched.make(data)
  data.path = str(tmp_path / "clips" / "0")
  with pytest.raises(UserError, match=r"<subset>/<label>/<video>.npy"):
    stitched.make(data)


def test_held_out_sequences_share_no_video_with_the_others(tmp_path):
  v, t = np.meshgrid(np.arange(40), np.arange(4), indexing="ij")
  label = np.arange(40) % 4
  path = tmp_path / "clips.npz"
  np.savez(path, features=np.stack([label[v], v, t], -1), label=label, subset=np.zeros(40, int))
  data = fields(str(path), videos=30, max_seconds=60.0)
  data.train_split, data.localization.validation = "0", 0.3
  own = {}
  for split in ("0", sequences.held_out(data)):
    s = stitched.load(data, split=split, batch_size=4, **ARGS)
    own[split] = {int(x) for i in range(s.num_videos) for x in s.sequence(i)[:, 1]}
    assert {x % 4 for x in own[split]} == {0, 1, 2, 3}  # background of every class too
  train, held = own.values()
  assert max(train) < 28 <= min(held)  # the last three of each class's ten


def test_held_out_sequences_are_made_in_any_number(tmp_path):
  v, t = np.meshgrid(np.arange(40), np.arange(4), indexing="ij")
  label = np.arange(40) % 4
  path = tmp_path / "clips.npz"
  np.savez(path, features=np.stack([label[v], v, t], -1), label=label, subset=np.zeros(40, int))
  data = fields(str(path), videos=10, max_seconds=60.0)
  data.train_split, data.localization.validation = "0", 0.3
  data.localization.validation_videos = 25
  train, held = (
    stitched.load(data, split=s, batch_size=4, **ARGS) for s in ("0", sequences.held_out(data))
  )
  assert (train.num_videos, held.num_videos) == (10, 25)
  used = [{int(x) for i in range(s.num_videos) for x in s.sequence(i)[:, 1]} for s in (train, held)]
  assert max(used[0]) < 28 <= min(used[1])
  assert not set(train.names) & set(held.names)
  assert held.names[0] == "0_held_out_00000"  # may be the name of a file
  data.localization.validation_videos = 9
  fewer = stitched.load(data, split=sequences.held_out(data), batch_size=4, **ARGS)
  for i in range(9):
    np.testing.assert_array_equal(fewer.sequence(i), held.sequence(i))
  data.localization.validation = 0.0
  with pytest.raises(UserError, match="need source videos of their own"):
    stitched.load(data, split="0", batch_size=4, **ARGS)


def test_bad_input_is_named(data, tmp_path):
  with pytest.raises(
    UserError, match=r"no videos of the background with subset 'train' \(its subsets: 0, 1"
  ):
    stitched.make(data, ["train"])
  data.localization.stitched.names = str(tmp_path / "none.txt")
  with pytest.raises(UserError, match=r"stitched.names"):
    stitched.make(data)
  data.localization.stitched.names = ""
  good = {"features": np.ones((4, 2, 3)), "label": [0, 1, 0, 1], "subset": [0, 0, 1, 1]}
  for change, message in {
    "text": ({"label": ["a", "b"] * 2}, "'label' integers; they are float64 and <U1"),
    "objects": ({"features": np.array([[[None]]] * 4)}, "not a complete .npz file of numbers"),
    "words": ({"features": np.full((4, 2, 3), "a")}, "'features' must be numbers"),
    "label": ({"label": [0, 1]}, r"'label' has shape \[2\], not \[4\]"),
    "subset": ({"subset": [0]}, r"'subset' has shape \[1\], not \[4\]"),
    "empty": ({"length": [1, 2, 0, 1]}, "'length' must be integers from 1 to 2"),
    "long": ({"length": [1, 2, 3, 1]}, "'length' must be integers from 1 to 2"),
    "share": ({"length": [1.0, 2, 2, 1]}, "'length' must be integers"),
    "nan": ({"features": np.full((4, 2, 3), np.nan)}, "4 of 4 videos contain NaN or infinity"),
  }.values():
    np.savez(data.path, **{**good, **change})
    with pytest.raises(UserError, match=message):
      stitched.make(data)
  np.savez(data.path, features=np.ones((2, 3)))
  with pytest.raises(UserError, match=r"needs arrays"):
    stitched.make(data)
  for content in (b"", b"PK\x03\x04", b"x"):
    (tmp_path / "clips.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"not a complete \.npz file"):
      stitched.make(data)
  np.save(tmp_path / "one.npy", np.ones((2, 3, 4)))
  data.path = str(tmp_path / "one.npy")
  with pytest.raises(UserError, match=r"not a complete \.npz file"):
    stitched.make(data)
  data.path = str(tmp_path / "none.npz")
  with pytest.raises(UserError, match=r"config.data.path"):
    stitched.make(data)


def test_streams_are_no_classes(tmp_path):
  for stream in ("rgb", "flow"):
    (tmp_path / "train" / stream).mkdir(parents=True)
    np.save(tmp_path / "train" / stream / "v.npy", np.ones((4, 2)))
  with pytest.raises(UserError, match="holds streams of untrimmed videos, rgb and flow, not"):
    stitched.make(fields(str(tmp_path)))
