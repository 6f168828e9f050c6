"""Every reader of files that others made: a good file, and the function that reads it."""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import numpy as np
from safetensors.numpy import save

from data_pipelines import arrays
from data_pipelines.encoded import example, pack
from data_pipelines.encoded import read as encoded_read
from data_pipelines.listing import split_lists, video_list
from data_pipelines.prepare import resume
from data_pipelines.records import fingerprint, index, manifest, sequence_example, tfrecord
from data_pipelines.sources import features as features_source
from data_pipelines.untrimmed import sequences, stitched
from data_pipelines.videos import decode
from data_pipelines.videos.damage import UnreadableError
from tests.data_pipelines import tiny
from tests.data_pipelines.encoded import moving
from vssl_jax import methods
from vssl_jax.encoder import card, exported
from vssl_jax.errors import UserError
from vssl_jax.evaluation import subsets
from vssl_jax.localization import annotations, check, score
from vssl_jax.probes import features as probe_features
from vssl_jax.training import metrics_log, run_config
from vssl_jax.weights import files as weight_files

SEQUENCE = {"split": "train", "batch_size": 1, "seed": 0, "process_index": 0, "process_count": 1}


@dataclasses.dataclass(frozen=True)
class Reader:
  """A reader, and how to try it.

  Attributes:
    make: writes a good folder, and returns the file to damage.
    read: reads the folder.
    text: whether the file is text.
    weight: its share of the tries, less where reading is slow.
  """

  make: Callable[[pathlib.Path], pathlib.Path]
  read: Callable[[pathlib.Path], object]
  text: bool
  weight: float = 1.0


def _put(folder, name, content):
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def _json(folder, name, tree):
  return _put(folder, name, json.dumps(tree, indent=1))


def _csv(folder):
  for name in "ab":
    _put(folder, f"{name}.mp4", b"x")
  rows = "path,label,start,end,split,caption\na.mp4,run,0,2.5,train,one\nb.mp4,jump,1,3,test,two\n"
  return _put(folder, "videos.csv", rows)


def _ucf(folder):
  for name in ("Run/v_1.avi", "Jump/v_2.avi"):
    _put(folder, name, b"x")
  _put(folder, "classInd.txt", "1 Run\n2 Jump\n")
  return _put(folder, "trainlist01.txt", "Run/v_1.avi 1\nJump/v_2.avi 2\n")


def _read_ucf(folder):
  lists = [folder / "trainlist01.txt", folder / "classInd.txt"]
  return split_lists.apply(video_list.from_folder(folder), lists)


def _hmdb(folder):
  for name in ("run/a.avi", "run/b.avi"):
    _put(folder, name, b"x")
  return _put(folder, "run_test_split1.txt", "a.avi 1\nb.avi 2\nc.avi 0\n")


def _read_hmdb(folder):
  lists = [folder / "run_test_split1.txt"]
  return split_lists.apply(video_list.from_folder(folder), lists)


def _truth(folder):
  one = {"segment": [0.5, 2.0], "label": "run"}
  entry = {"subset": "train", "duration": 6.0, "annotations": [one]}
  database = {name: entry for name in ("v_1", "v_2")}
  for name in database:
    np.save(folder / f"{name}.npy", np.ones((9, 4), np.float32))
  return _json(folder, "annotations.json", {"version": "1.3", "database": database})


def _localization(folder):
  data = tiny.data(folder, source="localization", frames=4)
  return data


def _read_truth(folder):
  source = sequences.load(_localization(folder), **SEQUENCE)
  return source.eval_example(0)


def _durations(folder):
  _truth(folder)
  return _put(folder, "durations.csv", "video_id,duration_s\nv_1,6.0\nv_2,5.5\n")


def _predictions(folder):
  _truth(folder)
  found = [{"segment": [0.5, 1.5], "label": "run", "score": 0.5}]
  return _json(folder, "predictions.json", {"version": "1.3", "results": {"v_1": found}})


def _feature_npy(folder):
  _truth(folder)
  return folder / "v_1.npy"


def _npz(folder, name="clips.npz", compressed=False):
  path = folder / name
  (np.savez_compressed if compressed else np.savez)(
    path,
    features=np.ones((4, 3, 2), np.float32),
    label=np.array([0, 1, 0, 1]),
    length=np.array([3, 2, 1, 3]),
    subset=np.array(["train", "train", "test", "test"]),
  )
  return path


def _read_npz(folder):
  data = tiny.data(folder / "clips.npz", source="features", frames=2)
  return features_source.load(data, **SEQUENCE).eval_example(0)


def _read_stitched(folder):
  data = tiny.data(folder / "clips.npz", source="stitched", frames=2)
  data.localization.videos = data.localization.eval_videos = 2
  data.localization.max_seconds = 5.0
  return stitched.make(data, ["train"])


def _feature_table(folder):
  for name in "ab":
    np.save(folder / f"{name}.npy", np.ones((3, 2)))
  return _put(folder, "labels.csv", "path,label,split\na.npy,run,train\nb.npy,jump,train\n")


def _read_table(folder):
  data = tiny.data(folder, source="features", frames=2)
  return features_source.load(data, **SEQUENCE).eval_example(0)


def _records(folder, shard="train-00000-of-00002.tfrecord"):
  for number in range(2):
    with tfrecord.ShardWriter(folder / f"train-{number:05d}-of-00002.tfrecord") as writer:
      for i in range(2):
        video = sequence_example.Video([b"\xff\xd8x"] * 2, 25.0, i, "run", f"{number}{i}.mp4")
        writer.write(sequence_example.encode(video))
  _put(folder, "labels.txt", "run\njump\n")
  index.load(folder, "train")  # writes the index
  return folder / shard


def _index(folder):
  _records(folder)
  return folder / "train.index.npz"


def _old_index(folder):
  _records(folder)
  where, path = index.load(folder, "train"), folder / "train.index.npz"
  names = np.array([pathlib.Path(f).name for f in where.files])
  fields = {"shard": where.shard(), "offset": where.offset, "length": where.length()}
  np.savez(path, files=names, sizes=where.sizes, **fields)
  return path


def _labels(folder):
  _records(folder)
  return folder / "labels.txt"


def _manifest(folder):
  _records(folder)
  where = index.load(folder, "train")
  counts = manifest.Tally()
  facts = {"frames": 8, "seconds": 1.0, "fps": 25.0, "size": (8, 8), "stored_size": (8, 8)}
  counts.add_video(label="run", records=4, **facts)
  shards = [
    {"name": name, "records": n, "bytes": size, "sha256": "0" * 64}
    for name, (n, size) in index.counts(where).items()
  ]
  settings = dataclasses.asdict(decode.FrameSettings())
  split = {**counts.counts, "settings": settings, "notes": [], "shards": shards}
  manifest.write_json(folder / "manifest.json", manifest.build(["run", "jump"], {"train": split}))
  return folder / "manifest.json"


def _read_records(folder):
  where = index.load(folder, "train")
  fingerprint.of_records(folder, "train", where)
  manifest.read_labels(folder)
  if stored := manifest.read(folder):
    manifest.summary(stored)
  return [
    sequence_example.decode(index.read_record(where, i, verify=True)) for i in range(len(where))
  ]


def _read_unverified(folder):
  where = index.load(folder, "train")
  data = [index.read_record(where, i) for i in range(len(where))]
  return [(sequence_example.filename_of(x[:64]), sequence_example.decode(x)) for x in data]


def _record(folder):
  video = sequence_example.Video([b"\xff\xd8x"] * 2, 25.0, 1, "run", "a.mp4", 0, 80_000, "words")
  return _put(folder, "record", sequence_example.encode(video))


def _read_record(folder):
  data = (folder / "record").read_bytes()
  return sequence_example.filename_of(data), sequence_example.decode(data)


def _encoded_record(folder):
  moving.write(folder / "a.mp4", 12, b_frames=2)
  (made,) = pack.pack(folder / "a.mp4", decode.FrameSettings(short_side=0, store="video"))
  about = sequence_example.Video(frames=(), fps=25.0, label=0, filename="a.mp4")
  return _put(folder, "record", example.encode(made.video, about))


def _read_encoded_record(folder):
  try:
    video = example.decode((folder / "record").read_bytes())
    return encoded_read.pictures(video, (0, len(video.shown) - 1))
  except (ValueError, UnreadableError) as error:
    raise UserError(str(error)) from None


def _array(folder, name):
  video = np.arange(5 * 4 * 6 * 12, dtype=np.uint16).reshape(5, 4, 6, 12)
  (np.savez if name.endswith("z") else np.save)(folder / name, video)
  return folder / name


def _read_array(path):
  try:
    found = arrays.look(str(path))
    return arrays.read(found, [0, found.length - 1], (0.0, 1e4))
  except arrays.BadArrayError as error:
    raise UserError(str(error)) from None


def _plan(folder):
  _put(folder, "in/a.mp4", b"x")
  videos = video_list.from_folder(folder / "in")
  return videos, resume.plan(videos, decode.FrameSettings(), 1)[0]


def _job(folder):
  (folder / "out" / ".prepare").mkdir(parents=True)
  _, job = _plan(folder)
  resume.record(folder / "out", resume.settle(folder / "out", job))
  return folder / "out" / ".prepare" / "train.job.json"


def _read_job(folder):
  videos, job = _plan(folder)
  job = resume.settle(folder / "out", job)
  names = resume.settle_labels(folder / "out", videos, None)
  tasks = resume.tasks(folder / "out", videos.root, job, names, False)
  return [task.result() for task in tasks], resume.earlier(folder / "out")


def _result(folder):
  _job(folder)
  videos, job = _plan(folder)
  (task,) = resume.tasks(folder / "out", videos.root, job, (), False)
  _put(folder, f"out/{task.name}", b"")
  result = {"fingerprint": task.fingerprint(), "name": task.name, "records": 0, "bytes": 0}
  result |= {"sha256": "0" * 64, "counts": manifest.Tally().counts}
  manifest.write_json(task.state, result)
  _put(folder, "out/manifest.json", "{")
  return task.state


def _run(folder):
  config = methods.base_config("cvrl")
  (folder / "checkpoints").mkdir()
  run_config.write_config(folder, config.lock())
  return folder / "config.json"


def _read_run(folder):
  config = methods.from_file(run_config.load_config(folder), folder)
  return run_config.check_config(folder, config)


def _log(folder):
  return _put(folder, "metrics.jsonl", '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": "nan"}\n')


def _read_log(folder):
  metrics_log.cut_back(folder, 1)
  return metrics_log.read(folder)


VARIABLES = {
  "params": {"a": {"kernel": np.ones((2, 3), np.float32)}},
  "batch_stats": {"a": {"mean": np.zeros(3, np.float32)}},
}


def _card(folder):
  exported.save_encoder(folder, methods.base_config("cvrl"), VARIABLES, info={"step": 5})
  return folder / "encoder.json"


def _weights(folder):
  _card(folder)
  return folder / "encoder.safetensors"


def _read_card(folder):
  config, variables = exported.load_exported(folder)
  found = exported.load_card(folder)
  return methods.from_file(config, folder), variables, found["checkpoint"].get("step")


def _read_weights(folder):
  """As with a card that fits: its hash would hide the reader of the arrays."""
  path = folder / "encoder.safetensors"
  told = json.loads((folder / "encoder.json").read_text())
  told["weights"]["sha256"] = exported.results_lib.file_hash(path)
  (folder / "encoder.json").write_text(json.dumps(told))
  return exported.load_exported(folder)


def _foreign_weights(folder):
  return _put(folder, "w.safetensors", save({"a": np.ones((2, 3), np.float32)}))


def _scores(folder):
  found = {"trained": {"encoder_sha256": "0", "top1": 0.5}, "headline": {}}
  return _json(folder, "result.json", found)


def _split_features(folder):
  count = 3
  found = probe_features.Features(
    np.ones((count, 1, 4), np.float32),
    np.arange(count, dtype=np.int32),
    np.arange(count),
    np.zeros((count, 1), np.int32),
    ("a", "b", "c"),
    ("x", "y", "z"),
    {"split": "train"},
  )
  probe_features.save(folder / "f.npz", found)
  return folder / "f.npz"


def _subset(folder):
  subsets.write(folder / "s.txt", [0, 2], [0, 1], ["x/a.mp4", "x/c.mp4"], ["run", "jump"])
  return folder / "s.txt"


def _read_subset(folder):
  return subsets.read(folder / "s.txt", ["x/a.mp4", "x/b.mp4", "x/c.mp4"], 3)


READERS = {
  "csv": Reader(_csv, lambda f: video_list.from_csv(f / "videos.csv"), True),
  "ucf list": Reader(_ucf, _read_ucf, True),
  "hmdb list": Reader(_hmdb, _read_hmdb, True),
  "annotations": Reader(_truth, _read_truth, True, 2.0),
  "durations": Reader(
    _durations,
    lambda f: annotations.read_annotations(f / "annotations.json", durations=f / "durations.csv"),
    True,
  ),
  "predictions": Reader(
    _predictions, lambda f: score.score(f / "annotations.json", f / "predictions.json"), True
  ),
  "feature npy": Reader(_feature_npy, _read_truth, False),
  "mapped npy": Reader(
    _feature_npy, lambda f: np.sum(check.read_sequence(f / "v_1.npy", mapped=True)), False
  ),
  "feature npz": Reader(_npz, _read_npz, False),
  "packed npz": Reader(lambda f: _npz(f, compressed=True), _read_npz, False),
  "stitched npz": Reader(_npz, _read_stitched, False, 0.3),
  "feature table": Reader(_feature_table, _read_table, True),
  "tfrecord": Reader(_records, _read_records, False),
  "unverified tfrecord": Reader(_records, _read_unverified, False),
  "record": Reader(_record, _read_record, False),
  "encoded record": Reader(_encoded_record, _read_encoded_record, False),
  "array npy": Reader(lambda f: _array(f, "a.npy"), lambda f: _read_array(f / "a.npy"), False),
  "array npz": Reader(lambda f: _array(f, "a.npz"), lambda f: _read_array(f / "a.npz"), False),
  "index": Reader(_index, _read_records, False, 0.6),
  "old index": Reader(_old_index, _read_records, False, 0.4),
  "labels": Reader(_labels, _read_records, True, 0.4),
  "manifest": Reader(_manifest, _read_records, True, 1.5),
  "job": Reader(_job, _read_job, True, 0.5),
  "shard result": Reader(_result, _read_job, True, 0.5),
  "run config": Reader(_run, _read_run, True, 0.3),
  "metrics": Reader(_log, _read_log, True),
  "card": Reader(_card, _read_card, True, 0.3),
  "encoder weights": Reader(_weights, _read_weights, False, 0.5),
  "safetensors": Reader(
    _foreign_weights, lambda f: weight_files.read_torch(f / "w.safetensors"), False
  ),
  "run scores": Reader(_scores, lambda f: card.results(f, {"0"}), True),
  "split features": Reader(
    _split_features, lambda f: probe_features.load(f / "f.npz").mean(), False
  ),
  "subset": Reader(_subset, _read_subset, True),
}
