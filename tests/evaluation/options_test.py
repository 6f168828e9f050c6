"""What flags change of a checkpoint's config, and the configs that fine-tuning gets."""

import dataclasses
import pathlib

import numpy as np
import pytest

from tests import small
from vssl_jax import methods
from vssl_jax.commands import evaluate as evaluate_command
from vssl_jax.errors import UserError
from vssl_jax.evaluation import classifier
from vssl_jax.evaluation import options as options_lib

OWN = options_lib.Options()


def _trained():
  return small.load("linear_probe.py", "ucf6")


def test_nothing_changes_without_flags():
  trained = _trained()
  trained.data.fraction = 0.5
  found = options_lib.resolved(trained, OWN)
  assert found.data.fraction == 1.0
  found.data.fraction = 0.5
  assert found.to_dict() == trained.to_dict()
  assert trained.data.fraction == 0.5


def test_views_seed_and_votes():
  options = dataclasses.replace(
    OWN, clips=3, crops=2, size=96, seed=5, k=7, temperature=0.2, placement="starts", target_fps=30
  )
  found = options_lib.resolved(_trained(), options)
  e = found.data.eval
  assert (e.clips, e.crops, e.frames, e.size, e.resize) == (3, 2, 8, 96, 96)
  assert (found.seed, found.knn.k, found.knn.temperature) == (5, 7, 0.2)
  assert (e.placement, found.data.target_fps) == ("starts", 30.0)
  off = options_lib.resolved(found, dataclasses.replace(OWN, target_fps=0.0))
  assert (off.data.eval.placement, off.data.target_fps) == ("starts", 0.0)


def test_published_linear_probes():
  cvrl = options_lib.resolved(_trained(), dataclasses.replace(OWN, linear="cvrl")).probe
  rho = options_lib.resolved(_trained(), dataclasses.replace(OWN, linear="rho")).probe
  published = small.load("linear_probe.py").probe  # CVRL's are the defaults
  same = (
    "normalize",
    "lr",
    "batch_size",
    "epochs",
    "warmup_epochs",
    "weight_decay",
    "momentum",
    "crop_area",
    "crop_aspect",
    "flip",
  )
  assert {k: cvrl[k] for k in same} == {k: published[k] for k in same}
  study = small.load("rho_moco.py").probe
  for field in ("normalize", "lr", "batch_size", "epochs", "warmup_epochs", "nesterov"):
    assert rho[field] == study[field], field
  assert rho.size == 56
  with pytest.raises(UserError, match="--linear=other"):
    options_lib.resolved(_trained(), dataclasses.replace(OWN, linear="other"))


@pytest.mark.parametrize(
  ("training", "probe", "flag", "expected"),
  [
    (0.5, -1, None, 0.5),
    (0.3, -1, None, 0.5),  # the published probes' own
    (0.0, -1, None, 0.0),
    (0.0, 0.5, None, 0.5),
    (0.5, 0.0, None, 0.0),
    (0.5, -1, 0.0, 0.0),
    (0.0, -1, 0.25, 0.25),
  ],
)
def test_one_setting_mirrors_clips_everywhere(training, probe, flag, expected):
  trained = small.load("cvrl.py")
  trained.augment.flip, trained.probe.flip = training, probe
  found = options_lib.resolved(trained, options_lib.make(flip=flag))
  assert classifier.linear_config(found, 3).augment.flip == expected
  assert options_lib.finetuning(found, 3, OWN, 2.0).augment.flip == expected


def test_the_bound_of_the_neighbors_is_a_field_and_a_flag():
  assert small.load("cvrl.py", "k400").knn.bound
  for variant in ("demo", "ucf6", "motion"):  # as the results were measured
    assert not small.load("cvrl.py", variant).knn.bound
  before = small.load("cvrl.py", "k400")
  with before.unlocked():
    del before.knn.bound
  assert not methods.complete(before).knn.bound
  parse = lambda *flags: evaluate_command.parser().parse_args(["--checkpoint=x", *flags])
  for flags, expected in (((), None), (("--knn_bound",), True), (("--noknn_bound",), False)):
    args = parse(*flags)
    assert args.knn_bound is expected
    for trained in (small.load("cvrl.py", "k400"), small.load("cvrl.py", "demo")):
      found = options_lib.resolved(trained, options_lib.make(knn_bound=args.knn_bound))
      assert found.knn.bound is (trained.knn.bound if expected is None else expected)


@pytest.mark.parametrize(
  "name", [f.name for f in dataclasses.fields(OWN) if f.default is None and f.name != "knn_bound"]
)
def test_flags_that_are_unset_by_default_take_a_number(name):
  args = evaluate_command.parser().parse_args(["--checkpoint=x", f"--{name}=0"])
  assert (getattr(args, name), getattr(OWN, name)) == (0, None)


@pytest.mark.parametrize("flip", [-0.5, 1.5])
def test_what_is_no_probability_of_a_mirrored_clip(flip):
  trained = small.load("cvrl.py")
  trained.probe.flip = flip
  with pytest.raises(UserError, match=r"config.probe.flip is .*in \[0, 1\]"):
    classifier.linear_config(trained, 3)
  with pytest.raises(UserError, match=r"--flip: "):
    options_lib.check(options_lib.make(flip=flip))


@pytest.mark.parametrize("config", ["cvrl.py", "rho_byol.py"])
def test_ablations_of_augmentation_leave_the_probes_as_they_are(config):
  for variant, expected in (("k400", 0.5), ("demo", 0.0)):
    c = small.load(config, f"{variant},no_spatial")
    assert c.augment.flip == 0
    assert classifier.linear_config(c, 3).augment.flip == expected


def test_a_shorter_linear_probe_warms_up_less():
  options = dataclasses.replace(OWN, linear="cvrl", linear_epochs=20.0)
  probe = options_lib.resolved(_trained(), options).probe
  assert (probe.epochs, probe.warmup_epochs) == (20.0, 1.0)


def test_finetuning_trains_the_whole_network():
  options = dataclasses.replace(
    OWN, batch_size=16, lr=0.1, dropout=0.5, layer_decay=0.7, label_smoothing=0.1
  )
  trained = options_lib.resolved(_trained(), options)
  found = options_lib.finetuning(trained, 6, options, 30.0)
  assert found.method == "classify"
  assert not found.classify.frozen
  assert not found.classify.normalize
  assert (found.classify.classes, found.classify.dropout) == (6, 0.5)
  assert (found.batch_size, found.epochs, found.optim.layer_decay) == (16, 30.0, 0.7)
  assert (found.optim.lr, found.optim.lr_batch, found.optim.warmup_epochs) == (0.1, 64, 1.0)
  assert (found.data.frames, found.data.stride, found.data.size, found.data.clips) == (8, 4, 56, 1)
  assert found.augment.mean == trained.augment.mean
  assert found.augment.jitter_p == 0.0
  said = options_lib.describe_training(found)
  assert said["optimizer"]["layer_decay"] == 0.7
  assert (said["encoder"], said["dropout"]) == ("trained", 0.5)
  assert options_lib.finetuning(trained, 6, options, 2.0).optim.warmup_epochs == 0.2


def test_finetuning_as_in_the_study_falls_in_steps():
  """Feichtenhofer et al. 2021, B.6: UCF101 for 200 epochs, a tenth at 60, 120 and 180."""
  options = dataclasses.replace(OWN, lr=0.025, lr_steps=(60, 120, 180), nesterov=True)
  trained = options_lib.resolved(_trained(), options)
  found = options_lib.finetuning(trained, 6, options, 200.0)
  assert (found.optim.schedule, found.optim.lr_steps) == ("steps", (60, 120, 180))
  assert found.optim.nesterov
  said = options_lib.describe_training(found)["optimizer"]
  assert (said["schedule"], said["lr_steps"], said["nesterov"]) == ("steps", (60, 120, 180), True)
  plain = options_lib.finetuning(trained, 6, OWN, 200.0)
  assert (plain.optim.schedule, plain.optim.nesterov) == ("cosine", False)
  before = options_lib.describe_training(plain)["optimizer"]
  assert before["schedule"] == "half-cosine"
  assert not {"lr_steps", "lr_shares", "nesterov"} & before.keys()
  with pytest.raises(UserError, match="--lr_steps=60,120,180: give epochs between 0 and the 100"):
    options_lib.finetuning(trained, 6, options, 100.0)


def test_every_option_has_its_help():
  assert set(options_lib.HELP) == {f.name for f in dataclasses.fields(options_lib.Options)}


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("seed", -1, "--seed: -1 is negative"),
    ("subset_seeds", (0, -1), "--subset_seeds: -1 is negative"),
    ("subset_seeds", (), "--subset_seeds: nothing given"),
    ("subset_seeds", (1, 1), "--subset_seeds: a value stands there twice"),
    ("linear_epochs", -1.0, "--linear_epochs: -1.0 is negative"),
    ("semi_epochs", -1.0, "--semi_epochs: -1.0 is negative"),
    ("clips", -1, "--clips: -1 is negative"),
    ("temperature", -0.1, "--temperature: -0.1 is negative"),
    ("lr", -0.1, "--lr: -0.1 is negative"),
    ("shots", (), "--shots: nothing given"),
    ("fractions", (), "--fractions: nothing given"),
    ("target_fps", -1.0, "--target_fps: -1.0 is negative"),
    ("placement", "middle", "--placement=middle: choose one of ends, starts"),
    ("solver", "newton", "--solver=newton: choose one of auto, sklearn, device"),
    ("subsets", ("a/few.tsv", "b/few.tsv"), "--subsets: two files are named 'few'"),
  ],
)
def test_what_cannot_be_is_told_at_once(field, value, message):
  with pytest.raises(UserError, match=message):
    options_lib.check(dataclasses.replace(OWN, **{field: value}))


@pytest.mark.parametrize(("field", "value"), [("epochs", -1.0), ("layer_decay", 0.0)])
def test_impossible_finetuning_names_the_flag_and_its_value(field, value):
  options = dataclasses.replace(OWN, **{field: value})
  with pytest.raises(UserError, match=f"--{field}: {value} is not "):
    options_lib.finetuning(_trained(), 6, options, options.epochs)


def test_lists_may_be_any_sequence_or_one_value():
  made = options_lib.make(
    subsets="few.tsv", fractions=0.1, shots=[1, 2], subset_seeds=np.arange(2), epochs=3.0
  )
  assert (made.subsets, made.fractions, made.shots) == (("few.tsv",), (0.1,), (1, 2))
  assert (tuple(made.subset_seeds), made.epochs) == ((0, 1), 3.0)
  paths = options_lib.make(subsets=[pathlib.Path("a.tsv"), "b.tsv"], untrimmed=pathlib.Path("c"))
  assert (paths.subsets, paths.untrimmed) == (("a.tsv", "b.tsv"), "c")
  assert options_lib.make(subsets=pathlib.Path("a.tsv")).subsets == ("a.tsv",)
  assert options_lib.make(subsets="") == options_lib.make() == OWN
  with pytest.raises(TypeError, match="epoch"):
    options_lib.make(epoch=3.0)


def test_what_can_be_passes():
  options_lib.check(OWN)
  options_lib.check(dataclasses.replace(OWN, seed=3, subsets=("a/few.tsv", "a/fewer.tsv")))
