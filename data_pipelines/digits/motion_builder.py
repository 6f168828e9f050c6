"""The videos of digits whose movement is the class, as a TFDS data set; see `motion`.

It is made and stored as that of `tfds_builder`, under the name `motion_video`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.digits import motion
from data_pipelines.digits.tfds_builder import encode


@dataclasses.dataclass
class MotionBuilderConfig(tfds.core.BuilderConfig):
  """One variant of the data set.

  Attributes:
    videos: see `motion.MotionConfig`.
    seed: seed of all random draws; the images of a split do not depend on it.
  """

  videos: motion.MotionConfig = dataclasses.field(default_factory=motion.MotionConfig)
  seed: int = 0


class MotionVideo(tfds.core.GeneratorBasedBuilder):
  """Videos of moving digits, of which only the movement tells the class."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012, TFDS reads a plain dict
  BUILDER_CONFIGS = [  # noqa: RUF012
    MotionBuilderConfig(name="shots", description="One movement, a new look at every cut."),
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    videos = self.builder_config.videos
    return self.dataset_info_from_configs(
      description=motion.__doc__,
      features=tfds.features.FeaturesDict(
        {
          "video": tfds.features.Video(
            (videos.length, videos.size, videos.size, 3), encoding_format="jpeg"
          ),
          "label": tfds.features.ClassLabel(names=list(motion.CLASSES)),
          "fps": np.float32,
          "index": np.int64,  # of the video in its split
        }
      ),
      homepage="https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html",
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing to download
    return {split: self._generate_examples(split) for split in motion.VIDEOS}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
    config = self.builder_config
    for i in range(motion.num_videos(split)):
      frames, label = motion.video(i, split, config.seed, config.videos)
      yield (
        i,
        {
          "video": [encode(frame) for frame in frames],
          "label": label,
          "fps": motion.FPS,
          "index": i,
        },
      )
