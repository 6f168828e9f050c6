"""`evaluate` and `uncertainty` on two processes of four devices find what one of eight finds."""

import json
import subprocess
import sys

import flax.linen as nn
import numpy as np
import pytest

from tests import small
from tests.slow import multiprocess_test, resume_test
from vssl_jax import augment, cli, methods, models
from vssl_jax.evaluation.protocols import PROTOCOLS
from vssl_jax.models.layers.norm import BatchNorm
from vssl_jax.probes import features
from vssl_jax.training import run_folder

_MAIN = "from tests.slow import pod_evaluation_test as t; raise SystemExit(t.main())"
TIMES = ("seconds", "clips_per_second")
TUNED = ("linear", "finetune", "semi_supervised")
VALUES = {"data.synthetic.videos": 48, "data.synthetic.eval_videos": 21, "data.eval.batch_size": 12}
FEW = (
  "--epochs=1",
  "--semi_epochs=2",
  "--batch_size=16",
  "--episodes=5",
  "--queries=3",
  "--shots=1",
  "--gallery=2",
  "--fractions=0.4,0.1",
  "--subset_seeds=0",
  "--solver=device",
)


class Flat(nn.Module):
  """A dense layer in place of the encoder: the networks have tests of their own."""

  features_dim: int = 12

  @nn.compact
  def __call__(self, clips, train=False):
    x = nn.Dense(12, name="stem")(clips.mean(1)[:, ::4, ::4].reshape(len(clips), -1))
    return nn.relu(BatchNorm(name="norm")(x, train))


def main():
  """The command `vssl`, with the small network."""
  models.build_encoder = lambda config, mesh=None: Flat()
  return cli.main()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with a run that has made no step, and untrimmed videos."""
  folder = tmp_path_factory.mktemp("pod")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(models, "build_encoder", lambda config, mesh=None: Flat())
    _write_run(folder)
  small.write_videos(folder / "untrimmed")
  return folder


def _write_run(folder):
  config = small.shrink(small.load("cvrl.py", "demo"), **VALUES)
  augment.presets.none(config.augment)
  params, state = small.init(methods.load("cvrl").build(config, None))
  run_folder.save_run(folder / "run", config, params, state)


def _start(command, processes, devices, *flags):
  """Starts `vssl COMMAND` in several processes of several devices each."""
  address = f"127.0.0.1:{multiprocess_test._free_port()}"
  told = lambda i: [
    f"--config.distributed.{k}={v}"
    for k, v in {"coordinator": address, "processes": processes, "index": i, "timeout": 4}.items()
  ]
  return [
    subprocess.Popen(
      [
        sys.executable,
        "-c",
        _MAIN,
        command,
        *map(str, flags),
      ]
      + (told(i) if processes > 1 else []),
      cwd=small.ROOT,
      env=resume_test.environment(devices),
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    for i in range(processes)
  ]


def _evaluate(folder, output, processes, devices, *flags):
  given = [f"--checkpoint={folder / 'run'}", f"--output={output}", *FEW, *flags]
  return _start("evaluate", processes, devices, *given)


def _timeless(value):
  if isinstance(value, dict):
    return {k: _timeless(v) for k, v in value.items() if k not in TIMES}
  return [_timeless(v) for v in value] if isinstance(value, list) else value


def _numbers(value, name=""):
  """All numbers of a result, by their place."""
  if isinstance(value, dict | list):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, x in items for k, v in _numbers(x, f"{name}.{key}").items()}
  return {name: value} if isinstance(value, int | float) else {}


def _scores(output):
  files = sorted((output / "synthetic").glob("*.json"))
  return {f.stem: _timeless(json.loads(f.read_text())) for f in files}


def _names(output):
  hidden = lambda f: any(p.startswith(".") for p in f.relative_to(output).parts)
  deep = ("checkpoints", "events")
  found = (f.relative_to(output) for f in output.rglob("*") if f.is_file() and not hidden(f))
  return {str(f) for f in found if not any(x in str(f) for x in deep)}


@pytest.fixture(scope="module")
def whole(folder):
  """All protocols in one process of eight devices."""
  output = folder / "one"
  every = f"--untrimmed={folder / 'untrimmed'}"
  multiprocess_test._finish(_evaluate(folder, output, 1, 8, every))
  return output


@pytest.mark.slow
def test_every_protocol_has_the_scores_of_one_process(folder, whole):
  output = folder / "two"
  every = f"--untrimmed={folder / 'untrimmed'}"
  first, second = multiprocess_test._finish(_evaluate(folder, output, 2, 4, every))
  assert first.count("RESULT ") == 1
  assert "RESULT " not in second
  assert "finetune" not in second  # process 0 speaks for all
  one, two = _scores(whole), _scores(output)
  assert one.keys() == two.keys() == set(PROTOCOLS)
  assert {k: two[k] for k in two if k not in TUNED} == {k: one[k] for k in one if k not in TUNED}
  for name in TUNED:  # sums over other devices are rounded otherwise
    assert _numbers(two[name]) == pytest.approx(_numbers(one[name]), rel=1e-3, abs=1e-4), name
  assert _names(output) == _names(whole)
  for file in (whole / "features").glob("*.npz"):
    a, b = features.load(file), features.load(output / "features" / file.name)
    np.testing.assert_array_equal(a.features, b.features)
    np.testing.assert_array_equal(a.video, b.video)
    assert (a.names, a.info) == (b.names, b.info)
  for file in (whole / "localization_features").glob("*.npy"):
    other = output / "localization_features" / file.name
    np.testing.assert_array_equal(np.load(file), np.load(other))
  assert "finished before" in multiprocess_test._finish(_evaluate(folder, output, 2, 4))[0]
