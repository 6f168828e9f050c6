"""Checkpoints in a bucket that Orbax cannot write to: made on this machine, then uploaded.

Orbax writes to file systems and to Google's buckets (`gs://`). For every other address there is a
folder on this machine whose finished checkpoints are uploaded in the background. An uploaded
checkpoint is complete once it has the file `commit_success.txt`, as Orbax has it in `gs://`.
"""

from __future__ import annotations

import concurrent.futures
import pathlib
import tempfile
import threading

import jax

from vssl_jax import files
from vssl_jax.errors import UserError

COMPLETE = "commit_success.txt"
_POLL = 0.2  # seconds


def is_needed(root: pathlib.Path) -> bool:
  """Whether checkpoints at `root` need a mirror."""
  return files.is_remote(root) and not str(root).startswith(("gs://", "gcs://"))


def push(folder: pathlib.Path, where: pathlib.Path) -> None:
  """Uploads one checkpoint, in the place of what is there; it is complete or not there at all."""
  mark = where / COMPLETE
  mark.unlink(missing_ok=True)
  files.upload(folder, str(where))
  files.write_atomic(mark, b"complete\n")


class Mirror:
  """A folder on this machine that follows the checkpoints of a bucket, and they it.

  Args:
    root: address of the folder of checkpoints.

  Attributes:
    folder: the folder on this machine; it begins with the complete checkpoints of the bucket.
  """

  def __init__(self, root: pathlib.Path):
    if jax.process_count() > 1:
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
    for step in self._complete():
      files.download(str(root / step), self.folder / step)
      (self.folder / step / COMPLETE).unlink()

  def _complete(self) -> list[str]:
    """Names of the complete checkpoints in the bucket."""
    names = [name.split("/") for name in files.tree(self._root)]
    return sorted({n[0] for n in names if n[0].isdigit() and n[1:] == [COMPLETE]}, key=int)

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
    self._prune()

  def _prune(self) -> None:
    """Removes from the bucket what is no longer here; Orbax removes some time after it saves."""
    kept = {p.name for p in self.folder.iterdir()}
    for old in {name.split("/")[0] for name in files.tree(self._root)} - kept:
      if old.isdigit():
        self.remove(int(old))

  def remove(self, step: int) -> None:
    """Removes a checkpoint from the bucket, first the mark that it is complete."""
    (self._root / str(step) / COMPLETE).unlink(missing_ok=True)
    files.remove_tree(self._root / str(step))

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
    try:
      saved = bool(self._uploads)
      self.wait()
      if saved:
        self._prune()
    finally:
      self._pool.shutdown()
      self._place.cleanup()
