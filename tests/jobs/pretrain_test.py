"""Jobs whole: the shipped configs, shrunk, from the command line's functions to the RESULT line."""

import json

import jax
import numpy as np
import pytest

from tests import small
from vssl_jax import methods, parallel
from vssl_jax.encoder import encoder
from vssl_jax.errors import UserError
from vssl_jax.evaluation import classifier, end_of_run, splits
from vssl_jax.jobs import dry_run, linear_probe, pretrain
from vssl_jax.training import metrics_log, run_config, sources


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The demo at toy size, trained and probed once for the tests below."""
  folder = tmp_path_factory.mktemp("run")
  config = small.shrink(small.load("cvrl.py", "demo"))
  pretrain.pretrain(config, folder, allow_config_change=False)
  return folder


def test_training_with_labels_says_that_sides_are_mirrored():
  names = ("swipe_left", "wave")
  config = small.load("cvrl.py", "ucf6_supervised")
  assert "1 of 2 classes tell left from right" in "".join(pretrain._notes(config, names))
  config.augment.flip = 0.0
  assert not pretrain._notes(config, names)
  assert not pretrain._notes(small.load("cvrl.py", "ucf6"), names)  # labels are not read


@pytest.mark.slow
def test_demo_ends_in_one_result_with_its_protocol(run):
  result = json.loads((run / "result.json").read_text())
  assert result["method"] == "cvrl"
  assert result["data"]["train"]["videos"] == 24
  assert result["data"]["eval"]["videos"] == 8
  assert set(result["headline"]) == {"linear_top1", "logistic_top1", "knn_top1", "R@1"}
  for figures in result["headline"].values():
    assert {"trained", "random_init"} <= set(figures)
    assert all(0 <= x <= 1 for x in figures.values())
  assert {"pixels", "color_means"} <= set(result["headline"]["logistic_top1"])
  assert result["seconds"] > 0
  assert result["clips_per_second"] > 0
  assert (run / "probe_trained" / "linear.png").stat().st_size > 1000
  assert {"alignment", "contrast_accuracy", "contrast_entropy"} <= metrics_log.read(run)[-1].keys()


@pytest.mark.slow
def test_running_a_finished_run_again_keeps_its_figures(run):
  before = json.loads((run / "result.json").read_text())
  config = small.shrink(small.load("cvrl.py", "demo"), **{"probe.random_init": False})
  pretrain.pretrain(config, run, allow_config_change=False)
  after = json.loads((run / "result.json").read_text())
  for field in ("clips_per_second", "train_seconds", "final", "steps"):
    assert after[field] == before[field]
  assert after["trained"]["linear"]["top1"] == before["trained"]["linear"]["top1"]


def _without_test_split(monkeypatch):
  whole = sources.load_source

  def load(config, split, **kwargs):
    if split == "test":
      raise UserError("no records of split 'test'")
    return whole(config, split, **kwargs)

  monkeypatch.setattr(sources, "load_source", load)


@pytest.fixture
def scored(tmp_path):
  """A finished run, with the scores of its encoder; and its config."""
  values = {"probe.linear": False, "probe.baselines": False, "probe.random_init": False}
  config = small.shrink(small.load("cvrl.py", "demo"), **values)
  before = pretrain.pretrain(config, tmp_path)
  assert before["headline"]["knn_top1"]["trained"] >= 0
  return tmp_path, config, before


@pytest.mark.slow
def test_a_finished_run_keeps_its_scores_where_it_cannot_be_probed(scored, monkeypatch, capsys):
  folder, config, before = scored
  _without_test_split(monkeypatch)
  pretrain.pretrain(config, folder)
  told = [line for line in capsys.readouterr().out.splitlines() if "Nothing is probed" in line]
  assert told == [
    "Nothing is probed: no records of split 'test'; result.json keeps the scores that it has."
  ]
  config.probe.run = False
  pretrain.pretrain(config, folder)
  after = json.loads((folder / "result.json").read_text())
  for field in ("trained", "headline", "data", "views", "final", "steps"):
    assert after[field] == before[field], field
  # Those of other weights are not the run's any more.
  config.steps = 6
  after = pretrain.pretrain(config, folder, allow_config_change=True)
  assert after["steps"] == 6
  assert "trained" not in after


@pytest.mark.slow
def test_a_probe_that_cannot_be_leaves_an_earlier_result(scored, tmp_path, monkeypatch):
  folder, _, _ = scored
  config = small.shrink(small.load("linear_probe.py", "demo"), checkpoint=str(folder))
  config.probe.linear = config.probe.baselines = config.probe.random_init = False
  output = tmp_path / "probe"
  linear_probe.linear_probe(config, output)
  before = (output / "result.json").read_text()
  assert "headline" in before
  config.data.path, config.data.source = str(tmp_path / "mistyped"), "features"
  with pytest.raises(UserError, match=r"Nothing can be probed: .*mistyped"):
    linear_probe.linear_probe(config, output)
  config.data.path, config.data.source, config.data.synthetic.classes = "", "synthetic", 1
  config.data.name = "own"  # not the checkpoint's data
  with pytest.raises(UserError, match="Nothing can be probed: the data has labels of only one"):
    linear_probe.linear_probe(config, output)
  _without_test_split(monkeypatch)
  with pytest.raises(UserError, match="no records of split 'test'"):
    linear_probe.linear_probe(config, output)
  assert (output / "result.json").read_text() == before


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"probe.calibrate": 0}, r"probe\.calibrate is 0"),
    ({"probe.warmup_epochs": 1.0}, r"probe\.warmup_epochs is 1\.0"),
    ({"probe.epochs": 0.0}, r"probe\.epochs is 0\.0"),
    ({"probe.protocols": ("localization_features",)}, r"localization_features .* --untrimmed=DIR"),
    ({"probe.protocols": ("guess",)}, r"probe\.protocols: no protocol 'guess'"),
  ],
)
def test_what_only_the_probes_would_refuse_is_told_before_training(tmp_path, values, message):
  config = small.shrink(small.load("cvrl.py", "demo"), **values)
  with pytest.raises(UserError, match=message):
    pretrain.pretrain(config, tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_linear_probe_is_of_the_encoder_at_hand(run, tmp_path):
  """In one folder, one encoder after the other: the second is not scored by the first's probe."""
  config = small.shrink(small.load("cvrl.py", "demo"), **{"probe.random_init": False})
  config.probe.quick = config.probe.baselines = False
  config = config.lock()
  mesh = parallel.make_mesh(jax.devices()[:1])
  _, first, _ = encoder.load_encoder(run)
  second = jax.tree.map(lambda x: 1.5 * x, first)
  a = end_of_run.probe(config, first, tmp_path, mesh)["trained"]["linear"]
  b = end_of_run.probe(config, second, tmp_path, mesh)["trained"]["linear"]
  again = end_of_run.probe(config, first, tmp_path, mesh)["trained"]["linear"]
  assert a["variables_sha256"] != b["variables_sha256"]
  assert a["variables_sha256"] == again["variables_sha256"]
  assert len(list((tmp_path / "probe_trained").glob("linear-*"))) == 2


@pytest.mark.slow
def test_what_the_probes_lack_is_said_before_training(tmp_path, capsys, monkeypatch):
  whole = sources.load_source
  _without_test_split(monkeypatch)
  config = small.shrink(small.load("cvrl.py", "demo"))
  result = pretrain.pretrain(config, tmp_path / "split", allow_config_change=False)
  out = capsys.readouterr().out
  assert out.index("No probe after training: no records of split 'test'") < out.index("step 1/4")
  assert result["protocol"] == "none: no records of split 'test'"
  assert result["final"]["loss"] > 0

  monkeypatch.setattr(sources, "load_source", whole)
  mesh = parallel.make_mesh(jax.devices()[:1])
  config.data.synthetic.classes = 1
  assert "one class" in splits.missing(config, mesh)


@pytest.mark.slow
def test_a_split_smaller_than_the_probes_batch(run, tmp_path):
  values = {"probe.batch_size": 64, "probe.random_init": False, "probe.baselines": False}
  config = small.shrink(small.load("cvrl.py", "demo"), **values).lock()
  _, variables, _ = encoder.load_encoder(run)
  mesh = parallel.make_mesh(jax.devices()[:1])
  scores = end_of_run.probe(config, variables, tmp_path, mesh)["trained"]
  assert "batch 24 x" in scores["linear"]["protocol"]
  assert scores["videos"] == {"train": 24, "eval": 8}


def test_a_fraction_to_learn_from_takes_no_labels_from_the_probe():
  config = small.shrink(small.load("cvrl.py", "demo,half"))
  assert [s.num_videos for s in splits.splits(config)] == [24, 8]
  assert config.data.fraction == 0.5


@pytest.mark.slow
def test_a_checkpoint_to_start_from_is_used_or_refused(run, tmp_path):
  config = small.shrink(small.load("cvrl.py", "demo"), checkpoint=str(run))
  refused = "cvrl starts from random weights.*a recipe of method classify, such as cvrl:ucf6_super"
  with pytest.raises(UserError, match=refused):
    pretrain.pretrain(config, tmp_path, allow_config_change=False)
  with pytest.raises(UserError, match=refused):
    dry_run.describe(config)
  config = small.shrink(small.load("cvrl.py", "ucf6_supervised"), checkpoint=str(run))
  config.classify.classes = 2
  assert config.encoder.dtype == "float32"
  config.encoder.width = 1.0  # not the checkpoint's
  described = dry_run.describe(config)
  assert '"width": 0.0625' in described
  _, variables, _ = encoder.load_encoder(run)
  own = sum(x.size for x in jax.tree.leaves(variables["params"]))
  assert f"parameters: encoder {own:,}," in described
  _, method = pretrain.build(config, None)
  params, _ = small.init(method)
  jax.tree.map(np.testing.assert_array_equal, params["encoder"], variables["params"])


@pytest.mark.slow
def test_another_method_than_the_recipes_has_its_own_defaults(run, tmp_path):
  """`--config=cvrl:demo --config.method=classify --config.checkpoint=RUN`."""
  values = {"method": "classify", "checkpoint": str(run), "probe.run": False}
  config = small.shrink(small.load("cvrl.py", "demo"), **values).lock()
  assert pretrain.pretrain(config, tmp_path)["method"] == "classify"
  assert run_config.load_config(tmp_path).classify.frozen
  assert '"frozen": true' in dry_run.describe(config)


@pytest.mark.parametrize(
  ("file", "variant", "trained"),
  [("linear_probe.py", "", "rest of the method 4,098"), ("cvrl.py", "ucf6_supervised", "total")],
)
def test_describe_by_job(file, variant, trained):
  text = dry_run.describe(small.load(file, variant).lock())
  assert trained in text
  assert '"method": "classify"' in text


@pytest.mark.slow
def test_linear_probe_of_a_checkpoint_uses_its_own_data(run, tmp_path):
  config = small.load("linear_probe.py", "demo")
  values = {k: v for k, v in small.overrides().items() if k.startswith(("probe.", "data.eval."))}
  config.update_from_flattened_dict({**values, "checkpoint": str(run), "probe.random_init": False})
  config.data.path = ""
  result = linear_probe.linear_probe(config, tmp_path / "probe", allow_config_change=False)
  assert result["data"]["source"] == "synthetic"
  assert result["step"] == 4
  before = json.loads((run / "result.json").read_text())
  assert result["trained"]["encoder_sha256"] == before["trained"]["encoder_sha256"]
  assert result["headline"]["logistic_top1"]["trained"] == pytest.approx(
    before["headline"]["logistic_top1"]["trained"]
  )


@pytest.mark.slow
def test_export_gives_the_probed_encoder_back(run, tmp_path):
  assert small.vssl("export", f"--checkpoint={run}", f"--output={tmp_path / 'out'}") == 0
  _, a, _ = encoder.load_encoder(run)
  config, b, info = encoder.load_encoder(tmp_path / "out")
  jax.tree.map(np.testing.assert_array_equal, dict(a), dict(b))
  assert config.encoder.depth == 18
  assert info["step"] == 4


def test_a_folder_without_checkpoints_is_one_clear_line(tmp_path):
  (tmp_path / "config.json").write_text(small.load("cvrl.py", "demo").to_json())
  with pytest.raises(UserError, match="no checkpoint there yet"):
    encoder.load_encoder(tmp_path)


def test_a_run_and_an_export_do_not_share_a_folder(tmp_path):
  config = small.load("cvrl.py", "demo")
  (tmp_path / "encoder.json").write_text("{}")
  with pytest.raises(UserError, match="holds an exported encoder, which would hide the run's"):
    pretrain.pretrain(config, tmp_path, allow_config_change=False)
  (tmp_path / "config.json").write_text(config.to_json())  # of before this was refused
  with pytest.raises(UserError, match=r"holds a run and an exported encoder .* may differ"):
    encoder.load_encoder(tmp_path)


VARIANTS = ("k400", "k600", "r3d152x2", "demo", "demo_supervised", "ucf6", "ucf6_supervised")
CHANGES = (
  "uniform",
  "increasing",
  "constant",
  "same_time",
  "no_spatial",
  "per_frame",
  "rotation",
  "plain",
  "half",
  "tenth",
  "inflated",
  "single_frames",
)


@pytest.mark.parametrize(
  "variant", [*VARIANTS, *(pytest.param(f"k400,{c}", marks=pytest.mark.slow) for c in CHANGES)]
)
def test_every_variant_traces_at_its_own_size(variant):
  config = small.load("cvrl.py", variant)

  class Labeled:
    label_names, steps_per_epoch, fingerprint = ("a", "b"), 0, ""

  config = methods.resolve(config.lock(), Labeled())
  method = methods.load(config.method).build(config, None)
  batch = method.example(2)

  def step(batch):
    params, state = method.init(jax.random.key(0), batch)
    z, state = method.embed(params, state, batch)
    return method.objective(params, state, z, batch, jax.random.key(0), 0)[0]

  assert jax.eval_shape(step, batch).shape == ()
  classifier.linear_config(config, 2)


def test_changes_differ_from_the_recipe_in_what_they_name():
  base = small.load("cvrl.py")
  differing = {}
  for name in CHANGES:
    changed = small.load("cvrl.py", f"k400,{name}")
    assert changed.name == f"cvrl_k400_{name}"
    differing[name] = small.changes(base, changed)
  assert differing["uniform"] == {"data.interval.distribution"}
  assert differing["constant"] == {
    "data.interval.distribution",
    "data.interval.gap",
    "data.interval.unit",
  }
  assert differing["per_frame"] == {"augment.consistent", "data.crop.consistent"}
  assert differing["rotation"] == {"augment.rotation_p"}
  assert differing["half"] == {"data.fraction"}
  assert differing["inflated"] == {"encoder.temporal", "data.frames"}
  assert differing["single_frames"] == {"encoder.temporal", "encoder.inflate", "data.frames"}
  assert all(differing.values())


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["demo,inflated", "demo,per_frame", "ucf6_supervised"])
def test_variants_train_and_are_probed(variant, tmp_path):
  values = {"probe.linear": False, "probe.baselines": False}
  if variant.endswith("inflated"):
    values["data.frames"] = 1
  config = small.shrink(small.load("cvrl.py", variant), **values)
  result = pretrain.pretrain(config, tmp_path, allow_config_change=False)
  assert result["encoder"]["temporal"]
  own = {"classify_top1"} if variant == "ucf6_supervised" else set()
  assert set(result["headline"]) == {"logistic_top1", "knn_top1", "R@1"} | own


def test_over_pairs_is_the_plain_loss_on_one_device():
  def loss(a, b, axis):
    assert axis is None
    return (a * b).sum(), {}

  for mesh in (None, parallel.make_mesh(jax.devices()[:1])):
    value, _ = parallel.over_pairs(loss, mesh)(np.ones((2, 3)), np.ones((2, 3)))
    assert value == 6
