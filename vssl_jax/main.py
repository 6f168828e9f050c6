"""`python -m vssl_jax.main --config=configs/cvrl.py[:variant] [--config.field=value ...]`."""

from __future__ import annotations

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from vssl_jax import config as config_lib
from vssl_jax.errors import UserError, brief

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file, with a variant after a colon.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run; runs/<config> by default. Running again resumes."
)
_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "Print the resolved config, parameters, FLOPs, bytes and devices, and exit."
)
_ALLOW = flags.DEFINE_bool(
  "allow_config_change", False, "Continue a run under a config other than the one it began with."
)
PREEMPTED = 143  # 128 + SIGTERM: saved, run the same command to go on


def main(argv: list[str]) -> int:
  """Runs the job of the config; the exit status is 0, 2 (bad input) or 143 (SIGTERM, saved)."""
  if len(argv) > 1:
    raise UserError(f"{argv[1]}: an argument without a flag; did you mean --config={argv[1]}?")
  config = _CONFIG.value
  if config is None:
    raise UserError("--config is missing: e.g. --config=configs/cvrl.py:demo")
  for old in config_lib.rename_fields(config):
    print(f"note: config.{old} is now config.{config_lib.RENAMED[old]}.", file=sys.stderr)
  from vssl_jax import parallel
  from vssl_jax.jobs import dry_run
  from vssl_jax.jobs.linear_probe import linear_probe
  from vssl_jax.jobs.pretrain import pretrain
  from vssl_jax.training import loop

  parallel.initialize(config.distributed)
  if _DRY_RUN.value:
    print(dry_run.describe(config))
    return 0
  workdir = pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / (config.name or config.method))
  jobs = {"pretrain": pretrain, "linear_probe": linear_probe}
  run = jobs.get(config.job)
  if run is None:
    raise UserError(f"config.job is {config.job!r}: choose one of {', '.join(jobs)}.")
  try:
    run(config, workdir, allow_config_change=_ALLOW.value)
  except loop.NonFiniteError as e:
    raise UserError(str(e)) from e
  except loop.Preempted as e:
    print(f"SIGTERM: saved {e}; run the same command to go on.", flush=True)
    return PREEMPTED
  return 0


def entry(argv: list[str]) -> int:
  """`main`, with bad input told in one line."""
  try:
    return main(argv)
  except UserError as e:
    print(f"error: {e}", file=sys.stderr)
    return 2


def _present_name(argument: str) -> str:
  """`--config.OLD=value` with the field's present name, and a note, where it has been renamed."""
  flag, equals, value = argument.partition("=")
  new = config_lib.RENAMED.get(flag.removeprefix("--config."))
  if new is None or not flag.startswith("--config."):
    return argument
  print(f"note: {flag} is now --config.{new}.", file=sys.stderr)
  return f"--config.{new}{equals}{value}"


def _parse(argv: list[str]) -> list[str]:
  """Flags and config, with anything wrong in them told in one line."""
  try:
    # ml_collections looks for its overrides in sys.argv itself.
    sys.argv = [_present_name(x) for x in argv]
    rest = flags.FLAGS(sys.argv)
    if _CONFIG.value is not None:
      _ = _CONFIG.value.name  # a config file that failed to load says so only when it is read
  except Exception as e:
    print(f"error: {brief(e)}", file=sys.stderr)
    raise SystemExit(2) from e
  return rest


if __name__ == "__main__":
  logging.set_verbosity(logging.WARNING)
  app.run(entry, flags_parser=_parse)
