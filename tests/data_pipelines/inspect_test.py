import subprocess
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from data_pipelines import inspect, source
from data_pipelines.records import manifest
from tests.data_pipelines import tiny
from vssl_jax import augment, methods, parallel
from vssl_jax.errors import UserError
from vssl_jax.methods.base import Method
from vssl_jax.training import optim
from vssl_jax.training import step as step_lib

CONFIG = """
from vssl_jax import methods
from vssl_jax.errors import UserError
def get_config(variant=""):
  if variant:
    raise UserError(f"no variant {variant!r}")
  c = methods.base_config("cvrl")
  c.batch_size = 3
  c.data.size, c.data.frames = 16, 4
  c.data.threads = 1
  c.augment.jitter_p, c.augment.blur_p, c.augment.solarize_p = 0.0, (0.0,), (1.0,)
  return c
"""


def run(tmp_path, *arguments, variant="", output="sheet.png"):
  (tmp_path / "config.py").write_text(CONFIG)
  command = [sys.executable, "-m", "data_pipelines.inspect", *map(str, arguments)]
  return subprocess.run(
    [*command, f"--config={tmp_path / 'config.py'}{variant}", f"--output={tmp_path / output}"],
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.mark.slow
def test_program_writes_the_sheet_and_prints_the_splits(tmp_path):
  folder = tiny.write(tmp_path / "records", [tiny.video(v) for v in range(3)])
  done = run(tmp_path, folder, "--videos=2")
  assert done.returncode == 0, done.stderr
  assert "train: 3 records" in done.stdout
  assert "frames: 40 to 40" in done.stdout
  assert "sheet.png: 2 of the 3 videos of batch 0" in done.stdout
  assert "batch_size" not in done.stdout + done.stderr
  with PIL.Image.open(tmp_path / "sheet.png") as sheet:
    assert min(sheet.size) > 200
    colors = {c for _, c in sheet.convert("RGB").getcolors(sheet.width * sheet.height)}
  assert len(colors) > 4


@pytest.mark.parametrize(
  ("arguments", "options", "message"),
  [
    (["nothing"], {}, "nothing"),
    ([], {"variant": ":odd"}, "no variant 'odd'"),
    ([], {"output": "none/sheet.png"}, "there is no folder"),
    (["--videos=0"], {}, "--videos"),
    (["--config.batch_size=0"], {}, "config.batch_size: 0 videos per batch; set it to 1 or more"),
    (["--config.data.nothing=1"], {}, "nothing"),
  ],
)
def test_program_tells_bad_input_in_one_line(tmp_path, arguments, options, message):
  done = run(tmp_path, *arguments, **options)
  assert done.returncode == 2
  assert done.stderr.count("error:") == done.stderr.count("\n") == 1
  assert message in done.stderr


def _clip(kind):
  rng = np.random.default_rng(0)
  moving = rng.integers(0, 256, (4, 8, 8, 3))
  fade = np.broadcast_to(np.array([60, 90, 120, 150])[:, None, None, None], (4, 8, 8, 3))
  dark = rng.integers(15, 21, (4, 8, 8, 3))
  still = moving[:1] + 0 * moving
  noisy = np.clip(still, 1, 254) + rng.integers(-1, 2, moving.shape)
  line = 0 * moving + np.eye(8, dtype=int)[..., None] * 60  # an image, though nearly black
  clips = {"moving": moving, "fade": fade, "dark": dark, "still": still, "noisy": noisy}
  return clips.get(kind, line + np.arange(4)[:, None, None, None])


@pytest.mark.parametrize(
  ("kind", "fault"),
  [
    ("moving", ""),
    ("fade", "one color"),
    ("dark", "black"),
    ("still", "no motion"),
    ("noisy", "no motion"),
    ("line", ""),
  ],
)
def test_what_a_model_can_learn_nothing_from_is_marked(kind, fault):
  clip = _clip(kind) / np.float32(255)
  assert inspect.faults(clip[None, None]) == [[fault]]
  one = inspect.faults(clip[None, None, :1])  # a single frame cannot move
  assert one == [[fault if fault != "no motion" else ""]]


def test_marks_are_red_on_the_sheet_and_listed(tmp_path, capsys, monkeypatch):
  """The whole path is named; a clip that only augmentation spoils is told apart."""
  good = _clip("moving").astype(np.uint8)
  bad = np.zeros_like(good)
  batch = {
    "clips": np.stack([np.stack([good, bad]), np.stack([good, good])]),
    "video": np.array([7, 8]),
    "label": np.array([0, 0]),
    "offset": np.array([[1, 2], [3, 4]]),
  }
  found = types.SimpleNamespace(label_names=("run",))
  monkeypatch.setattr(inspect, "training_rows", lambda *args, **kwargs: (found, batch, 2))
  spoiled = batch["clips"] / 255.0
  spoiled[1, 1] = 0.5
  monkeypatch.setattr(inspect, "augmented", lambda *args: spoiled)
  monkeypatch.chdir(tmp_path)
  c = config()
  c.batch_size, c.augment.mean, c.augment.std = 2, (0.0,), (1.0,)
  flags = inspect.parser().parse_args(["--output=a.png"])
  flags.config = c
  assert inspect.run(flags) == 0
  assert capsys.readouterr().out.splitlines() == [
    "note: 1 of 4 clips: black: video 7 run from frame 2",
    "note: 1 of 4 clips: one color after augmentation: video 8 run from frame 4",
    f"wrote {tmp_path / 'a.png'}: 2 of the 2 videos of batch 0",
  ]

  def reds(path):
    with PIL.Image.open(path) as sheet:
      pixels = np.asarray(sheet.convert("RGB")).astype(int)
    return np.sum((pixels == (255, 0, 0)).all(axis=-1))

  marked = reds(tmp_path / "a.png")
  inspect.contact_sheet(spoiled, inspect.captions(batch, ("run",)), tmp_path / "b.png")
  assert marked > 100 + reds(tmp_path / "b.png")


def config(**fields):
  c = methods.base_config("cvrl")
  c.batch_size, c.seed = 6, 3
  c.data = tiny.data(source="synthetic", synthetic__videos=13, **fields)
  c.augment.mean, c.augment.std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
  return c


def seen_by_training(c, step):
  """The pixels that a train step computes, brought out as its embeddings."""
  transform = augment.build(c.augment, c.data.size)

  def loss(params, state, batch, rng, step):
    x = transform(batch["key"], batch["clips"])
    return params["w"] * jnp.mean(x), (state, {"embeddings": x})

  spec = {"clips": jax.ShapeDtypeStruct((2, 4, 8, 8, 3), jnp.uint8)}
  method = Method(lambda rng, batch: ({"w": jnp.ones(())}, {}), None, spec, loss=loss)
  mesh, rate = parallel.make_mesh(jax.devices()[:1]), optim.schedule(0.1, 12, 2)
  tx = optim.build(c.optim, rate)
  advance = step_lib.make_step(method, tx, rate, seed=c.seed, accumulate=1, mesh=mesh)
  state = step_lib.init(method, tx, c.seed, mesh, c.batch_size).replace(step=jnp.int32(step))
  batches = source.load(c.data, split="train", batch_size=c.batch_size, seed=c.seed).train_batches(
    step
  )
  return jax.device_get(advance(state, parallel.put_batch(mesh, next(batches)))[1]["embeddings"])


def test_pixels_are_those_that_training_sees():
  c, step, videos = config(), 5, 4
  _, batch, size = inspect.training_rows(c, step=step, videos=videos)
  assert (len(batch["clips"]), size) == (videos, 6)
  shown = inspect.augmented(c, batch["clips"], step)
  np.testing.assert_allclose(shown, seen_by_training(c, step)[:videos], atol=2e-5)


def test_only_the_rows_shown_are_made(monkeypatch):
  made = []
  monkeypatch.setattr(
    inspect.source,
    "load",
    lambda *_, load=source.load, **kwargs: (
      made.append(kwargs["process_count"]) or load(*_, **kwargs)
    ),
  )
  inspect.training_rows(config(), step=0, videos=2)
  inspect.training_rows(config(), step=0, videos=4)
  assert made == [3, 1]


def test_fewer_videos_than_asked_for():
  c = config()
  found, batch, size = inspect.training_rows(c, step=0, videos=10)
  assert (len(batch["label"]), size, found.num_videos) == (6, 6, 13)
  c.batch_size = 100
  _, batch, size = inspect.training_rows(c, step=1, videos=20)
  assert sorted(batch["video"]) == list(range(13))
  assert size == 13


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"batch_size": 0}, r"config\.batch_size: 0 videos per batch"),
    ({"batch_size": -3}, r"config\.batch_size: -3 videos per batch"),
    ({"data.frames": 0}, r"config\.data\.frames: 0; set it to 1 or more"),
    ({"data.size": 0}, r"config\.data\.size: 0; set it to 1 or more"),
    ({"data.synthetic.videos": 0}, "'train' has no videos"),
  ],
)
def test_what_makes_no_batch_is_named(values, message):
  c = config()
  c.update_from_flattened_dict(values)
  with pytest.raises(UserError, match=message):
    inspect.training_rows(c, step=0, videos=2)


def test_labels_of_any_script_draw_without_a_warning(tmp_path):
  names = ["打篮球", "$a_{$", "\udce9\x07"]
  batch = {"video": np.zeros(3), "label": np.arange(3), "offset": np.zeros((3, 1), int)}
  texts = inspect.captions(batch, names)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    inspect.contact_sheet(np.zeros((3, 1, 2, 4, 4, 3)), texts, tmp_path / "sheet.png")
  assert (tmp_path / "sheet.png").stat().st_size > 1000
  assert inspect._drawable("é 篮") == r"é \u7bee"


def test_a_sheet_that_cannot_be_written(tmp_path):
  for name in ("sheet.odd", "none/sheet.png"):
    with pytest.raises(UserError, match="cannot be written"):
      inspect.contact_sheet(np.zeros((1, 1, 1, 4, 4, 3)), [["a"]], tmp_path / name)


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
        color = np.round(clips[v, r, t, 0, 0] * 255).astype(int)
        found = np.argwhere((np.abs(pixels - color) <= 1).all(-1))
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
      label=f"class {i:02d}",
      records=1,
      frames=600,
      seconds=7.0,
      fps=25.0,
      size=(320, 240),
      stored_size=(340, 256),
    )
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
