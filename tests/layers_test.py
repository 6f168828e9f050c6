"""The order of the layers, proven from the imports themselves: nothing imports what is above it."""

import collections
import pathlib

import grimp
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("vssl_jax", "data_pipelines")
MOST_FILES = 16  # in one folder

# From the ground up. What shares a line does not import each other.
LAYERS = (
  ("vssl_jax.former",),  # imports by name what users ask for under a former name
  ("vssl_jax.errors", "vssl_jax._version", "vssl_jax.io"),
  ("vssl_jax.files", "vssl_jax.parallel"),
  ("vssl_jax.results", "vssl_jax.figure", "vssl_jax.config"),
  ("vssl_jax.config_file",),
  ("vssl_jax.cli",),  # knows commands by name, and imports one when it is called
  ("vssl_jax.doctor",),
  ("vssl_jax.ops",),
  ("vssl_jax.models", "vssl_jax.losses", "vssl_jax.augment"),
  ("vssl_jax.localization",),
  ("data_pipelines.optional",),
  ("data_pipelines.source", "data_pipelines.pixels"),
  ("data_pipelines.arrays",),
  ("data_pipelines.videos", "data_pipelines.listing", "data_pipelines.records"),
  ("data_pipelines.encoded",),
  ("data_pipelines.clips", "data_pipelines.digits"),
  ("data_pipelines.sources", "data_pipelines.untrimmed", "data_pipelines.prepare"),
  ("data_pipelines.inspect",),
  ("vssl_jax.probes",),
  ("vssl_jax.methods",),
  ("vssl_jax.recipes", "vssl_jax.training"),
  ("vssl_jax.encoder",),
  ("vssl_jax.reports",),
  ("vssl_jax.weights", "vssl_jax.evaluation", "vssl_jax.uncertainty"),
  ("vssl_jax.jobs",),
  ("vssl_jax.planning", "vssl_jax.studies"),
  ("vssl_jax.commands",),
  # What `python -m` finds, and the package's own names, which are imported when they are asked for.
  (
    "vssl_jax.main",
    "vssl_jax.evaluate",
    "vssl_jax.export",
    "vssl_jax.extract_features",
    "vssl_jax.localize",
    "vssl_jax.plan",
    "vssl_jax.study",
  ),
  ("vssl_jax", "data_pipelines"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def layer(module):
  """The longest name among the layers that the module lies in."""
  parts = module.split(".")
  names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
  return next(name for name in names if name in RANK)


@pytest.fixture(scope="module")
def imports():
  graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False, cache_dir=None)
  found = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
  assert len(found) > 150
  return found


def test_no_import_goes_up_or_sideways(imports):
  wrong = [
    f"{module} imports {other}"
    for module, others in sorted(imports.items())
    for other in sorted(others)
    if layer(module) != layer(other) and RANK[layer(module)] <= RANK[layer(other)]
  ]
  assert not wrong


def _circle(imports):
  """What is left when all that imports nothing of the rest is taken away, again and again."""
  left = {m: set(others) - {m} for m, others in imports.items()}
  while free := [m for m, others in left.items() if not others & left.keys()]:
    for module in free:
      del left[module]
  return sorted(left)


def test_no_circle_of_modules(imports):
  assert not _circle(imports)


def test_no_circle_of_folders(imports):
  folders = collections.defaultdict(set)
  for module, others in imports.items():
    # The data pipeline is one folder here, and each file beside the folders of vssl_jax is its own.
    first, *rest = (
      m.split(".")[: 2 if m.startswith("vssl_jax.") else 1] for m in (module, *others)
    )
    folders[".".join(first)] |= {".".join(m) for m in rest}
  assert len(folders) > 20
  assert not _circle(folders)


def test_every_module_lies_in_a_layer_and_every_layer_exists(imports):
  assert {layer(m) for m in imports} == set(RANK)


def test_no_folder_has_too_many_files():
  files = collections.Counter(
    path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")
  )
  assert not [f"{folder}: {n}" for folder, n in files.items() if n > MOST_FILES]
