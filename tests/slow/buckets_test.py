"""A whole project in a bucket of a storage server, as on a machine without room of its own.

Prepare, train, SIGKILL, resume, evaluate and export write what they write in a file system.
"""

import json
import os
import subprocess

import numpy as np
import pytest

from tests import emulators, small
from tests.slow import resume_test
from vssl_jax import files, results
from vssl_jax.training import run_folder

pytest.importorskip("upath")
STEPS = 12


def training(records, workdir):
  """The command that trains, and the environment without the tests' devices."""
  data = {"data.source": "tfrecord", "data.path": str(records), "data.eval_split": "train"}
  return resume_test.command(workdir, steps=STEPS, **{"save.every": 2}, **data)


def run(command, variables):
  done = subprocess.run(
    command,
    cwd=small.ROOT,
    env={**resume_test.environment(), **variables},
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    timeout=600,
    check=False,
  )
  assert done.returncode == 0, done.stdout[-3000:]
  return done.stdout


def vssl(variables, *argv):
  python = resume_test.command("")[0]
  code = "import sys; from vssl_jax import cli; sys.exit(cli.main(sys.argv[1:]))"
  return run([python, "-c", code, *map(str, argv)], variables)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
  """Videos, their records, and a run that nothing interrupted."""
  folder = tmp_path_factory.mktemp("here")
  (folder / "videos").mkdir()
  small.write_videos(folder / "videos")
  vssl({}, "prepare", folder / "videos", folder / "records", "--shards=3", "--workers=2")
  run(training(folder / "records", folder / "run"), {})
  argv = [f"--checkpoint={folder / 'run'}", "--protocols=knn,logistic", "--splits=train:train"]
  vssl({}, "evaluate", *argv)
  return folder


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request):
  package = {"gs": ("gcsfs", "gcp_storage_emulator"), "s3": ("s3fs", "moto")}[request.param]
  for name in package:
    pytest.importorskip(name)
  with emulators.serve(request.param) as variables, emulators.used(variables):
    yield files.path(f"{request.param}://{emulators.BUCKET}"), variables


@pytest.mark.slow
def test_from_videos_to_an_exported_encoder(here, bucket):
  there, variables = bucket
  files.upload(here / "videos", str(there / "videos"))
  out = vssl(variables, "prepare", there / "videos", there / "records", "--shards=3", "--workers=2")
  whole = json.loads((here / "records" / "manifest.json").read_text())
  assert json.loads((there / "records" / "manifest.json").read_text()) == whole
  assert f"manifest_sha256 {results.file_hash(there / 'records' / 'manifest.json')}\n" in out

  command = training(there / "records", there / "run")
  killed = subprocess.Popen(
    command,
    cwd=small.ROOT,
    env={**resume_test.environment(), **variables},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  for line in killed.stdout:
    if line.startswith("step 7/"):
      killed.kill()
  assert killed.wait() == -9
  assert (there / "run" / ".lock").exists()
  out = run(command, variables)
  resumed = [line for line in out.splitlines() if line.startswith("Resuming")]
  assert resumed, out
  assert "at step 0" not in resumed[0]
  assert not (there / "run" / ".lock").exists()
  states = [run_folder.load_state(place / "run")[2] for place in (here, there)]
  assert results.tree_hash(states[0]) == results.tree_hash(states[1])
  assert small.rows(here / "run") == small.rows(there / "run")

  argv = [f"--checkpoint={there / 'run'}", "--protocols=knn,logistic", "--splits=train:train"]
  vssl(variables, "evaluate", *argv)
  scores = [
    json.loads((place / "run" / "evaluation" / "summary.json").read_text())["mean"]
    for place in (here, there)
  ]
  assert scores[0] == scores[1]
  argv = [f"--checkpoint={there / 'run'}", f"--output={there / 'encoder'}", "--features"]
  vssl(variables, "export", *argv, "--split=train")
  with np.load(files.open_read(there / "encoder" / "features_train.npz")) as stored:
    assert stored["features"].shape[0] == 8
  assert not os.path.exists(small.ROOT / f"{there.protocol}:")
