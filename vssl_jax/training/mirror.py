"""Checkpoints in a bucket that Orbax cannot write to: made on this machine, then uploaded.

Orbax writes to file systems and to Google's buckets (`gs://`). For every other address there is a
folder on this machine whose finished checkpoints are uploaded in the background. An uploaded
checkpoint is complete once it has the file `commit_success.txt`, as Orbax has it in `gs://`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
import shutil
import tempfile
import threading

import jax

from vssl_jax import files
from vssl_jax.errors import UserError

COMPLETE = "commit_success.txt"
_POLL = 0.2  # seconds


def is_needed(root: pathlib.Path) -> bool:
  """Whether checkpoints at `root` need a mirror."""
  return files.is_remote(root) and not str(root).startswith("gs://")


def push(folder: pathlib.Path, where: pathlib.Path) -> None:
  """Uploads one checkpoint, in the place of what is there; it is complete or not there at all."""
  files.unlink(where / COMPLETE, missing_ok=True)
  files.upload(folder, where)
  mark_complete(where)


def mark_complete(where: pathlib.Path) -> None:
  """Marks an uploaded checkpoint as complete: its parts first, as Orbax does it."""
  for part in {p.parent for p in files.matching(where, "*/*")}:
    files.write_atomic(part / COMPLETE, b"complete\n")
  files.write_atomic(where / COMPLETE, b"complete\n")


class Mirror:
  """A folder on this machine that follows the checkpoints of a bucket, and they it.

  Args:
    root: address of the folder of checkpoints.
    read_only: change nothing in the bucket, and copy a checkpoint when it is asked for.

  Attributes:
    folder: the folder on this machine.
    steps: steps of the complete checkpoints that the bucket had at the beginning, ascending.

  Raises:
    UserError: several processes would write.
  """

  def __init__(self, root: pathlib.Path, *, read_only: bool = False):
    if jax.process_count() > 1 and not read_only:
      scheme = str(root).partition("://")[0]
      raise UserError(
        f"{root}: with several processes, checkpoints cannot be written to {scheme}://; give a "
        "--workdir in gs:// or in a file system that all processes share."
      )
    self._root = root
    self._place = tempfile.TemporaryDirectory(prefix="vssl-")
    self.folder = pathlib.Path(self._place.name)
    self._pool = concurrent.futures.ThreadPoolExecutor(1)
    self._ended = threading.Event()  # whether Orbax writes no more
    self._uploads: list[concurrent.futures.Future[None]] = []
    self.steps = self._complete()
    if not read_only:
      for step in self.steps:
        self.fetch(step)

  def _complete(self) -> list[int]:
    """Steps of the complete checkpoints in the bucket."""
    found = (name.split("/") for name in files.tree(self._root))
    return sorted({int(n[0]) for n in found if n[0].isdigit() and n[1:] == [COMPLETE]})

  def fetch(self, step: int) -> bool:
    """Copies a checkpoint to this machine; False if it is here already.

    Raises:
      OSError: it cannot be copied, for example because the run has removed it.
    """
    target = self.folder / str(step)
    if target.exists():
      return False
    partial = self.folder / f"partial-{step}"
    try:
      files.download(self._root / str(step), partial)
      (partial / COMPLETE).unlink(missing_ok=True)
      partial.rename(target)
    finally:
      shutil.rmtree(partial, ignore_errors=True)
    return True

  def follow(self, step: int) -> None:
    """Uploads a checkpoint, in the background, when it is complete on this machine.

    Then it removes from the bucket those that have been removed here.
    """
    self._uploads.append(self._pool.submit(self._follow, step))

  def _follow(self, step: int) -> None:
    folder = self.folder / str(step)
    while not folder.is_dir():  # Orbax renames a complete checkpoint
      newer = any(p.name.isdigit() and int(p.name) > step for p in self.folder.iterdir())
      if (newer or self._ended.wait(_POLL)) and not folder.is_dir():
        return  # removed again already, or never written
    try:
      push(folder, self._root / str(step))
    except FileNotFoundError:
      if folder.is_dir():
        raise
      return
    self._prune()

  def _prune(self) -> None:
    """Removes from the bucket what is no longer here and older than the newest that both have.

    So the bucket always has a checkpoint, also while newer ones wait to be uploaded.
    """
    kept = {p.name for p in self.folder.iterdir()}
    complete = self._complete()
    newest = max((s for s in complete if str(s) in kept), default=-1)
    for old in complete:
      if old < newest and str(old) not in kept:
        files.unlink(self._root / str(old) / COMPLETE, missing_ok=True)
        files.remove_tree(self._root / str(old))

  def check(self) -> None:
    """Raises the error of an upload that failed."""
    for upload in [u for u in self._uploads if u.done()]:
      self._uploads.remove(upload)
      upload.result()

  def wait(self) -> None:
    """Waits until all is uploaded; raises the error of an upload that failed."""
    while self._uploads:
      self._uploads.pop(0).result()

  def close(self) -> None:
    """Waits until all is uploaded, and removes the folder on this machine; Orbax must be done."""
    self._ended.set()
    with contextlib.ExitStack() as last:
      last.callback(self._place.cleanup)
      last.callback(self._pool.shutdown)
      saved = bool(self._uploads)
      self.wait()
      if saved:  # Orbax removes some time after it saves
        self._prune()
