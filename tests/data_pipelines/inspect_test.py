import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from data_pipelines import inspect, manifest
from tests.data_pipelines import tiny
from vssl_jax.errors import UserError

CONFIG = """
from vssl_jax import config
def get_config():
  c = config.base("cvrl")
  c.data.size, c.data.frames = 16, 4
  c.data.threads = 1
  c.augment.jitter_p, c.augment.blur_p, c.augment.solarise_p = 0.0, (0.0,), (1.0,)
  return c
"""


def run(tmp_path, *arguments):
  (tmp_path / "config.py").write_text(CONFIG)
  command = [sys.executable, "-m", "data_pipelines.inspect", *map(str, arguments)]
  return subprocess.run(
    [*command, f"--config={tmp_path / 'config.py'}", f"--output={tmp_path / 'sheet.png'}"],
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_program_writes_the_sheet_and_prints_the_splits(tmp_path):
  folder = tiny.write(tmp_path / "records", [tiny.video(v) for v in range(3)])
  done = run(tmp_path, folder, "--videos=2")
  assert done.returncode == 0, done.stderr
  assert "train: 3 records" in done.stdout
  assert "frames: 40 to 40" in done.stdout
  with PIL.Image.open(tmp_path / "sheet.png") as sheet:
    assert min(sheet.size) > 200
    colours = {c for _, c in sheet.convert("RGB").getcolors(sheet.width * sheet.height)}
  assert len(colours) > 4


def test_program_tells_bad_input_in_one_line(tmp_path):
  done = run(tmp_path, tmp_path / "nothing")
  assert done.returncode == 2
  assert done.stderr.count("error:") == 1
  assert "nothing" in done.stderr.strip().splitlines()[-1]


def test_sheet_shows_each_clip_in_a_row_of_its_own(tmp_path):
  clips = np.zeros((2, 2, 3, 8, 8, 3), np.float32)
  for v in range(2):
    for r in range(2):
      for t in range(3):
        clips[v, r, t] = np.array([v, r, t / 2]) * 0.5 + 0.25
  path = tmp_path / "sheet.png"
  inspect.contact_sheet(clips, [["a", "b"], ["c", "d"]], path)
  pixels = np.asarray(PIL.Image.open(path).convert("RGB")).astype(int)
  places = {}
  for v in range(2):
    for r in range(2):
      for t in range(3):
        colour = np.round(clips[v, r, t, 0, 0] * 255).astype(int)
        found = np.argwhere((np.abs(pixels - colour) <= 1).all(-1))
        assert len(found) > 100
        places[v, r, t] = found.mean(axis=0)
  rows = [places[v, r, 0][0] for v in range(2) for r in range(2)]
  assert rows == sorted(rows)
  columns = [places[0, 0, t][1] for t in range(3)]
  assert columns == sorted(columns)


def test_captions():
  batch = {"video": np.array([7]), "label": np.array([1]), "offset": np.array([[3, 90]])}
  assert inspect.captions(batch, ["run", "surf"]) == [
    ["video 7\nsurf\nfrom frame 3", "video 7\nsurf\nfrom frame 90"]
  ]
  assert "label 1" in inspect.captions(batch, [])[0][0]


def test_statistics_from_the_manifest(tmp_path):
  tally = manifest.Tally()
  for i in range(20):
    tally.add_video(
      label=f"class {i:02d}", records=1, frames=600, seconds=7.0, fps=25.0, size=(320, 240),
      stored_size=(340, 256),
    )  # fmt: skip
  tally.add_unreadable("x.avi", "empty")
  split = manifest.Tally.merge([tally.counts]) | {"settings": {}, "notes": [], "shards": []}
  manifest.write_json(tmp_path / manifest.MANIFEST, manifest.build([], {"train": split}))
  text = inspect.statistics(tmp_path)
  assert "train: 20 videos, 20 records, 12,000 frames, 0.04 h, 0.00 GB, unreadable 1" in text
  assert "seconds: 5-10 (20)" in text
  assert "340x256 (20)" in text
  assert "and 8 more" in text


def test_statistics_of_a_foreign_manifest(tmp_path):
  (tmp_path / "manifest.json").write_text("{}")
  with pytest.raises(UserError, match="not a manifest"):
    inspect.statistics(tmp_path)


def test_statistics_of_a_folder_without_records(tmp_path):
  with pytest.raises(UserError, match="neither"):
    inspect.statistics(tmp_path)
