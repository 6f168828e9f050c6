"""Checkpoints in a bucket: complete or not there, and those of this machine."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from vssl_jax import files
from vssl_jax.errors import UserError
from vssl_jax.training import checkpoints, metrics_log, mirror, profile


@pytest.fixture
def config():
  return small.shrink(small.load("cvrl.py", "demo")).save


def state(value):
  return {"w": jnp.full((3, 2), value, jnp.float32), "n": jnp.int32(value)}


def saved(bucket, config, *steps):
  saver = checkpoints.Checkpoints(bucket, config)
  for step in steps:
    saver.save(step, state(step), {"loss": float(step)})
  saver.close()


def names(bucket):
  return {n.split("/")[1] for n in files.tree(bucket) if n.startswith("checkpoints/")}


def test_what_needs_a_mirror(tmp_path, bucket):
  assert mirror.is_needed(bucket)
  assert not mirror.is_needed(tmp_path)


def test_saved_and_read_back(bucket, config):
  config.keep = 2
  saved(bucket, config, 1, 2, 3)
  assert names(bucket) == {"2", "3"}
  reader = checkpoints.Checkpoints(bucket, config, read_only=True)
  assert reader.steps == [2, 3]
  step, found = reader.restore(state(0))
  assert step == 3
  np.testing.assert_array_equal(found["w"], state(3)["w"])
  np.testing.assert_array_equal(reader.read(2, state(0))["w"], state(2)["w"])
  folder = reader._mirror.folder
  reader.close()
  assert not folder.exists()


def test_the_best_is_kept(bucket, config):
  config.keep, config.best = 1, "loss"
  saved(bucket, config, 1, 2, 3)
  saved(bucket, config, 4)
  assert names(bucket) == {"1", "4"}
  reader = checkpoints.Checkpoints(bucket, config, read_only=True)
  assert reader.best(state(0))[0] == 1
  reader.close()


def test_a_killed_upload_is_not_there_and_written_again(bucket, config):
  saved(bucket, config, 1, 2)
  (bucket / "checkpoints" / "2" / mirror.COMPLETE).unlink()
  saver = checkpoints.Checkpoints(bucket, config)
  assert saver.restore(state(0))[0] == 1
  saver.save(2, state(5))
  saver.close()
  reader = checkpoints.Checkpoints(bucket, config, read_only=True)
  np.testing.assert_array_equal(reader.read(2, state(0))["w"], state(5)["w"])
  reader.close()


def test_a_damaged_one_is_set_aside(bucket, config, caplog):
  saved(bucket, config, 1, 2)
  system, key = files.system_of(str(bucket / "checkpoints" / "2" / "state"))
  for name in system.find(key):
    if "/d/" in name:
      system.pipe_file(name, b"damaged")
  saver = checkpoints.Checkpoints(bucket, config)
  assert saver.restore(state(0))[0] == 1
  assert names(bucket) == {"1", "damaged-2"}
  saver.save(2, state(7))
  saver.close()
  assert names(bucket) == {"1", "2", "damaged-2"}
  assert "is damaged" in caplog.text


def test_a_failed_upload_is_raised(bucket, config, monkeypatch):
  saver = checkpoints.Checkpoints(bucket, config)

  def full(*args):
    raise OSError(28, "no space left", str(bucket))

  monkeypatch.setattr(mirror, "push", full)
  saver.save(1, state(1))
  with pytest.raises(OSError, match="no space left"):
    saver.close()


def test_the_bucket_has_a_checkpoint_while_newer_ones_wait(bucket, config):
  saved(bucket, config, 10)
  follower = mirror.Mirror(bucket / "checkpoints")
  (follower.folder / "10").rename(follower.folder / "30")  # 20 came and went meanwhile
  follower._prune()
  assert names(bucket) == {"10"}
  mirror.push(follower.folder / "30", bucket / "checkpoints" / "30")
  follower._prune()
  assert names(bucket) == {"30"}
  follower.close()


def test_a_reader_copies_what_it_reads(bucket, config):
  config.keep = 3
  saved(bucket, config, 1, 2, 3)
  reader = checkpoints.Checkpoints(bucket, config, read_only=True)
  assert reader.restore(state(0))[0] == 3
  assert [p.name for p in reader._mirror.folder.iterdir()] == ["3"]
  files.remove_tree(bucket / "checkpoints" / "2")
  with pytest.raises(UserError, match="damaged"):
    reader.read(2, state(0))
  reader.close()


def test_metrics_that_cannot_be_uploaded_now_are_uploaded_later(bucket, monkeypatch, caplog):
  upload = files.upload

  def unreachable(*args):
    raise OSError("no network")

  with metrics_log.open_writer(bucket, tensorboard=False) as writer:
    monkeypatch.setattr(files, "upload", unreachable)
    writer.write(1, {"loss": 1.0})
    writer.flush()
    assert "could not be uploaded (no network); trying again" in caplog.text
    monkeypatch.setattr(files, "upload", upload)
  assert len(metrics_log.read(bucket)) == 1


def test_several_processes_are_refused(bucket, config, monkeypatch):
  monkeypatch.setattr("jax.process_count", lambda: 2)
  with pytest.raises(UserError, match=r"give a --workdir in gs:// or in a file system"):
    mirror.Mirror(bucket / "checkpoints")
  mirror.Mirror(bucket / "checkpoints", read_only=True).close()


def test_rows_are_uploaded_and_continued(bucket, monkeypatch):
  with metrics_log.open_writer(bucket, tensorboard=False) as writer:
    writer.write(1, {"loss": 1.0})
    assert not (bucket / metrics_log.FILE).exists()
    writer.flush()
    assert len(metrics_log.read(bucket)) == 1
    monkeypatch.setattr(metrics_log, "EVERY", -1.0)
    writer.write(2, {"loss": 2.0})
    assert len(metrics_log.read(bucket)) == 2
    monkeypatch.setattr(metrics_log, "EVERY", 1e9)
    writer.write(3, {"loss": 3.0})
  metrics_log.cut_back(bucket, 2)
  with metrics_log.open_writer(bucket, tensorboard=False) as writer:
    writer.write(3, {"loss": 4.0})
  assert [r["loss"] for r in metrics_log.read(bucket)] == [1.0, 2.0, 4.0]


def test_tensorboards_files_are_uploaded(bucket):
  pytest.importorskip("tensorflow")
  with metrics_log.open_writer(bucket) as writer:
    writer.write(1, {"loss": 1.0})
  assert any("tfevents" in name for name in files.tree(bucket))


def test_what_orbax_removed_again_or_never_wrote_is_not_waited_for(bucket, config):
  follower = mirror.Mirror(bucket / "checkpoints")
  (follower.folder / "7").mkdir()
  follower.follow(5)
  follower.wait()
  follower.follow(9)
  follower.close()
  assert names(bucket) == set()


def test_a_trace_is_uploaded_or_said_to_be_missing(bucket, monkeypatch, capsys):
  def trace(run):
    traced = profile.Profile(run, 1, 0)
    for step in (1, 2, 3):
      with traced.step(step):
        result = jnp.ones(3) * step
      traced.after(step, result)

  trace(bucket / "run")
  assert any(name.startswith("run/profile/") for name in files.tree(bucket))

  def unreachable(*args):
    raise OSError("no network")

  monkeypatch.setattr(files, "upload", unreachable)
  trace(bucket / "other")
  assert "No trace: it could not be uploaded" in capsys.readouterr().out
