"""What this installation can do: versions, devices, video codecs, folders, and missing extras."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

from vssl_jax._version import __version__
from vssl_jax.errors import UserError, brief

# What each extra of setup.cfg is for.
FEATURES = {
  "data": "reading records, TFDS and DMVR data; SavedModels; TensorBoard",
  "cuda": "training on GPUs",
  "tpu": "training on TPUs",
  "plan": "vssl plan for TPUs",
  "gcs": "gs:// addresses",
  "s3": "s3:// addresses",
  "ray": "--engine=ray",
  "report": "vssl report",
  "onnx": "vssl export --formats=onnx",
  "hub": "hf:// addresses, vssl export --push",
  "dmvr": "DMVR factories as a source",
  "torch": "vssl convert from and to PyTorch files",
}
DECODERS = ("h264", "hevc", "av1", "vp9", "vp8", "mpeg4", "mpeg2video", "mjpeg")
ENCODERS = ("libx264",)  # of vssl prepare --store=video
NEEDED_DECODERS = ("h264",)
DEVICE_SECONDS = 120.0  # for a driver that does not answer
# Files that the drivers make.
_ACCELERATORS = {"GPU": "/proc/driver/nvidia/version", "TPU": "/dev/accel0"}
_LEAST_FREE = 1e9  # bytes
_LIST_DEVICES = """
import json, jax
print("DEVICES " + json.dumps([[d.platform, d.device_kind] for d in jax.devices()]))
"""


@dataclasses.dataclass(frozen=True)
class Finding:
  """One line of the report.

  Attributes:
    topic: which part of the report it belongs to.
    name: what was looked at.
    state: "ok"; "missing", which only what `text` names needs; or "broken", which every run needs.
    text: what was found, and what to do about it.
  """

  topic: str
  name: str
  state: str
  text: str


def examine(
  folders: Sequence[str] = (), *, need: Sequence[str] = (), seconds: float = DEVICE_SECONDS
) -> list[Finding]:
  """Looks at everything; whatever goes wrong becomes a line of what is returned.

  Args:
    folders: to see whether files can be written there, beside the present folder, the one for
      temporary files, and that of JAX's compilation cache if one is set.
    need: extras without which something is broken, in place of missing.
    seconds: how long the devices may take to answer.

  Raises:
    UserError: no such extra.
  """
  if unknown := [x for x in need if x not in FEATURES]:
    raise UserError(f"--need={unknown[0]}: choose some of {', '.join(FEATURES)}.")
  parts: dict[str, Callable[[], list[Finding]]] = {
    "versions": _versions,
    "devices": lambda: [_devices(seconds)],
    "video": _video,
    "folders": lambda: _folders(folders),
    "features": lambda: _features(need),
  }
  found = []
  for topic, look in parts.items():
    try:
      found += look()
    except Exception as e:  # a broken package may raise anything, and the report must go on
      found.append(Finding(topic, topic, "broken", f"cannot be examined: {_told(e)}"))
  return found


def text(found: Sequence[Finding]) -> str:
  """The report: a heading for each topic, and a line for each finding."""
  width = max(len(x.name) for x in found)
  lines: list[str] = []
  for i, x in enumerate(found):
    if not i or x.topic != found[i - 1].topic:
      lines += [""] * bool(lines) + [x.topic]
    lines.append(f"  {x.state:7}  {x.name:{width}}  {_plain(x.text)}".rstrip())
  return "\n".join(lines)


def verdict(found: Sequence[Finding]) -> str:
  """What is broken, in one line; "" if nothing is."""
  broken = [f"{x.name}: {_plain(x.text)}" for x in found if x.state == "broken"]
  return "; ".join(broken)


def _plain(text: str) -> str:
  """One line; `files.printable` needs packages that may be what is broken."""
  return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _told(error: BaseException) -> str:
  return f"{type(error).__name__}: {brief(error)}" if isinstance(error, Exception) else repr(error)


def _versions() -> list[Finding]:
  found = [
    Finding("versions", "vssl_jax", "ok", f"{__version__} in {pathlib.Path(__file__).parents[1]}"),
    Finding("versions", "python", "ok", f"{platform.python_version()} on {platform.platform()}"),
  ]
  from vssl_jax.files import extras

  asked = extras.requirements()
  if not asked:
    return [*found, Finding("versions", "packages", "missing", "which are needed is not known")]
  for package in asked:
    if reason := extras.lacking(package):
      told = f"{reason}: pip install '{package}'"
      found.append(Finding("versions", package.name, "broken", told))
    else:
      version = importlib.metadata.version(package.name)
      found.append(Finding("versions", package.name, "ok", version))
  return found


def _devices(seconds: float) -> Finding:
  # In a process of its own: a driver may hang, or end the process that asks.
  try:
    done = subprocess.run(
      [sys.executable, "-c", _LIST_DEVICES],
      capture_output=True,
      text=True,
      errors="replace",
      timeout=seconds,
      check=False,
    )
  except subprocess.TimeoutExpired:
    told = f"no answer in {seconds:g} s; is another process using the devices?"
    return Finding("devices", "jax", "broken", told)
  listed = [x for x in done.stdout.splitlines() if x.startswith("DEVICES ")]
  if done.returncode or not listed:
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return Finding("devices", "jax", "broken", f"finds no device: {last[:300]}")
  devices = json.loads(listed[-1].removeprefix("DEVICES "))
  kinds = [f"{kind} ({where})" for where, kind in devices]
  told = ", ".join(f"{kinds.count(x)} x {x}" for x in dict.fromkeys(kinds))
  told += f"; {os.cpu_count()} CPU cores"
  unused = [x for x, file in _ACCELERATORS.items() if os.path.exists(file)]
  if unused and {where for where, _ in devices} == {"cpu"}:
    told += f"; this machine has a {unused[0]} that JAX does not use: see [{unused[0].lower()}]"
    return Finding("devices", "jax", "missing", told.replace("[gpu]", "[cuda]"))
  return Finding("devices", "jax", "ok", told)


def _video() -> list[Finding]:
  av = importlib.import_module("av")
  version = ".".join(map(str, av.library_versions.get("libavcodec", ())))
  found = [Finding("video", "PyAV", "ok", f"{av.__version__}, libavcodec {version}")]
  for mode, what, names in (("r", "decoder", DECODERS), ("w", "encoder", ENCODERS)):
    for name in names:
      try:
        av.codec.Codec(name, mode)
        found.append(Finding("video", f"{what} {name}", "ok", ""))
      except Exception as e:  # av's own error, whose name differs between its versions
        state = "broken" if mode == "r" and name in NEEDED_DECODERS else "missing"
        told = f"{_told(e)}; install PyAV from PyPI, whose FFmpeg has it"
        found.append(Finding("video", f"{what} {name}", state, told))
  return found


def _folders(given: Sequence[str]) -> list[Finding]:
  needed = {"temporary files": tempfile.gettempdir, "present folder": os.getcwd}
  found = []
  for name, where in needed.items():
    # Only the folder for temporary files is needed by all.
    state = "broken" if name == "temporary files" else "missing"
    try:
      found.append(_folder(name, where(), state))
    except OSError as e:
      found.append(Finding("folders", name, state, f"there is none: {brief(e)}"))
  if cache := os.environ.get("JAX_COMPILATION_CACHE_DIR", ""):
    found.append(_folder("JAX_COMPILATION_CACHE_DIR", cache, "missing"))
  return found + [_folder("given", x, "broken") for x in given]


def _folder(name: str, where: str, otherwise: str) -> Finding:
  """Writes a file there, and removes it; a folder that is not there yet is tried in its parent."""
  if "://" in where:
    return Finding("folders", name, "ok", f"{where}: an address, tried when it is used")
  try:
    if "\0" in where:
      raise ValueError("no name of a folder")
    place = pathlib.Path(where).absolute()
    while not os.path.lexists(place) and place != place.parent:
      place = place.parent
    if not place.is_dir():
      raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    with tempfile.TemporaryFile(dir=place, prefix=".vssl-doctor-") as file:
      file.write(b"x")
    free = shutil.disk_usage(place).free
  except (OSError, ValueError) as e:
    return Finding("folders", name, otherwise, f"{where}: cannot be written to: {brief(e)}")
  state = "ok" if free >= _LEAST_FREE else otherwise
  there = "" if place == pathlib.Path(where).absolute() else " is not there yet, but can be made"
  return Finding("folders", name, state, f"{where}{there}: {free / 1e9:,.1f} GB free")


def _features(need: Sequence[str]) -> list[Finding]:
  from vssl_jax.files import extras

  found = []
  for extra, what in FEATURES.items():
    asked = extras.requirements(extra)
    reasons = [x for x in map(extras.lacking, asked) if x]
    if asked and not reasons:
      found.append(Finding("features", f"[{extra}]", "ok", what))
      continue
    state = "broken" if extra in need else "missing"
    why = ", ".join(reasons) or "its packages are not known"
    told = f"{what}: {why}: {extras.install(extra)}"
    found.append(Finding("features", f"[{extra}]", state, told))
  return found
