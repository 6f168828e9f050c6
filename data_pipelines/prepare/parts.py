"""Who may write to OUTPUT at the same time: one run, or all parts of one, each once."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

from data_pipelines.prepare.shards import STATE, Shard
from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.files import lock


@dataclasses.dataclass(frozen=True)
class Part:
  """A share of the shards, which another process or machine does not write.

  Attributes:
    number: 1 to `count`.
    count: number of parts.
  """

  number: int
  count: int

  @classmethod
  def parse(cls, text: str) -> Part:
    """Parses "3/16".

    Raises:
      UserError: it is something else.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
      raise UserError(f"part is {text!r}: give the number of the part and of all parts, as in 3/16")
    return cls(int(found[1]), int(found[2]))

  def of(self, shards: Sequence[Shard]) -> list[Shard]:
    """This part's shards: every `count`-th one."""
    return list(shards[self.number - 1 :: self.count])


@contextlib.contextmanager
def claim(output: pathlib.Path, part: Part | None = None) -> Iterator[None]:
  """Creates OUTPUT, locks it against a second run, and removes half-written files of a killed run.

  Parts run at the same time, each once; they leave half-written files to the run that follows.

  Raises:
    UserError: another run is writing to OUTPUT, or to the same part of it, or the lock fails.
  """
  files.make_folder(output / STATE)
  with contextlib.ExitStack() as locks:
    locks.enter_context(_locked(output, "lock", shared=part is not None))
    if part is not None:
      locks.enter_context(_locked(output, f"lock.{part.number}-of-{part.count}", shared=False))
      yield
      return
    _clear(output)
    try:
      yield
    finally:
      _clear(output)


@contextlib.contextmanager
def _locked(output: pathlib.Path, name: str, *, shared: bool) -> Iterator[None]:
  with contextlib.ExitStack() as held:
    try:
      held.enter_context(lock.hold(output / STATE / name, shared=shared))
    except lock.Held:
      raise UserError(f"{output}: another prepare is at work there: wait until it ends") from None
    yield


def _clear(output: pathlib.Path) -> None:
  if files.is_remote(output):  # there is no half-written object
    return
  for folder in (output, output / STATE):
    for path in folder.glob(".tmp-*"):
      path.unlink(missing_ok=True)
