"""Snippets of real small videos: which frames, which pixels, what is read and what is not."""

import av
import numpy as np
import pytest

from data_pipelines.videos import decode, snippets, workers
from data_pipelines.videos.snippets import SnippetSettings, Task
from vssl_jax.errors import UserError

SMALL = {"resize": 24, "size": 16, "fps": 0.0}


def levels(path, **kwargs):
  """Frame numbers of each snippet: frame i is a flat grey of level 10 + 8 i."""
  found = [x for x, _ in snippets.read(path, SnippetSettings(**{**SMALL, **kwargs}))]
  assert all(x.dtype == np.uint8 and x.shape[1:] == (16, 16, 3) for x in found)
  return [[round((float(f.mean()) - 10) / 8) for f in x] for x in found]


@pytest.mark.parametrize(
  ("kwargs", "want"),
  [
    ({"frames": 4, "stride": 4}, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
    ({"frames": 4, "stride": 2}, [[i, i + 1, i + 2, i + 3] for i in range(0, 9, 2)]),
    ({"frames": 2, "stride": 5}, [[0, 1], [5, 6], [10, 11]]),
    ({"frames": 3, "stride": 4, "step": 2}, [[0, 2, 4], [4, 6, 8]]),
    ({"frames": 10, "stride": 10}, [list(range(10))]),  # the rest is too short
    ({"frames": 16, "stride": 16}, [[*range(12), 11, 11, 11, 11]]),  # the whole is
  ],
)
def test_which_frames(make_video, tmp_path, kwargs, want):
  assert levels(make_video(tmp_path / "a.mp4", frames=12), **kwargs) == want


def test_frame_rate_and_facts(make_video, tmp_path):
  path = make_video(tmp_path / "a.mp4", frames=12, fps=10)
  facts = snippets.send(
    Task(path, SnippetSettings(**{**SMALL, "frames": 4, "stride": 4})), lambda x: None
  )
  assert (facts["snippets"], facts["frames"], facts["fps"]) == (3, 12, 10)
  np.testing.assert_allclose(facts["seconds"], 1.2)
  doubled = levels(path, frames=4, stride=4, fps=20.0)
  assert doubled[:2] == [[0, 0, 1, 1], [2, 2, 3, 3]]
  assert len(doubled) == 6


@pytest.mark.parametrize("rotation", [0, 90])
def test_central_square_upright(make_video, tmp_path, rotation):
  # Left half dark, right half bright, 48 x 24: the central square has both halves.
  pattern = np.where(np.arange(48) < 24, 20, 220)[None, :, None]
  path = make_video(tmp_path / "a.mp4", frames=4, size=(48, 24), pattern=pattern, rotation=rotation)
  (x, _), *_ = snippets.read(path, SnippetSettings(frames=2, stride=2, resize=24, size=20, fps=0.0))
  assert x.shape == (2, 20, 20, 3)
  frame = x[0, ..., 0].astype(int)
  if rotation:
    with av.open(str(path)) as container:
      turn = next(container.decode(video=0)).rotation % 360
    frame = np.rot90(frame, -turn // 90)
  assert frame[:, :8].mean() < 60
  assert frame[:, -8:].mean() > 180


def test_broken_videos_have_reasons(make_video, make_audio, tmp_path):
  settings = SnippetSettings(**{**SMALL, "frames": 2, "stride": 2})
  send = lambda path: snippets.send(Task(path, settings), lambda x: None)
  empty, noise = tmp_path / "empty.mp4", tmp_path / "noise.mp4"
  empty.write_bytes(b"")
  noise.write_bytes(np.random.default_rng(0).bytes(4000))
  assert send(empty) == {"error": "empty file"}
  assert send(noise)["error"].startswith("cannot be decoded: ")
  assert send(tmp_path / "none.mp4") == {"error": "no such file"}
  assert send(make_audio(tmp_path / "sound.mp4"))["error"].startswith("no video stream")
  whole = make_video(tmp_path / "whole.avi", frames=40)
  assert send(whole)["snippets"] == 20
  with pytest.raises(decode.UnreadableError, match="no such file"):
    next(snippets.read(tmp_path / "none.mp4", settings))


def test_the_time_limit_is_for_two_minutes_of_the_video(make_video, tmp_path):
  path = make_video(tmp_path / "a.mkv", frames=28, times=[10.0 * i for i in range(28)])
  settings, reports = SnippetSettings(**{**SMALL, "frames": 1, "stride": 1}), []
  facts = snippets.send(Task(path, settings), reports.append)
  assert facts["snippets"] == len(reports) == 28
  restarts = [i for i, report in enumerate(reports) if not isinstance(report, workers.Piece)]
  assert restarts == [11, 23]  # of 280 s; frame i ends at 10 · (i + 1) s


def test_what_is_wrong_with_a_video_is_noted(make_video, tmp_path):
  path = make_video(tmp_path / "a.mkv", frames=4, times=[0, 0.1, 90.0, 90.1], codec="libx264")
  settings = {**SMALL, "frames": 4, "stride": 4}
  facts = snippets.send(Task(path, SnippetSettings(**settings)), lambda _: None)
  assert facts["notes"] == ["1 gap of more than 60 s, the longest of 90 s at 0 s"]
  # It is also noted if all frames behind the last snippet are left out.
  short = SnippetSettings(**{**settings, "frames": 2, "stride": 3})
  assert snippets.send(Task(path, short), lambda _: None)["notes"] == facts["notes"]
  guarded = SnippetSettings(**settings, max_gap=60.0)
  assert "jump from 0 s to 90 s" in snippets.send(Task(path, guarded), lambda _: None)["error"]


def test_a_stream_at_a_stated_rate(make_video, tmp_path):
  path = make_video(tmp_path / "a.h264", frames=12, codec="libx264")
  settings = SnippetSettings(**{**SMALL, "frames": 4, "stride": 4}, stream_fps=5.0)
  facts = snippets.send(Task(path, settings), lambda _: None)
  assert (facts["fps"], facts["seconds"]) == (5, pytest.approx(12 / 5))


@pytest.mark.parametrize(
  "kwargs",
  [{"frames": 0}, {"stride": 0}, {"fps": -1.0}, {"size": 200}, {"max_gap": -1.0}],
)
def test_impossible_settings(kwargs):
  with pytest.raises(UserError, match="snippets: "):
    SnippetSettings(**kwargs)
