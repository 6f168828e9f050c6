"""README and the site: they build, name what exists, and their commands and code run."""

import contextlib
import importlib.util
import itertools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import types
from concurrent import futures
from typing import NamedTuple

import numpy as np
import pytest

from tests import small
from tests.data_pipelines.conftest import _make_video as make_video
from tests.slow.resume_test import METHODS as TOY
from vssl_jax import config as config_lib

ROOT = small.ROOT
INCLUDED = {"changelog.md", "benchmarks.md"}  # other files of the repository as pages
PAGES = ["README.md", *(
  str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md")) if p.name not in INCLUDED
)]  # fmt: skip
# In the order of a reader: later pages use what earlier ones made.
CHAIN = [
  "quick_start",
  "own_data",
  "training",
  "evaluation",
  "exporting",
  "localization",
  "commands",
]
ALONE = ["index", "cvrl", "rho_simclr", "rho_moco", "rho_byol", "rho_swav", "provico", "dcc"]
MODULES = {
  "prepare": "data_pipelines.prepare",
  "inspect": "data_pipelines.inspect",
  "train": "vssl_jax.main",
  "evaluate": "vssl_jax.evaluate",
  "export": "vssl_jax.export",
  "convert": "vssl_jax.weights.convert",
  "extract": "vssl_jax.extract_features",
  "localize": "vssl_jax.localize",
  "score": "vssl_jax.localization.score",
  "uncertainty": "vssl_jax.uncertainty",
}
TRAINED = ("train", "inspect")  # commands that take a config
HAS_CLI = importlib.util.find_spec("vssl_jax.cli") is not None
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
    Block(page, text[: m.start()].count("\n") + 1, m["language"], m["title"] or "", m["code"],
          m["why"] or "")
    for m in FENCE.finditer(text)
  ]  # fmt: skip


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


SHELL = [b for page in PAGES for b in blocks(page) if b.language == "sh"]
PYTHON = [b for page in PAGES for b in blocks(page) if b.language == "python"]


_EXAMPLES = ("field", "vicreg")  # stand for a field and a method of the reader's own


# Before there is `vssl_jax.cli`, commands go by their modules, and a few names are the old ones.

_RENAMED = {
  "data.interval.distribution": "data.interval.law", "probe.normalize": "probe.normalise",
  "augment.solarize_p": "augment.solarise_p",
  "augment.solarize_threshold": "augment.solarise_threshold",
}  # fmt: skip


def _before_cli(args):
  found = []
  for arg in args:
    if arg.startswith("--which="):
      continue
    for new, old in _RENAMED.items():
      arg = arg.replace(f"--config.{new}", f"--config.{old}")
    if m := re.fullmatch(r"--config=(\w+)(:.*)?", arg):
      arg = f"--config={ROOT / 'configs' / m[1]}.py{m[2] or ''}"
    found.append(arg)
  return found


def program(name):
  entry = pathlib.Path(sys.executable).with_name("vssl")
  if HAS_CLI and entry.exists():
    return [str(entry), name]
  return [sys.executable, "-m", MODULES[name]]


def environment():
  """One device, as most users have, and this tree's code whatever is installed."""
  return {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def call(name, args, folder):
  args = args if HAS_CLI else _before_cli(args)
  return subprocess.run(
    [*program(name), *args], cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT, timeout=900, check=False,
  )  # fmt: skip


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
  """Flags that each command's --help lists."""
  folder = tmp_path_factory.mktemp("help")
  with futures.ThreadPoolExecutor(2) as pool:
    helps = list(pool.map(lambda name: call(name, ["--help"], folder), MODULES))
  found = {}
  for name, done in zip(MODULES, helps, strict=True):
    assert done.stdout.strip(), name
    names = set(re.findall(r"--(?:\[no\])?([a-z]\w*)", done.stdout))
    found[name] = names | ({"which"} if not HAS_CLI else set())
  return found


@pytest.fixture(scope="module")
def fields():
  """Every field of every method's config, by dotted name."""
  methods = [p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "linear_probe"]
  return {f for name in methods for f in small.flat(config_lib.base(name))}


def known_field(fields, name):
  name = name if HAS_CLI else _RENAMED.get(name, name)
  return name in fields or any(f.startswith(f"{name}.") for f in fields)


def config_of(value):
  """The config that `--config=value` names; an unknown variant or change raises."""
  name, _, variant = value.partition(":")
  return small.load(f"{pathlib.PurePath(name).stem}.py", variant)


def test_the_site_builds_without_a_warning(tmp_path):
  if importlib.util.find_spec("mkdocs") is None:
    pytest.skip("mkdocs is not installed: pip install -e '.[docs]'")
  done = subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={tmp_path}"],
    cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, text=True, timeout=300, check=False,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout
  loaded = r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?https?://[^"'>\s]+"""
  for page in tmp_path.rglob("*.html"):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(loaded, text), page  # nothing comes from elsewhere
    assert "--8&lt;--" not in text, page


def test_readme_is_short():
  assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_of_commands_is_run():
  where = {pathlib.PurePath(b.page).stem for b in SHELL if not b.why and any(commands(b))}
  known = {*CHAIN, *ALONE, "README", "recipes", "uncertainty"}
  assert where <= known, "name the page in CHAIN or ALONE"


@pytest.mark.parametrize("block", SHELL, ids=lambda b: b.where)
def test_commands_name_what_exists(block, flags, fields):
  for words in lines(block):
    if words[0] == "make":
      assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif words[:3] == ["python", "-m", words[2] if len(words) > 2 else ""]:
      assert importlib.util.find_spec(words[2]), words
    elif words[0] == "pip":
      assert _extras(words[-1]) <= _known_extras(), words
    else:
      assert "vssl" in words or words[0] in ("[", "done"), f"{block.where}: {words[0]}"
  for name, args in commands(block):
    assert name in MODULES, f"{block.where}: vssl {name}"
    for arg in args:
      if not arg.startswith("--"):
        continue
      flag, _, value = arg[2:].partition("=")
      if flag == "config":
        assert config_of(value).name
      elif flag.startswith("config."):
        assert name in TRAINED, arg
        assert known_field(fields, flag.removeprefix("config.")), f"{block.where}: {arg}"
      else:
        assert flag in flags[name] | {"help"}, f"{block.where}: vssl {name} {arg}"


def _extras(requirement):
  return {x for x in re.sub(r".*\[(.*)\]|.*", r"\1", requirement).split(",") if x}


def _known_extras():
  text = (ROOT / "setup.cfg").read_text().split("[options.extras_require]")[1]
  return {*re.findall(r"^(\w+) =", text, re.MULTILINE)} | ({"data"} if not HAS_CLI else set())


@pytest.mark.parametrize("page", PAGES)
def test_flags_and_fields_in_the_text_exist(page, flags, fields):
  text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
  every = set().union(*flags.values()) | {"config"}
  for code in re.findall(r"`([^`\n]+)`", text):
    for flag in re.findall(r"(?<!\S)--(\w[\w.]*)", code):
      field = flag.partition("config.")[2]
      assert known_field(fields, field) or field in _EXAMPLES if field else flag in every, flag
    for field in re.findall(r"(?<![\w.-])config\.([a-z]\w*(?:\.\w+)*)", code):
      known = known_field(fields, field) or field in _EXAMPLES or field in _RENAMED.values()
      assert known, f"{page}: config.{field}"
    for value in re.findall(r"--config=([\w./]+(?::[\w,]+)?)", code):
      assert config_of(value).name


@pytest.mark.parametrize("block", PYTHON, ids=lambda b: b.where)
def test_python_compiles(block):
  compile(block.code, block.where, "exec")


def test_the_table_of_changes_is_the_configs():
  """A method's page lists every change that its config file has, and no other."""
  shared = set(re.findall(r"`(\w+)`", _changes_of("index")))
  numbered = {
    f"{a}{i}" for a, n in (("rho", (1, 2, 3, 4)), ("span", (0, 1, 2, 4, 10, 30))) for i in n
  }
  for name in ALONE[1:]:
    module = small.module(f"{name}.py")
    changes = set(getattr(module, "CHANGES", None) or module.ABLATIONS)
    told = set(re.findall(r"`([\w]+)`", _changes_of(name)))
    assert changes <= told | shared | numbered, (name, changes - told - shared - numbered)
    first = re.findall(r"^\| ((?:`\w+`(?:, | … )?)+) \|", _changes_of(name), re.MULTILINE)
    rows = {x for row in first for x in re.findall(r"`(\w+)`", row)}
    assert rows <= changes, (name, rows - changes)


def _changes_of(name):
  text = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
  heading = "## Questions as suffixes" if name == "index" else "## Ablations"
  return text.split(heading)[1].split("\n## ")[0]


# What follows runs the pages.

_DCC = {
  "batch_size": 4, "steps": 4, "log_every": 2, "save.every": 2, "data.frames": 24, "dcc.hidden": 8,
  "dcc.filter": 4, "dcc.dim": 4, "dcc.clusters": 3, "dcc.regions": 2, "dcc.warmup": 0.3,
  "dcc.proposals.scale": 4, "data.localization.validation": 0.0,
}  # fmt: skip
_DCC_SIMULATED = {
  "data.localization.videos": 12, "data.localization.eval_videos": 6,
  "data.localization.untrimmed.classes": 2, "data.localization.untrimmed.width": 5,
}  # fmt: skip
_EVALUATE = [
  "--epochs=1", "--semi_epochs=1", "--linear_epochs=1", "--batch_size=4", "--episodes=5",
  "--queries=1", "--ways=2", "--shots=1", "--gallery=2", "--fractions=0.5", "--seed=0",
]  # fmt: skip
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
    more = [f"--config.{k}={v!r}" if isinstance(v, tuple) else f"--config.{k}={v}"
            for k, v in found.items()]  # fmt: skip
    return [*args, *more]
  if name == "evaluate" and "--help" not in args:
    return [*args, *_EVALUATE]
  if name in ("prepare", "extract"):
    return [*args, "--workers=1"]
  return args


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """A reader's folder: small videos where the pages say there are some."""
  folder = tmp_path_factory.mktemp("reader")
  rng = np.random.default_rng(0)
  count = {"train": 8, "test": 5}
  for split, (k, label) in itertools.product(count, enumerate(("cooking", "dancing"))):
    names = {"train": "ac", "test": "xy"}[split]
    for i in range(count[split]):
      pattern = rng.integers(0, 256, (24, 32, 3), np.uint8) // (k + 1)
      name = f"{names[k]}.mp4" if i == 0 else f"{i}.mp4"
      make_video(folder / "videos" / split / label / name, frames=14, pattern=pattern)
  for i in range(3):
    make_video(folder / "unlabeled" / f"{i}.mp4")
  for i in range(1, 7):
    make_video(folder / "untrimmed" / f"kitchen_{i}.mp4", frames=160, size=(24, 24))
  for i in range(2):
    make_video(folder / "new_videos" / f"{i}.mp4", frames=160, size=(24, 24))
  return types.SimpleNamespace(folder=folder, done=set())


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


def _exec(block, names, folder):
  """Runs a block of Python among the names of its page."""
  import vssl_jax

  used = re.findall(r"vssl_jax\.(pretrain|evaluate|export|extract_features|localize)\(", block.code)
  if used and not HAS_CLI:
    return
  with one_device(folder) as patch:
    if "pretrain" in used:
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
      _exec(block, names, world.folder)
      ran += 1
    if block.language != "sh":
      continue
    for name, args in commands(block):
      done = call(name, shrunk(name, args, page), world.folder)
      assert done.returncode == 0, f"{block.where}: vssl {name} {' '.join(args)}\n{done.stdout}"
      ran += 1
  assert ran, f"{page}: nothing to run"


@pytest.mark.slow
@pytest.mark.parametrize("stem", CHAIN)
def test_guides_run(stem, world):
  for earlier in CHAIN[: CHAIN.index(stem) + 1]:
    if earlier not in world.done:
      run_page(f"docs/{earlier}.md", world)
      world.done.add(earlier)
  made = {
    "quick_start": ["runs/demo/result.json", "demo_encoder/encoder.json"],
    "own_data": ["records/manifest.json", "clips.png", "runs/mine/evaluation/table.md"],
    "exporting": ["programs/encoder.jax_export", "with_features/features_test.npz"],
    "localization": ["features/kitchen_1.npy", "found/predictions.json", "found/timelines"],
  }
  for name in made.get(stem, ()):
    assert (world.folder / name).exists(), name


@pytest.mark.slow
@pytest.mark.parametrize("stem", ALONE)
def test_pages_of_methods_run(stem, world):
  run_page(f"docs/methods/{stem}.md", world)


@pytest.mark.slow
def test_readme_runs(world):
  test_guides_run(CHAIN[-1], world)
  for name in ("exported", "found"):  # what the guides wrote there
    shutil.rmtree(world.folder / name, ignore_errors=True)
  import vssl_jax

  for block in blocks("README.md"):
    if block.language == "sh":
      for name, args in commands(block):
        done = call(name, shrunk(name, args, "README.md"), world.folder)
        assert done.returncode == 0, f"{block.where}: vssl {name} {' '.join(args)}\n{done.stdout}"
  with one_device(world.folder):
    clips = np.zeros((1, *vssl_jax.load("runs/mine").clip_shape), np.uint8)
  for block in blocks("README.md"):
    if block.language == "python":
      _exec(block, {"clips": clips}, world.folder)


@pytest.mark.slow
def test_uncertainty_page_runs(world):
  run_page("docs/uncertainty.md", world)
  assert (world.folder / "analysis" / "analysis.json").exists()


# Pages on extending.


def _module(page, name, monkeypatch):
  """A page's file as a module of that name, as if it were saved there."""
  (block,) = [b for b in blocks(page) if b.title]
  module = types.ModuleType(name)
  exec(compile(block.code, block.where, "exec"), vars(module))
  monkeypatch.setitem(sys.modules, name, module)
  return module


def test_the_method_of_the_page_trains(monkeypatch, tmp_path):
  from vssl_jax import methods as methods_lib
  from vssl_jax import parallel, probing, train

  _module("docs/extending/method.md", "vssl_jax.methods.vicreg", monkeypatch)
  config = config_lib.base("vicreg")
  small.shrink(config, accumulate=2)
  source = probing.load_source(config, "train")
  config = methods_lib.resolve(config, source)
  import jax

  mesh = parallel.make_mesh(jax.devices()[:1])
  method = methods_lib.load("vicreg").build(config, mesh)
  result = train.train(config, tmp_path, source, method, mesh, tensorboard=False)
  assert result.steps == 4
  assert np.isfinite(result.metrics["loss"])
  assert result.metrics["variance"] > 0


def test_the_encoder_and_the_probe_of_the_pages_run(capsys):
  for page, printed in (("encoder", "(2, 64)"), ("probe", "1.0")):
    (block,) = [b for b in blocks(f"docs/extending/{page}.md") if b.title]
    exec(compile(block.code, block.where, "exec"), {"__name__": "page"})
    assert capsys.readouterr().out.strip() == printed


def test_the_source_of_the_page_keeps_the_promise(monkeypatch):
  module = _module("docs/extending/source.md", "data_pipelines.sources.colors", monkeypatch)
  data = config_lib.data()
  data.frames, data.size = 3, 8
  where = {"split": "train", "batch_size": 4, "seed": 5, "process_index": 0, "process_count": 1}
  source = module.load(data, **where)
  whole = list(itertools.islice(source.train_batches(), 20))
  late = next(source.train_batches(17))
  for key, value in late.items():
    np.testing.assert_array_equal(value, whole[17][key])
  assert late["clips"].shape == (4, 2, 3, 8, 8, 3)
  views = {"clips": 2, "crops": 1, "frames": 3, "stride": 1, "resize": 8, "size": 8}
  batch = next(source.eval_batches(6, **views))
  assert batch["clips"].shape == (6, 2, 3, 8, 8, 3)
  assert set(batch["label"].tolist()) == {0, 1}
