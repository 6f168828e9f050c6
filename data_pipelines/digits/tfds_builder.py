"""The videos of handwritten digits as a TFDS data set, built in seconds with no download.

```python
import tensorflow_datasets as tfds
import data_pipelines.digits.tfds_builder  # registers the name

builder = tfds.builder("digits_video", data_dir=folder)
builder.download_and_prepare()
```

Each frame is stored as one JPEG, as `tfds.features.Video` does for UCF101. So a reader with
`decoders={"video": tfds.decode.SkipDecoding()}` gets the bytes and can decode only the frames it
samples.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from data_pipelines.digits import render


def encode(frame: np.ndarray, quality: int = 90) -> bytes:
  """Encodes a uint8 frame `[H, W, 3]` as JPEG, without chroma subsampling."""
  buffer = io.BytesIO()
  PIL.Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=0)
  return buffer.getvalue()


@dataclasses.dataclass
class DigitsBuilderConfig(tfds.core.BuilderConfig):
  """One variant of the data set.

  Attributes:
    videos: see `render.DigitsConfig`.
    seed: seed of all random draws; the split does not depend on it.
  """

  videos: render.DigitsConfig = dataclasses.field(default_factory=render.DigitsConfig)
  seed: int = 0


class DigitsVideo(tfds.core.GeneratorBasedBuilder):
  """Videos of one handwritten digit each, under changing looks and motion."""

  VERSION = tfds.core.Version("1.1.0")
  RELEASE_NOTES = {  # noqa: RUF012, TFDS reads a plain dict
    "1.0.0": "First release.",
    "1.1.0": "With the frame rate, `fps`; the pixels are those of 1.0.0.",
  }
  BUILDER_CONFIGS = [  # noqa: RUF012
    DigitsBuilderConfig(name="shots", description="One handwriting, a new look every few frames."),
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    videos = self.builder_config.videos
    return self.dataset_info_from_configs(
      description=render.__doc__,
      features=tfds.features.FeaturesDict(
        {
          "video": tfds.features.Video(
            (videos.length, videos.size, videos.size, 3), encoding_format="jpeg"
          ),
          "label": tfds.features.ClassLabel(names=list(render.CLASSES)),
          "fps": np.float32,
          "index": np.int64,  # of the video in its split
          "image": np.int64,  # of the handwriting in sklearn.datasets.load_digits
        }
      ),
      homepage="https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html",
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing to download
    return {split: self._generate_examples(split) for split in ("train", "test")}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
    config = self.builder_config
    images = render.images(split)
    for i in range(render.num_videos(split, config.videos)):
      frames, label = render.video(i, split, config.seed, config.videos)
      yield (
        i,
        {
          "video": [encode(frame) for frame in frames],
          "label": label,
          "fps": render.FPS,
          "index": i,
          "image": images[i % len(images)],
        },
      )
