"""Flags: the parser of all commands, flags that several commands share, flags of config fields."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from vssl_jax import config as config_lib
from vssl_jax import config_file
from vssl_jax.errors import UserError, brief

_CONFIG = re.compile(r"--?config(=|$)")
_FIELD = re.compile(r"(--?(?:no)?config\.)([^=]*)(.*)", re.DOTALL)


class Parser(argparse.ArgumentParser):
  """A parser of a command's flags; wrong flags raise `UserError`, without printing the usage."""

  def __init__(
    self,
    name: str,
    description: str,
    examples: str,
    *,
    config: bool = False,
    fields: bool = False,
  ):
    """Makes a parser without flags.

    Args:
      name: the command, as the user types it.
      description: what it does, and what it writes.
      examples: command lines.
      config: also accept `--config` and flags for its fields.
      fields: also accept flags for fields, without `--config`; see `field_values`.
    """
    lines = "\n".join(f"  {line}".rstrip() for line in examples.strip().splitlines())
    super().__init__(
      prog=name,
      description=description.strip(),
      epilog=f"examples:\n{lines}",
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,  # a new flag must not change what an old command means
    )
    self._takes_config, self._takes_fields = config, fields
    if config:
      self.add_argument(
        "--config",
        metavar="NAME",
        help=f"a config file or a recipe, with its variant after a colon, such as cvrl:demo; "
        f"recipes: {', '.join(config_file.recipes())}",
      )
      self.add_argument(
        "--config.FIELD", metavar="VALUE", help="change a field of the config, such as optim.lr"
      )
    if fields:
      self.add_argument(
        "--config.FIELD", metavar="VALUE", help="change a field of all configs, such as epochs"
      )
    self.add_argument(
      "--verbose",
      action="store_true",
      help="show what libraries print, and the traceback of an error",
    )

  def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
    """The parsed flags; `config` is a `ConfigDict`, or None if it was not given.

    With `fields`, `fields` is a list of the flags for fields, as they were given.
    """
    args = given = list(sys.argv[1:] if args is None else args)
    config, fields = None, []
    if self._takes_fields:
      fields = [x for x in args if _FIELD.match(x)]
      args = [x for x in args if not _FIELD.match(x)]
    if self._takes_config and not {"-h", "--help"} & set(args):
      config, args = _take_config(args)
    found, unknown = self.parse_known_args(args, namespace)
    if unknown:
      self.error(self._unknown(unknown[0]))
    if self._takes_config:
      found.config, found.argv = config, given
    if self._takes_fields:
      delattr(found, "config.FIELD")
      found.fields = fields
    return found

  def error(self, message: str) -> NoReturn:
    """Called by argparse if the flags are wrong."""
    raise UserError(f"{message} ({self.prog} --help)")

  def _unknown(self, argument: str) -> str:
    if not argument.strip():
      return f"{argument!r}: an empty argument; leave it out, or put its flag before it"
    name = argument.partition("=")[0]
    if not name.startswith("-"):
      meant = f"; did you mean --config={argument}?" if self._takes_config else ""
      return f"{argument}: an argument without a flag{meant}"
    near = difflib.get_close_matches(name, [x for x in self._option_string_actions], n=1)
    return f"no flag {name}" + (f"; did you mean {near[0]}?" if near else "")


def _take_config(argv: list[str]) -> tuple[ConfigDict | None, list[str]]:
  """The config that flags describe, and the other arguments.

  Raises:
    UserError: no such config, no such field, or a value of another type.
  """
  name, rest = None, []
  left = iter(argv)
  for argument in left:
    if not _CONFIG.match(argument):
      rest.append(_present_name(argument))
    else:
      name = argument.partition("=")[2] if "=" in argument else next(left, "")
  if name is None:
    if lonely := next((x for x in rest if _FIELD.match(x)), None):
      raise UserError(f"{lonely}: give --config as well, whose field it changes.")
    return None, rest
  config = config_file.load(name)
  for old in config_lib.rename_fields(config):
    print(f"note: config.{old} is now config.{config_lib.RENAMED[old]}.", file=sys.stderr)
  return _change(config, rest)


def _change(config: ConfigDict, argv: list[str]) -> tuple[ConfigDict, list[str]]:
  """The config with the fields that flags change, and the other arguments."""
  values = flags.FlagValues()
  for field in filter(None, map(_FIELD.match, argv)):
    config_file.require(config, re.sub(r"\[.*", "", field[2]))  # ml_collections takes field[0] too
  try:
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["vssl", *argv])
    _, *rest = values(["vssl", *argv], known_only=True)
  except Exception as e:  # absl and ml_collections have many
    raise UserError(brief(e)) from e
  for field in filter(None, map(_FIELD.match, rest)):
    raise UserError(
      f"{field[0]}: only a field of True or False has this form; give --config.{field[2]}=VALUE."
    )
  return values.config, rest


def field_values(config: ConfigDict, given: Sequence[str]) -> dict[str, Any]:
  """The values that flags give to fields of a config, by the fields' dotted names.

  Args:
    config: a config, which is not changed.
    given: flags such as --config.optim.lr=0.1.

  Raises:
    UserError: no such field, or a value of another type.
  """
  given = [_present_name(x) for x in given]
  changed, rest = _change(config.copy_and_resolve_references().unlock(), given)
  if rest:
    raise UserError(f"{rest[0]}: no flag of a field; give --config.FIELD=VALUE.")
  found = {}
  for name in (re.sub(r"\[.*", "", x[2]) for x in filter(None, map(_FIELD.match, given))):
    value: Any = changed
    for key in name.split("."):
      value = value[key]
    found[name] = value
  return found


def _present_name(argument: str) -> str:
  """`--config.OLD=value` with the new name of a renamed field; prints a note about it."""
  field = _FIELD.match(argument)
  new = config_lib.RENAMED.get(field[2]) if field else None
  if field is None or new is None:
    return argument
  print(f"note: {field[1]}{field[2]} is now {field[1]}{new}.", file=sys.stderr)
  return f"{field[1]}{new}{field[3]}"


def listed(kind: Callable[[str], Any] = str) -> Callable[[str], tuple]:
  """The type of a flag with comma-separated values."""

  def parse(text: str) -> tuple:
    return tuple(kind(x.strip()) for x in text.split(",") if x.strip())

  parse.__name__ = f"comma-separated {kind.__name__}"
  return parse


def switch(parser: Parser, name: str, what: str, *, default: bool | None = False) -> None:
  """Adds `--NAME`; `--noNAME` and `--NAME=false`, as in absl, turn it off; None: not given."""
  say = "on by default; " if default else ""
  off = f"--no{name} turns it off" if default else ""
  parser.add_argument(
    f"--{name}",
    nargs="?",
    type=_boolean,
    const=True,
    default=default,
    metavar="BOOL",
    help=f"{what} ({say}{off})" if default else what,
  )
  parser.add_argument(
    f"--no{name}", dest=name, action="store_false", default=default, help=argparse.SUPPRESS
  )


def _boolean(text: str) -> bool:
  try:
    return flags.BooleanParser().parse(text)
  except ValueError:
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false") from None


def checkpoint(
  parser: Parser, what: str = "folder of a run, or one that vssl export wrote"
) -> None:
  """Adds `--checkpoint` and `--which`."""
  parser.add_argument("--checkpoint", required=True, metavar="DIR", help=what)
  which(parser)


def which(parser: Parser) -> None:
  """Adds `--which`."""
  parser.add_argument(
    "--which",
    default="last",
    metavar="last|best|STEP",
    help="which of a run's checkpoints to take: the last, the best by its config.save.best, or a "
    "step (default: last)",
  )


def output(parser: Parser, what: str, *former: str, required: bool = True) -> None:
  """Adds `--output` and its former names."""
  parser.add_argument("--output", *former, required=required, metavar="DIR", help=what)


def reading(parser: argparse.ArgumentParser) -> None:
  """Adds the flags for rare kinds of video files."""
  add = parser.add_argument
  add(
    "--raw_aspect",
    action="store_true",
    help="keep frames as they are stored if their pixels are not square",
  )
  add(
    "--stream_fps",
    type=float,
    default=0.0,
    metavar="FPS",
    help="frames per second of streams without time stamps, such as .h264; 0: what each stream "
    "states (default: 0)",
  )
  add(
    "--max_gap",
    type=float,
    default=0.0,
    metavar="SECONDS",
    help="longest gap between two frames; a video with a longer one counts as unreadable; 0: no "
    "limit (default: 0)",
  )


def engine(parser: Parser, shared: str) -> None:
  """Adds `--engine` and `--address`.

  Args:
    parser: the command's.
    shared: what must be on storage that all nodes of a cluster share.
  """
  parser.add_argument(
    "--engine",
    choices=("local", "ray"),
    default="local",
    help="local: this machine; ray: all nodes of a Ray cluster, which must have the same software, "
    f"and {shared} on shared storage under the same path (default: local)",
  )
  parser.add_argument(
    "--address",
    default="",
    metavar="HOST:PORT|auto|local",
    help="Ray cluster: that of this head node, the one that this machine is a node of, or a new "
    "one on this machine (default: the environment's RAY_ADDRESS, else local)",
  )


class _Distributed(argparse.Action):
  """Collects fields of `config.distributed` in one dictionary."""

  def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
    found = dict(getattr(namespace, self.dest) or {})
    setattr(namespace, self.dest, found | {(option_string or "").rpartition(".")[2]: values})


def distributed(parser: Parser) -> None:
  """Adds the flags by which several processes find each other, the same as of `vssl train`."""
  for name, what in {
    "coordinator": "HOST:PORT of process 0 of several, which are started by the same command; auto "
    "on a TPU pod or SLURM (default: one process)",
    "processes": "number of processes, unless auto (default: 1)",
    "index": "index of this process, from 0, unless auto (default: 0)",
    "timeout": "seconds of silence after which another process counts as gone (default: 30)",
  }.items():
    parser.add_argument(
      f"--config.distributed.{name}",
      dest="distributed",
      action=_Distributed,
      type=type(config_lib.distributed()[name]),
      metavar="VALUE",
      help=what,
    )


def given(args: argparse.Namespace) -> dict[str, Any]:
  """The flags as arguments of the command's function."""
  return {k: v for k, v in vars(args).items() if k not in ("verbose", "argv")}
