"""The command whole, on synthetic videos and a checkpoint of the smallest network."""

import dataclasses
import io
import json
import re
import shutil
import zipfile

import jax
import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest

from data_pipelines.sources import synthetic
from tests import small
from tests.data_pipelines.conftest import _make_video as make_video
from vssl_jax import augment, methods
from vssl_jax import results as results_lib
from vssl_jax.encoder import encoder as encoder_lib
from vssl_jax.encoder import snippet_encoder
from vssl_jax.errors import UserError
from vssl_jax.evaluation import classifier, protocols, run, splits, subsets
from vssl_jax.models.layers.norm import BatchNorm
from vssl_jax.probes import cross_validation, knn, metrics, retrieval
from vssl_jax.probes.views import Cached
from vssl_jax.training import loop, run_config, run_folder, sources

TIMES = ("seconds", "clips_per_second")
QUICK = "logistic,cross_validation,knn,retrieval,few_shot,motion,embedding"
TRAINED = "linear,finetune,semi_supervised"
EVERY = f"{QUICK},{TRAINED}".split(",")  # of labeled clips
FEW = (
  "--epochs=1",
  "--semi_epochs=2",
  "--batch_size=8",
  "--episodes=5",
  "--queries=3",
  "--gallery=2",
  "--fractions=0.3",
  "--subset_seeds=0,1",
)


pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module", autouse=True)
def flat_network():
  """A dense layer in place of the encoder: the networks have tests of their own."""
  import flax.linen as nn

  from vssl_jax import models

  class Flat(nn.Module):
    features_dim: int = 12

    @nn.compact
    def __call__(self, clips, train=False):
      x = nn.Dense(12, name="stem")(clips[:, :, ::4, ::4].reshape(len(clips), -1))
      return nn.relu(BatchNorm(name="norm")(x, train))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(models, "build_encoder", lambda config, mesh=None: Flat())
    yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  """A run that has made no step."""
  config = small.shrink(small.load("cvrl.py", "demo"))
  augment.presets.none(config.augment)
  params, state = small.init(methods.load("cvrl").build(config, None))
  folder = tmp_path_factory.mktemp("checkpoint") / "run"
  run_folder.save_run(folder, config, params, state)
  return folder


@pytest.fixture(scope="module")
def done(checkpoint, tmp_path_factory):
  """All protocols, run once for the tests below."""
  output = tmp_path_factory.mktemp("evaluation")
  assert _main(checkpoint, output) == 0
  return output


def _main(checkpoint, output, *flags, names=f"{QUICK},{TRAINED}"):
  return small.vssl(
    "evaluate",
    f"--checkpoint={checkpoint}",
    f"--output={output}",
    f"--protocols={names}",
    *FEW,
    *flags,
  )


def _results(output, case="synthetic"):
  return {f.stem: json.loads(f.read_text()) for f in sorted((output / case).glob("*.json"))}


def _timeless(value):
  if isinstance(value, dict):
    return {k: _timeless(v) for k, v in value.items() if k not in TIMES}
  return [_timeless(v) for v in value] if isinstance(value, list) else value


def test_every_result_tells_its_protocol(done):
  results = _results(done)
  assert set(results) == set(EVERY)
  for name, result in results.items():
    assert result["data"]["train"] | {"fingerprint": "", "read": 24} == {
      "name": "train",
      "videos": 24,
      "fingerprint": "",
      "read": 24,
    }
    assert result["data"]["eval" if name != "cross_validation" else "train"]["read"]
    assert result["views"]["clips"] == 2
    assert "inference" in result["bn_mode"]
    assert result["feature_layer"]
    assert result["checkpoint"]["step"] == 0
    assert len(result["encoder_sha256"]) == 64
    assert result["seed"] == 0
    assert result["settings"], name
  assert results["finetune"]["settings"]["optimizer"]["name"] == "sgd"
  assert results["finetune"]["settings"]["encoder"] == "trained"
  assert results["linear"]["settings"]["encoder"] == "frozen"


def test_frozen_protocols_leave_the_encoder_and_finetuning_does_not(done, checkpoint):
  results = _results(done)
  sha = results_lib.tree_hash(encoder_lib.load_encoder(checkpoint)[1])
  assert all(r["encoder_sha256"] == sha for r in results.values())
  (linear,) = (done / "synthetic").glob("linear-*")
  (finetune,) = (done / "synthetic").glob("finetune-*")
  assert results_lib.tree_hash(encoder_lib.load_encoder(linear)[1]) == sha
  assert results_lib.tree_hash(encoder_lib.load_encoder(finetune)[1]) != sha


def test_scores_are_the_parts_own(done, checkpoint):
  results, (train, test) = _results(done), _features(done)
  given = (train.mean(), train.label, test.mean(), test.label)
  found = {k: results["retrieval"][k] for k in ("R@1", "R@5", "mAP")}
  expected = retrieval.evaluate(*given)
  assert found == pytest.approx({k: expected[k] for k in found}, abs=1e-4)
  within = cross_validation.evaluate(train.mean(), train.label)
  assert results["cross_validation"]["top1"] == pytest.approx(within["top1"], abs=1e-4)
  votes = knn.weighted_knn(*given[:3], classes=2, k=24, temperature=0.07)
  assert results["knn"]["top1"] == pytest.approx(metrics.accuracy(votes, test.label).top1, abs=1e-4)
  assert results["knn"]["k_used"] == 24  # the recipe's is not bound
  assert results["knn"]["k_why"] == "there are 24 labeled training videos"
  assert "k_bound" not in results["knn"]
  assert results["knn"]["videos_a_class"] == {"direction_0": 4, "direction_1": 4}


def _features(done):
  from vssl_jax.probes import features

  return [features.load(next((done / "features").glob(f"{s}-*.npz"))) for s in ("train", "test")]


def test_subsets_are_written_balanced_and_used(done):
  rows = _results(done)["semi_supervised"]["subsets"]
  assert [r["labelled_videos"] for r in rows] == [8, 8]
  train, _ = _features(done)
  for seed, row in enumerate(rows):
    assert row["videos_a_class"] == {"direction_0": 4, "direction_1": 4}
    read = subsets.read(done / "synthetic" / row["subset_file"], (), 24)
    np.testing.assert_array_equal(read, subsets.balanced(train.label, 0.3, seed))
  assert rows[0]["variables_sha256"] != rows[1]["variables_sha256"]
  headline = _results(done)["semi_supervised"]["headline"]
  assert headline["30 % of labels, top-1"] == pytest.approx(
    np.mean([r["top1"] for r in rows]), abs=1e-4
  )


def test_others_subset_files_are_used(done, checkpoint, tmp_path):
  file = next((done / "synthetic").glob("subset_30pct_seed1.tsv"))
  assert _main(checkpoint, tmp_path, f"--subsets={file}", names="semi_supervised") == 0
  (row,) = _results(tmp_path)["semi_supervised"]["subsets"]
  before = _results(done)["semi_supervised"]["subsets"][1]
  assert row["variables_sha256"] == before["variables_sha256"]


def test_pictures_and_table(done):
  folder = done / "synthetic"
  names = [
    "logistic",
    "knn",
    "linear",
    "finetune",
    "semi_supervised_30pct_seed0",
    "per_class",
    "retrieval",
    "tsne",
  ]
  for name in names:
    assert (folder / f"{name}.png").stat().st_size > 3000, name
  table = (done / "table.md").read_text()
  for name in set(EVERY) - {"embedding"}:
    assert f"| {name} |" in table
  r5 = _results(done)["retrieval"]["R@5"]
  assert f"| retrieval | R@5 | {100 * r5:.1f} |" in table


def test_finished_protocols_are_not_run_again(done, checkpoint, capsys, monkeypatch):
  before = {f: f.stat().st_mtime_ns for f in (done / "synthetic").glob("*.json")}
  for p in protocols.PROTOCOLS.values():
    monkeypatch.setattr(type(p), "run", None, raising=False)
  assert _main(checkpoint, done) == 0
  out = capsys.readouterr().out
  assert out.count("finished before") == len(EVERY)
  assert {f: f.stat().st_mtime_ns for f in before} == before
  assert json.loads(re.search(r"^RESULT (.*)$", out, re.M)[1])["job"] == "evaluate"


@pytest.mark.slow
def test_running_again_gives_the_same_but_for_times(done, checkpoint, tmp_path):
  assert _main(checkpoint, tmp_path, names=f"{QUICK},finetune") == 0
  first, second = _results(done), _results(tmp_path)
  for name, result in second.items():
    assert _timeless(result) == _timeless(first[name]), name


def test_other_settings_run_again(done, checkpoint, tmp_path, capsys):
  assert _main(checkpoint, tmp_path, "--temperature=0.070001", names="knn") == 0
  for flags in ((), ("--k=3",), ("--k=3", "--again")):
    assert _main(checkpoint, tmp_path, *flags, names="knn") == 0
    assert "finished before" not in capsys.readouterr().out
    assert _results(tmp_path)["knn"]["settings"]["k"] == (3 if flags else 200)
  assert len(list((tmp_path / "features").iterdir())) == 2


@pytest.mark.slow
def test_again_trains_and_extracts_anew(done, checkpoint, tmp_path):
  names = "logistic,finetune"
  assert _main(checkpoint, tmp_path, names=names) == 0
  files = [*(tmp_path / "features").iterdir(), *(tmp_path / "synthetic").glob("finetune-*/*.json")]
  before = {f: f.stat().st_mtime_ns for f in files}
  assert _main(checkpoint, tmp_path, "--again", names=names) == 0
  assert all(f.stat().st_mtime_ns > t for f, t in before.items())
  # Where it cannot be done nothing is thrown away.
  kept = {f: f.stat().st_mtime_ns for f in files}
  assert _main(checkpoint, tmp_path, "--again", "--optimizer=foo", names=names) == 2
  assert {f: f.stat().st_mtime_ns for f in files} == kept
  first, second = _results(done), _results(tmp_path)
  for name in names.split(","):
    assert _timeless(second[name]) == _timeless(first[name])


def test_the_same_weights_under_another_preprocessing_are_run_again(checkpoint, tmp_path, capsys):
  assert _main(checkpoint, tmp_path / "out", names="knn") == 0
  other = tmp_path / "other"
  shutil.copytree(checkpoint, other)
  config = run_config.load_config(other)
  config.augment.mean = (0.3, 0.4, 0.5)
  run_config.write_config(other, config)
  capsys.readouterr()
  assert _main(other, tmp_path / "out", names="knn") == 0
  assert "finished before" not in capsys.readouterr().out
  result = _results(tmp_path / "out")["knn"]
  assert result["normalization"]["mean"] == [0.3, 0.4, 0.5]
  assert result["encoder"]["bn_epsilon"] == config.encoder.bn_epsilon  # all of its fields


def test_results_of_an_earlier_version_are_made_anew(checkpoint, tmp_path, capsys, monkeypatch):
  assert _main(checkpoint, tmp_path, names="knn,embedding") == 0
  monkeypatch.setattr(run, "_FORMAT", run._FORMAT + 1)
  assert _main(checkpoint, tmp_path, names="embedding") == 0
  assert "finished before" not in capsys.readouterr().out
  assert "| knn |" not in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("names", [("direction_1", "direction_0"), ("direction_0", "up")])
def test_other_names_of_classes_are_another_result(
  checkpoint, tmp_path, capsys, monkeypatch, names
):
  assert _main(checkpoint, tmp_path, names="logistic,knn") == 0
  whole = splits.splits

  def renamed(config):
    found = whole(config)
    for source in found:
      source.label_names = names
    return found

  monkeypatch.setattr(splits, "splits", renamed)
  assert _main(checkpoint, tmp_path, names="knn") == 0
  assert "finished before" not in capsys.readouterr().out
  assert tuple(_results(tmp_path)["knn"]["per_class"]) == tuple(sorted(names))
  assert "| logistic |" not in (tmp_path / "table.md").read_text()


def test_what_the_encoder_was_trained_on_is_told(checkpoint, tmp_path, capsys, monkeypatch):
  assert _main(checkpoint, tmp_path, names="knn") == 0
  own = _results(tmp_path)["knn"]
  assert own["pretraining"]["data"] is None  # no step was made
  assert own["notes"] == []
  whole = encoder_lib.load_encoder

  def trained(path, which):
    config, variables, info = whole(path, which)
    config.data.fingerprint = own["data"]["eval"]["fingerprint"]
    return config, variables, {**info, "step": 7}

  monkeypatch.setattr(encoder_lib, "load_encoder", trained)
  assert _main(checkpoint, tmp_path, "--again", names="knn") == 0
  assert "note: the encoder was trained on the videos that it is scored on" in (
    capsys.readouterr().out
  )
  result = _results(tmp_path)["knn"]
  assert result["pretraining"]["data"]["split"] == "train"
  assert len(result["notes"]) == 1
  assert "trained on the videos that it is scored on" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("known", [True, False], ids=["at opening", "from features"])
def test_a_class_that_training_lacks_is_told(checkpoint, tmp_path, capsys, monkeypatch, known):
  whole = splits.splits

  def without(config):
    train, test = whole(config)
    return [Cached(train.only(range(0, train.num_videos, 2))), test]  # class 0 alone

  monkeypatch.setattr(splits, "splits", without)
  if not known:
    monkeypatch.delattr(synthetic.SyntheticSource, "occurring")
  assert _main(checkpoint, tmp_path, names="knn") == 0
  note = (
    "1 class of evaluation split 'test' without any video in training split 'train': direction_1; "
    "classifiers of training videos get all of these videos wrong"
  )
  shown = capsys.readouterr().out
  assert shown.count(f"synthetic: note: {note}") == 1
  assert (shown.index(note) < shown.index("[1/1]")) == known
  assert f"synthetic: {note}" in (tmp_path / "table.md").read_text()
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["notes"] == [f"synthetic: {note}"]
  assert _results(tmp_path)["knn"]["per_class"]["direction_1"] == 0


def test_folders_keep_names_of_their_own(checkpoint, tmp_path):
  trained = run_config.load_config(checkpoint)
  folders = [tmp_path / x for x in ("ucf-2", "a/ucf", "b/ucf", "ucf-3")]
  for folder in folders:
    folder.mkdir(parents=True)
  folders = [str(x) for x in folders]
  names = [c.name for c in run._cases(trained, folders)]
  assert names == ["ucf-2", "ucf", "ucf-3", "ucf-3-2"]  # ucf-2 is taken
  assert all(c.values["name"] == "" for c in run._cases(trained, folders))


@pytest.mark.parametrize(
  ("folder", "name"), [("features", "features-2"), ("x/..", None), ("localization_features", None)]
)
def test_folders_of_the_output_are_no_pairs_of_splits(checkpoint, tmp_path, folder, name):
  (tmp_path / "records" / folder.removesuffix("..")).mkdir(parents=True)
  given = [str(tmp_path / "records" / folder)]
  names = {"x/..": "records", "localization_features": "localization_features-2"}
  (case,) = run._cases(run_config.load_config(checkpoint), given)
  assert case.name == (name or names[folder])


def test_splits_may_be_slices(checkpoint):
  named = ["train[:80%]:train[80%:]", "a:b"]
  cases = run._cases(run_config.load_config(checkpoint), ["ucf101"], "tfds", "", named)
  pairs = [(c.values["train_split"], c.values["eval_split"]) for c in cases]
  assert pairs == [("train[:80%]", "train[80%:]"), ("a", "b")]


def test_weights_from_elsewhere_name_no_data(checkpoint):
  trained = run_config.load_config(checkpoint)
  with trained.unlocked():
    trained.data.source = "tfrecord"
  with pytest.raises(UserError, match="--data: the checkpoint's config names no data"):
    run._cases(trained)


def test_data_sets_of_tfds_are_named(checkpoint, tmp_path, capsys):
  trained = run_config.load_config(checkpoint)
  names = ["ucf101/ucf101_1", "ucf101/ucf101_2"]
  first, second = run._cases(trained, names, "tfds", "/data")
  assert (first.name, second.name) == ("ucf101_1", "ucf101_2")
  assert second.values["source"] == "tfds"
  assert (second.values["name"], second.values["path"]) == ("ucf101/ucf101_2", "/data")
  assert _main(checkpoint, tmp_path, "--data_dir=/data") == 2
  assert "--source=tfds" in capsys.readouterr().err


def test_results_say_what_was_trained_with(done):
  results = _results(done)
  assert results["finetune"]["trained_with"]["batch_size"] == 8
  for row in results["semi_supervised"]["subsets"]:
    assert row["trained_with"]["batch_size"] == row["labelled_videos"] == 8
    assert row["trained_with"]["peak_lr"] == pytest.approx(0.05 * 8 / 64)
  assert "moving" in results["finetune"]["bn_mode"]
  assert "each view" in results["linear"]["feature_layer"]


def test_a_broken_off_protocol_goes_on(done, checkpoint, tmp_path, capsys, monkeypatch):
  whole = loop.train

  def broken(*args, **kwargs):
    result = whole(*args, **kwargs)
    return type(result)(**{**vars(result), "preempted": True})

  monkeypatch.setattr(loop, "train", broken)
  assert _main(checkpoint, tmp_path, names="knn,finetune") == 143
  assert set(_results(tmp_path)) == {"knn"}
  monkeypatch.setattr(loop, "train", whole)
  capsys.readouterr()
  assert _main(checkpoint, tmp_path, names="knn,finetune") == 0
  out = capsys.readouterr().out
  assert "knn: finished before" in out
  assert "Resuming" in out
  assert _timeless(_results(tmp_path)["finetune"]) == _timeless(_results(done)["finetune"])


def test_the_table_keeps_what_was_run_before(checkpoint, tmp_path):
  for names in ("knn", "few_shot"):
    assert _main(checkpoint, tmp_path, names=names) == 0
  table = (tmp_path / "table.md").read_text()
  assert "| knn | top-1 |" in table
  assert "| few_shot | 2-way 1-shot, ± (95 %) |" in table
  assert _main(checkpoint, tmp_path, "--clips=1", names="few_shot") == 0  # other views, other table
  assert "| knn |" not in (tmp_path / "table.md").read_text()


def test_another_number_of_epochs_is_another_run(checkpoint, tmp_path):
  for epochs, steps in ((1, 3), (0.4, 1)):
    assert _main(checkpoint, tmp_path, f"--epochs={epochs}", names="finetune") == 0
    folders = (tmp_path / "synthetic").glob("finetune-*")
    assert steps in {encoder_lib.load_encoder(f)[2]["step"] for f in folders}
  assert len(list((tmp_path / "synthetic").glob("finetune-*"))) == 2


def test_pairs_of_splits_are_averaged(checkpoint, tmp_path):
  assert _main(checkpoint, tmp_path, "--splits=train:test,test:train", names="knn") == 0
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["seed"] == 0
  a, b = (_results(tmp_path, c)["knn"]["top1"] for c in summary["splits"])
  assert set(summary["splits"]) == {"synthetic_train_test", "synthetic_test_train"}
  assert summary["mean"]["knn"]["top-1"]["mean"] == pytest.approx((a + b) / 2, abs=1e-4)
  assert "mean ± std" in (tmp_path / "table.md").read_text()
  assert summary["mean"]["knn"]["top-1"]["splits"] == 2


def _lose(monkeypatch, videos=8, lost=2):
  """One video of the split that has so many cannot be read."""
  whole = Cached.eval_batches

  def eval_batches(self, *args, **kwargs):
    for batch in whole(self, *args, **kwargs):
      if self.num_videos == videos:
        batch = {**batch, "valid": batch["valid"] & (batch["video"] != lost)}
      yield batch

  monkeypatch.setattr(Cached, "eval_batches", eval_batches)


def test_results_without_unreadable_videos_are_told_and_tried_again(
  checkpoint, tmp_path, capsys, monkeypatch
):
  names = "cross_validation,knn,finetune"
  with monkeypatch.context() as patch:
    _lose(patch)
    assert _main(checkpoint, tmp_path, names=names) == 0
  results = _results(tmp_path)
  assert [results[n]["data"]["eval"]["read"] for n in ("knn", "finetune")] == [7, 7]
  assert results["knn"]["data"]["train"] | {"fingerprint": ""} == {
    "name": "train",
    "videos": 24,
    "read": 24,
    "fingerprint": "",
  }
  table = (tmp_path / "table.md").read_text()
  assert "knn: 24 of 24 videos of train could be read, 7 of 8 videos of test" in table
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["lost_videos"] == {"synthetic": {"finetune": 1, "knn": 1}}
  capsys.readouterr()
  assert _main(checkpoint, tmp_path, names=names) == 0
  assert capsys.readouterr().out.count("finished before") == 1  # what read the training split alone
  assert _results(tmp_path)["finetune"]["data"]["eval"]["read"] == 8
  assert "could be read" not in (tmp_path / "table.md").read_text()
  assert _main(checkpoint, tmp_path, names=names) == 0
  assert capsys.readouterr().out.count("finished before") == 3


def _unlabel(monkeypatch, videos, which=slice(None)):
  """The labels of a split of so many videos are gone, or some."""
  whole = Cached.eval_batches

  def eval_batches(self, *args, **kwargs):
    for batch in whole(self, *args, **kwargs):
      if self.num_videos == videos:
        batch = {**batch, "label": np.array(batch["label"])}
        batch["label"][which] = -1
      yield batch

  monkeypatch.setattr(Cached, "eval_batches", eval_batches)


@pytest.mark.parametrize(("videos", "split"), [(24, "training"), (8, "evaluation")])
def test_what_needs_labels_is_not_begun_without(
  checkpoint, tmp_path, capsys, monkeypatch, videos, split
):
  _unlabel(monkeypatch, videos)
  for name in ("linear", "finetune", "few_shot", "knn"):
    assert _main(checkpoint, tmp_path / name, names=name) == 2
    assert f"no video of the {split} split has a label" in capsys.readouterr().err
    assert not list((tmp_path / name).glob("synthetic/*"))
  assert _main(checkpoint, tmp_path / "all", names="all") == 0
  found = set(_results(tmp_path / "all"))
  assert found == ({"embedding", "cross_validation"} if videos == 8 else {"embedding"})


def test_only_labeled_videos_count_as_scored(checkpoint, tmp_path, monkeypatch):
  _unlabel(monkeypatch, 8, which=slice(0, None, 4))
  assert _main(checkpoint, tmp_path, names="knn,retrieval,linear") == 0
  found = _results(tmp_path)
  scored = sum(found["knn"]["videos_a_class"].values())
  assert 0 < scored < 8
  assert found["knn"]["videos"] == found["retrieval"]["videos"] == {"train": 24, "eval": scored}
  assert (found["linear"]["videos"], found["linear"]["labelled"]) == (8, scored)
  assert found["knn"]["data"]["eval"]["read"] == 8


def test_an_output_that_is_a_file_is_one_line(checkpoint, tmp_path, capsys):
  (tmp_path / "file").touch()
  for output in (tmp_path / "file", tmp_path / "file" / "below"):
    assert _main(checkpoint, output, names="knn") == 2
    assert "no folder can be made here" in capsys.readouterr().err


def test_unreadable_videos_of_training_are_told(checkpoint, tmp_path, monkeypatch):
  whole = sources.load_source

  def load(config, split, **kwargs):
    source = whole(config, split, **kwargs)
    source.unreadable = 3
    return source

  monkeypatch.setattr(sources, "load_source", load)
  assert _main(checkpoint, tmp_path, names="finetune") == 0
  assert _results(tmp_path)["finetune"]["trained_with"]["unreadable_reads"] == 3
  assert "finetune: trained with other videos in place of 3" in (tmp_path / "table.md").read_text()


def _with_videos(checkpoint, folder, count):
  """The checkpoint with so many training videos in its config."""
  shutil.copytree(checkpoint, folder)
  config = run_config.load_config(folder)
  config.data.synthetic.videos = count
  run_config.write_config(folder, config)
  return folder


@pytest.mark.slow
def test_of_all_protocols_those_are_run_that_the_data_allows(checkpoint, tmp_path, capsys):
  one_a_class = _with_videos(checkpoint, tmp_path / "run", 2)
  output = tmp_path / "out"
  impossible = {"logistic", "cross_validation", "few_shot", "motion", "semi_supervised"}
  for name in impossible:  # named, it is an error before anything is trained
    assert _main(one_a_class, output, names=f"linear,{name}") == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")
    assert not list(output.glob("*/linear*"))
  assert _main(one_a_class, output, names="all") == 0
  assert capsys.readouterr().out.count("is left out: ") == len(impossible)
  assert set(_results(output)) == set(EVERY) - impossible
  summary = json.loads((output / "summary.json").read_text())
  assert set(summary["skipped"]["synthetic"]) == impossible
  table = (output / "table.md").read_text()
  assert "few_shot: left out: --shots=5: fewer than two classes" in table
  assert "| knn | top-1 |" in table
  # A bad setting is no lack of videos.
  assert _main(one_a_class, output, "--optimizer=foo", names="all") == 2


def test_what_was_run_is_in_the_table_where_a_later_protocol_fails(
  checkpoint, tmp_path, monkeypatch
):
  def fails(*args, **kwargs):
    raise UserError("no room on the disk")

  monkeypatch.setattr(classifier, "classifier", fails)
  assert _main(checkpoint, tmp_path, names="knn,finetune") == 2
  assert "| knn | top-1 |" in (tmp_path / "table.md").read_text()
  broken = dataclasses.replace(protocols.PROTOCOLS["knn"], run=fails)
  monkeypatch.setitem(protocols.PROTOCOLS, "knn", broken)
  assert _main(checkpoint, tmp_path, "--k=3", names="logistic,knn") == 2
  table = (tmp_path / "table.md").read_text()  # not the votes of other neighbors than asked for
  assert "| logistic |" in table
  assert "| knn |" not in table


@pytest.mark.parametrize("name", ["few_shot", "retrieval"])
def test_a_network_that_gives_no_numbers_has_no_scores(checkpoint, tmp_path, capsys, name):
  config, params, state = _loaded(checkpoint)
  stem = params["encoder"]["stem"]
  stem["kernel"] = np.full_like(stem["kernel"], 3e38)  # finite, what it gives is not
  run_folder.save_run(tmp_path / "run", config, params, state)
  assert _main(tmp_path / "run", tmp_path / "out", names=name) == 2
  assert "NaN or infinite for 24 of 24 videos" in capsys.readouterr().err
  assert not list((tmp_path / "out").glob("*/*.json"))


def _loaded(checkpoint):
  config, _, state = run_folder.load_state(checkpoint)
  return config, *jax.device_get((state.params, state.method))


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--protocols=linear,guess"], "no protocol 'guess'"),
    (["--protocols="], "no protocol given"),
    (["--checkpoint=nowhere"], "nowhere"),
    (["--data=nowhere"], "--data: nowhere: no such folder"),
    (["--splits=train"], "is not TRAIN:TEST"),
    (["--linear=mine"], "--linear=mine"),
    (["--protocols=knn,finetune", "--optimizer=foo"], "config.optim.name is 'foo'"),
    (["--protocols=knn,finetune", "--layer_decay=0"], "--layer_decay: 0.0 is not in (0, 1]"),
    (["--protocols=finetune", "--dropout=2"], "--dropout: 2.0 is not in [0, 1)"),
    (["--protocols=linear", "--linear_epochs=-1"], "--linear_epochs: -1.0 is negative"),
    (["--protocols=linear", "--linear_epochs=0.01"], "config.probe.epochs is 0.01"),
    (["--protocols=semi_supervised", "--semi_epochs=-1"], "--semi_epochs: -1.0 is negative"),
    (["--protocols=finetune", "--epochs=0"], "--epochs: 0.0 is not above 0"),
    (["--protocols=semi_supervised", "--batch_size=0"], "--batch_size: 0 is not 1 or more"),
    (["--protocols=localization_features"], "give the untrimmed videos, --untrimmed=DIR"),
    (["--protocols=all", "--untrimmed=nowhere"], "--untrimmed: nowhere is no folder"),
    (["--protocols=semi_supervised", "--fractions=0.9999"], "too few videos"),
    (["--protocols=semi_supervised", "--subsets=nowhere.tsv"], "nowhere.tsv"),
    (["--seed=-1"], "--seed: -1 is negative"),
    (["--shots="], "--shots: nothing given"),
    (["--motion_scores="], "--motion_scores: nothing given"),
    (["--motion_scores=knn,linear"], "--motion_scores=linear: choose some of logistic, knn"),
    (["--protocols=motion", "--frames=1"], "--frames: clips of 1 frame have no order"),
  ],
)
def test_bad_input_is_one_line(checkpoint, tmp_path, capsys, flags, message):
  given = [f"--checkpoint={checkpoint}", f"--output={tmp_path}", "--protocols=knn", *flags]
  assert small.vssl("evaluate", *given) == 2
  error = capsys.readouterr().err.strip().splitlines()[-1]
  assert error.startswith("error: ")
  assert message in error


def test_data_without_labels_is_one_line(checkpoint, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(splits, "missing", lambda config, mesh: "the data has no labels")
  assert _main(checkpoint, tmp_path, names="knn") == 2
  assert "the data has no labels" in capsys.readouterr().err


def test_all_are_those_that_the_data_allows():
  assert set(run._protocols("all", False)) == set(EVERY)
  assert set(run._protocols("all", True)) == set(protocols.PROTOCOLS)
  for given in (["all"], ("all",), " all", "knn,all"):
    assert set(run._protocols(given, False)) == set(EVERY)


def test_lists_from_python(done, checkpoint, tmp_path, monkeypatch):
  """`all` and one file may stand alone or in a list."""
  file = next((done / "synthetic").glob("subset_30pct_seed1.tsv"))
  few = {"epochs": 1.0, "semi_epochs": 2.0, "batch_size": 8, "subsets": str(file)}
  run.evaluate(checkpoint, output=tmp_path, protocols="semi_supervised", **few)
  (row,) = _results(tmp_path)["semi_supervised"]["subsets"]
  assert row["labelled_videos"] == 8
  _unlabel(monkeypatch, 24)  # "all" leaves out what the data does not allow
  run.evaluate(checkpoint, output=tmp_path / "all", protocols=["all"], **few)
  assert set(_results(tmp_path / "all")) == {"embedding"}


def test_untrimmed_videos_become_snippet_features(checkpoint, tmp_path, monkeypatch):
  def encoder(given, settings, batch_size):
    config, variables, _ = given
    assert (settings.frames, settings.size) == (16, config.data.eval.size)
    mean = lambda clips: clips.mean(axis=(2, 3, 4)).astype(np.float32)
    origin = {"encoder_sha256": results_lib.tree_hash(variables)}
    return mean, snippet_encoder.Made(settings, 16, origin)

  monkeypatch.setattr(snippet_encoder, "build", encoder)
  for name, frames in (("a", 50), ("b", 20)):
    make_video(tmp_path / "videos" / f"{name}.mp4", frames=frames, fps=25)
  names, flag = "localization_features", f"--untrimmed={tmp_path / 'videos'}"
  assert _main(checkpoint, tmp_path / "out", flag, names=names) == 0
  folder = tmp_path / "out" / names
  assert np.load(folder / "a.npy").shape == (3, 16)  # whole snippets
  result = _results(tmp_path / "out")[names]
  assert result["counts"]["snippets"] == 4
  assert result["encoder_sha256"] == results_lib.tree_hash(encoder_lib.load_encoder(checkpoint)[1])
  assert (result["width"], result["step_seconds"], result["folder"]) == (16, 0.64, names)
  before = (folder / "a.npy").stat().st_mtime_ns
  assert _main(checkpoint, tmp_path / "out", flag, "--again", names=names) == 0
  assert (folder / "a.npy").stat().st_mtime_ns > before
  # Another video is another result.
  make_video(tmp_path / "videos" / "c.mp4", frames=20, fps=25)
  assert _main(checkpoint, tmp_path / "out", flag, names=names) == 0
  assert _results(tmp_path / "out")[names]["counts"]["videos"] == 3


def test_the_page_shows_the_nearest_videos_and_their_clips(checkpoint, tmp_path, monkeypatch):
  from vssl_jax.evaluation.options import Options
  from vssl_jax.evaluation.pictures import page
  from vssl_jax.reports import page as drawn

  assert not page.wanted(Options(page=False))
  monkeypatch.setattr(page, "wanted", lambda options: options.page)
  monkeypatch.setattr(drawn, "plotly", lambda: "")
  assert _main(checkpoint, tmp_path, names="knn") == 0
  folder = tmp_path / "synthetic" / "page"
  told = json.loads((folder / "videos.json").read_text())
  train, test = _features(tmp_path)
  unit = [x.mean() / np.linalg.norm(x.mean(), axis=1, keepdims=True) for x in (train, test)]
  cosine = unit[1].astype(float) @ unit[0].T.astype(float)
  assert sorted(q["video"] for q in told["query"]) == list(range(8))
  for q in told["query"]:
    np.testing.assert_allclose(q["cosine"], -np.sort(-cosine[q["video"]])[:5], atol=1e-4)
    np.testing.assert_allclose(cosine[q["video"]][q["near"]], q["cosine"], atol=1e-4)
    assert q["label"] == test.label[q["video"]]
  votes = knn.weighted_knn(
    train.mean(), train.label, test.mean(), classes=2, k=24, temperature=0.07
  )
  assert [q["vote"] for q in told["query"]] == [votes[q["video"]].argmax() for q in told["query"]]
  with zipfile.ZipFile(folder / "clips.zip") as file:
    names = {f"query{i}.webp" for i in range(8)} | {f"bank{b['video']}.webp" for b in told["bank"]}
    assert set(file.namelist()) == names
    shown = [PIL.Image.open(io.BytesIO(file.read(f"query{i}.webp"))) for i in range(8)]
  views = {"clips": 1, "crops": 1, "frames": 4, "stride": 1, "resize": 16, "size": 16}
  source = sources.load_source(run_config.load_config(checkpoint), "test")
  clips = [source.eval_example(i, **views)["clips"][0].astype(float) for i in range(8)]
  for i, image in enumerate(shown):
    assert (image.n_frames, image.size) == (4, (16, 16))
    frames = [np.asarray(f.convert("RGB"), float) for f in PIL.ImageSequence.Iterator(image)]
    apart = [[np.abs(f - g).mean() for clip in clips for g in clip] for f in frames]
    np.testing.assert_array_equal(np.argmin(apart, axis=1), 4 * i + np.arange(4))
  text = (tmp_path / "report.html").read_text()
  assert '"map-videos-0-0"' in text
  stamp = (folder / "videos.json").stat().st_mtime_ns
  assert _main(checkpoint, tmp_path, names="knn") == 0
  assert (folder / "videos.json").stat().st_mtime_ns == stamp
