"""Display matrices and sample aspect ratios: pictures as players show them."""

import io
import itertools

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines.videos import decode, display, snippets
from data_pipelines.videos.decode import FrameSettings

ONE, UNIT = 1 << 16, 1 << 30
# All eight ways in which a rectangle fits onto the screen: (a, b, c, d) of the matrix.
EIGHT = [
  *((a, 0, 0, d) for a, d in itertools.product((ONE, -ONE), repeat=2)),
  *((0, b, c, 0) for b, c in itertools.product((ONE, -ONE), repeat=2)),
]
# Four unequal quarters, so that every turn and mirror image is another picture.
PICTURE = np.zeros((24, 32, 3), np.uint8)
PICTURE[:12, :16] = 250
PICTURE[:12, 16:] = 170
PICTURE[12:, :16] = 90


def matrix(a, b, c, d, x=0, y=0):
  return [a, b, 0, c, d, 0, x, y, UNIT]


def moved(pixels, a, b, c, d):
  """The oracle: every pixel goes to where the matrix sends its center."""
  height, width = pixels.shape[:2]
  q, p = np.mgrid[:height, :width] + 0.5
  x, y = (a * p + c * q) / ONE, (b * p + d * q) / ONE
  x, y = (np.floor(v - np.floor(v.min())).astype(int) for v in (x, y))
  out = np.zeros((y.max() + 1, x.max() + 1, *pixels.shape[2:]), pixels.dtype)
  out[y, x] = pixels
  return out


@pytest.mark.parametrize("abcd", EIGHT)
def test_every_quarter_turn_and_mirror(abcd):
  pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
  pose = display.pose_of(np.array(matrix(*abcd, 7 * ONE, 5 * ONE), np.int32))
  assert pose.tilt == 0
  assert pose.sideways == (abcd[0] == 0)
  np.testing.assert_array_equal(pose.apply(pixels), moved(pixels, *abcd))


def test_scales_do_not_matter_and_rounding_is_forgiven():
  scaled = display.pose_of(np.array(matrix(0, 2 * ONE, -ONE, 0), np.int32))
  assert scaled == display.pose_of(np.array(matrix(0, ONE, -ONE, 0), np.int32))
  assert display.pose_of(np.array(matrix(ONE, 300, -300, ONE), np.int32)) == display.UPRIGHT
  assert display.pose_of(np.zeros(9, np.int32)) == display.UPRIGHT  # a broken header


@pytest.mark.parametrize("mirrored", [False, True])
def test_other_angles_turn_about_the_center(mirrored):
  angle = np.deg2rad(30)  # clockwise
  a, b = round(np.cos(angle) * ONE), round(np.sin(angle) * ONE)
  sign = -1 if mirrored else 1
  pose = display.pose_of(np.array(matrix(sign * a, sign * b, -b, a), np.int32))
  assert (pose.mirrored, pose.turns) == (mirrored, 0)
  assert pose.tilt == pytest.approx(30, abs=0.01)
  pixels = np.zeros((41, 41, 3), np.uint8)
  pixels[20, 28:39] = 255  # a line to the right, 8 to 18 pixels from the center
  ys, xs = np.nonzero(pose.apply(pixels)[..., 0] > 60)
  radius = np.hypot(xs - 20, ys - 20)
  assert radius.min() < 10 < 16 < radius.max()
  turned = np.rad2deg(np.arctan2(ys - 20, xs - 20))
  assert np.median(turned) == pytest.approx(-150 if mirrored else 30, abs=3)


@pytest.mark.parametrize(
  ("ratio", "factor"),
  [
    (None, 1), (0, 1), (1, 1), (1.004, 1), (0.991, 1), (16 / 15, 16 / 15), (0.5, 0.5), (16, 16),
    (17, None), (0.01, None), (65535, None),
  ],
)  # fmt: skip
def test_which_aspect_ratios_count(ratio, factor):
  assert display.stretch(ratio) == factor


def stored(path, **settings):
  (part,) = decode.decode(path, FrameSettings(**settings))
  frame = np.asarray(Image.open(io.BytesIO(part.frames[0])).convert("RGB")).astype(int)
  return frame, part


@pytest.mark.parametrize("abcd", EIGHT[1:])
def test_files_with_a_matrix(tmp_path, make_video, abcd):
  shift = (32 * ONE, 24 * ONE)  # what makes the picture lie at positive positions does not matter
  path = make_video(tmp_path / "a.mp4", frames=2, pattern=PICTURE, matrix=matrix(*abcd, *shift))
  frame, part = stored(path)
  expected = moved(PICTURE, *abcd)
  assert part.source_size == part.size == expected.shape[1::-1]
  np.testing.assert_allclose(frame, expected, atol=60)
  settings = snippets.SnippetSettings(frames=2, stride=2, resize=24, size=24, fps=0.0)
  ((snippet, _),) = snippets.read(path, settings)
  square = moved(PICTURE[:, 4:28], *abcd)
  np.testing.assert_allclose(snippet[0].astype(int), square, atol=60)


def test_snippets_of_a_tilted_video_are_cut_from_the_whole_frame(tmp_path, make_video):
  tilt = (round(0.94 * ONE), round(0.342 * ONE), round(-0.342 * ONE), round(0.94 * ONE))
  path = make_video(tmp_path / "a.mp4", frames=2, pattern=PICTURE + 5, matrix=matrix(*tilt))
  frame, _ = stored(path, quality=100)
  settings = snippets.SnippetSettings(frames=2, stride=2, resize=24, size=24, fps=0.0)
  ((snippet, _),) = snippets.read(path, settings)
  assert np.abs(snippet[0].astype(int) - frame[:, 4:28]).mean() < 3


@pytest.mark.parametrize(
  ("aspect", "settings", "size"),
  [
    ("4/3", {}, (43, 24)),
    ("4/3", {"raw_aspect": True}, (32, 24)),
    ("3/4", {}, (24, 24)),
    ("4/3", {"short_side": 12}, (21, 12)),
    ("255/256", {}, (32, 24)),
  ],
)
def test_files_with_pixels_that_are_not_square(tmp_path, make_video, aspect, settings, size):
  path = make_video(tmp_path / "a.mp4", frames=2, aspect=aspect, pattern=PICTURE)
  frame, part = stored(path, **settings)
  assert (part.size, part.source_size, part.notes) == (size, (32, 24), ())
  expected = Image.fromarray(PICTURE).resize(size, Image.Resampling.BICUBIC)
  np.testing.assert_allclose(frame, np.asarray(expected).astype(int), atol=70)


def test_wide_pixels_of_a_turned_video(tmp_path, make_video):
  path = make_video(tmp_path / "a.mp4", aspect="2", rotation=90, size=(64, 48))
  assert stored(path)[1].size == (48, 128)
  assert stored(path, short_side=24)[1].size == (24, 64)


def test_a_ratio_without_sense_is_noted(tmp_path, make_video):
  path = make_video(tmp_path / "a.mp4", aspect="17")
  frame, part = stored(path)
  assert frame.shape == (24, 32, 3)
  assert part.notes == ("its sample aspect ratio of 17 makes no sense and is ignored",)


def test_snippets_have_square_pixels(tmp_path, make_video):
  pattern = np.where(np.arange(32) < 8, 20, 220)[None, :, None]  # a dark edge on the left
  path = make_video(tmp_path / "a.mp4", frames=2, size=(32, 48), aspect="2", pattern=pattern)
  settings = {"frames": 2, "stride": 2, "resize": 48, "size": 48, "fps": 0.0}
  edge = {}
  for raw in (False, True):
    ((snippet, _),) = snippets.read(path, snippets.SnippetSettings(**settings, raw_aspect=raw))
    assert snippet.shape == (2, 48, 48, 3)
    edge[raw] = np.abs(np.diff(snippet[0, 24, :, 0].astype(int))).argmax()
  # Of 64 x 48 pixels, and of 48 x 72.
  assert edge == {False: 16 - 8 - 1, True: 12 - 1}
  with av.open(str(path)) as container:
    assert container.streams.video[0].sample_aspect_ratio == 2
