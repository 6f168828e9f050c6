import json

import numpy as np
import pytest

from vssl_jax.errors import UserError
from vssl_jax.localization import annotations
from vssl_jax.localization.annotations import Prediction, Segment, Video

VIDEOS = {
  "a": Video("train", 20.5, (Segment(1.0, 2.5, "run"), Segment(4.0, 9.0, "dive"))),
  "b": Video("test", None, (Segment(0.0, 3.0, "run"), Segment(5.0, 6.0, "run"))),
  "c": Video("test", 7.0, ()),
}


def ground_truth(**entry):
  video = {"subset": "test", "annotations": [{"segment": [1, 2], "label": "run"}], **entry}
  return {"database": {"v": {k: x for k, x in video.items() if x is not None}}}


def written(tmp_path, tree):
  path = tmp_path / "file.json"
  path.write_text(tree if isinstance(tree, str) else json.dumps(tree), encoding="utf-8")
  return path


def test_ground_truth_comes_back(tmp_path):
  path = tmp_path / "gt.json"
  annotations.write_annotations(path, VIDEOS)
  assert annotations.read_annotations(path) == VIDEOS
  stored = json.loads(path.read_text())
  assert stored.keys() >= {"database", "taxonomy", "version"}  # ActivityNet's evaluator asks
  assert "duration" not in stored["database"]["b"]
  assert [n["nodeName"] for n in stored["taxonomy"]] == ["Root", "dive", "run"]


def test_predictions_come_back(tmp_path):
  predictions = {
    "a": [Prediction(0.5, 2.0, "run", 0.9), Prediction(1.0, 3.0, "dive", -2.0)],
    "b": [],
  }
  path = tmp_path / "p.json"
  annotations.write_predictions(path, predictions)
  assert annotations.read_predictions(path) == predictions
  assert json.loads(path.read_text()).keys() >= {"results", "version", "external_data"}
  with pytest.raises(UserError, match=r"'a'.*finite"):
    annotations.write_predictions(path, {"a": [Prediction(0.0, 1.0, "run", float("nan"))]})
  assert annotations.read_predictions(path) == predictions


def test_durations_from_a_table(tmp_path):
  table = tmp_path / "videos.csv"
  table.write_text("video_id,subset,duration_s\nv,test,12.5\nother,test,3\n")
  path = written(tmp_path, ground_truth())
  assert annotations.read_annotations(path)["v"].duration is None
  assert annotations.read_annotations(path, durations=table)["v"].duration == 12.5
  own = written(tmp_path, ground_truth(duration=9))
  assert annotations.read_annotations(own, durations=table)["v"].duration == 9
  null = {"database": {"v": {"subset": "test", "duration": None, "annotations": []}}}
  assert (
    annotations.read_annotations(written(tmp_path, null), durations=table)["v"].duration == 12.5
  )
  table.write_text("\ufeffvideo_id,duration_s\nv,7\n", encoding="utf-8")  # a spreadsheet's
  assert annotations.read_annotations(path, durations=table)["v"].duration == 7
  table.write_text("name,seconds\nv,3\n")
  with pytest.raises(UserError, match=r"columns"):
    annotations.read_annotations(path, durations=table)


def test_numbers_written_as_text(tmp_path):
  """BaS-Net's published `gt.json` has all its times as text."""
  entry = {"segment": ["18.6", " 24 "], "label": "HighJump"}
  tree = ground_truth(annotations=[entry, {"segment": ["0", 1e1], "label": "x"}], duration="1.5e2")
  found = annotations.read_annotations(written(tmp_path, tree))["v"]
  assert found == Video("test", 150.0, (Segment(18.6, 24.0, "HighJump"), Segment(0.0, 10.0, "x")))
  assert all(type(t) is float for s in found.segments for t in s[:2])
  tree = {"results": {"v": [{**entry, "score": "-.25"}, {**entry, "score": "+3E-1"}]}}
  found = annotations.read_predictions(written(tmp_path, tree))["v"]
  assert found == [Prediction(18.6, 24.0, "HighJump", s) for s in (-0.25, 0.3)]


@pytest.mark.parametrize(
  "text", ["", " ", "nan", "inf", "1e999", "1_0", "18,6", "0:18.6", "18.6 s", "0x1", "٣", ".", "e1"]
)
def test_text_that_is_no_number_is_named(tmp_path, text):
  where = f"video 'v', annotation 0: segment .*{text}.* is not \\[start, end\\] in seconds"
  tree = ground_truth(annotations=[{"segment": [0, text], "label": "x"}])
  with pytest.raises(UserError, match=where):
    annotations.read_annotations(written(tmp_path, tree))
  with pytest.raises(UserError, match=f"video 'v': duration '{text}' is not a positive number"):
    annotations.read_annotations(written(tmp_path, ground_truth(duration=text)))
  tree = {"results": {"v": [{"segment": ["0", "1"], "label": "x", "score": text}]}}
  with pytest.raises(UserError, match=f"prediction 0: score '{text}' is not a number"):
    annotations.read_predictions(written(tmp_path, tree))


def test_times_that_no_video_has_are_told():
  assert annotations.odd_times(VIDEOS) == ""
  odd = Video("test", 7.0, (Segment(1, 7.0, "run"), Segment(2, 7.5, "run"), Segment(-1, 2, "dive")))
  told = annotations.odd_times(VIDEOS | {"d": odd})
  assert told.startswith("2 of 7 segments start before 0 s or end past the end")
  assert told.endswith("the first: video 'd', 2 to 7.5 s (run) ends past the end, 7 s")
  found = {"b": [Prediction(-0.5, 99, "run", 1.0)], "c": [Prediction(8, 9, "run", 1.0)], "x": []}
  told = annotations.odd_times(VIDEOS, found)
  assert told.startswith("2 of 2 ")
  assert told.endswith("video 'b', -0.5 to 99 s (run) starts before 0")
  assert annotations.odd_times(VIDEOS, {"b": [Prediction(0, 99, "run", 1.0)]}) == ""


def test_bad_durations_are_named_with_their_line(tmp_path):
  path, table = written(tmp_path, ground_truth()), tmp_path / "videos.csv"
  table.write_text("Video_ID , Duration_s\nw,\nv, 12.5 \n")
  assert annotations.read_annotations(path, durations=table)["v"].duration == 12.5
  for text in ("nan", "-1", "0", "long", "1_0"):
    table.write_text(f"video_id,duration_s\nw,3\nv,{text}\n")
    with pytest.raises(UserError, match=f"videos.csv, line 3: video 'v': duration '{text}'"):
      annotations.read_annotations(path, durations=table)
  for content in (b"video_id,duration_s\nv\n", b"video_id,duration_s\nv,\xff\n", b"v,3\n"):
    table.write_bytes(content)
    with pytest.raises(UserError, match="needs columns 'video_id' and 'duration_s'"):
      annotations.read_annotations(path, durations=table)


def test_labels():
  assert annotations.label_names(VIDEOS) == ("dive", "run")
  assert VIDEOS["b"].labels == ("run",)
  hot = annotations.multi_hot(VIDEOS.values(), ("dive", "run", "swim"))
  np.testing.assert_array_equal(hot, [[1, 1, 0], [0, 1, 0], [0, 0, 0]])
  assert hot.dtype == np.float32
  with pytest.raises(UserError, match=r"'dive'"):
    annotations.multi_hot(VIDEOS.values(), ("run",))


def test_subsets():
  assert list(annotations.of_subset(VIDEOS, "test")) == ["b", "c"]
  with pytest.raises(UserError, match=r"'valid'.*test, train"):
    annotations.of_subset(VIDEOS, "valid")


@pytest.mark.parametrize(
  ("tree", "message"),
  [
    ("{", "not valid JSON"),
    ({}, "'database'"),
    ({"database": {"v": 3}}, "video 'v'.*'subset'"),
    (ground_truth(subset=None), "'subset'"),
    (ground_truth(annotations=None), "'annotations'"),
    (ground_truth(duration="long"), "duration 'long'"),
    (ground_truth(duration=0), "duration 0"),
    (ground_truth(duration=10**400), "duration 1000"),
    ('{"database": {"v": {}, "w": {}, "v": {}}}', "'v' occurs twice"),
    (ground_truth(annotations=[{"segment": [1, 2]}]), "annotation 0: has no 'label'"),
    (ground_truth(annotations=[{"segment": [2, 1], "label": "x"}]), r"\[2, 1\] ends before it"),
    (ground_truth(annotations=[{"segment": ["9", "10", "11"], "label": "x"}]), "'11'"),
    (ground_truth(annotations=[{"segment": ["10", "9"], "label": "x"}]), "ends before it starts"),
    (ground_truth(annotations=[{"segment": [2], "label": "x"}]), r"\[2\]"),
    (ground_truth(annotations=[{"segment": [0, float("nan")], "label": "x"}]), "nan"),
    (ground_truth(annotations=[{"segment": [False, 1], "label": "x"}]), "False"),
  ],
)
def test_bad_ground_truth_is_named(tmp_path, tree, message):
  with pytest.raises(UserError, match=message) as e:
    annotations.read_annotations(written(tmp_path, tree))
  assert "file.json" in str(e.value)


@pytest.mark.parametrize(
  ("tree", "message"),
  [
    ({"results": []}, "'results'"),
    ('{"results": {"v": [], "v": []}}', "'v' occurs twice"),
    ({"results": {"v": {}}}, "no list"),
    ({"results": {"v": [{"segment": [0, 1], "label": "x"}]}}, "score None"),
    ({"results": {"v": [{"segment": [0, 1], "label": "x", "score": "high"}]}}, "'high'"),
    ({"results": {"v": [{"label": "x", "score": 1}]}}, "prediction 0: has no 'segment'"),
    ({"results": {"v": [{"segment": ["1", "0.5"], "label": "x", "score": 1}]}}, "ends before it"),
  ],
)
def test_bad_predictions_are_named(tmp_path, tree, message):
  with pytest.raises(UserError, match=message):
    annotations.read_predictions(written(tmp_path, tree))
  with pytest.raises(UserError, match=r"nothing.json: cannot be read"):
    annotations.read_predictions(tmp_path / "nothing.json")


def test_truth_holds_where_the_middle_of_a_step_does():
  video = Video("t", 5.0, (Segment(0.6, 2.5, "b"), Segment(2.0, 3.0, "a"), Segment(0, 5, "x")))
  got = annotations.truth(video, ("a", "b"), 5, 1.0)
  np.testing.assert_array_equal(got[:, 0], [0, 0, 1, 0, 0])
  np.testing.assert_array_equal(got[:, 1], [0, 1, 0, 0, 0])  # [0.6, 2.5) lacks 0.5 and 2.5
  assert not annotations.truth(Video("t", 5.0, ()), ("a",), 3, 1.0).any()
