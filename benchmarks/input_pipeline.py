"""Compares the training input pipeline with CVRL's official one, on the same records in one run.

Both cut two clips of 16 frames, stride 2, at 224² from each video. The official pipeline
(tf-models-official, `official/projects/video_ssl`) also changes colors and blurs on the host and
sends float32. Ours sends uint8 and does color and blur on the accelerator; that time is printed
separately.

  python benchmarks/input_pipeline.py --records=DIR --rival_python=rival/bin/python
  python benchmarks/input_pipeline.py --memory_clips=10000
  python benchmarks/input_pipeline.py --videos=DIR --split=train
  python benchmarks/input_pipeline.py --slow_input --records=DIR

With --videos, our records of JPEGs and of encoded videos (`vssl prepare --store`) are compared with
reading the same videos without preparation (`config.data.source=videos`): clips per core-second,
with the CPU time of the processes that decode, and bytes on disk. The records are made first;
without DIR, so are the videos. --stores=frames,h264 compares other forms.

With --slow_input, our pipeline as it is, with `config.data.cache=host`, with `device` and with
`config.data.echo=2` are compared: clips that reach the devices per core-second of the host. To
decode all videos first is not counted, nor what the devices do (`device`: crop and scale).

The two run alternately on the same pinned cores; the one that waits is stopped. Clips per
core-second use the CPU time of each process, so other work on the machine hardly matters; compare
the ratio. Without --records, synthetic textures of 340 x 256 are encoded; real videos have more
detail and take longer to decode.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

_RIVAL = """\
The official pipeline pins an older TensorFlow, so it needs an environment of its own:
  python3.11 -m venv rival
  rival/bin/pip install --no-deps tf-models-official==2.20.0
  rival/bin/pip install "tensorflow-cpu~=2.20.0" "tf-keras~=2.20.0" gin-config pyyaml scipy \\
    matplotlib psutil pillow pycocotools opencv-python-headless tensorflow-datasets
then pass --rival_python=rival/bin/python."""


_OURS = {  # fields of config.data
  "ours": {},
  "cached": {"cache": "host"},
  "device": {"cache": "device"},
  "echo": {"echo": 2},
}


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--records", default="", help="folder of records; synthetic ones if empty")
  parser.add_argument("--split", default="train")
  parser.add_argument(
    "--videos",
    nargs="?",
    const="-",
    default="",
    metavar="DIR",
    help="compare records with the videos of this folder; made-up ones without DIR",
  )
  parser.add_argument(
    "--slow_input", action="store_true", help="compare the cache of decoded frames, and echo"
  )
  parser.add_argument("--short_side", type=int, default=256, help="with --videos, pixels")
  parser.add_argument(
    "--stores", default="frames,video", help="with --videos, the forms of records to compare"
  )
  parser.add_argument("--cache", default="", help=argparse.SUPPRESS)
  parser.add_argument("--rival_python", default="", help="Python that has tf-models-official")
  parser.add_argument("--frames", type=int, default=16)
  parser.add_argument("--stride", type=int, default=2)
  parser.add_argument("--size", type=int, default=224)
  parser.add_argument("--batch", type=int, default=8, help="videos per batch, two clips each")
  parser.add_argument("--batches", type=int, default=8, help="batches per round")
  parser.add_argument("--rounds", type=int, default=3, help="rounds of each side, alternating")
  parser.add_argument("--cores", type=int, default=1, help="host cores that both are pinned to")
  parser.add_argument(
    "--accelerator_clips_per_second",
    type=float,
    default=1000.0,
    help="clips/s that an accelerator consumes; the output says how many cores feed it",
  )
  parser.add_argument(
    "--memory_clips", type=int, default=0, help="only measure memory, over this many clips"
  )
  parser.add_argument("--no_device", action="store_true", help="skip the device augmentation")
  parser.add_argument("--json", default="", help="also write the result to this file")
  parser.add_argument("--worker", choices=(*_OURS, "rival", "videos"), help=argparse.SUPPRESS)
  return parser.parse_args()


def _ours(args: argparse.Namespace) -> Iterator[Any]:
  from data_pipelines import source
  from vssl_jax import config
  from vssl_jax.training import sources

  data = config.data()
  data.path, data.train_split, data.threads = args.records, args.split, args.cores
  data.frames, data.stride, data.size = args.frames, args.stride, args.size
  data.update(_OURS[args.worker])
  data.cache_folder = args.cache  # one that is removed, because workers are killed
  videos = source.load(data, split=args.split, batch_size=args.batch, seed=0)
  if data.cache == "device":
    for batch in videos.cut_batches():
      yield batch["cuts"]
  for batch in sources.train_batches(videos, 0, echo=data.echo):
    yield batch["clips"]


def _direct(args: argparse.Namespace) -> Iterator[Any]:
  from data_pipelines import source
  from vssl_jax import config

  data = config.data()
  data.source, data.path, data.train_split = "videos", args.videos, args.split
  data.threads, data.frames, data.stride, data.size = (
    args.cores,
    args.frames,
    args.stride,
    args.size,
  )
  data.videos.short_side, data.videos.cache = args.short_side, args.cache
  videos = source.load(data, split=args.split, batch_size=args.batch, seed=0)
  for batch in videos.train_batches():
    yield batch["clips"]


def _rival(args: argparse.Namespace) -> Iterator[Any]:
  os.environ["TF_USE_LEGACY_KERAS"] = "1"
  from official.core import input_reader
  from official.projects.video_ssl.configs import video_ssl
  from official.projects.video_ssl.dataloaders import video_ssl_input
  from official.vision.dataloaders import tfds_factory, video_input  # noqa: F401

  import tensorflow as tf  # isort: skip

  params = video_ssl.DataConfig(
    name="records",
    num_classes=400,
    is_training=True,
    is_ssl=True,
    input_path=str(pathlib.Path(args.records) / f"{args.split}-*-of-*"),
    feature_shape=(args.frames, args.size, args.size, 3),
    temporal_stride=args.stride,
    global_batch_size=args.batch,
    shuffle_buffer_size=args.batch,
  )
  parser = video_ssl_input.Parser(input_params=params)
  reader = input_reader.InputReader(
    params,
    dataset_fn=tf.data.TFRecordDataset,
    decoder_fn=video_input.Decoder().decode,
    parser_fn=parser.parse_fn(params.is_training),
    postprocess_fn=video_ssl_input.PostBatchProcessor(params),
  )
  for features, _ in reader.read():
    yield features["image"].numpy()


def _work(args: argparse.Namespace) -> None:
  """A worker process: reads a number of batches per line, times them and prints the figures."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
  batches = {"rival": _rival, "videos": _direct}.get(args.worker, _ours)(args)
  first = next(batches)
  _answer({"bytes": first.nbytes // (2 * args.batch), "dtype": str(first.dtype)})
  for line in sys.stdin:
    wall, cpu = time.perf_counter(), _cpu_seconds()
    for _ in range(int(line)):
      next(batches)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    _answer(
      {
        "wall": time.perf_counter() - wall,
        "cpu": _cpu_seconds() - cpu,
        "rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
      }
    )


def _cpu_seconds() -> float:
  """CPU time of this process and of those that it has started and that are alive."""
  total = time.process_time()
  for process in multiprocessing.active_children():
    # Fields 14 and 15 of stat, counted behind the name in brackets, which may have spaces.
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
  return total


def _answer(values: dict) -> None:
  print("\n#" + json.dumps(values), flush=True)


class _Worker:
  """A pipeline in its own process, which is stopped except during `run`."""

  def __init__(self, args: argparse.Namespace, kind: str, python: str):
    passed = ("records", "split", "frames", "stride", "size", "batch", "cores")
    passed += ("videos", "short_side") if kind == "videos" else ()
    passed += () if kind == "rival" else ("cache",)
    command = [python, __file__, f"--worker={kind}"]
    command += [f"--{name}={getattr(args, name)}" for name in passed]
    root = str(pathlib.Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    if kind != "rival":
      environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115, lives as long as the process
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._log,
      text=True,
      env=environment,
    )
    self.about = self._read()
    self._process.send_signal(signal.SIGSTOP)

  def run(self, batches: int) -> dict:
    """Times this many batches."""
    self._process.send_signal(signal.SIGCONT)
    self._process.stdin.write(f"{batches}\n")
    self._process.stdin.flush()
    values = self._read()
    self._process.send_signal(signal.SIGSTOP)
    return values

  def close(self) -> None:
    """Ends the process."""
    self._process.kill()
    self._process.wait()

  def _read(self) -> dict:
    for line in self._process.stdout:
      if line.startswith("#"):
        return json.loads(line[1:])
    self._log.seek(0)
    sys.exit(f"the worker failed: {''.join(self._log.readlines()[-5:])}")


def _synthetic_videos(folder: pathlib.Path, split: str, size: tuple[int, int] = (256, 340)) -> None:
  """Writes a few MP4s of moving textures, in H.264 with B-frames."""
  import av
  import numpy as np
  import PIL.Image

  rng = np.random.default_rng(0)
  (folder / split).mkdir(parents=True)
  for v in range(8):
    noise = rng.integers(0, 255, (40, 140, 3), np.uint8)
    wide = PIL.Image.fromarray(noise).resize((size[1] * 2, size[0]), PIL.Image.BICUBIC)
    with av.open(str(folder / split / f"{v}.mp4"), "w") as container:
      stream = container.add_stream("libx264", rate=25)
      stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
      for t in range(100):
        picture = wide.crop((2 * t, 0, 2 * t + size[1], size[0]))
        container.mux(stream.encode(av.VideoFrame.from_image(picture)))
      container.mux(stream.encode())


def _compare_videos(args: argparse.Namespace, folder: pathlib.Path) -> dict:
  """Records of several forms against the videos that they are made of."""
  from data_pipelines.listing import given, video_list
  from data_pipelines.prepare.prepare import prepare

  if args.videos == "-":
    args.videos = str(folder / "videos")
    _synthetic_videos(folder / "videos", args.split)
  stores = args.stores.split(",")
  records = {store: folder / f"records_{store}" for store in stores}
  if args.records:
    records["frames"] = pathlib.Path(args.records)
  for store, where in records.items():
    if not where.exists():
      how = {"short_side": args.short_side, "split": args.split, "store": store}
      made = prepare(args.videos, where, **how)
      print(f"{store}: {made['splits'][args.split].get('forms', 'JPEGs')}")
  args.cache = str(folder / "cache")
  listed = given.videos(args.videos, split=args.split)
  chosen = {e.path for e in listed.entries if e.split == args.split}
  sizes = {
    "direct": sum(os.path.getsize(video_list.locate(listed.root, path)) for path in chosen),
  }
  workers = {}
  for store, where in records.items():
    sizes[store] = sum(p.stat().st_size for p in where.glob(f"{args.split}-*.tfrecord"))
    args.records = str(where)
    workers[store] = _Worker(args, "ours", sys.executable)
  start = time.perf_counter()
  workers["direct"] = _Worker(args, "videos", sys.executable)
  seconds = time.perf_counter() - start
  sizes["cache"] = sum(p.stat().st_size for p in pathlib.Path(args.cache).rglob("*.*"))
  rounds: dict[str, list[dict]] = {name: [] for name in workers}
  for turn in range(args.rounds + 1):  # the first warms up
    for name, worker in workers.items():
      figures = worker.run(args.batches)
      if turn:
        rounds[name].append(figures)
  clips = 2 * args.batch * args.batches
  result: dict[str, Any] = {"bytes": sizes, "seconds_until_first_batch": seconds}
  for name, worker in workers.items():
    worker.close()
    by_cpu = statistics.median(clips / r["cpu"] for r in rounds[name])
    by_wall = statistics.median(clips / r["wall"] for r in rounds[name]) / args.cores
    result[name] = {
      "clips_per_core_second": by_cpu,
      "clips_per_second_per_core_wall": by_wall,
      "bytes_per_video": sizes[name] / len(chosen),
    }
    print(
      f"{name:9}{by_cpu:8.1f} clips per core-second ({by_wall:.1f} by the clock), "
      f"{sizes[name] / len(chosen) / 1e6:.3f} MB a video"
    )
  first = stores[0]
  result["ratio"] = {}
  for name in [n for n in workers if n != first]:
    pairs = zip(rounds[first], rounds[name], strict=True)
    ratios = [theirs["cpu"] / ours["cpu"] for theirs, ours in pairs]
    result["ratio"][name] = statistics.median(ratios)
    print(
      f"{name} / {first}: {statistics.median(ratios):.2f} of the clips per core-second (rounds "
      f"{min(ratios):.2f} to {max(ratios):.2f}), {sizes[name] / sizes[first]:.3f} of the bytes"
    )
  print(
    f"{len(chosen)} videos; {sizes['cache'] / len(chosen) / 1e3:.1f} kB a video in the cache of "
    f"direct; pinned to {args.cores} core(s)"
  )
  return result


def _synthetic_records(folder: str, size: tuple[int, int] = (256, 340)) -> str:
  """Writes a few videos of moving textures and returns the folder."""
  import io

  import numpy as np
  import PIL.Image

  from data_pipelines.records import sequence_example as example
  from data_pipelines.records import tfrecord

  rng = np.random.default_rng(0)
  with tfrecord.ShardWriter(pathlib.Path(folder) / "train-00000-of-00001.tfrecord") as writer:
    for v in range(8):
      noise = rng.integers(0, 255, (40, 140, 3), np.uint8)
      wide = PIL.Image.fromarray(noise).resize((size[1] * 2, size[0]), PIL.Image.BICUBIC)
      frames = []
      for t in range(100):
        buffer = io.BytesIO()
        wide.crop((2 * t, 0, 2 * t + size[1], size[0])).save(buffer, "JPEG", quality=85)
        frames.append(buffer.getvalue())
      writer.write(example.encode(example.Video(frames=frames, fps=25.0, label=v)))
  return folder


def _device(args: argparse.Namespace) -> dict | None:
  """Milliseconds per clip of our color and blur on the accelerator, or None without one."""
  import jax
  import numpy as np

  from vssl_jax import augment, config

  shape = (args.batch, 2, args.frames, args.size, args.size, 3)
  clips = jax.device_put(np.random.default_rng(0).integers(0, 255, shape, np.uint8))
  run = jax.jit(augment.build(config.augment(), args.size))
  keys = jax.random.split(jax.random.key(0), args.batch)
  jax.block_until_ready(run(keys, clips))
  seconds = []
  for _ in range(args.rounds):
    start = time.perf_counter()
    jax.block_until_ready(run(keys, clips))
    seconds.append(time.perf_counter() - start)
  return {
    "device": jax.devices()[0].device_kind,
    "ms_per_clip": statistics.median(seconds) / (2 * args.batch) * 1e3,
  }


def _memory(args: argparse.Namespace) -> dict:
  worker = _Worker(args, "ours", sys.executable)
  batches = max(1, args.memory_clips // (2 * args.batch) // 10)
  sizes = []
  for i in range(10):
    sizes.append(worker.run(batches)["rss_mb"])
    print(f"{(i + 1) * batches * 2 * args.batch:8,} clips: {sizes[-1]:8.0f} MB resident")
  worker.close()
  print(f"from the first tenth to the last: {sizes[-1] - sizes[0]:+.0f} MB")
  return {"rss_mb": sizes}


def _compare(args: argparse.Namespace) -> dict:
  workers = {"ours": _Worker(args, "ours", sys.executable)}
  if args.rival_python and pathlib.Path(args.rival_python).exists():
    workers["official"] = _Worker(args, "rival", args.rival_python)
  else:
    print(_RIVAL)
  rounds = {name: [] for name in workers}
  for turn in range(args.rounds + 1):  # the first warms up
    for name, worker in workers.items():
      figures = worker.run(args.batches)
      if turn:
        rounds[name].append(figures)
  clips = 2 * args.batch * args.batches
  result = {}
  for name, worker in workers.items():
    by_cpu = statistics.median(clips / r["cpu"] for r in rounds[name])
    by_wall = statistics.median(clips / r["wall"] for r in rounds[name]) / args.cores
    result[name] = {
      "clips_per_core_second": by_cpu,
      "clips_per_second_per_core_wall": by_wall,
      "host_mb_per_second_per_core": by_cpu * worker.about["bytes"] / 1e6,
      **worker.about,
    }
    worker.close()
    need = args.accelerator_clips_per_second / by_cpu
    print(
      f"{name:9}{by_cpu:8.1f} clips per core-second ({by_wall:.1f} by the clock), "
      f"{worker.about['dtype']} {worker.about['bytes'] / 1e6:.1f} MB a clip, "
      f"{result[name]['host_mb_per_second_per_core']:.0f} MB/s; "
      f"{need:.1f} cores for {args.accelerator_clips_per_second:g} clips/s"
    )
  if "official" in result:
    pairs = zip(rounds["ours"], rounds["official"], strict=True)
    ratios = [theirs["cpu"] / ours["cpu"] for ours, theirs in pairs]
    result["ratio"] = statistics.median(ratios)
    print(
      f"ours / official: {result['ratio']:.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f}; "
      f"target 4), pinned to {args.cores} core(s)"
    )
  if not args.no_device:
    result["device_augmentation"] = device = _device(args)
    print(f"our color and blur on {device['device']}: {device['ms_per_clip']:.2f} ms a clip")
  return result


def _slow_input(args: argparse.Namespace) -> dict:
  """What is there against slow input, against our pipeline without it."""
  workers = {name: _Worker(args, name, sys.executable) for name in _OURS}
  rounds: dict[str, list[float]] = {name: [] for name in workers}
  clips = 2 * args.batch * args.batches
  for turn in range(args.rounds + 1):  # the first warms up
    for name, worker in workers.items():
      figures = worker.run(args.batches)
      if turn:
        rounds[name].append(clips / figures["cpu"])
  result: dict[str, Any] = {}
  for name, worker in workers.items():
    worker.close()
    ratios = [a / b for a, b in zip(rounds[name], rounds["ours"], strict=True)]
    result[name] = {
      "clips_per_core_second": statistics.median(rounds[name]),
      "ratio": statistics.median(ratios),
    }
    print(
      f"{name:9}{result[name]['clips_per_core_second']:8.1f} clips per core-second, "
      f"{result[name]['ratio']:.2f} of ours (rounds {min(ratios):.2f} to {max(ratios):.2f})"
    )
  return result


def main() -> None:
  """Prints the comparison and writes it as JSON if asked."""
  args = _arguments()
  if args.worker:
    _work(args)
    return
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
  with tempfile.TemporaryDirectory() as folder:
    if args.videos:
      result = _compare_videos(args, pathlib.Path(folder))
    else:
      args.records = args.records or _synthetic_records(folder)
      if args.slow_input:
        args.cache = folder
        result = _slow_input(args)
      else:
        result = _memory(args) if args.memory_clips else _compare(args)
  if args.json:
    about = {"machine": platform.machine(), "cores": args.cores, "argv": sys.argv[1:]}
    pathlib.Path(args.json).write_text(json.dumps({**about, **result}, indent=1) + "\n")


if __name__ == "__main__":
  main()
