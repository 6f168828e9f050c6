"""Fields of `config.data.localization`, shared by the sources of feature sequences with actions."""

from __future__ import annotations

from ml_collections import ConfigDict


def data() -> ConfigDict:
  """Defaults; the modules of `data_pipelines/untrimmed` say which they read."""
  c = ConfigDict()
  c.annotations = ""  # ground truth, ActivityNet's JSON; for the made-up sources: its lengths
  c.durations = ""  # CSV of video_id, duration_s where the JSON has no durations
  c.step_seconds = 0.64  # from one feature to the next: 16 frames at 25 a second
  c.sampling = "sample"  # sample: always T features, repeated or left out | pad: up to T, masked
  c.streams = ()  # folders under config.data.path joined along D, such as ("rgb", "flow")
  c.check = True  # look through all files first
  c.validation = 0.0  # share of the training videos held out, to choose a checkpoint by
  c.truth = False  # training sees annotated moments too, for config.dcc.pseudo = annotated alone
  c.seed = 0  # of the made-up data, whatever the run's

  c.videos = 200  # made-up videos to train on
  c.eval_videos = 100
  c.max_seconds = 240.0  # longest made-up video
  c.second_class = 0.15  # chance that a made-up video has actions of two classes

  c.untrimmed = ConfigDict()  # see data_pipelines.untrimmed.Settings
  c.untrimmed.classes = 8
  c.untrimmed.scenes = 0
  c.untrimmed.width = 64
  c.untrimmed.phases = 3
  c.untrimmed.action = 1.0
  c.untrimmed.scene = 1.0
  c.untrimmed.context = 0.5
  c.untrimmed.resemblance = 0.3
  c.untrimmed.shot_seconds = 8.0
  c.untrimmed.variation = 0.5
  c.untrimmed.noise = 1.0
  c.untrimmed.memory = 0.7
  c.untrimmed.bursts = 0.1

  c.stitched = ConfigDict()  # see data_pipelines.untrimmed.stitched
  c.stitched.actions = ()  # labels that are actions, the others are background; (): the first half
  c.stitched.names = ""  # text file of label and name a line
  return c
