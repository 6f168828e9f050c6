"""JPEGs of frames: their size, and what is not done twice."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines.videos import jpeg


def frame(width, height, level=100):
  pixels = np.full((height, width, 3), level, np.uint8)
  return av.VideoFrame.from_ndarray(pixels, format="rgb24")


@pytest.mark.parametrize(
  ("aspect", "short_side", "size"),
  [(1.0, 0, (64, 48)), (1.0, 24, (32, 24)), (2.0, 0, (128, 48)), (0.5, 24, (24, 36))],
)
def test_sizes(aspect, short_side, size):
  encoder = jpeg.Encoder(short_side, 90)
  encoder.pictures.aspect = aspect
  image = Image.open(io.BytesIO(encoder(frame(64, 48))))
  assert image.size == encoder.pictures.size == size
  assert encoder.pictures.source_size == (64, 48)
  assert np.asarray(image).mean() == pytest.approx(100, abs=2)


def test_later_frames_have_the_size_of_the_first():
  encoder = jpeg.Encoder(0, 90)
  encoder(frame(64, 48))
  assert Image.open(io.BytesIO(encoder(frame(32, 32)))).size == (64, 48)


def test_the_same_frame_is_not_encoded_again():
  encoder = jpeg.Encoder(0, 90)
  first = frame(64, 48)
  assert encoder(first) is encoder(first)
  assert encoder(frame(64, 48, 50)) != encoder(first)
