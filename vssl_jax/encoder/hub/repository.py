"""Encoders in repositories of the Hugging Face Hub: `hf://owner/name[@revision][/subfolder]`.

Nothing is downloaded or uploaded unless such an address is given, and a line on stderr says what
and where to. Of a repository, only the card and the weights are read, which hold no code. The
library's own settings count: HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from vssl_jax import files
from vssl_jax.encoder.exported import CARD, WEIGHTS
from vssl_jax.encoder.hub import model_card
from vssl_jax.errors import UserError, brief

# pathlib makes one slash of two.
_ADDRESS = re.compile(
  r"hf:/{1,2}(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<folder>[^@]+?))?/?"
)
_SHAPE = "give it as hf://owner/name[@revision][/subfolder]"


@dataclasses.dataclass(frozen=True)
class Place:
  """A folder of a repository.

  Attributes:
    repo: owner/name.
    revision: a branch, a tag or a commit; "" for the main branch.
    folder: subfolder; "" for the top.
  """

  repo: str
  revision: str = ""
  folder: str = ""

  def __str__(self) -> str:
    revision = f"@{self.revision}" if self.revision else ""
    return f"hf://{self.repo}{revision}" + (f"/{self.folder}" if self.folder else "")


def is_address(path: str | os.PathLike[str]) -> bool:
  """Whether a path is an address of the Hub."""
  return str(path).startswith("hf:/")


def parse(address: str | os.PathLike[str]) -> Place:
  """The parts of an address.

  Raises:
    UserError: it is malformed.
  """
  found = _ADDRESS.fullmatch(str(address))
  if not found:
    raise UserError(f"{address}: not the address of a repository; {_SHAPE}.")
  folder = found["folder"] or ""
  if folder:
    files.check_name(folder, str(address))
  return Place(found["repo"], found["revision"] or "", folder)


def local(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
  """The folder of a checkpoint; one at an address of the Hub is downloaded, other paths stay.

  Raises:
    UserError: as `download`.
  """
  return download(path) if is_address(path) else path


def download(address: str | os.PathLike[str]) -> pathlib.Path:
  """Downloads the card and the weights of an encoder, unless they are in the library's cache.

  Args:
    address: `hf://owner/name[@revision][/subfolder]`.

  Returns:
    The folder in the cache, which must not be written to.

  Raises:
    UserError: the address is malformed, huggingface_hub is not installed, there is no such
      repository, revision or encoder, it is private, or the Hub cannot be reached.
  """
  place, library = parse(address), _library()
  print(
    f"downloading {CARD} and {WEIGHTS} of {place} to {library.constants.HF_HUB_CACHE}",
    file=sys.stderr,
    flush=True,
  )
  api = library.HfApi()
  how: dict[str, Any] = {"repo_id": place.repo, "subfolder": place.folder or None}
  with _told(place, "load"):
    card = pathlib.Path(api.hf_hub_download(filename=CARD, revision=place.revision or None, **how))
    # Of the same commit, whatever is pushed meanwhile: cache/…/snapshots/COMMIT/subfolder/card.
    commit = card.parents[len(pathlib.PurePosixPath(place.folder).parts)].name
    weights = pathlib.Path(api.hf_hub_download(filename=WEIGHTS, revision=commit, **how))
  if weights.parent != card.parent:
    raise UserError(f"{place}: its files were downloaded to two folders; try again.")
  print(f"{place} is commit {commit[:12]}", file=sys.stderr, flush=True)
  return card.parent


def check_push(address: str) -> Place:
  """Checks an address that is to be pushed to, before anything is done.

  Raises:
    UserError: it is malformed or has a revision, or huggingface_hub is not installed.
  """
  if not is_address(address):
    raise UserError(f"--push={address}: not an address of the Hub; {_SHAPE}.")
  place = parse(address)
  if place.revision:
    raise UserError(f"--push={address}: goes to the main branch; leave @{place.revision} out.")
  _library()
  return place


def push(place: Place, folder: pathlib.Path, names: Sequence[str], *, private: bool = False) -> str:
  """Uploads files of an export in one commit; the repository is made if it is missing.

  Args:
    place: from `check_push`.
    folder: folder of the export.
    names: files or folders in it.
    private: make a repository that only its owner sees; one that is there stays as it is.

  Returns:
    The address of the commit.

  Raises:
    UserError: no token, no right to write, or the Hub cannot be reached.
  """
  library = _library()
  inside = [
    name if (folder / name).is_file() else f"{name}/{x}"
    for name in names
    for x in ([""] if (folder / name).is_file() else files.tree(folder / name))
  ]
  prefix = f"{place.folder}/" if place.folder else ""
  print(f"uploading {', '.join(names)} of {folder} to {place}", file=sys.stderr, flush=True)
  with _told(place, "push to"):
    api = library.HfApi()
    api.create_repo(place.repo, private=private, exist_ok=True)
    added = [library.CommitOperationAdd(f"{prefix}{x}", str(folder / x)) for x in inside]
    done = api.create_commit(place.repo, added, commit_message="Upload an encoder of vssl_jax")
  return str(done.commit_url)


def write_card(
  folder: pathlib.Path, place: Place, card: dict[str, Any], license_name: str
) -> pathlib.Path:
  """Writes README.md, the model card that the Hub shows, beside an export."""
  file = folder / model_card.README
  text = model_card.text(card, address=str(place), license_name=license_name)
  files.write_atomic(file, text.encode())
  return file


def _library() -> Any:
  try:
    import huggingface_hub
    import huggingface_hub.constants

    _ = huggingface_hub.HfApi  # which imports what it needs
  except ImportError as e:
    raise UserError(
      f"hf:// needs huggingface_hub, which is not installed ({brief(e)[:100]}): "
      f"{files.extras.install('hub')}."
    ) from None
  return huggingface_hub


@contextlib.contextmanager
def _told(place: Place, what: str) -> Iterator[None]:
  """Turns the errors of the library into one line each."""
  from huggingface_hub import errors

  log_in = "log in with `hf auth login`, or set HF_TOKEN"
  try:
    yield
  except UserError:
    raise
  except errors.OfflineModeIsEnabled:
    why = "HF_HUB_OFFLINE is set; unset it, or give a folder on this machine"
  except errors.GatedRepoError:
    why = f"its owner grants access on request: ask on its page, then {log_in}"
  except errors.RepositoryNotFoundError:
    why = f"there is no such repository, or it is private: check the name, or {log_in}"
  except errors.RevisionNotFoundError:
    why = f"the repository has no revision {place.revision!r}: check its branches and tags"
  except errors.RemoteEntryNotFoundError:
    why = f"holds no {CARD} and {WEIGHTS} there: give an encoder that vssl export --push wrote"
  except errors.LocalEntryNotFoundError:
    why = (
      "the Hub cannot be reached, and it is not in the cache: check the network, HF_ENDPOINT and "
      "HF_HUB_OFFLINE"
    )
  except errors.LocalTokenNotFoundError:
    why = f"no token is there: {log_in}"
  except errors.HfHubHTTPError as e:
    status = getattr(e.response, "status_code", 0)
    denied = f"you may not (status {status}): {log_in}, with a token that may do this"
    why = denied if status in (401, 403) else f"the Hub answered with an error ({brief(e)[:200]})"
  except errors.HFValidationError as e:
    why = f"{brief(e)[:200]}; {_SHAPE}"
  except Exception as e:  # of its HTTP library, which changes, and of its storage
    why = f"failed ({type(e).__name__}: {brief(e)[:200]}); check the network and HF_ENDPOINT"
  else:
    return
  raise UserError(f"cannot {what} {place}: {why}.") from None
