"""A saved BaS-Net on its own split, on annotated and on unknown videos; what does not fit."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from data_pipelines.untrimmed import sequences
from tests import small
from vssl_jax import methods
from vssl_jax.jobs import localize
from vssl_jax.localization import annotations
from vssl_jax.localization import scores as scores_lib
from vssl_jax.localization.annotations import Segment, Video
from vssl_jax.methods.dcc import inference
from vssl_jax.training import run_config, run_folder, sources

WIDTH = 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run folder without training: two classes, and the config that is in it."""
  config = small.load("dcc.py", "demo")
  config.update_from_flattened_dict(
    {
      "batch_size": 4,
      "steps": 4,
      "data.frames": 24,
      "dcc.hidden": 8,
      "dcc.filter": 4,
      "dcc.dim": 4,
      "dcc.clusters": 3,
      "dcc.regions": 2,
      "dcc.proposals.scale": 4,
      "data.localization.videos": 8,
      "data.localization.eval_videos": 6,
      "data.localization.untrimmed.classes": 2,
      "data.localization.untrimmed.width": WIDTH,
    }
  )
  source = sources.load_source(config, config.data.train_split)
  config = methods.resolve(config.lock(), source)
  method = methods.load("dcc").build(config)
  params, state = small.init(method)
  folder = tmp_path_factory.mktemp("run")
  run_folder.save_run(folder, config, params, state)
  return folder, config, params


def call(folder, out, *flags):
  return small.vssl(
    "localize", f"--checkpoint={folder}", f"--output={out}", "--timelines=2", *flags
  )


def features(folder, lengths, width=WIDTH):
  rng = np.random.default_rng(0)
  folder.mkdir(parents=True)
  for i, length in enumerate(lengths):
    np.save(folder / f"v{i}.npy", rng.normal(size=(length, width)).astype(np.float32))
  return folder


def test_the_runs_own_split_is_scored_as_the_run_does(run, tmp_path, capsys):
  folder, config, params = run
  assert call(folder, tmp_path / "out") == 0
  scores = json.loads((tmp_path / "out" / "scores.json").read_text())
  source = sources.load_source(config, config.data.eval_split)
  want = inference.localize(config, params, source)
  assert scores["average"] == pytest.approx(want["average"], rel=1e-3)
  assert scores["videos"] == 6
  assert len(list((tmp_path / "out" / "timelines").glob("*.png"))) == 2
  found = annotations.read_predictions(tmp_path / "out" / "predictions.json")
  truth = annotations.read_annotations(tmp_path / "out" / "truth.json")
  assert truth.keys() == found.keys()
  assert found.keys() == set(source.names)
  printed = capsys.readouterr().out
  assert "segments in 6 videos" in printed
  assert "average of 0.1:0.7" in printed


def test_thresholds_may_be_others(run, tmp_path, capsys):
  folder, config, params = run
  source = sources.load_source(config, config.data.eval_split)
  options = inference.options(config)
  settings = dataclasses.replace(options.pop("settings"), thresholds=(0.3, 0.5, 0.7))
  found = functools.partial(inference.activations(config), params)
  want = scores_lib.evaluate(found, source, settings=settings, **options)
  for i, text in enumerate(("0.3:0.7:0.2", "0.3,0.5,0.7", "0.3:0.89:0.2")):
    assert call(folder, tmp_path / str(i), f"--thresholds={text}") == 0
    scores = json.loads((tmp_path / str(i) / "scores.json").read_text())
    assert scores["mAP"] == pytest.approx(want["mAP"], rel=1e-3)
  for text, message in {
    "0.3:0.7": "'0.3:0.7' is neither first:last:step",
    "0:1:0": "'0:1:0' is an empty range; give first:last:step that rises",
    "0.7:0.3:0.1": "'0.7:0.3:0.1' is an empty range",
    "0.3:0.7:-0.1": "is an empty range",
    "0.3:nan:0.1": "neither",
    "inf": "neither",
    "a,b": "neither",
    "0.5,1.5": r"thresholds must be in [0, 1)",
    "0:1:1e-13": "give 1000 or fewer",
  }.items():
    assert call(folder, tmp_path / "bad", f"--thresholds={text}") == 2
    assert message in capsys.readouterr().err


def test_unknown_videos_get_predictions_by_the_runs_classes(run, tmp_path, capsys):
  folder, config, params = run
  data = features(tmp_path / "new", [30, 7])
  assert call(folder, tmp_path / "out", f"--data={data}") == 0
  assert "mAP" not in capsys.readouterr().out
  assert not (tmp_path / "out" / "scores.json").exists()
  found = annotations.read_predictions(tmp_path / "out" / "predictions.json")
  assert found.keys() == {"v0", "v1"}
  assert {p.label for listed in found.values() for p in listed} <= set(config.dcc.label_names)
  end = 7 * config.data.localization.step_seconds
  assert 0 < max(p.end for p in found["v1"]) <= end
  # The same as by hand, video by video.
  source = localize.open_split(config, methods.evaluator(config).localizer, str(data))
  activate = functools.partial(inference.activations(config), params)
  want, _ = scores_lib.predict(activate, source, **inference.options(config))
  assert [p.score for p in found["v0"]] == pytest.approx([p.score for p in want["v0"]], rel=1e-5)


def test_annotated_videos_may_lack_classes(run, tmp_path):
  folder, config, _ = run
  data, second = features(tmp_path / "new", [30, 20]), config.dcc.label_names[1]
  videos = {f"v{i}": Video("mine", 10.0, (Segment(1.0, 3.0, second),)) for i in range(2)}
  annotations.write_annotations(data / "annotations.json", videos)
  assert call(folder, tmp_path / "out", f"--data={data}", "--split=mine") == 0
  scores = json.loads((tmp_path / "out" / "scores.json").read_text())
  assert list(scores["per_class"]) == [second]
  source = localize.open_split(config, methods.evaluator(config).localizer, str(data), split="mine")
  np.testing.assert_array_equal(source.eval_example(0)["labels"], [0, 1])


@pytest.mark.parametrize(
  ("case", "message"),
  [
    ("width", "has features of width 3, the run was trained on 5"),
    ("label", "label 'unheard of' is none of the 2 classes"),
    ("split", "no annotated video is of subset 'test'"),
    ("empty", "holds no feature sequences"),
    ("method", "is a run of cvrl, which does not localize; give one of"),
    ("run", "config.json"),
  ],
)
def test_what_does_not_fit_is_one_line(run, tmp_path, capsys, case, message, monkeypatch):
  folder, config, _ = run
  data = tmp_path / "new"
  features(data, [] if case == "empty" else [9], width=3 if case == "width" else WIDTH)
  if case in ("label", "split"):
    label = "unheard of" if case == "label" else config.dcc.label_names[0]
    subset = config.data.eval_split if case == "label" else "mine"
    videos = {"v0": Video(subset, 4.0, (Segment(1.0, 2.0, label),))}
    annotations.write_annotations(data / "annotations.json", videos)
  if case == "method":
    other = small.load("cvrl.py", "demo").lock()
    monkeypatch.setattr(run_folder, "load_state", lambda *_: (other, None, None))
  if case == "run":
    folder = tmp_path
  assert call(folder, tmp_path / "out", f"--data={data}") == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.startswith("error: ")
  assert not (tmp_path / "out" / "predictions.json").exists()


def test_streams_of_unknown_videos_are_joined(tmp_path):
  data = small.load("dcc.py", "demo").data
  data.path, data.localization.streams = str(tmp_path), ("a", "b")
  for name in ("a", "b"):
    features(tmp_path / name, [4, 6], width=2)
  dataset = sequences.unlabeled(data, ("x",))
  assert dataset.features["v1"]().shape == (6, 4)
  assert dataset.videos["v0"] == Video(sequences.UNLABELED, None, ())


def test_basnets_folders_are_opened(run, tmp_path):
  _, config, _ = run
  localizer = methods.evaluator(config).localizer
  for stream, width in {"rgb": 3, "flow": WIDTH - 3}.items():
    features(tmp_path / "features" / "test" / stream, [9, 12], width=width)
  for inside in ("", "features", "features/test"):
    source = localize.open_split(config, localizer, str(tmp_path / inside))
    assert (source.names, source.sequence(1).shape) == (("v0", "v1"), (12, WIDTH))
  entry = {"segment": ["1.0", "2.0"], "label": config.dcc.label_names[1]}
  database = {"v1": {"subset": "test", "annotations": [entry]}}
  (tmp_path / "gt.json").write_text(json.dumps({"database": database}))
  source = localize.open_split(config, localizer, str(tmp_path), split="test")
  assert source.names == ("v1",)
  np.testing.assert_array_equal(source.eval_example(0)["labels"], [0, 1])


def test_a_run_without_names_knows_its_own_data_only(run, tmp_path, capsys, monkeypatch):
  folder = run[0]
  loaded = run_folder.load_state(folder)
  with loaded[0].unlocked():
    loaded[0].dcc.label_names = ()
  monkeypatch.setattr(run_folder, "load_state", lambda *_: loaded)
  assert call(folder, tmp_path / "a", f"--data={features(tmp_path / 'new', [9])}") == 2
  assert "before class names were kept" in capsys.readouterr().err
  assert call(folder, tmp_path / "b") == 0
  run_config.check_config(folder, loaded[0])  # and such a run goes on


def test_what_is_of_annotated_videos_only_is_refused(run, tmp_path, capsys):
  data = features(tmp_path / "new", [9])
  for flag in ("--split=test", "--durations=videos.csv"):
    assert call(run[0], tmp_path / "out", f"--data={data}", flag) == 2
    assert "--split and --durations are of annotated videos" in capsys.readouterr().err
  (tmp_path / "file").touch()
  assert call(run[0], tmp_path / "file", f"--data={data}") == 2
  assert "no folder can be made here" in capsys.readouterr().err


def test_a_split_without_actions_is_localized(run, tmp_path):
  data = features(tmp_path / "new", [9, 12])
  videos = {f"v{i}": Video("testing", 5.0, ()) for i in range(2)}
  annotations.write_annotations(data / "annotations.json", videos)
  assert call(run[0], tmp_path / "out", f"--data={data}", "--split=testing") == 0
  found = annotations.read_predictions(tmp_path / "out" / "predictions.json")
  assert all(found[name] for name in videos)
  assert not (tmp_path / "out" / "scores.json").exists()


def test_annotations_need_their_videos(run, tmp_path, capsys):
  assert call(run[0], tmp_path / "out", "--annotations=gt.json") == 2
  assert "give their --data" in capsys.readouterr().err


def test_whole_command_says_what_it_takes(capsys):
  with pytest.raises(SystemExit):
    small.vssl("localize", "--help")
  assert "predictions.json" in capsys.readouterr().out
