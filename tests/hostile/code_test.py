"""Nothing that came in a file names code: only the user's own flags and config files do."""

import json
import pathlib
import sys
import uuid

import pytest

from data_pipelines import source
from tests import small
from tests.data_pipelines import tiny
from tests.hostile import readers
from vssl_jax import config as config_lib
from vssl_jax import config_file, files, methods
from vssl_jax.encoder import encoder
from vssl_jax.errors import UserError
from vssl_jax.files import text
from vssl_jax.jobs import linear_probe
from vssl_jax.training import run_config, run_folder

NAME = "strangers_program:make"


@pytest.fixture
def program(tmp_path, monkeypatch):
  """A module in the current folder that leaves a file when it is imported."""
  here = tmp_path / "here"
  here.mkdir()
  (here / "strangers_program.py").write_text(
    "import pathlib\npathlib.Path('ran').touch()\ndef make(data, split):\n  return None, 0\n"
  )
  monkeypatch.chdir(here)
  monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(here))])
  yield here / "ran"
  sys.modules.pop("strangers_program", None)


def _config(name, where="dmvr"):
  config = small.shrink(methods.base_config("cvrl"))
  config.data.source, config.data.name = where, name
  return config


def _card(folder, config):
  folder.mkdir()
  readers.exported.save_encoder(folder, config, readers.VARIABLES, info={"step": 5})
  return folder


@pytest.mark.parametrize(
  ("where", "name"),
  [
    ("dmvr", NAME),
    ("dmvr", "os:system"),
    ("tfrecord", NAME),
    ("tfds", "stranger:set/1.0.0"),
    ("tfds", "stranger:set:1.0.0"),
    ("tfds", "stranger:1.0.0x"),
  ],
)
def test_the_name_of_code_does_not_come_from_a_card(tmp_path, program, tf, where, name):
  folder = _card(tmp_path / "card", _config(name, where))
  assert json.loads((folder / "encoder.json").read_text())["config"]["data"]["name"] == name
  config, _, _ = encoder.load_encoder(folder)
  assert config.data.name == ""
  for chosen in (where, "dmvr", "tfds"):  # as --source chooses it
    with config.unlocked():
      config.data.source = chosen
    with pytest.raises(UserError, match=None if chosen == "tfrecord" else "from your own flags"):
      source.load(config.data, split="train", batch_size=1, seed=0)
  assert not program.exists()


def test_a_version_of_a_data_set_names_no_program(program, tf):
  """A card may name `NAME:VERSION`, and `--source=dmvr` is then the user's own."""
  data = _config("strangers_program:1.0.0").data
  with pytest.raises(UserError, match="must be 'module:function'"):
    source.load(data, split="train", batch_size=1, seed=0)
  assert not program.exists()


def test_the_folder_of_a_cache_does_not_come_from_a_card(tmp_path):
  config = _config("", "videos")
  config.data.videos.cache = config.data.cache_folder = str(tmp_path / "elsewhere")
  config.data.cache = "host"
  data = encoder.load_encoder(_card(tmp_path / "card", config))[0].data
  assert data.videos.cache == data.cache == data.cache_folder == ""


def test_a_probe_of_a_card_does_not_run_it(tmp_path, program, tf):
  folder = _card(tmp_path / "card", _config(NAME))
  probe = small.load("linear_probe.py")
  probe.checkpoint = str(folder)
  probe.data.path = probe.data.name = ""
  config = linear_probe.load(probe)[0]
  assert config.data.source == "dmvr"
  with pytest.raises(UserError, match=r"config\.data\.name: empty; .* from your own flags"):
    source.load(config.data, split="train", batch_size=1, seed=0)
  assert not program.exists()


def test_a_run_keeps_the_name_to_compare_it_alone(tmp_path, program):
  """So that the user's own run goes on, and a stranger's does not run."""
  (tmp_path / "checkpoints").mkdir()
  config = _config(NAME)
  run_config.write_config(tmp_path, config)
  run_config.check_config(tmp_path, config)
  with pytest.raises(UserError, match=r"data\.name"):
    run_config.check_config(tmp_path, _config("other:make"))
  with pytest.raises(UserError, match="no checkpoint"), run_folder.open_run(tmp_path / "."):
    pass
  assert methods.from_file(run_config.load_config(tmp_path), "x").data.name == ""
  assert not program.exists()


def test_a_name_of_data_stays():
  for where, name in (
    ("tfds", "ucf101/ucf101_1"),
    ("tfds", "mnist:3.0.1"),
    ("tfds", "ucf101/ucf101_1:2.*.*"),
    ("digits", ""),
    ("tfrecord", "mine"),
  ):
    config = _config(name, where)
    assert not config_lib.without_code(config)
    assert config.data.name == name


def test_the_users_own_flag_runs_it(program, tf):
  data = tiny.data(source="dmvr", name=NAME)
  with pytest.raises(Exception, match=r"."):  # its factory is none
    source.load(data, split="train", batch_size=2, seed=0)._factory.make_dataset()
  assert program.exists()


def test_what_lies_in_the_current_folder_is_no_library(tmp_path, monkeypatch):
  """A downloaded folder may have a module named like a library that is imported late."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
  config_file.load("cvrl:demo")
  assert str(tmp_path) not in sys.path
  pathlib.Path("mine.py").write_text(
    "from vssl_jax import config_file\nget_config = lambda: config_file.load('cvrl:demo')\n"
  )
  config_file.load("mine.py")  # the user has named a program
  assert str(tmp_path) in sys.path


@pytest.mark.parametrize("name", ["os", "..os", "", ".", "cvrl.", "a b", "../cvrl", "__init__"])
def test_a_method_is_one_of_ours(name):
  with pytest.raises(UserError, match=r"config\.method"):
    methods.load(name)


def _tfds(folder, feature):
  """Writes what TFDS reads of a data set before its videos; `feature` is that of the videos."""
  folder.mkdir(parents=True)
  features = {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict"}
  features["featuresDict"] = {"features": {"video": feature}}
  (folder / "features.json").write_text(json.dumps(features))
  info = {"name": "mine", "version": "1.0.0", "fileFormat": "tfrecord", "splits": []}
  (folder / "dataset_info.json").write_text(json.dumps(info))


def _load_tfds(folder, name):
  data = tiny.data(folder, source="tfds", name=name)
  source.load(data, split="train", batch_size=1, seed=0)


@pytest.mark.parametrize(
  ("field", "name", "folder"),
  [
    ("type", "mine", "mine/1.0.0"),
    ("pythonClassName", "mine:1.0.0", "mine/1.0.0"),
    ("type", "mine/some", "mine/some/1.0.0"),
    ("type", "MyData", "my_data/1.0.0"),
    ("type", "MyHTTPData/some:1.0.0", "my_http_data/some/1.0.0"),
  ],
)
@pytest.mark.parametrize("at", ["disk", "bucket"])
def test_a_data_set_of_tfds_names_no_class_of_a_strangers(
  tmp_path, program, tf, field, name, folder, at
):
  _tfds(tmp_path / "sets" / folder, {field: "strangers_program.Feature", "content": {}})
  sys.path.insert(0, str(program.parent))
  where = tmp_path / "sets"
  if at == "bucket":
    where = files.path(f"memory://{uuid.uuid4().hex}/sets")
    files.upload(tmp_path / "sets", where)
  with pytest.raises(UserError, match=r"features\.json: names the class 'strangers_program\.Feat"):
    _load_tfds(where, name)
  assert not program.exists()


@pytest.mark.parametrize(
  "name", ["mine/..:1.0.0", "mine/config=../x,version=1.0.0", "mine/some/data_dir=x", "mnist/a=1"]
)
def test_a_name_of_a_data_set_leads_to_no_other_folder(tmp_path, program, tf, name):
  _tfds(tmp_path / "sets" / "1.0.0", {"type": "strangers_program.Feature", "content": {}})
  (tmp_path / "sets" / "mine").mkdir()
  sys.path.insert(0, str(program.parent))
  why = "cannot be opened" if name == "mnist/a=1" else "leads out of the folder"
  with pytest.raises(UserError, match=rf"config\.data\.name: .*{why}"):
    _load_tfds(tmp_path / "sets", name)
  assert not program.exists()


def test_features_of_tfds_that_are_too_large_or_too_deep_are_refused(tmp_path, tf, monkeypatch):
  deep = 0
  for _ in range(400):
    deep = {"content": [deep]}
  _tfds(tmp_path / "mine" / "1.0.0", {"content": deep, "type": "strangers_program.Feature"})
  with pytest.raises(UserError, match="names the class 'strangers_program"):
    _load_tfds(tmp_path, "mine")
  monkeypatch.setattr(text, "MOST", 100)
  with pytest.raises(UserError, match=r"features\.json: more than .* too much"):
    _load_tfds(tmp_path, "mine")
