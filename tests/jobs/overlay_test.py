"""The timeline below the frames: bars where segments are, names while they last, the present."""

import av
import numpy as np
import pytest

from tests.data_pipelines.conftest import _make_video
from vssl_jax.errors import UserError
from vssl_jax.jobs import overlay
from vssl_jax.localization.annotations import Prediction, Segment

FOUND = [
  Prediction(1.0, 2.0, "jump", 0.9),
  Prediction(2.5, 3.0, "run", 0.8),
  Prediction(0.0, 4.0, "jump", 0.1),
]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
  """Frames of 4 s at 10 per second, 320 x 240, and what is below them: uint8 `[T, H, W, 3]`."""
  folder = tmp_path_factory.mktemp("overlay")
  black = np.zeros((240, 320, 3), np.uint8)
  video = _make_video(folder / "in.mp4", frames=40, fps=10, size=(320, 240), pattern=black)
  out = folder / "out.mp4"
  overlay.write(out, video, FOUND, seconds=4.0, truth=[Segment(1.2, 2.2, "jump")])
  with av.open(str(out)) as file:
    pictures = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
  return np.stack(pictures).astype(int)


def near(color, want, within=45):
  return np.abs(np.asarray(color) - want).max() <= within


def test_bars_are_where_the_segments_are(shown):
  assert shown.shape == (40, 240 + 40, 320, 3)
  strip = shown[0, 240:]
  jump, run = strip[4 + 12], strip[4 + 16 + 12]  # low in the lane, below the names
  x = lambda seconds: round(seconds / 4.0 * 319)
  assert near(jump[x(1.5)], overlay._COLORS[0])
  assert near(run[x(2.75)], overlay._COLORS[1])
  assert near(run[x(3.5)], overlay._BACK)
  faint = overlay._mixed(overlay._COLORS[0], 0.2)  # the least certain one, over the whole video
  assert near(jump[x(3.5)], faint)
  truth = strip[4]  # the top of the lane
  assert truth[x(1.7)].min() > 150
  assert truth[x(3.0)].max() < 120


def test_a_line_shows_the_present(shown):
  for step in (10, 30):
    column = shown[step, 240:].min(axis=(0, 2))  # the line is white from top to bottom
    assert abs(int(np.argmax(column)) - round(step / 10 / 4.0 * 319)) <= 1


def test_names_are_on_the_frame_while_sure_actions_last(shown):
  lit = shown[:, :22, :60].max(axis=(1, 2, 3)) > 100
  times = np.arange(40) / 10
  want = ((times >= 1) & (times < 2)) | ((times >= 2.5) & (times < 3))
  np.testing.assert_array_equal(lit, want)


def test_odd_sizes_long_names_and_nothing_found(tmp_path):
  video = _make_video(tmp_path / "in.mp4", frames=5, fps=10, size=(50, 38), rotation=90)
  for i, found in enumerate(([], [Prediction(0.0, 0.4, "ä\n" + "x" * 300, 1.0)])):
    overlay.write(tmp_path / f"{i}.mp4", video, found, seconds=0.5)
    with av.open(str(tmp_path / f"{i}.mp4")) as file:
      frames = list(file.decode(video=0))
    assert len(frames) == 5
    assert frames[0].width == 240  # upright
    assert frames[0].height > 316


def test_a_broken_video_is_one_line_and_leaves_no_file(tmp_path):
  broken = tmp_path / "broken.mp4"
  broken.write_bytes(b"no video")
  with pytest.raises(UserError, match=r"broken\.mp4"):
    overlay.write(tmp_path / "out.mp4", broken, [], seconds=1.0)
  assert [p.name for p in tmp_path.iterdir()] == ["broken.mp4"]
