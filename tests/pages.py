"""Blocks of README and the site, read, and run in a reader's folder."""

import contextlib
import itertools
import os
import pathlib
import re
import shlex
import subprocess
import sys
from typing import NamedTuple

import pytest

from tests import small
from tests.slow.resume_test import METHODS as TOY

ROOT = small.ROOT
INCLUDED = {"changelog.md", "benchmarks.md"}  # other files of the repository as pages
PAGES = [
  "README.md",
  *(
    str(p.relative_to(ROOT))
    for p in sorted((ROOT / "docs").rglob("*.md"))
    if p.name not in INCLUDED
  ),
]
MODULES = {
  "prepare": "data_pipelines.prepare",
  "inspect": "data_pipelines.inspect",
  "train": "vssl_jax.main",
  "study": "vssl_jax.study",
  "plan": "vssl_jax.plan",
  "evaluate": "vssl_jax.evaluate",
  "report": "vssl_jax.reports",
  "export": "vssl_jax.export",
  "convert": "vssl_jax.weights.convert",
  "extract": "vssl_jax.extract_features",
  "localize": "vssl_jax.localize",
  "score": "vssl_jax.localization.score",
  "uncertainty": "vssl_jax.uncertainty",
  "doctor": "vssl_jax.doctor",
}
TRAINED = ("train", "inspect", "study")  # commands that take a config, or fields of one
ON_PODS = ("evaluate", "uncertainty")  # those that take `config.distributed` alone
FENCE = re.compile(
  r'^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n'
  r"(?P<code>.*?)^```$",
  re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
  """A fenced block: where, its language, the file it stands for, and why it is not run."""

  page: str
  line: int
  language: str
  title: str
  code: str
  why: str

  @property
  def where(self):
    return f"{self.page}:{self.line}"


def blocks(page):
  text = (ROOT / page).read_text(encoding="utf-8")
  return [
    Block(
      page,
      text[: m.start()].count("\n") + 1,
      m["language"],
      m["title"] or "",
      m["code"],
      m["why"] or "",
    )
    for m in FENCE.finditer(text)
  ]


def lines(block):
  """The block's command lines as lists of words; a backslash joins lines, # begins a comment."""
  joined = block.code.replace("\\\n", " ")
  return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def commands(block):
  """`(subcommand, arguments)` of each `vssl` in a block, in whatever loop it stands."""
  for words in lines(block):
    for i, word in enumerate(words):
      if word == "vssl":
        rest = list(itertools.takewhile(lambda w: w != "do", words[i + 1 :]))
        yield rest[0], [w.removesuffix(";") for w in rest[1:]]


def program(name):
  """The installed command, or what it is made of."""
  entry = pathlib.Path(sys.executable).with_name("vssl")
  return [str(entry), name] if entry.exists() else [sys.executable, "-m", MODULES[name]]


def environment():
  """One device, as most users have, and this tree's code whatever is installed."""
  return {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def call(name, args, folder):
  return subprocess.run(
    [*program(name), *args],
    cwd=folder,
    env=environment(),
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    timeout=1800,
    check=False,
  )


def known_field(fields, name):
  return name in fields or any(f.startswith(f"{name}.") for f in fields)


def config_of(value):
  """The config that `--config=value` names; an unknown variant or change raises."""
  name, _, variant = value.partition(":")
  return small.load(f"{pathlib.PurePath(name).stem}.py", variant)


_DCC = {
  "batch_size": 4,
  "steps": 4,
  "log_every": 2,
  "save.every": 2,
  "data.frames": 24,
  "dcc.hidden": 8,
  "dcc.filter": 4,
  "dcc.dim": 4,
  "dcc.clusters": 3,
  "dcc.regions": 2,
  "dcc.warmup": 0.3,
  "dcc.proposals.scale": 4,
  "data.localization.validation": 0.0,
}
_DCC_SIMULATED = {
  "data.localization.videos": 12,
  "data.localization.eval_videos": 6,
  "data.localization.untrimmed.classes": 2,
  "data.localization.untrimmed.width": 5,
}
_EVALUATE = [
  "--epochs=1",
  "--semi_epochs=1",
  "--linear_epochs=1",
  "--batch_size=4",
  "--episodes=5",
  "--queries=1",
  "--ways=2",
  "--shots=1",
  "--gallery=2",
  "--fractions=0.5",
  "--seed=0",
]
_PROBED = ("quick_start", "README")


def values(config, *, data, probed):
  """What shrinks a run of `config`; `data`: whether the line says where its data is."""
  method = config.method
  if method == "dcc":
    return _DCC if data else _DCC | _DCC_SIMULATED
  found = small.overrides() | TOY.get(method, {})
  found |= {"probe.run": probed, "probe.baselines": False, "data.clips": config.data.clips}
  if method == "provico":
    found["provico.samples"] = 2
  if method == "rho_moco":
    found["rho_moco.queue"] = 16
  if data:
    kept = ("data.source", "data.path", "data.synthetic")
    found = {k: v for k, v in found.items() if not k.startswith(kept)}
  return found


def shrunk(name, args, page):
  """The command line, with flags that make it take seconds."""
  if name == "train" and "--dry_run" not in args:
    (value,) = [a.removeprefix("--config=") for a in args if a.startswith("--config=")]
    data = any(a.startswith("--config.data.path=") for a in args)
    probed = pathlib.PurePath(page).stem in _PROBED
    found = values(config_of(value), data=data, probed=probed)
    more = [
      f"--config.{k}={v!r}" if isinstance(v, tuple) else f"--config.{k}={v}"
      for k, v in found.items()
    ]
    if "--config.data.source=videos" in args:
      more.append("--config.data.videos.cache=cache")  # not the user's own
    return [*args, *more]
  if name == "evaluate" and "--help" not in args:
    return [*args, *_EVALUATE]
  if name in ("prepare", "extract"):
    return [*args, "--workers=1"]
  return args


@contextlib.contextmanager
def one_device(folder):
  """Code of a page runs in this process: in its folder, on one of the tests' devices."""
  import jax

  from vssl_jax import parallel

  whole = parallel.make_mesh
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(parallel, "make_mesh", lambda devices=None: whole(devices or jax.devices()[:1]))
    yield patch


def execute(block, names, folder):
  """Runs a block of Python among the names of its page."""
  import vssl_jax

  with one_device(folder) as patch:
    if "vssl_jax.pretrain(" in block.code:
      pretrain = vssl_jax.pretrain

      def tiny(config, **kwargs):
        config = config_of(config)
        return pretrain(small.shrink(config, **values(config, data=False, probed=True)), **kwargs)

      patch.setattr(vssl_jax, "pretrain", tiny)
    exec(compile(block.code, block.where, "exec"), names)


def run_page(page, world):
  """All that the page can run, from its top to its end; a block with a title is a file first."""
  names = {"__name__": "page"}
  ran = 0
  for block in blocks(page):
    if block.title and block.language != "python":
      (world.folder / block.title).parent.mkdir(parents=True, exist_ok=True)
      (world.folder / block.title).write_text(block.code, encoding="utf-8")
    if block.why:
      continue
    if block.language == "python":
      execute(block, names, world.folder)
      ran += 1
    if block.language != "sh":
      continue
    for name, args in commands(block):
      done = call(name, shrunk(name, args, page), world.folder)
      assert done.returncode == 0, f"{block.where}: vssl {name} {' '.join(args)}\n{done.stdout}"
      ran += 1
  assert ran, f"{page}: nothing to run"
