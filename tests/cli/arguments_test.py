"""Flags: configs with their fields in every form, and what is wrong in one line."""

import pytest

from vssl_jax.cli import arguments
from vssl_jax.errors import UserError


@pytest.fixture
def parser():
  p = arguments.Parser("vssl x", "What it does.", "vssl x --output=o", config=True)
  p.add_argument("folder", nargs="?", default="")
  arguments.output(p, "folder", "--out", required=False)
  arguments.switch(p, "dry_run", "only look")
  arguments.switch(p, "augment", "change colors", default=True)
  return p


def test_fields_in_the_forms_that_absl_takes(parser):
  flags = (
    "--config.optim.lr -0.5 --noconfig.probe.run --config.data.strict DIR -config.batch_size=7"
  )
  flags += " --config.encoder.tubelet=(1,2,3) --config.epochs=3 --config cvrl:demo --out o"
  args = parser.parse_args(flags.split())
  c = args.config
  assert (c.optim.lr, c.probe.run, c.data.strict, c.batch_size) == (-0.5, False, True, 7)
  assert (c.encoder.tubelet, c.epochs, c.name) == ((1, 2, 3), 3.0, "cvrl_demo")
  assert c.is_locked
  assert (args.folder, args.output) == ("DIR", "o")


def test_former_names_of_fields_are_taken_with_a_note(parser, capsys, tmp_path):
  flag = "--config.augment.solarise_p=(0.5,)"
  assert parser.parse_args(["--config=cvrl:demo", flag]).config.augment.solarize_p == (0.5,)
  assert "solarise_p is now --config.augment.solarize_p" in capsys.readouterr().err
  (tmp_path / "old.py").write_text(
    "from vssl_jax import methods\n"
    "def get_config():\n"
    "  c = methods.base_config('cvrl')\n"
    "  c.probe.normalise = False\n"
    "  return c\n"
  )
  config = parser.parse_args([f"--config={tmp_path / 'old.py'}"]).config
  assert config.probe.normalize is False
  assert "normalise" not in config.probe
  assert "config.probe.normalise is now config.probe.normalize" in capsys.readouterr().err


def test_former_names_of_fields_are_switched_off_too(parser, capsys):
  flags = ["--config=provico:demo", "--noconfig.probe.normalise", "--noconfig.encoder.spread"]
  config = parser.parse_args(flags).config
  assert (config.probe.normalize, config.encoder.slow_to_last) == (False, False)
  said = capsys.readouterr().err
  assert "--noconfig.probe.normalise is now --noconfig.probe.normalize" in said
  assert "--noconfig.encoder.spread is now --noconfig.encoder.slow_to_last" in said


@pytest.mark.parametrize(
  ("flags", "dry_run", "augment"),
  [
    ("", False, True),
    ("--dry_run --noaugment", True, False),
    ("--dry_run=true --augment=false", True, False),
    ("--nodry_run --augment", False, True),
  ],
)
def test_switches_in_the_forms_that_absl_takes(parser, flags, dry_run, augment):
  args = parser.parse_args(flags.split())
  assert (args.dry_run, args.augment) == (dry_run, augment)
  assert args.config is None


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--config=cvr:demo"], "'cvr' is neither a file nor a recipe; the recipes are cvrl, dcc"),
    (["--config=cvrl:demoo"], "no variant 'demoo' of cvrl"),
    (["--config="], "the recipes are cvrl"),
    (["--config"], "the recipes are cvrl"),
    (
      ["--config=cvrl:demo", "--config.optim.lrr=3"],
      "optim has no field 'lrr'. Did you mean 'lr'?",
    ),
    (["--config=cvrl:demo", "--config.foo=1"], "config has no field 'foo'."),
    (["--config=cvrl:demo", "--config.lr", "1"], "no field 'lr'. Did you mean 'optim.lr'?"),
    (["--config=cvrl:demo", "--config.provico.x=1"], "config has no field 'provico'."),
    (["--config=cvrl:demo", "--noconfig.prob.run"], "no field 'prob'. Did you mean 'probe'?"),
    (["--config=cvrl:demo", "--noconfig.optim.lr"], "give --config.optim.lr=VALUE"),
    (["--config=cvrl:demo", "a", ""], "'': an empty argument; leave it out"),
    (["--config=cvrl:demo", "a", "b c"], "b c: an argument without a flag"),
    (["--config=cvrl:demo", "--config.epochs=x"], "could not convert string to float: 'x'"),
    (["--config=cvrl:demo", "--config.batch_size"], "Missing value for flag --config.batch_size"),
    (["--config.epochs=3"], "--config.epochs=3: give --config as well"),
    (["--outputs=o"], "no flag --outputs; did you mean --output?"),
    (["--xyz"], "no flag --xyz (vssl x --help)"),
    (["a", "b.py"], "b.py: an argument without a flag; did you mean --config=b.py?"),
    (["--dry_run=maybe"], "argument --dry_run: 'maybe' is neither true nor false"),
    (["--output"], "--output"),
  ],
)
def test_what_is_wrong_is_one_line(parser, flags, message):
  with pytest.raises(UserError) as e:
    parser.parse_args(flags)
  assert message in str(e.value)
  assert "\n" not in str(e.value)


def test_lists():
  assert arguments.listed(float)("0.1, 2,") == (0.1, 2.0)
  p = arguments.Parser("vssl x", "", "")
  p.add_argument("--shots", type=arguments.listed(int))
  with pytest.raises(UserError, match="invalid comma-separated int value: '1,x'"):
    p.parse_args(["--shots=1,x"])
