"""An address such as gs://bucket/run is refused in one line; nothing is written to a folder gs:."""

import pathlib

import pytest

from vssl_jax import cli, files
from vssl_jax.errors import UserError

AT = "gs://bucket/there"
COMMANDS = {
  "prepare from": ["prepare", AT, "records"],
  "prepare to": ["prepare", "videos", AT],
  "inspect": ["inspect", AT, "--config=cvrl:ucf6"],
  "train to": ["train", "--config=cvrl:demo", f"--workdir={AT}"],
  "train from records": ["train", "--config=cvrl:ucf6", f"--config.data.path={AT}"],
  "train from features": ["train", "--config=dcc", f"--config.data.path={AT}"],
  "train from a checkpoint": ["train", "--config=linear_probe:demo", f"--config.checkpoint={AT}"],
  "plan": ["plan", "--config=cvrl:demo", "--topology=cpu:8", f"--output={AT}"],
  "evaluate": ["evaluate", f"--checkpoint={AT}"],
  "export": ["export", f"--checkpoint={AT}", "--output=out"],
  "convert": ["convert", f"--from={AT}", "--format=pyslowfast", "--to=out"],
  "extract from": ["extract", f"--checkpoint={AT}", "--videos=videos", "--output=out"],
  "localize": ["localize", f"--checkpoint={AT}", "--data=data", "--output=out"],
  "score": ["score", f"--annotations={AT}", f"--predictions={AT}"],
  "uncertainty": ["uncertainty", f"--checkpoint={AT}", "--output=out"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_refuse(name, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "videos").mkdir()
  (tmp_path / "videos" / "a.mp4").write_bytes(b"no video")
  assert cli.main(COMMANDS[name]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: ")
  assert "gs://bucket/there" in line
  assert "only file systems are supported; mount the bucket, or copy it to this machine" in line
  assert not (tmp_path / "gs:").exists()


@pytest.mark.parametrize("path", [AT, "s3://b", "hf://a/b", pathlib.Path(AT)])
def test_addresses(path):
  with pytest.raises(UserError, match="only file systems are supported"):
    files.local(path)


@pytest.mark.parametrize("path", ["a", "/a/b", "C:/runs", "a:b", "./gs:/x", pathlib.Path("a")])
def test_paths(path):
  assert files.local(path) == pathlib.Path(path)
