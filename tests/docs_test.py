"""README and the site: they build, name what exists, and their commands and code run."""

import importlib.util
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types
from concurrent import futures

import numpy as np
import pytest

from tests import small
from tests.data_pipelines.conftest import _make_video as make_video
from tests.pages import (
  FENCE,
  MODULES,
  ON_PODS,
  PAGES,
  ROOT,
  TRAINED,
  blocks,
  call,
  commands,
  config_of,
  execute,
  known_field,
  lines,
  one_device,
  run_page,
  shrunk,
)
from vssl_jax import config as config_lib
from vssl_jax import methods as methods_lib

# In the order of a reader: later pages use what earlier ones made.
CHAIN = [
  "quick_start",
  "own_data",
  "training",
  "evaluation",
  "studies",
  "recipes",
  "exporting",
  "localization",
  "commands",
  "pods_and_storage",
]
ALONE = ["index", "cvrl", "rho_simclr", "rho_moco", "rho_byol", "rho_swav", "provico", "dcc"]
SHELL = [b for page in PAGES for b in blocks(page) if b.language == "sh"]
PYTHON = [b for page in PAGES for b in blocks(page) if b.language == "python"]


_EXAMPLES = ("field", "vicreg")  # stand for a field and a method of the reader's own


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
    found[name] = names
  return found


@pytest.fixture(scope="module")
def fields():
  """Every field of every method's config, by dotted name."""
  methods = [p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "linear_probe"]
  return {f for name in methods for f in small.flat(methods_lib.base_config(name))}


def test_the_site_builds_without_a_warning(tmp_path):
  if importlib.util.find_spec("mkdocs") is None:
    pytest.skip("mkdocs is not installed: pip install -e '.[docs]'")
  done = subprocess.run(  # not quietly: that would hide the warnings from --strict too
    [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"],
    cwd=ROOT,
    env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    text=True,
    timeout=300,
    check=False,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
  )
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
  known = {*CHAIN, *ALONE, "README", "uncertainty"}
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
        assert name in TRAINED or (name in ON_PODS and flag.startswith("config.distributed.")), arg
        assert known_field(fields, flag.removeprefix("config.")), f"{block.where}: {arg}"
      else:
        assert flag in flags[name] | {"help"}, f"{block.where}: vssl {name} {arg}"


def _extras(requirement):
  return {x for x in re.sub(r".*\[(.*)\]|.*", r"\1", requirement).split(",") if x}


def _known_extras():
  text = (ROOT / "setup.cfg").read_text().split("[options.extras_require]")[1]
  return {*re.findall(r"^(\w+) =", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_flags_and_fields_in_the_text_exist(page, flags, fields):
  text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
  every = set().union(*flags.values()) | {"config"}
  for code in re.findall(r"`([^`\n]+)`", text):
    for flag in re.findall(r"(?<!\S)--(\w[\w.]*)", code):
      field = flag.partition("config.")[2]
      assert known_field(fields, field) or field in _EXAMPLES if field else flag in every, flag
    for field in re.findall(r"(?<![\w.-])config\.([a-z]\w*(?:\.\w+)*)", code):
      if field in ("json", "py"):  # files
        continue
      known = known_field(fields, field) or field in _EXAMPLES or field in config_lib.RENAMED
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
      execute(block, {"clips": clips}, world.folder)


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


@pytest.mark.slow
def test_the_method_of_the_page_trains(monkeypatch, tmp_path):
  from vssl_jax import methods as methods_lib
  from vssl_jax import parallel
  from vssl_jax.training import loop, sources

  _module("docs/extending/method.md", "vssl_jax.methods.vicreg", monkeypatch)
  config = methods_lib.base_config("vicreg")
  small.shrink(config, accumulate=2)
  source = sources.load_source(config, "train")
  config = methods_lib.resolve(config, source)
  import jax

  mesh = parallel.make_mesh(jax.devices()[:1])
  method = methods_lib.load("vicreg").build(config, mesh)
  result = loop.train(config, tmp_path, source, method, mesh, tensorboard=False)
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
