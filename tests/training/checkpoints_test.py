"""Checkpoints survive damage, other layouts and other configs; nothing saved is lost."""

import json
import pathlib
import shutil

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from tests import small
from vssl_jax import methods, parallel
from vssl_jax.errors import UserError
from vssl_jax.training import checkpoints


@flax.struct.dataclass
class State:
  step: jax.Array
  params: dict


def _state(step, devices=1, split=False):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  rng = np.random.default_rng(step)
  params = {
    "w": jnp.asarray(rng.normal(size=(16, 3)), jnp.float32),
    "h": jnp.asarray(rng.normal(size=(8,)), jnp.bfloat16),
    "flag": jnp.array([True, False]),
  }
  state = jax.device_put(State(jnp.int32(step), params), parallel.replicated(mesh))
  if split:
    state.params["w"] = jax.device_put(params["w"], parallel.split(mesh))
  return state


def _settings(**values):
  return ml_collections.ConfigDict({"keep": 2, "best": "", "best_mode": "min", **values})


def _write(path, steps, **settings):
  saver = checkpoints.Checkpoints(path, _settings(**settings))
  for step, metric in steps:
    saver.save(step, _state(step), {"loss": metric})
  saver.close()


def _restore(path, like, **kwargs):
  reader = checkpoints.Checkpoints(path, _settings(), **kwargs)
  try:
    return reader.restore(like), reader.steps
  finally:
    reader.close()


def _equal(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def test_keep_last_and_best(tmp_path):
  _write(tmp_path, [(1, 3.0), (2, 1.0), (3, 2.0), (4, 5.0), (5, 4.0)], best="loss")
  assert _restore(tmp_path, _state(0))[1] == [2, 4, 5]
  _write(tmp_path / "max", [(1, 3.0), (2, 9.0), (3, 2.0), (4, 5.0)], best="loss", best_mode="max")
  assert _restore(tmp_path / "max", _state(0))[1] == [2, 3, 4]


@pytest.mark.parametrize(("mode", "want"), [("min", 2), ("max", 4)])
def test_the_best_is_read_back(tmp_path, mode, want):
  settings = {"best": "loss", "best_mode": mode, "keep": 9}
  scores = [(1, 3.0), (2, 1.0), (3, 1.0), (4, 5.0), (5, 5.0)]  # the earliest of equals
  _write(tmp_path, scores, **settings)
  reader = checkpoints.Checkpoints(tmp_path, _settings(**settings), read_only=True)
  step, state = reader.best(_state(0))
  assert step == want
  _equal(state, _state(want))
  reader.close()
  reader = checkpoints.Checkpoints(tmp_path, _settings(best="other"), read_only=True)
  assert reader.best(_state(0)) is None
  reader.close()


@pytest.mark.parametrize(
  ("metric", "largest"),
  [
    ("knn_top1", True),
    ("top5", True),
    ("accuracy", True),
    ("contrast_accuracy", True),
    ("validation_mAP", True),
    ("mAP@0.5", True),
    ("mining_recall", True),
    ("R@1", True),
    ("loss", False),
    ("grad_norm", False),
    ("overlap", False),
    ("lr", False),
  ],
)
def test_the_best_is_by_the_metric_unless_said(metric, largest):
  sign = 1.0 if largest else -1.0
  by_default = methods.base_config("cvrl").save
  by_default.best = metric
  assert checkpoints.best_sign(by_default) == sign
  assert checkpoints.best_sign(_settings(best=metric, best_mode="min")) == -1.0
  assert checkpoints.best_sign(_settings(best=metric, best_mode="max")) == 1.0


def test_the_best_accuracy_is_kept_and_read_by_default(tmp_path):
  settings = _settings(best="knn_top1", best_mode="", keep=1)
  saver = checkpoints.Checkpoints(tmp_path, settings)
  for step, top1 in ((1, 0.3), (2, 0.9), (3, 0.1), (4, 0.2)):
    saver.save(step, _state(step), {"knn_top1": top1})
  saver.close()
  reader = checkpoints.Checkpoints(tmp_path, settings, read_only=True)
  assert reader.steps == [2, 4]
  assert reader.best(_state(0))[0] == 2
  reader.close()
  with pytest.raises(UserError, match=r"best_mode is 'most': choose min or max"):
    checkpoints.Checkpoints(tmp_path, _settings(best="loss", best_mode="most"))


def test_a_damaged_best_is_told(tmp_path):
  _write(tmp_path, [(1, 1.0), (2, 2.0)], best="loss")
  shutil.rmtree(tmp_path / checkpoints.FOLDER / "1" / "state")
  reader = checkpoints.Checkpoints(tmp_path, _settings(best="loss"), read_only=True)
  damaged = r"checkpoints/1: the checkpoint is damaged .*remove this folder"
  with pytest.raises(UserError, match=damaged):
    reader.best(_state(0))
  reader.close()


def test_round_trip_is_bit_exact(tmp_path):
  _write(tmp_path, [(7, 0.0)])
  (step, state), _ = _restore(tmp_path, _state(0))
  assert step == 7
  _equal(state, _state(7))


@pytest.mark.parametrize("devices", [(8, 1), (8, 4), (1, 8)])
def test_restores_on_another_device_count(tmp_path, devices):
  written, read = devices
  saver = checkpoints.Checkpoints(tmp_path, _settings())
  saver.save(3, _state(3, written, split=True))
  saver.close()
  (_, state), _ = _restore(tmp_path, _state(0, read, split=True))
  _equal(state, _state(3))
  assert len(state.params["w"].sharding.device_set) == read


def _files(folder):
  return sorted(p for p in folder.rglob("*") if p.is_file())


def _truncate(folder):
  data = [p for p in _files(folder / "state") if p.parent.name == "d"]
  largest = max(data, key=lambda p: p.stat().st_size)
  largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def _remove(folder):
  for p in _files(folder / "state"):
    if p.parent.name == "d":
      p.unlink()


def _flip(folder):
  """Flips bits in every data file, so that some stored number is wrong."""
  for p in _files(folder / "state"):
    if p.parent.name == "d":
      raw = bytearray(p.read_bytes())
      for i in range(len(raw) // 3, len(raw), 7):
        raw[i] ^= 0xFF
      p.write_bytes(bytes(raw))


@pytest.mark.parametrize("damage", [_truncate, _remove, _flip])
def test_damaged_newest_falls_back_saying_so(tmp_path, damage, caplog):
  _write(tmp_path, [(1, 0.0), (2, 0.0)])
  damage(tmp_path / checkpoints.FOLDER / "2")
  (step, state), steps = _restore(tmp_path, _state(0))
  assert (step, steps) == (1, [1])
  _equal(state, _state(1))
  assert "damaged" in caplog.text
  assert "falling back to step 1" in caplog.text
  assert (tmp_path / checkpoints.FOLDER / "damaged-2").is_dir()
  # The step can be written again, and is then the newest.
  _write(tmp_path, [(2, 0.0)])
  assert _restore(tmp_path, _state(0))[0][0] == 2


def test_reading_only_leaves_the_damaged_one_in_place(tmp_path):
  _write(tmp_path, [(1, 0.0), (2, 0.0)])
  _truncate(tmp_path / checkpoints.FOLDER / "2")
  (step, _), _ = _restore(tmp_path, _state(0), read_only=True)
  assert step == 1
  assert (tmp_path / checkpoints.FOLDER / "2").is_dir()


def test_one_step_is_read_and_a_damaged_one_named(tmp_path):
  _write(tmp_path, [(1, 0.1), (2, 0.2)])
  reader = checkpoints.Checkpoints(tmp_path, _settings(), read_only=True)
  for step in (1, 2):
    _equal(reader.read(step, _state(0)), _state(step))
  _truncate(tmp_path / "checkpoints" / "1")
  with pytest.raises(UserError, match=r"checkpoints/1: the checkpoint is damaged"):
    reader.read(1, _state(0))
  _equal(reader.read(2, _state(0)), _state(2))
  reader.close()


def test_a_silently_changed_number_is_seen(tmp_path):
  _write(tmp_path, [(1, 0.0), (2, 0.0)])
  digest = tmp_path / checkpoints.FOLDER / "2" / "digest" / "metadata"
  stored = json.loads(digest.read_text())
  stored["arrays"][1] ^= 1
  digest.write_text(json.dumps(stored))
  assert _restore(tmp_path, _state(0))[0][0] == 1


def test_all_damaged_is_an_error_and_deletes_nothing(tmp_path):
  _write(tmp_path, [(1, 0.0), (2, 0.0)])
  for step in "12":
    _truncate(tmp_path / checkpoints.FOLDER / step)
  with pytest.raises(UserError, match="none of the checkpoints"):
    _restore(tmp_path, _state(0))
  assert {p.name for p in (tmp_path / checkpoints.FOLDER).iterdir()} >= {"1", "2"}


def test_an_unfinished_checkpoint_is_not_seen(tmp_path):
  _write(tmp_path, [(1, 0.0)])
  folder = tmp_path / checkpoints.FOLDER
  shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp-0")
  assert _restore(tmp_path, _state(0))[0][0] == 1


def test_a_failed_save_is_raised_not_swallowed(tmp_path):
  saver = checkpoints.Checkpoints(tmp_path, _settings())
  saver.save(1, _state(1))
  saver._manager.wait_until_finished()
  shutil.rmtree(tmp_path / checkpoints.FOLDER)
  (tmp_path / checkpoints.FOLDER).write_text("a file where the folder was")

  def save_and_wait():
    saver.save(2, _state(2))
    saver.close()

  with pytest.raises(OSError, match="checkpoints"):
    save_and_wait()


def test_empty_folder_restores_nothing(tmp_path):
  assert _restore(tmp_path, _state(0))[0] is None


def test_a_reader_disturbs_no_write_in_flight(tmp_path):
  _write(tmp_path, [(1, 0.0)])
  unfinished = tmp_path / checkpoints.FOLDER / "2.orbax-checkpoint-tmp"
  unfinished.mkdir()
  _restore(tmp_path, _state(0), read_only=True)
  assert unfinished.is_dir()


def test_another_network_is_named_and_not_called_damaged(tmp_path, caplog):
  _write(tmp_path, [(1, 0.0)])
  like = _state(0)
  like.params["w"] = np.zeros((2, 2), np.float32)
  shapes = r"params/w is float32\[.*\] in the checkpoint and float32\[2, 2\] in this config"
  with pytest.raises(UserError, match=shapes):
    _restore(tmp_path, like)
  assert "damaged" not in caplog.text
  assert _restore(tmp_path, _state(0))[0][0] == 1


def test_one_process_writes_to_a_run(tmp_path):
  second = checkpoints.sole_writer(tmp_path)
  busy = pytest.raises(UserError, match="another process is training in this folder")
  with checkpoints.sole_writer(tmp_path), busy, second:
    pass
  with checkpoints.sole_writer(tmp_path):
    pass


@pytest.fixture
def begun(tmp_path):
  """A run folder and its config."""
  config = methods.base_config("cvrl")
  config.steps_per_epoch, config.data.fingerprint = 7, "a"
  checkpoints.write_config(tmp_path, config)
  (tmp_path / checkpoints.FOLDER).mkdir()
  return tmp_path, config


def test_nothing_begun_is_nothing_to_protect(begun):
  folder, config = begun
  (folder / checkpoints.FOLDER).rmdir()
  config.optim.lr = 1.0
  checkpoints.check_config(folder, config)


def test_a_resume_under_another_config_is_refused(begun):
  folder, config = begun
  config.log_every, config.save.every, config.data.threads, config.data.path = 1, 7, 3, "moved"
  checkpoints.check_config(folder, config)
  config.optim.lr, config.seed = 2.0, 4
  with pytest.raises(UserError, match=r"optim\.lr: 0\.32 -> 2\.0; seed: 0 -> 4"):
    checkpoints.check_config(folder, config)


@pytest.mark.parametrize("field", ["steps", "epochs"])
def test_a_resume_for_another_length_is_refused(begun, field):
  folder, config = begun
  config.steps = 1400  # as many as before, said otherwise
  checkpoints.check_config(folder, config)
  config.steps = 0
  config[field] = 100 if field == "steps" else 100.0
  total = 100 if field == "steps" else 700
  with pytest.raises(UserError, match=rf"total steps: 1400 -> {total}\)"):
    checkpoints.check_config(folder, config)


def test_a_resume_on_other_videos_is_refused(begun):
  folder, config = begun
  config.data.fingerprint = "b"
  with pytest.raises(UserError, match=r"data\.fingerprint: 'a' -> 'b'"):
    checkpoints.check_config(folder, config)


def test_a_run_of_an_earlier_version_lacks_fields_and_goes_on(begun):
  folder, config = begun
  stored = json.loads((folder / checkpoints.CONFIG).read_text())
  del stored["optim"]["nesterov"], stored["data"]["interval"], stored["cvrl"]["loss_scale"]
  del stored["data"]["fingerprint"]
  (folder / checkpoints.CONFIG).write_text(json.dumps(stored))
  checkpoints.check_config(folder, config)  # missing fields count as their defaults
  config.optim.nesterov = True
  with pytest.raises(UserError, match=r"\(optim\.nesterov: False -> True\)"):
    checkpoints.check_config(folder, config)


def test_a_resume_without_the_same_videos_held_out_is_refused(begun):
  folder, config = begun
  config.data.held_out_sha256 = "a"
  with pytest.raises(UserError, match=r"knn\.held_out .*: set config\.knn\.every_epochs=0\)"):
    checkpoints.check_config(folder, config)
  config.knn.held_out, config.knn.every_epochs = 0.3, 2.0
  checkpoints.write_config(folder, config)
  checkpoints.check_config(folder, config)
  for other in ("b", ""):
    config.data.held_out_sha256, config.knn.held_out, config.seed = other, 0.1, 1
    with pytest.raises(UserError, match=r"seed: 0 -> 1; .*knn\.held_out=0\.3 and .*epochs=2\.0"):
      checkpoints.check_config(folder, config)


def test_nothing_held_out_leaves_the_hashes_of_earlier_runs(begun):
  folder, config = begun
  assert "data.held_out_sha256" not in checkpoints.bound(config)
  stored = json.loads((folder / checkpoints.CONFIG).read_text())
  del stored["data"]["held_out_sha256"]
  (folder / checkpoints.CONFIG).write_text(json.dumps(stored))
  checkpoints.check_config(folder, config)


def test_config_round_trips_with_its_tuples(begun):
  folder, config = begun
  assert checkpoints.load_config(folder).to_dict() == config.to_dict()


def test_no_run_is_one_clear_line(tmp_path):
  with pytest.raises(UserError, match=r"no config\.json there"):
    checkpoints.load_config(pathlib.Path(tmp_path / "nowhere"))


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
  (tmp_path / checkpoints.CONFIG).write_bytes(text)
  if text != FOREIGN["an unknown method"]:
    with pytest.raises(UserError, match=r"config\.json: "):
      checkpoints.load_config(tmp_path)
  flags = {"convert": "--from", "train": "--config.checkpoint"}
  for name, *rest in COMMANDS:
    folder = f"{flags.get(name, '--checkpoint')}={tmp_path}"
    assert small.vssl(name, folder, *(x.replace("OUT", str(tmp_path / "out")) for x in rest)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, (name, error)
    assert error.startswith(("error: config.method: ", f"error: {tmp_path / 'config.json'}: "))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  folder = tmp_path_factory.mktemp("two")
  _write(folder, [(1, 3.0), (2, 1.0)], best="loss")
  return folder


# TensorStore's threads find the loop of a failed reading closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_flipped_bit_in_any_file_falls_back_or_changes_nothing(two, tmp_path):
  """Of each file of the newest checkpoint; 85 random flips take the same paths."""
  like, rng = _state(0), np.random.default_rng(0)
  fell = set()
  for file in [f.relative_to(two) for f in _files(two / checkpoints.FOLDER / "2")]:
    copy = shutil.copytree(two, tmp_path / "copy")
    data = bytearray((copy / file).read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    (copy / file).write_bytes(data)
    (step, state), _ = _restore(copy, like)
    _equal(state, _state(step))
    fell |= {file.parts[2]} if step == 1 else set()
    shutil.rmtree(copy)
  assert {"state", "digest"} <= fell


def _edit_digest(folder, change, *, sign):
  path = folder / "digest" / "metadata"
  stored = json.loads(path.read_text())
  change(stored)
  if sign:
    own = {k: v for k, v in stored.items() if k != "sha256"}
    stored["sha256"] = checkpoints._hash(own)
  else:
    stored.pop("sha256", None)
  path.write_text(json.dumps(stored))


@pytest.mark.parametrize("steps", ["2", "12"])
def test_a_flip_in_the_layout_is_damage_and_no_other_network(two, tmp_path, steps, caplog):
  copy = shutil.copytree(two, tmp_path / "copy")
  for step in steps:
    path = copy / checkpoints.FOLDER / step / "digest" / "metadata"
    path.write_text(path.read_text().replace("float32[16, 3]", "float32[16, 2]"))
  if steps == "2":
    assert _restore(copy, _state(0))[0][0] == 1
  else:
    with pytest.raises(UserError, match="none of the checkpoints"):
      _restore(copy, _state(0))
  assert "its digest differs" in caplog.text


def test_a_checkpoint_of_an_earlier_version_has_no_hash_of_its_digest(two, tmp_path, caplog):
  copy = shutil.copytree(two, tmp_path / "copy")

  def before(stored):
    del stored["step"], stored["metrics"]

  for step in "12":
    _edit_digest(copy / checkpoints.FOLDER / step, before, sign=False)
  assert _restore(copy, _state(0), read_only=True)[0][0] == 2
  # Its layout alone says whether it fits; a run does not change its network.
  _edit_digest(
    copy / checkpoints.FOLDER / "2", lambda d: d["layout"].update({"params/w": "x"}), sign=False
  )
  assert _restore(copy, _state(0))[0][0] == 1
  assert "counts as damaged" in caplog.text


@pytest.mark.parametrize("known", [True, False])
def test_a_renamed_checkpoint_is_noticed(two, tmp_path, known):
  """Else the run would go on at a step that it is not at, or take it for the best."""
  copy = shutil.copytree(two, tmp_path / "copy")
  (copy / checkpoints.FOLDER / "2").rename(copy / checkpoints.FOLDER / "7")
  if not known:  # as in an earlier version, the state itself says it
    _edit_digest(copy / checkpoints.FOLDER / "7", lambda d: d.pop("step"), sign=False)
  for read_only in (True, False):
    with pytest.raises(checkpoints.RenamedError, match=r"checkpoints/7: holds .* step 2, .* to 2"):
      _restore(copy, _state(0), read_only=read_only)
  assert (copy / checkpoints.FOLDER / "7").is_dir()


@pytest.mark.parametrize("text", ['{"lo', "[]", '{"loss": "low"}', '{"loss": -9.0}', ""])
def test_the_best_is_by_metrics_that_are_not_damaged(two, tmp_path, text):
  copy = shutil.copytree(two, tmp_path / "copy")
  (copy / checkpoints.FOLDER / "1" / "metrics" / "metrics").write_text(text)
  reader = checkpoints.Checkpoints(copy, _settings(best="loss", keep=9), read_only=True)
  assert reader.best(_state(0))[0] == 2
  assert reader.restore(_state(0))[0] == 2
  reader.close()


@pytest.mark.parametrize(
  "error",
  [
    OSError(28, "No space left on device"),
    ValueError('RESOURCE_EXHAUSTED: Error writing "x": Failed to write: No space left on device'),
  ],
)
def test_a_full_disk_names_the_folder_and_keeps_what_is_saved(tmp_path, monkeypatch, error):
  _write(tmp_path, [(1, 0.0)])
  saver = checkpoints.Checkpoints(tmp_path, _settings())

  def full(*args, **kwargs):
    raise error

  monkeypatch.setattr(saver._manager, "save", full)
  with pytest.raises(OSError, match="No space left") as told:
    saver.save(2, _state(2))
  assert told.value.filename == str(tmp_path / checkpoints.FOLDER)
  saver.close()
  assert _restore(tmp_path, _state(0))[0][0] == 1
