"""The config of a run is read back, and bound to what the run began with."""

import json
import pathlib
import shutil

import pytest

from tests import small
from tests.data_pipelines.sources import videos_test
from vssl_jax import methods
from vssl_jax.errors import UserError
from vssl_jax.training import checkpoints, run_config, sources


@pytest.fixture
def begun(tmp_path):
  """A run folder and its config."""
  config = methods.base_config("cvrl")
  config.steps_per_epoch, config.data.fingerprint = 7, "a"
  run_config.write_config(tmp_path, config)
  (tmp_path / checkpoints.FOLDER).mkdir()
  return tmp_path, config


def test_nothing_begun_is_nothing_to_protect(begun):
  folder, config = begun
  (folder / checkpoints.FOLDER).rmdir()
  config.optim.lr = 1.0
  run_config.check_config(folder, config)


def test_a_resume_under_another_config_is_refused(begun):
  folder, config = begun
  config.log_every, config.save.every, config.data.threads, config.data.path = 1, 7, 3, "moved"
  run_config.check_config(folder, config)
  config.optim.lr, config.seed = 2.0, 4
  with pytest.raises(UserError, match=r"optim\.lr: 0\.32 -> 2\.0; seed: 0 -> 4"):
    run_config.check_config(folder, config)


@pytest.mark.parametrize("field", ["steps", "epochs"])
def test_a_resume_for_another_length_is_refused(begun, field):
  folder, config = begun
  config.steps = 1400  # as many as before, said otherwise
  run_config.check_config(folder, config)
  config.steps = 0
  config[field] = 100 if field == "steps" else 100.0
  total = 100 if field == "steps" else 700
  with pytest.raises(UserError, match=rf"total steps: 1400 -> {total}\)"):
    run_config.check_config(folder, config)


def test_a_resume_on_other_videos_is_refused(begun):
  folder, config = begun
  config.data.fingerprint = "b"
  with pytest.raises(UserError, match=r"data\.fingerprint: 'a' -> 'b'"):
    run_config.check_config(folder, config)


PLACES = {
  "data.videos.root": "moved",
  "data.videos.split_list": ("moved/trainlist01.txt",),
  "data.videos.cache": "moved/cache",
  "data.videos.timeout": 9.0,
}


@pytest.mark.parametrize("field", PLACES)
def test_videos_and_their_cache_may_have_moved(begun, field):
  folder, config = begun
  config.update_from_flattened_dict({field: PLACES[field]})
  run_config.check_config(folder, config)
  assert field not in run_config.bound(config)


@pytest.mark.parametrize("field", ["short_side", "fps", "flat", "split_column"])
def test_videos_may_not_be_read_in_another_way(begun, field):
  folder, config = begun
  config.data.videos[field] = {"flat": True, "split_column": "fold"}.get(field, 12)
  with pytest.raises(UserError, match=rf"\(data\.videos\.{field}: "):
    run_config.check_config(folder, config)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
  """A folder of three videos and a list of them elsewhere, whose paths start from that folder."""
  root = tmp_path_factory.mktemp("recordings")
  for v in range(3):
    videos_test.write(root / f"{v}.mp4", 20 + v, v)
  return root


def _resolved(root, rows, cache):
  """The config of a run on videos, as `vssl train` resolves it."""
  cache.mkdir(exist_ok=True)
  file = cache / "list.csv"
  file.write_text("path,label\n" + "".join(f"{v}.mp4,{label}\n" for v, label in rows))
  config = methods.base_config("cvrl")
  config.data.source, config.data.path, config.data.threads = "videos", str(file), 1
  config.data.videos.root, config.data.videos.cache = str(root), str(cache)
  config.batch_size, config.steps, config.data.videos.short_side = 2, 4, 24
  return methods.resolve(config, sources.load_source(config, config.data.train_split))


@pytest.mark.usefixtures("tf")
def test_the_fingerprint_holds_the_videos_when_their_place_is_free(recordings, tmp_path):
  rows = [(0, "a"), (1, "b"), (2, "a")]
  config = _resolved(recordings, rows, tmp_path / "cache")
  run_config.write_config(tmp_path, config)
  (tmp_path / checkpoints.FOLDER).mkdir()
  elsewhere = shutil.copytree(recordings, tmp_path / "elsewhere")
  run_config.check_config(tmp_path, _resolved(elsewhere, rows, tmp_path / "another"))
  others = {
    "one fewer": _resolved(elsewhere, rows[:2], tmp_path / "another"),
    "another label": _resolved(elsewhere, [(0, "a"), (1, "b"), (2, "b")], tmp_path / "another"),
  }
  videos_test.write(elsewhere / "1.mp4", 25, 1)
  others["another of the name"] = _resolved(elsewhere, rows, tmp_path / "another")
  for why, other in others.items():
    with pytest.raises(UserError, match=r"data\.fingerprint: ") as told:
      run_config.check_config(tmp_path, other)
    assert "data.videos" not in str(told.value), why


def test_a_run_of_an_earlier_version_lacks_fields_and_goes_on(begun):
  folder, config = begun
  stored = json.loads((folder / run_config.CONFIG).read_text())
  del stored["optim"]["nesterov"], stored["data"]["interval"], stored["cvrl"]["loss_scale"]
  del stored["data"]["fingerprint"]
  (folder / run_config.CONFIG).write_text(json.dumps(stored))
  run_config.check_config(folder, config)  # missing fields count as their defaults
  config.optim.nesterov = True
  with pytest.raises(UserError, match=r"\(optim\.nesterov: False -> True\)"):
    run_config.check_config(folder, config)


def test_a_resume_without_the_same_videos_held_out_is_refused(begun):
  folder, config = begun
  config.data.held_out_sha256 = "a"
  with pytest.raises(UserError, match=r"knn\.held_out .*: set config\.knn\.every_epochs=0\)"):
    run_config.check_config(folder, config)
  config.knn.held_out, config.knn.every_epochs = 0.3, 2.0
  run_config.write_config(folder, config)
  run_config.check_config(folder, config)
  for other in ("b", ""):
    config.data.held_out_sha256, config.knn.held_out, config.seed = other, 0.1, 1
    with pytest.raises(UserError, match=r"seed: 0 -> 1; .*knn\.held_out=0\.3 and .*epochs=2\.0"):
      run_config.check_config(folder, config)


def test_nothing_held_out_leaves_the_hashes_of_earlier_runs(begun):
  folder, config = begun
  assert "data.held_out_sha256" not in run_config.bound(config)
  stored = json.loads((folder / run_config.CONFIG).read_text())
  del stored["data"]["held_out_sha256"]
  (folder / run_config.CONFIG).write_text(json.dumps(stored))
  run_config.check_config(folder, config)


def test_config_round_trips_with_its_tuples(begun):
  folder, config = begun
  assert run_config.load_config(folder).to_dict() == config.to_dict()


def test_no_run_is_one_clear_line(tmp_path):
  with pytest.raises(UserError, match=r"no config\.json there"):
    run_config.load_config(pathlib.Path(tmp_path / "nowhere"))


FOREIGN = {
  "of another library": b'{"model_type": "bert", "a.b": 1}',
  "cut short": b'{"method": "cvrl", "data": {',
  "no object": b"[1, 2]",
  "no text": b"\xff",
  "a method that is no name": b'{"method": {"name": "x"}}',
  "an unknown method": b'{"method": "bert"}',
}
COMMANDS = (
  ("evaluate",),
  ("export", "--output=OUT"),
  ("extract", "--videos=VIDEOS", "--output=OUT"),
  ("localize", "--output=OUT"),
  ("uncertainty", "--output=OUT"),
  ("convert", "--to_format=pyslowfast", "--to=OUT"),
  ("train", "--config=linear_probe:demo", "--workdir=OUT"),
)


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_or_damaged_config_is_one_line_of_every_command(tmp_path, capsys, text):
  (tmp_path / run_config.CONFIG).write_bytes(text)
  if text != FOREIGN["an unknown method"]:
    with pytest.raises(UserError, match=r"config\.json: "):
      run_config.load_config(tmp_path)
  flags = {"convert": "--from", "train": "--config.checkpoint"}
  for name, *rest in COMMANDS:
    folder = f"{flags.get(name, '--checkpoint')}={tmp_path}"
    assert small.vssl(name, folder, *(x.replace("OUT", str(tmp_path / "out")) for x in rest)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, (name, error)
    assert error.startswith(("error: config.method: ", f"error: {tmp_path / 'config.json'}: "))
