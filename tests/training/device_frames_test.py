"""Clips that the devices cut against those of TensorFlow on the host."""

import itertools
import types

import jax
import numpy as np
import pytest

from data_pipelines import source
from data_pipelines.records import sequence_example
from tests import small
from tests.data_pipelines import tiny
from tests.data_pipelines.clips.cached_test import noise
from vssl_jax import methods, parallel
from vssl_jax.errors import UserError
from vssl_jax.training import device_frames, loop, metrics_log, sources

pytestmark = pytest.mark.usefixtures("tf")

VIDEOS, BATCH, SIZE = 9, 8, 12


def write(folder, sizes):
  videos = [
    sequence_example.Video(frames=noise(s, 10 + v), fps=25.0, label=v % 3)
    for v, s in enumerate(sizes)
  ]
  return tiny.write(folder, videos)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write(tmp_path_factory.mktemp("records"), [2] * VIDEOS)


def load(folder, memory, **fields):
  fields = {"size": SIZE, "cache": "device", "cache_folder": str(memory), **fields}
  data = tiny.data(folder, **fields)
  return source.load(data, split="train", batch_size=BATCH, seed=0), data


def take(folder, memory, count, *, devices, start=0, **fields):
  videos, data = load(folder, memory, **fields)
  mesh = parallel.make_mesh(jax.devices()[:devices])
  videos = device_frames.on_device(videos, data, mesh)
  return mesh, list(itertools.islice(sources.train_batches(videos, start), count))


@pytest.fixture(scope="module")
def batches(folder, tmp_path_factory):
  return take(folder, tmp_path_factory.mktemp("memory"), 3, devices=8)


def exact(pixels, cut, size):
  """A crop of a frame scaled in float64."""
  begin, height, width, *window = (int(x) for x in cut)
  frame = pixels.reshape(-1)[begin : begin + height * width * 3].reshape(height, width, 3)
  top, left, height, width = window
  made = frame[top : top + height, left : left + width].astype(float)
  for axis, length in enumerate((height, width)):
    at = (np.arange(size) + 0.5) * length / size - 0.5
    low, high = (np.clip(f(at).astype(int), 0, length - 1) for f in (np.floor, np.ceil))
    share = np.expand_dims(at - np.floor(at), [a for a in range(3) if a != axis])
    made = (1 - share) * made.take(low, axis) + share * made.take(high, axis)
  return made


def test_clips_are_the_hosts_up_to_the_rounding_of_ties(folder, tmp_path, batches):
  mesh, found = batches
  host, _ = load(folder, tmp_path)
  pixels, _ = host.one_size(lambda wanted: None)
  # Positions of up to 51 pixels, with three roundings, between levels that are up to 255 apart; and
  # six roundings of levels.
  tolerance = (3 * 51 + 6) * 255 * 2**-24
  plans = host.cut_batches()
  host, _ = load(folder, tmp_path, cache="")
  for batch, wanted, plan in zip(found, host.train_batches(), plans, strict=False):
    clips = batch["clips"]
    assert clips.sharding == parallel.split(mesh)
    assert clips.shape == wanted["clips"].shape
    assert clips.dtype == np.uint8
    for name in ("label", "video", "offset"):
      np.testing.assert_array_equal(batch[name], wanted[name])
    levels = np.asarray(clips).astype(int)
    assert np.abs(levels - wanted["clips"]).max() <= 1
    for got, cut in zip(
      levels.reshape(-1, SIZE, SIZE, 3), plan["cuts"].reshape(-1, 7), strict=True
    ):
      assert np.abs(got - exact(pixels, cut, SIZE)).max() <= 0.5 + tolerance
    placed = parallel.put_batch(mesh, {"clips": clips})
    assert placed["clips"] is clips


def test_any_number_of_devices_and_any_first_batch_give_the_same_clips(folder, tmp_path, batches):
  _, wanted = batches
  _, found = take(folder, tmp_path, 2, devices=1, start=1)
  for a, b in zip(found, wanted[1:], strict=True):
    np.testing.assert_array_equal(a["clips"], b["clips"])


def test_what_does_not_fit_is_refused_before_it_is_decoded(folder, tmp_path, monkeypatch):
  videos, data = load(folder, tmp_path)
  stats = {"bytes_limit": 100, "bytes_in_use": 40}
  small = types.SimpleNamespace(memory_stats=lambda: stats, process_index=0)
  mesh = types.SimpleNamespace(devices=np.array([small, small]))
  monkeypatch.setattr(parallel, "make_mesh", lambda *_: mesh)
  with pytest.raises(UserError, match=r"take 0\.0 GB of each of 2 devices, and 0\.0 GB are free"):
    device_frames.on_device(videos, data, mesh)
  assert not list(tmp_path.iterdir())


def test_videos_of_several_sizes_and_damaged_ones_are_refused(tmp_path):
  (tmp_path / "memory").mkdir()
  videos, data = load(write(tmp_path / "two", [0, 1] * 4), tmp_path / "memory")
  with pytest.raises(
    UserError, match=r"2 sizes, from 51 x 40 to 50 x 41; set config\.data\.cache=host"
  ):
    device_frames.on_device(videos, data, parallel.make_mesh())
  damaged = sequence_example.Video(frames=[noise(2, 1)[0][:200]] * 9)
  tiny.write(tmp_path / "bad", [damaged, *([tiny.video(1)] * BATCH)])
  videos, data = load(tmp_path / "bad", tmp_path / "memory")
  with pytest.raises(UserError, match="the record at byte 12 has a frame that cannot be decoded"):
    device_frames.on_device(videos, data, parallel.make_mesh())


def test_sources_without_videos_are_named():
  with pytest.raises(UserError, match=r"config\.data\.cache: 'host', but the source 'synthetic'"):
    source.load(tiny.data(source="synthetic", cache="host"), split="train", batch_size=1, seed=0)


def train(folder, workdir, **values):
  fields = {"data.source": "tfrecord", "data.path": str(folder), "log_every": 1, "save.every": 1}
  config = small.shrink(small.load("cvrl.py", "demo"), **fields, **values)
  videos = sources.load_source(config, config.data.train_split)
  config = methods.resolve(config, videos)
  mesh = parallel.make_mesh(jax.devices()[:2])
  method = methods.build(config, mesh)
  result = loop.train(config, workdir, videos, method, mesh, tensorboard=False)
  return result, [row["loss"] for row in metrics_log.read(workdir)]


@pytest.mark.slow
def test_whole_runs(folder, tmp_path):
  """The same losses from the host's memory; from the devices' memory a run that goes on."""
  (tmp_path / "memory").mkdir()
  kept = {"data.cache_folder": str(tmp_path / "memory"), "save.keep": 4}
  _, plain = train(folder, tmp_path / "plain", **kept)
  _, cached = train(folder, tmp_path / "host", **kept, **{"data.cache": "host"})
  assert cached == plain
  kept["data.cache"] = "device"
  whole, losses = train(folder, tmp_path / "device", **kept)
  assert losses[0] == pytest.approx(plain[0], rel=0.05)  # levels that are rounded in another way
  for step in (4, 3):  # as if killed after step 2 was saved
    path = tmp_path / "device" / "checkpoints" / str(step)
    path.rename(tmp_path / f"gone-{step}")
  again, repeated = train(folder, tmp_path / "device", **kept)
  assert repeated == losses
  jax.tree.map(
    np.testing.assert_array_equal, jax.device_get(again.state), jax.device_get(whole.state)
  )
  with pytest.raises(UserError, match=r"data\.cache: 'device' -> None"):
    train(folder, tmp_path / "device", **kept | {"data.cache": "host"})
