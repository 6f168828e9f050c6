"""The loop over videos: full batches of one shape, and each video's own rows, in any order."""

import numpy as np
import pytest

from data_pipelines.videos.snippets import SnippetSettings, read
from tests.data_pipelines.conftest import _make_video
from vssl_jax.encoder import slide

SETTINGS = SnippetSettings(frames=2, stride=3, fps=10, resize=16, size=12)


def mean(clips):
  return clips.mean(axis=(2, 3, 4)).astype(np.float32)


@pytest.fixture
def paths(tmp_path):
  for i, frames in enumerate((7, 12, 1, 20)):
    pattern = np.random.default_rng(i).integers(0, 256, (24, 32, 3), np.uint8)
    _make_video(tmp_path / f"{i}.mp4", frames=frames, fps=10, pattern=pattern)
  (tmp_path / "bad.mp4").write_bytes(b"no video")
  return sorted(tmp_path.glob("*.mp4"))


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (4, 1), (64, 1), (4, 2)])
def test_each_video_has_its_own_rows_once(paths, batch_size, workers):
  shapes, found = [], {}

  def encode(clips):
    shapes.append(clips.shape)
    return mean(clips)

  def finish(path, facts, features):
    assert path not in found
    assert facts["snippets"] == len(features)
    found[path] = features

  how = {"settings": SETTINGS, "batch_size": batch_size, "workers": workers}
  unreadable = slide.slide(encode, paths, finish, timeout=60.0 * (workers > 1), **how)
  assert [p.stem for p in unreadable] == ["bad"]
  assert found.keys() | unreadable.keys() == set(paths)
  for path, features in found.items():
    wanted = mean(np.stack([clip for clip, _ in read(path, SETTINGS)]))
    np.testing.assert_allclose(features, wanted, rtol=1e-5)
  snippets = sum(map(len, found.values()))
  assert set(shapes) == {(batch_size, 2, 12, 12, 3)}
  assert len(shapes) == -(-snippets // batch_size)  # filled over videos


def test_a_video_is_finished_as_soon_as_its_last_snippet_is_encoded(paths):
  events = []
  encode = lambda clips: (events.append("encode"), mean(clips))[1]
  finish = lambda path, *_: events.append(path.stem)
  slide.slide(encode, paths, finish, settings=SETTINGS, batch_size=1, workers=1, timeout=0.0)
  for stem in "0123":
    assert events.index(stem) > 0
    assert events[events.index(stem) - 1] == "encode"
