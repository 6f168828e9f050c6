"""Checkpoints: written atomically and asynchronously, and verified when they are read.

If a checkpoint is damaged, the run falls back to the one before it. A run folder holds
`config.json`, `metrics.jsonl` and `checkpoints/<step>/`, in a file system or a bucket. A checkpoint
is the whole train state; the step alone gives the position in the data. A checkpoint also stores a
digest of each array, computed on the device, so that reading detects any damage.
"""

from __future__ import annotations

import contextlib
import errno
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

from vssl_jax import files
from vssl_jax.errors import UserError, brief, storage_fault
from vssl_jax.files import lock
from vssl_jax.training import mirror, stored

Tree = Any
FOLDER = "checkpoints"
# Reasons of the system that say nothing about what is stored: rights, disks, network, this process.
_NO_DAMAGE = (
  errno.EIO,
  errno.EACCES,
  errno.EPERM,
  errno.ESTALE,
  errno.EMFILE,
  errno.ENFILE,
  errno.ETIMEDOUT,
  errno.ENOTCONN,
  errno.ECONNREFUSED,
  errno.ECONNRESET,
  errno.ECONNABORTED,
  errno.EHOSTDOWN,
  errno.EHOSTUNREACH,
  errno.ENETDOWN,
  errno.ENETUNREACH,
)
# Names of metrics whose largest value is the best.
_LARGEST = re.compile(
  r"(^|[^a-z])(top-?\d+|accuracy|acc|precision|recall|r|m?ap|auc|f1|m?iou)(@[\d.:]+)?$",
  re.IGNORECASE,
)


class RenamedError(UserError):
  """The folder of a checkpoint has the number of another step."""


class OutOfReachError(UserError):
  """A checkpoint cannot be read now, which does not mean that it is damaged."""


def _require_damage(error: Exception, checkpoint: pathlib.Path) -> None:
  """Raises an error of reading a checkpoint that does not come from what is stored in it.

  Else a run would fall back to an older checkpoint, or lose its best, because a server was busy.
  """
  if isinstance(error, jax.errors.JaxRuntimeError | MemoryError):  # devices, other processes
    raise error
  if (fault := storage_fault(error, _NO_DAMAGE)) is not None:
    where = fault.filename if isinstance(fault.filename, str) else ""
    reason = f"{fault.strerror}: {where}" if where else f"{fault.strerror}"
    raise OutOfReachError(
      f"{checkpoint}: cannot be read now ({reason}), which is no sign of damage; run the same "
      "command when it can be read, or rename this folder to continue without it."
    ) from error


@contextlib.contextmanager
def sole_writer(workdir: pathlib.Path) -> Iterator[None]:
  """Locks the run's folder, so that only one process trains in it; released at the end or a kill.

  Raises:
    UserError: another process is training in this folder.
  """
  if jax.process_index() > 0:
    yield
    return
  with contextlib.ExitStack() as held:
    try:
      held.enter_context(lock.hold(workdir / ".lock", required=False))
    except lock.Held:
      raise UserError(
        f"{workdir}: another process is training in this folder; wait for it to end, or give "
        "another --workdir."
      ) from None
    yield


def best_sign(config: ConfigDict) -> float:
  """1 if the largest value of `config.best` is the best one, −1 if the smallest is.

  Args:
    config: `config.save`; a `best_mode` of "" decides by the name of the metric.

  Raises:
    UserError: `best_mode` is none of "", "min" and "max".
  """
  if config.best_mode not in ("", "min", "max"):
    raise UserError(
      f"config.save.best_mode is {config.best_mode!r}: choose min or max, or '' for what fits "
      "the metric."
    )
  largest = config.best_mode == "max" or (not config.best_mode and _LARGEST.search(config.best))
  return 1.0 if largest else -1.0


class _Manager(ocp.CheckpointManager):
  """Opens a folder in which the metrics of a checkpoint are damaged, as if it had none."""

  def metrics(self, step: int) -> dict[str, float] | None:
    """See `ocp.CheckpointManager`."""
    try:
      found = super().metrics(step)
    except Exception as e:
      _require_damage(e, pathlib.Path(self.directory) / str(step))
      logging.error("Checkpoint %s: its metrics are damaged (%s).", step, brief(e)[:200])
      return {}
    if found is None:
      return None
    scores = found if isinstance(found, dict) else {}
    return {k: v for k, v in scores.items() if isinstance(v, int | float)}


class Checkpoints:
  """The checkpoints of one run.

  Args:
    workdir: the run's folder.
    config: `config.save`.
    read_only: change nothing in the folder, because a run may be writing to it at this moment.
  """

  def __init__(self, workdir: pathlib.Path, config: ConfigDict, *, read_only: bool = False):
    self._root, self._config = files.path(workdir).absolute() / FOLDER, config
    self._read_only = read_only
    self._mirror: mirror.Mirror | None = None
    if mirror.is_needed(self._root):
      self._mirror = mirror.Mirror(self._root, read_only=read_only)
    rank = None
    policies = [preservation.LatestN(max(1, config.keep))]
    if config.best:
      sign = best_sign(config)

      def rank(metrics: Mapping[str, float]) -> float:
        return sign * metrics.get(config.best, -sign * np.inf)

      policies.append(preservation.BestN(get_metric_fn=rank, n=1))
    self._manager = _Manager(
      str(self._mirror.folder if self._mirror else self._root),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=preservation.AnyPreservationPolicy(policies),
        best_fn=rank,  # stores the metrics with the arrays, so that a resumed run knows its best
        cleanup_tmp_directories=jax.process_index() == 0 and not read_only,
        create=not read_only,
        enable_async_checkpointing=True,
        # Create folders at once, so that a full or read-only disk fails in `save` and not later.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
      ),
      handler_registry=stored.handlers(),
    )

  @property
  def steps(self) -> list[int]:
    """The steps of all complete checkpoints, oldest first."""
    elsewhere = self._mirror.steps if self._mirror and self._read_only else ()
    return sorted({*self._manager.all_steps(), *elsewhere})

  def save(
    self,
    step: int,
    state: Tree,
    metrics: Mapping[str, float] | None = None,
    notes: Mapping[str, Any] | None = None,
  ) -> None:
    """Starts writing `state`; the folder appears under its final name only when complete.

    If an earlier asynchronous write failed, its error is raised here: a run never continues
    without its checkpoints.

    Args:
      step: the number of the checkpoint.
      state: what `restore` returns.
      metrics: numbers of this step, among them the one that the best is chosen by.
      notes: what else a resumed run needs, in types of JSON; `notes` returns them.
    """
    with files.named_errors(self._root):
      self._save(step, state, metrics, notes)

  def _save(
    self,
    step: int,
    state: Tree,
    metrics: Mapping[str, float] | None,
    notes: Mapping[str, Any] | None,
  ) -> None:
    self._manager.check_for_errors()
    if self._mirror:
      self._mirror.check()
    if step in self._manager.all_steps():
      return
    digests = [int(x) for x in jax.device_get(stored.digest(state))]
    scores = {k: float(v) for k, v in (metrics or {}).items()}
    facts = {"arrays": digests, "layout": stored.layout(state), "step": step, "metrics": scores}
    if notes:
      facts["notes"] = dict(notes)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(state),
        digest=ocp.args.JsonSave(stored.seal(facts)),
      ),
      metrics=scores,
    )
    if self._mirror:
      self._mirror.follow(step)

  def restore(self, like: Tree) -> tuple[int, Tree] | None:
    """Reads the newest undamaged checkpoint, with the shapes, dtypes and shardings of `like`.

    Damaged checkpoints are reported and skipped. Unless `read_only`, they are also renamed to
    `damaged-<step>`, so that the resumed run can write those steps again. A checkpoint of another
    layout counts as damaged if an older one has the layout of `like`.

    Returns:
      (step, state), or None if there is no checkpoint.

    Raises:
      UserError: checkpoints exist but none can be read, or they hold another network, or the folder
        of one has the number of another step.
      OutOfReachError: one cannot be read now, because of the network or of rights, for example.
    """
    steps = self.steps
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    other: UserError | None = None
    for step in reversed(steps):
      try:
        state = self._read(step, abstract)
      except RenamedError:
        raise
      except Exception as e:
        if isinstance(e, UserError):
          other = other or e
          continue
        _require_damage(e, self._root / str(step))
        reason = str(e).strip().splitlines()[0][:200] if str(e).strip() else type(e).__name__
        older = [s for s in steps if s < step]
        logging.error(
          "Checkpoint %s is damaged (%s); %s.",
          self._root / str(step),
          reason,
          f"falling back to step {older[-1]}" if older else "there is no older one",
        )
        continue
      if other is not None:  # a run does not change its network
        logging.error("A newer checkpoint counts as damaged; falling back to %s: %s", step, other)
      if not self._read_only:
        self._set_aside([s for s in steps if s > step])
      return step, state
    if other is not None:
      raise other
    if steps:
      raise UserError(
        f"{self._root}: none of the checkpoints {steps} can be read; they were left unchanged. "
        "Give another --workdir to start a new run."
      )
    return None

  def notes(self, step: int) -> dict[str, Any]:
    """The notes that a checkpoint was saved with; {} without any, as in earlier versions.

    Raises:
      Exception: the checkpoint is damaged; after `restore` has read it, it is not.
    """
    return self._kept(step).get("notes", {})

  def read(self, step: int, like: Tree) -> Tree:
    """Reads the checkpoint of one step, with the shapes, dtypes and shardings of `like`.

    Raises:
      UserError: the checkpoint is damaged, or out of reach, or holds another network.
    """
    try:
      return self._read(step, jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
    except UserError:
      raise
    except Exception as e:
      _require_damage(e, self._root / str(step))
      raise UserError(
        f"{self._root / str(step)}: the checkpoint is damaged ({brief(e)[:200]}); remove this "
        "folder to continue without it."
      ) from e

  def best(self, like: Tree) -> tuple[int, Tree] | None:
    """Reads the checkpoint with the best value of `config.best`; ties go to the earliest.

    Returns:
      (step, state) in the layout of `like`, or None if no checkpoint has that metric.

    Raises:
      UserError: the checkpoint cannot be read, or holds another network; or some checkpoint, which
        may be the best, is out of reach.
    """
    sign = best_sign(self._config)
    for step in self.steps:
      self._fetch(step)
    scores = {s: self._score(s) for s in self.steps}
    scores = {s: sign * x for s, x in scores.items() if x is not None}
    if not scores:
      return None
    step = max(scores, key=lambda s: (scores[s], -s))
    return step, self.read(step, like)

  def _score(self, step: int) -> float | None:
    """The value of `config.best` that was saved with a checkpoint; None without a readable one."""
    scores = None
    try:
      scores = self._kept(step).get("metrics")
    except Exception as e:  # damaged: if it is the best, reading it will say so
      _require_damage(e, self._root / str(step))
    scores = self._manager.metrics(step) if scores is None else scores
    return (scores or {}).get(self._config.best)

  def _fetch(self, step: int) -> None:
    """Copies a checkpoint that is read only to this machine, if Orbax cannot read it there."""
    if self._mirror and self._read_only and self._mirror.fetch(step):
      self._manager.reload()

  def _read(self, step: int, abstract: Tree) -> Tree:
    self._fetch(step)
    kept = self._kept(step)
    here, there = stored.layout(abstract), kept.get("layout", {})
    for path in sorted({*here, *there} if there else ()):
      if here.get(path) != there.get(path):
        raise UserError(
          f"{self._root}: the checkpoint does not fit this config: {path} is "
          f"{there.get(path, 'missing')} in the checkpoint and {here.get(path, 'missing')} in this "
          "config. Give the config it was trained with, or another --workdir."
        )
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(
          abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)
        )
      ),
    )
    found = [int(x) for x in jax.device_get(stored.digest(restored["state"]))]
    if found != kept["arrays"]:
      raise ValueError("its arrays differ from those that were written")
    state = restored["state"]
    own = kept.get("step", getattr(state, "step", step))
    if int(own) != step:
      raise RenamedError(
        f"{self._root / str(step)}: holds the checkpoint of step {int(own)}, so the folder was "
        f"renamed; rename it to {int(own)} again."
      )
    return state

  def _kept(self, step: int) -> dict[str, Any]:
    """What was written about the arrays of a checkpoint; raises some error if it is damaged."""
    item = ocp.args.Composite(digest=ocp.args.JsonRestore())
    kept = self._manager.restore(step, args=item)["digest"]
    stored.check_seal(kept)
    return kept

  def _set_aside(self, steps: list[int]) -> None:
    if not steps:
      return
    if jax.process_index() == 0:
      for step in steps:
        target = self._root / f"damaged-{step}"
        for n in range(1, 1000):
          if not target.exists():
            break
          target = self._root / f"damaged-{step}.{n}"
        files.move_tree(self._root / str(step), target)
        if self._mirror:
          files.remove_tree(self._mirror.folder / str(step))
    self._manager.reload()

  def close(self) -> None:
    """Waits until the last write is complete; raises its error if it failed."""
    with files.named_errors(self._root), contextlib.ExitStack() as last:
      if self._mirror:
        last.callback(self._mirror.close)
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
      self._manager.close()
