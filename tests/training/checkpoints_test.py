"""Checkpoints survive damage and other layouts; nothing saved is lost."""

import errno
import json
import shutil

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

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


def _edit_digest(folder, change):
  path = folder / "digest" / "metadata"
  stored = json.loads(path.read_text())
  change(stored)
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
    _edit_digest(copy / checkpoints.FOLDER / step, before)
  assert _restore(copy, _state(0), read_only=True)[0][0] == 2
  # Its layout alone says whether it fits; a run does not change its network.
  _edit_digest(copy / checkpoints.FOLDER / "2", lambda d: d["layout"].update({"params/w": "x"}))
  assert _restore(copy, _state(0))[0][0] == 1
  assert "counts as damaged" in caplog.text


@pytest.mark.parametrize("known", [True, False])
def test_a_renamed_checkpoint_is_noticed(two, tmp_path, known):
  """Else the run would go on at a step that it is not at, or take it for the best."""
  copy = shutil.copytree(two, tmp_path / "copy")
  (copy / checkpoints.FOLDER / "2").rename(copy / checkpoints.FOLDER / "7")
  if not known:  # as in an earlier version, the state itself says it
    _edit_digest(copy / checkpoints.FOLDER / "7", lambda d: d.pop("step"))
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


def _out_of_order(error):
  def read(*args, **kwargs):
    raise error

  return read


_TOLD = r"checkpoints/2: cannot be read now \(.*\), .* no sign of damage; .* rename this folder"


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.EIO, "Input/output error", "x/state/d/1"),
    PermissionError(errno.EACCES, "Permission denied"),
    PermissionError(errno.EPERM, "Operation not permitted"),
    OSError(errno.ESTALE, "Stale file handle"),
    TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
    OSError(errno.EMFILE, "Too many open files"),
    ValueError('UNAVAILABLE: Error reading "x/state/d/1": Input/output error [source locations]'),
  ],
  ids=lambda e: getattr(e, "strerror", "") or "in other words",
)
def test_what_cannot_be_read_now_is_not_damaged(two, tmp_path, monkeypatch, error):
  """A run that fell back to step 1 would train again what is there, and set aside step 2."""
  copy = shutil.copytree(two, tmp_path / "copy")
  reader = checkpoints.Checkpoints(copy, _settings(best="loss", keep=9))
  with monkeypatch.context() as patch:
    patch.setattr(reader._manager, "restore", _out_of_order(error))
    for read in (reader.restore, lambda like: reader.read(2, like)):
      with pytest.raises(checkpoints.OutOfReachError, match=_TOLD) as told:
        read(_state(0))
      assert "\n" not in str(told.value)
    with pytest.raises(checkpoints.OutOfReachError, match="cannot be read now"):
      reader.best(_state(0))
  assert reader.restore(_state(0))[0] == 2
  reader.close()
  assert {p.name for p in (copy / checkpoints.FOLDER).iterdir()} == {"1", "2"}


def test_a_lost_process_or_a_full_device_is_no_damage(two, tmp_path, monkeypatch):
  copy = shutil.copytree(two, tmp_path / "copy")
  reader = checkpoints.Checkpoints(copy, _settings())
  for error in (jax.errors.JaxRuntimeError("UNAVAILABLE: task 1 is gone"), MemoryError()):
    with monkeypatch.context() as patch:
      patch.setattr(reader._manager, "restore", _out_of_order(error))
      with pytest.raises(type(error)):
        reader.restore(_state(0))
  assert reader.restore(_state(0))[0] == 2
  reader.close()


def test_metrics_that_cannot_be_read_now_are_not_missing(two, tmp_path, monkeypatch):
  """Else a run would remove its best checkpoint, as one without metrics."""
  copy = shutil.copytree(two, tmp_path / "copy")
  with monkeypatch.context() as patch:
    error = OSError(errno.EIO, "Input/output error")
    patch.setattr(checkpoints.ocp.CheckpointManager, "metrics", _out_of_order(error))
    with pytest.raises(checkpoints.OutOfReachError, match=r"checkpoints/\d: cannot be read now"):
      checkpoints.Checkpoints(copy, _settings(best="loss"))


def test_a_best_with_a_damaged_digest_is_told(two, tmp_path):
  """Not another taken for the best; the metrics beside the arrays still say which it is."""
  for damaged in (1, 2):
    copy = shutil.copytree(two, tmp_path / f"copy{damaged}")
    digest = copy / checkpoints.FOLDER / str(damaged) / "digest" / "metadata"
    digest.write_text(digest.read_text()[:-9])
    reader = checkpoints.Checkpoints(copy, _settings(best="loss", keep=9), read_only=True)
    if damaged == 1:  # it is not the best
      assert reader.best(_state(0))[0] == 2
    else:
      with pytest.raises(UserError, match=r"checkpoints/2: the checkpoint is damaged"):
        reader.best(_state(0))
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
