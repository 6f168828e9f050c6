"""Exported encoders: bit for bit, and never silently wrong."""

import json
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from tests import small
from vssl_jax import methods, models
from vssl_jax import results as results_lib
from vssl_jax.encoder import encoder as encoder_lib
from vssl_jax.encoder import exported, program, saved_model
from vssl_jax.errors import UserError
from vssl_jax.models import inflate
from vssl_jax.probes import features


def _config():
  c = methods.base_config("cvrl")
  c.encoder.depth, c.encoder.width, c.encoder.dtype = 18, 0.0625, "float32"
  c.augment.mean = (0.4, 0.4, 0.4)
  c.data.source, c.data.frames, c.data.stride, c.data.size = "synthetic", 2, 2, 8
  c.data.synthetic.videos, c.data.synthetic.eval_videos, c.data.synthetic.length = 4, 3, 8
  e = c.data.eval
  e.clips, e.crops, e.frames, e.stride, e.resize, e.size, e.batch_size = 2, 1, 2, 2, 8, 8, 2
  return c.lock()


def _variables(seed=0):
  rng = np.random.default_rng(seed)
  kernel = rng.normal(size=(3, 4)).astype(np.float32)
  return {
    "params": {
      "conv": {"kernel": kernel.T, "bias": np.float32(rng.normal())},  # not C-contiguous
      "norm": {"scale": jnp.asarray(kernel[0], jnp.bfloat16), "empty": np.zeros((0, 2))},
    },
    "batch_stats": {"norm": {"mean": kernel[:, ::2], "count": np.array([7], np.int32)}},
  }


def _same(a, b):
  assert a.keys() == b.keys()
  for key, x in a.items():
    if isinstance(x, dict):
      _same(x, b[key])
    else:
      x, y = np.asarray(x), np.asarray(b[key])
      assert (x.dtype, x.shape) == (y.dtype, y.shape), key
      assert x.tobytes() == y.tobytes(), key


def test_round_trip_is_bit_exact(tmp_path):
  config, variables = _config(), _variables()
  exported.save_encoder(tmp_path / "a" / "b", config, variables)
  again, found = exported.load_exported(tmp_path / "a" / "b")
  _same(variables, found)
  assert np.asarray(found["params"]["norm"]["scale"]).dtype == ml_dtypes.bfloat16
  assert results_lib.tree_hash(found) == results_lib.tree_hash(variables)
  assert results_lib.config_hash(again) == results_lib.config_hash(config)
  assert again.augment.mean == (0.4, 0.4, 0.4)
  models.build_encoder(again.encoder)
  names = sorted(p.name for p in (tmp_path / "a" / "b").iterdir())
  assert names == ["encoder.json", "encoder.safetensors"]


def test_names_in_the_file(tmp_path):
  exported.save_encoder(tmp_path, _config(), _variables())
  with safe_open(tmp_path / exported.WEIGHTS, framework="np") as f:
    assert sorted(f.keys()) == [
      "batch_stats/norm/count",
      "batch_stats/norm/mean",
      "params/conv/bias",
      "params/conv/kernel",
      "params/norm/empty",
      "params/norm/scale",
    ]


def test_an_encoder_without_statistics(tmp_path):
  exported.save_encoder(tmp_path, _config(), {"params": {"w": np.ones(2, np.float32)}})
  _, found = exported.load_exported(tmp_path)
  assert found["batch_stats"] == {}


def test_card(tmp_path):
  config = _config()
  exported.save_encoder(
    tmp_path, config, _variables(), info={"step": 7, "sha256": "ab"}, results={"top1": 0.5}
  )
  card = json.loads((tmp_path / exported.CARD).read_text())
  assert card["parameters"] == 12 + 1 + 4
  assert card["checkpoint"] == {"step": 7, "sha256": "ab"}
  assert card["results"] == {"top1": 0.5}
  assert card["encoder_sha256"] == results_lib.tree_hash(_variables())
  assert card["config_sha256"] == results_lib.config_hash(config)
  assert card["weights"]["sha256"] == results_lib.file_hash(tmp_path / exported.WEIGHTS)
  preprocessing = card["preprocessing"]
  assert preprocessing["mean"] == [0.4, 0.4, 0.4]
  assert preprocessing["trained_with"] == {"frames": 2, "stride": 2, "size": 8}
  assert preprocessing["evaluated_with"] == {"frames": 2, "stride": 2, "resize": 8, "size": 8}


def test_small_numbers_of_a_config_survive(tmp_path):
  config = _config().unlock()
  config.optim.lr = 1.23456789e-7
  exported.save_encoder(tmp_path, config, _variables())
  assert exported.load_exported(tmp_path)[0].optim.lr == 1.23456789e-7


def test_damage_is_noticed(tmp_path):
  with pytest.raises(UserError, match=r"give a folder that vssl_jax\.export wrote"):
    exported.load_exported(tmp_path / "nowhere")
  exported.save_encoder(tmp_path, _config(), _variables())
  weights = tmp_path / exported.WEIGHTS
  whole = weights.read_bytes()
  flipped = bytearray(whole)
  flipped[-5] ^= 1
  for damaged in (bytes(flipped), whole[:-1], b""):
    weights.write_bytes(damaged)
    with pytest.raises(UserError, match="damaged or replaced"):
      exported.load_exported(tmp_path)
  weights.unlink()
  with pytest.raises(UserError, match="missing beside its card"):
    exported.load_exported(tmp_path)
  for text in ("", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "weights": 3}'):
    (tmp_path / exported.CARD).write_text(text)
    with pytest.raises(UserError, match="not a card"):
      exported.load_exported(tmp_path)
  (tmp_path / exported.CARD).write_text('{"format": 2}')
  with pytest.raises(UserError, match="newer than this version"):
    exported.load_exported(tmp_path)


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
  """A run folder with a result, whose encoder is a random one."""
  config = _config()
  encoder = models.build_encoder(config.encoder)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 2, 8, 8, 3)))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.random(x.shape, np.float32), shapes)
  folder = tmp_path / "run"
  trained = {"top1": 0.25, "encoder_sha256": results_lib.tree_hash(variables)}
  results_lib.write_json({"trained": trained}, folder / "result.json")

  def load_encoder(path, which="last"):
    if str(path) != str(folder):
      raise UserError(f"{path}: no config.json there")
    return config, variables, {"checkpoint": str(path), "step": 3}

  monkeypatch.setattr(encoder_lib, "load_encoder", load_encoder)
  return folder, variables


def test_command_line(run_folder, tmp_path, capsys):
  folder, variables = run_folder
  output = tmp_path / "out"
  command = [f"--checkpoint={folder}", f"--output={output}", "--features", "--clips=1"]
  assert small.vssl("export", *command) == 0
  written = [
    output / n
    for n in ("encoder.safetensors", "encoder.json", "features_train.npz", "features_test.npz")
  ]
  assert capsys.readouterr().out.split() == [str(f) for f in written]
  _, found = exported.load_exported(output)
  assert results_lib.tree_hash(found) == results_lib.tree_hash(variables)
  assert exported.load_card(output)["results"]["trained"]["top1"] == 0.25
  train, test = (features.load(f) for f in written[2:])
  assert train.features.shape == (4, 1, 32)
  assert test.features.shape == (3, 1, 32)
  assert test.info["encoder_sha256"] == results_lib.tree_hash(variables)
  assert test.info["split"] == "test"
  assert test.info["views"]["clips"] == 1
  assert test.info["checkpoint"] == {"step": 3}  # and no path of this machine
  assert test.label_names[0] == "direction_0"

  # What stands there is not written over unless asked for.
  before = written[0].stat().st_mtime_ns
  assert small.vssl("export", *command[:2]) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert "encoder.safetensors exists" in error
  assert written[0].stat().st_mtime_ns == before
  assert small.vssl("export", *command[:2], "--overwrite") == 0


def test_exported_again_the_card_says_what_it_said(run_folder, tmp_path):
  folder, variables = run_folder
  evaluated = {"mean": {"knn": 0.5}, "encoder_sha256": results_lib.tree_hash(variables)}
  results_lib.write_json(evaluated, folder / "evaluation" / "summary.json")
  first, second = tmp_path / "first", tmp_path / "second"
  assert small.vssl("export", f"--checkpoint={folder}", f"--output={first}") == 0
  card = exported.load_card(first)
  assert card["results"]["trained"]["top1"] == 0.25
  assert card["results"]["evaluation"] == evaluated
  config, variables = exported.load_exported(first)
  config.data.path = "gone"
  old = {"results": card["results"], "data": {**card["data"], "manifest_sha256": "abc"}}
  exported.save_encoder(first, config, variables, **old)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(encoder_lib, "load_encoder", lambda path, which: (config, variables, {}))
    assert small.vssl("export", f"--checkpoint={first}", f"--output={second}") == 0
  again = exported.load_card(second)
  assert (again["results"], again["data"]) == (old["results"], old["data"])


def test_results_of_other_weights_stay_out_of_the_card(run_folder, tmp_path, capsys):
  folder, _ = run_folder
  other = {"mean": {"knn": 0.9}, "encoder_sha256": "0" * 64}
  results_lib.write_json(other, folder / "evaluation" / "summary.json")
  assert small.vssl("export", f"--checkpoint={folder}", f"--output={tmp_path / 'out'}") == 0
  results = exported.load_card(tmp_path / "out")["results"]
  assert list(results) == ["trained"]
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert "summary.json is of other weights (sha256 000000000000…): left out of the card" in error


def test_results_of_the_inflated_network_are_its_own(run_folder, tmp_path, monkeypatch):
  """Probes see a network of single frames inflated, and say the hash of what they saw."""
  folder, _ = run_folder
  config = encoder_lib.load_encoder(folder)[0]
  with config.unlocked():
    config.encoder.temporal = False
  encoder = models.build_encoder(config.encoder)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 2, 8, 8, 3)))
  flat = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
  monkeypatch.setattr(encoder_lib, "load_encoder", lambda path, which: (config, flat, {"step": 3}))
  seen = inflate.inflated(config, flat)[1]
  trained = {"top1": 0.5, "encoder_sha256": results_lib.tree_hash(seen)}
  assert trained["encoder_sha256"] != results_lib.tree_hash(flat)
  results_lib.write_json({"trained": trained}, folder / "result.json")
  assert small.vssl("export", f"--checkpoint={folder}", f"--output={tmp_path / 'out'}") == 0
  card = exported.load_card(tmp_path / "out")
  assert card["results"] == {"trained": trained}
  assert card["encoder_sha256"] == results_lib.tree_hash(flat)


def test_programs_of_other_weights_do_not_stay(run_folder, tmp_path, monkeypatch, capsys):
  folder, _ = run_folder
  output = tmp_path / "out"
  command = [f"--checkpoint={folder}", f"--output={output}"]

  def save_program(file, encoder):
    file.write_bytes(b"program")

  def save_tensorflow(path, encoder):
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"graph")

  monkeypatch.setattr(program, "save_program", save_program)
  monkeypatch.setattr(saved_model, "save_model", save_tensorflow)
  monkeypatch.setattr(saved_model, "exporters", lambda: None)
  assert small.vssl("export", *command, "--formats=program,savedmodel") == 0
  listed = exported.load_card(output)["programs"]
  assert sorted(listed) == [program.PROGRAM, saved_model.SAVED_MODEL]
  assert listed[program.PROGRAM]["sha256"] == results_lib.file_hash(output / program.PROGRAM)

  assert small.vssl("export", *command, "--overwrite", "--formats=program") == 0
  assert sorted(exported.load_card(output)["programs"]) == [program.PROGRAM]
  assert not (output / saved_model.SAVED_MODEL).exists()
  assert small.vssl("export", *command, "--overwrite") == 0
  assert exported.load_card(output)["programs"] == {}
  assert not (output / program.PROGRAM).exists()

  # One that lies there alone is not taken away unasked.
  (tmp_path / "alone").mkdir()
  (tmp_path / "alone" / program.PROGRAM).write_bytes(b"of another")
  assert small.vssl("export", command[0], f"--output={tmp_path / 'alone'}") == 2
  assert "encoder.jax_export exists" in capsys.readouterr().err
  assert [f.name for f in (tmp_path / "alone").iterdir()] == [program.PROGRAM]


def test_features_of_other_weights_do_not_stay(run_folder, tmp_path, capsys):
  output = tmp_path / "out"
  command = [f"--checkpoint={run_folder[0]}", f"--output={output}"]
  assert small.vssl("export", *command, "--features", "--split=test") == 0
  (output / exported.WEIGHTS).unlink()
  (output / exported.CARD).unlink()
  assert small.vssl("export", *command, "--features", "--split=train") == 2
  assert "features_test.npz exists" in capsys.readouterr().err
  assert small.vssl("export", *command, "--features", "--split=train", "--overwrite") == 0
  assert [f.name for f in output.glob("features_*")] == ["features_train.npz"]


def test_an_export_hides_no_run(run_folder, tmp_path, capsys):
  (tmp_path / "trained").mkdir()
  (tmp_path / "trained" / "config.json").write_text("{}")
  command = [f"--checkpoint={run_folder[0]}", f"--output={tmp_path / 'trained'}", "--overwrite"]
  assert small.vssl("export", *command) == 2
  assert "trained: holds a run" in capsys.readouterr().err
  assert [f.name for f in (tmp_path / "trained").iterdir()] == ["config.json"]


def test_nothing_is_written_where_tensorflow_lacks(run_folder, tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  command = [f"--checkpoint={run_folder[0]}", f"--output={tmp_path / 'out'}"]
  assert small.vssl("export", *command, "--formats=program,savedmodel") == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert "leave savedmodel out of --formats" in error
  assert not (tmp_path / "out").exists()


def test_features_are_of_all_videos_whatever_was_learned_from(run_folder, tmp_path):
  folder, _ = run_folder
  config = encoder_lib.load_encoder(folder)[0]
  with config.unlocked():
    config.data.fraction = 0.5
  assert (
    small.vssl("export", f"--checkpoint={folder}", f"--output={tmp_path / 'o'}", "--features") == 0
  )
  assert len(features.load(tmp_path / "o" / "features_train.npz").label) == 4


def test_command_line_tells_what_is_wrong(run_folder, tmp_path, capsys):
  assert small.vssl("export", f"--checkpoint={tmp_path}/none", f"--output={tmp_path}/out") == 2
  assert "no config.json there" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()
  flags = [f"--checkpoint={run_folder[0]}", f"--output={tmp_path}/o", "--clips=2"]
  assert small.vssl("export", *flags) == 2
  assert "--clips is of the features" in capsys.readouterr().err
  for flag in ("--clips=-1", "--crops=-2", "--batch_size=-3"):
    command = [f"--checkpoint={run_folder[0]}", f"--output={tmp_path}/o", "--features", flag]
    assert small.vssl("export", *command) == 2
    assert f"{flag}: give 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
  (run_folder[0] / "result.json").write_text("{")
  assert small.vssl("export", f"--checkpoint={run_folder[0]}", f"--output={tmp_path}/out") == 2
  assert "result.json: not JSON" in capsys.readouterr().err
