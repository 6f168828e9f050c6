"""Converts videos to sharded TFRecords: `vssl prepare INPUT OUTPUT`.

INPUT is a folder of class folders, a flat folder of videos without labels, folders of splits with
either in them, a CSV with a header line (`path,label[,start,end][,split…]`, or DMVR's
`video_path,start,end[,label][,caption]`), or lists of videos (`train.txt,val.txt`, with a line
`VIDEO` or `VIDEO LABEL` for each).
OUTPUT receives shards of SequenceExamples with DMVR's keys, one offset index per split,
`labels.txt` and `manifest.json`. With `--store=video` they hold the encoded videos, which take a
fraction of the bytes, and more work to read. INPUT and OUTPUT may be in a bucket, such as `gs://bucket/videos`.
If a run is interrupted, run the same command again: it continues with the unfinished shards.
Several runs may write different splits into one OUTPUT; the splits share its labels.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from data_pipelines import pixels
from data_pipelines.listing import given
from data_pipelines.prepare import engine as engine_lib
from data_pipelines.prepare import parts, resume
from data_pipelines.prepare import shards as shards_lib
from data_pipelines.records import index, manifest
from data_pipelines.videos import decode
from vssl_jax import files, former
from vssl_jax.cli import arguments
from vssl_jax.cli import progress as progress_lib
from vssl_jax.errors import UserError

TIMEOUT = 600.0  # seconds
RESUMES = True
EXAMPLES = """\
vssl prepare VIDEOS RECORDS
vssl prepare UCF101 RECORDS --split_list trainlist01.txt testlist01.txt --short_side=128
vssl prepare videos.csv RECORDS --split_column=split --workers=8
vssl prepare VIDEOS RECORDS --store=video
vssl prepare VIDEOS RECORDS --part=3/16
vssl prepare VIDEOS RECORDS --engine=ray --address=auto
"""
_REQUESTS = 16  # results of shards that are read at the same time
_LISTED = 10  # unreadable or noted videos printed; the manifest has all


def prepare(
  input: str | os.PathLike,
  output: str | os.PathLike,
  *,
  split: str = "train",
  split_column: str | None = None,
  split_list: Sequence[str | os.PathLike] = (),
  root: str | os.PathLike | None = None,
  flat: bool = False,
  labels: str | os.PathLike | None = None,
  fps: float = 0.0,
  short_side: int = 256,
  quality: int = 85,
  max_seconds: float = 120.0,
  raw_aspect: bool = False,
  stream_fps: float = 0.0,
  max_gap: float = 0.0,
  store: str = "frames",
  crf: int = 20,
  channels: int = 3,
  value_range: Sequence[float] = (),
  shards: int = 0,
  workers: int = 0,
  timeout: float = TIMEOUT,
  strict: bool = False,
  overwrite: bool = False,
  part: str | None = None,
  engine: str = "local",
  address: str = "",
  progress: bool = False,
) -> dict[str, Any]:
  """Converts videos to TFRecords; the same arguments give the same bytes, however many workers.

  Args:
    input: folder, CSV or lists, see the module's docstring.
    output: folder for the records, created if missing.
    split: name of the split if no column, list or folder gives one.
    split_column: CSV column with each video's split; videos with an empty value are left out.
    split_list: official UCF101 or HMDB51 lists of one split, for a folder of any layout.
    root: folder that the CSV's relative paths start from; by default the folder of the CSV.
    flat: take all videos of a folder, at any depth, as unlabeled and of one split.
    labels: text file with one class name per line, in the order of the class indices; by default
      the names in OUTPUT's `labels.txt` from an earlier run, else all names sorted.
    fps: frames per second to store, sampled by time stamps; 0 keeps each video's own frames.
    short_side: shorter side of the frames, pixels; keeps the aspect ratio and never enlarges; 0
      keeps the size.
    quality: JPEG quality, 1 to 100; without effect on encoded videos.
    max_seconds: longest record; a longer video becomes several records; 0 never splits.
    raw_aspect: keep frames as they are stored if their pixels are not square; else they are stored
      with the aspect ratio that players show.
    stream_fps: frames per second of streams without time stamps, such as `.h264`; 0 takes the rate
      that each stream states.
    max_gap: longest gap between two frames, seconds; a video with a longer one counts as
      unreadable. 0 keeps such videos, and notes gaps of more than a minute.
    store: "frames" stores JPEGs. "video" stores each video as it is encoded, without loss, if it is
      an MP4, MOV, MKV or WebM without faults whose frames are not larger than `short_side`; it
      leaves out sound, and what lies outside of `start` and `end`. All other videos are encoded
      again in H.264, with loss. "h264" encodes all of them again.
    crf: quality of H.264, 0 to 51: x264's constant rate factor; lower is better and larger.
    channels: 3 stores RGB, 1 gray; for `config.data.channels`.
    value_range: the two values of gray video of up to 16 bits, such as depth, that become 0 and
      255; () for 0 and the largest that its bits can hold.
    shards: shards per split; 0 chooses by the size of the video files.
    workers: number of processes; 0 starts one per core, of the whole cluster with Ray.
    timeout: seconds that a video may take before it counts as unreadable; a video longer than
      `max_seconds` may take this time for each of its records. 0 sets no limit; with 0 and one
      worker, everything runs in this process.
    strict: stop at the first unreadable video.
    overwrite: first remove what an earlier run wrote for these splits.
    part: "3/16" writes the third of sixteen parts of the shards. The other parts may be written at
      the same time, by other processes or machines that share OUTPUT. A last call without `part`
      finds the shards, writes what is missing, the index and the manifest.
    engine: "local" runs on this machine, "ray" on all nodes of a Ray cluster. All nodes must have
      `input` and `output` on shared storage under the same path, and the same software.
    address: of the Ray cluster: "HOST:PORT" of its head node, or "auto" on one of its nodes; by
      default the environment's RAY_ADDRESS, else a new cluster on this machine.
    progress: show a progress bar and notes on standard error.

  Returns:
    The manifest, as written to `manifest.json`. With `part`, no manifest is written, and this is
    what it would have of the part's shards. A split's `left_out` is the number of videos of the
    folder that are in no list.

  Raises:
    UserError: bad arguments or lists, `output` has records of other settings or videos, or the
      cluster cannot do the work.
    UnreadableVideoError: a video is unreadable and `strict` is True.
  """
  settings = decode.FrameSettings(
    fps=fps,
    short_side=short_side,
    quality=quality,
    max_seconds=max_seconds,
    raw_aspect=raw_aspect,
    stream_fps=stream_fps,
    max_gap=max_gap,
    store=store,
    crf=crf,
    channels=channels,
    value_range=pixels.value_range(value_range, name="--value_range"),
  )
  _check(settings, shards, workers, timeout)
  share = None if part is None else parts.Part.parse(part)
  if share and overwrite:
    raise UserError("overwrite would remove what other parts write: give it to the first run alone")
  output = files.path(output)
  run_tasks = engine_lib.choose(engine, address, workers, output)
  videos = given.videos(
    input,
    split=split,
    split_column=split_column,
    split_list=split_list,
    root=root,
    flat=flat,
  )
  if progress:
    for note in videos.notes:
      print(f"note: {files.printable(note)}", file=sys.stderr)
  try:
    with parts.claim(output, share):
      planned = resume.plan(videos, settings, shards)
      if overwrite:
        resume.remove(output, [job.split for job in planned])
      # A manifest that is not ours stops the run now, not at its end.
      resume.earlier(output, mend=share is None)
      planned = [resume.settle(output, job) for job in planned]
      names = resume.settle_labels(output, videos, labels)
      for job in planned:
        resume.record(output, job)
      tasks = {job.split: resume.tasks(output, videos.root, job, names, strict) for job in planned}
      if share:
        tasks = {name: share.of(group) for name, group in tasks.items()}
      everything = [t for group in tasks.values() for t in group]
      _run(everything, run_tasks, timeout, progress)
      if share:
        return manifest.build(names, _splits(planned, tasks, videos))
      return _finish(output, planned, tasks, names, videos)
  except OSError as error:
    raise UserError(
      f"{error.filename or output}: {error.strerror or error}: fix this and run the same command "
      "again; it continues where it stopped"
    ) from error


def _check(settings: decode.FrameSettings, shards: int, workers: int, timeout: float) -> None:
  bounds = {
    "fps": (0, 1000),
    "short_side": (0, 1 << 16),
    "quality": (1, 100),
    "max_seconds": (0, 1e9),
    "stream_fps": (0, 1000),
    "max_gap": (0, 1e9),
    "crf": (0, 51),
    "timeout": (0, 1e9),
  }
  if settings.channels not in (1, 3):
    raise UserError(
      f"channels is {settings.channels}: records hold JPEGs of 1 or 3; arrays of any number need "
      "no preparing, they are read by config.data.source=arrays"
    )
  values = dataclasses.asdict(settings)
  if (store := values.pop("store")) not in decode.STORES:
    raise UserError(f"store is {store!r}: it must be one of {', '.join(decode.STORES)}")
  if settings.channels != 3 and store != "frames":
    raise UserError(f"channels is {settings.channels}: store is {store!r}, which keeps RGB alone")
  del values["value_range"]
  values |= {"shards": shards, "workers": workers, "timeout": timeout}
  for name, value in values.items():
    low, high = bounds.get(name, (0, 9_999_999))
    if not low <= value <= high:
      raise UserError(f"{name} is {value}: it must be between {low:g} and {high:g}")


def _run(
  tasks: Sequence[shards_lib.Shard], run_tasks: engine_lib.Run, timeout: float, progress: bool
) -> None:
  """Writes all shards that are not complete yet."""
  total = sum(len(task.entries) for task in tasks)
  with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
    results = [*pool.map(shards_lib.Shard.result, tasks)]
  pairs = zip(tasks, results, strict=True)
  tasks = [t for t, r in pairs if r is None or (t.strict and _unreadable(r))]
  done = total - sum(len(task.entries) for task in tasks)
  at: dict[str, int | None] = {}  # position of each shard's current video
  ended: dict[str, int] = collections.defaultdict(int)  # number of finished videos per shard
  # (shard, position) where a worker was lost before, for a reason other than the video.
  lost: set[tuple[str, int | None]] = set()
  with progress_lib.bar("preparing", total, done=done, shown=progress) as bar:

    def on_report(task, message):
      kind, position = message
      at[task.name] = None if kind == "end" else position
      if kind == "end":
        ended[task.name] += 1
        bar.update(1)

    def on_crash(task, crash):
      place = task.name, at.pop(task.name, None)
      bar.update(-ended.pop(task.name, 0))
      position = place[1]
      if (crash.outside or position is None) and place not in lost:
        lost.add(place)
        return task
      if position is None:
        raise UserError(
          f"{task.path}: {crash.reason}: run the same command again; it continues where it stopped"
        )
      if task.strict:
        raise shards_lib.UnreadableVideoError(f"{task.entries[position].path}: {crash.reason}")
      return dataclasses.replace(task, crashed={**task.crashed, position: crash.reason})

    running = run_tasks(
      shards_lib.write, tasks, timeout=timeout, on_report=on_report, on_crash=on_crash
    )
    with contextlib.closing(running):
      for _ in running:
        pass


def _unreadable(result: dict[str, Any]) -> list[dict[str, str]]:
  return result["counts"]["unreadable"]


def _finish(output, planned, tasks, names, videos) -> dict[str, Any]:
  """Writes the offset indices and the manifest; other splits in the manifest are kept."""
  splits = resume.earlier(output)["splits"]
  for name, group in tasks.items():
    index.write(index.build([task.path for task in group]), index.path_of(output, name))
  built = manifest.build(names, splits | _splits(planned, tasks, videos))
  manifest.write_json(output / manifest.MANIFEST, built)
  return built


def _splits(planned, tasks, videos) -> dict[str, dict[str, Any]]:
  """What the manifest has of each split, from the results of its shards."""
  splits = {}
  for job in planned:
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
      results = [r for r in pool.map(shards_lib.Shard.result, tasks[job.split]) if r is not None]
    assert len(results) == len(tasks[job.split])  # all are written now
    settings = decode.described(job.settings)
    splits[job.split] = {
      **resume.describe(results, settings, videos.notes),
      "left_out": videos.left_out,
    }
  return splits


def parser() -> arguments.Parser:
  """The flags."""
  assert __doc__
  p = arguments.Parser("vssl prepare", __doc__, EXAMPLES)
  add = p.add_argument
  add("input", metavar="INPUT", help="folder of videos, or a CSV or lists that name them")
  add("output", metavar="OUTPUT", help="folder for the records")
  add(
    "--split", default="train", help="name of the split, if nothing else gives one (default: train)"
  )
  add(
    "--split_column",
    metavar="NAME",
    help="column of the CSV with the splits (default: `split`, if there)",
  )
  add(
    "--split_list",
    metavar="FILE",
    nargs="+",
    default=(),
    help="official lists of a split of UCF101 or HMDB51",
  )
  add(
    "--root",
    metavar="DIR",
    help="folder that relative paths in the CSV start from (default: the CSV's)",
  )
  add("--flat", action="store_true", help="take all videos of a folder as unlabeled, of one split")
  add(
    "--labels",
    metavar="FILE",
    help="file of class names in the order of the class indices (default: names sorted)",
  )
  add(
    "--fps",
    type=float,
    default=0.0,
    help="frames per second to store; 0: each video's own (default: 0)",
  )
  add(
    "--short_side",
    type=int,
    default=256,
    help="shorter side of the frames, pixels, never enlarged; 0: keep the size (default: 256)",
  )
  add("--quality", type=int, default=85, help="JPEG quality, 1 to 100 (default: 85)")
  add(
    "--max_seconds",
    type=float,
    default=120.0,
    help="longest record, seconds; longer videos are split; 0: never (default: 120)",
  )
  add(
    "--store",
    choices=decode.STORES,
    default="frames",
    help="frames: JPEGs; video: the encoded video as it is, or H.264 if its frames are reduced; "
    "h264: always H.264 (default: frames)",
  )
  add(
    "--crf",
    type=int,
    default=20,
    help="quality of H.264 with --store, 0 to 51, lower is better (default: 20)",
  )
  add(
    "--channels",
    type=int,
    default=3,
    metavar="C",
    help="3: RGB; 1: gray, for config.data.channels=1 (default: 3)",
  )
  add(
    "--value_range",
    type=float,
    nargs=2,
    default=(),
    metavar=("LOW", "HIGH"),
    help="values of gray video of up to 16 bits, such as depth, that become 0 and 255 (default: "
    "0 and the largest that its bits can hold)",
  )
  arguments.reading(p)
  add(
    "--shards",
    type=int,
    default=0,
    help="shards per split; 0: by the size of the video files (default: 0)",
  )
  add("--workers", type=int, default=0, help="number of processes; 0: one per core (default: 0)")
  add(
    "--timeout",
    type=float,
    default=TIMEOUT,
    metavar="SECONDS",
    help="longest time per video, or per record of a video that is split; 0: no limit "
    f"(default: {TIMEOUT:g})",
  )
  add("--strict", action="store_true", help="stop at the first unreadable video")
  add(
    "--overwrite",
    action="store_true",
    help="first remove what an earlier run wrote for these splits",
  )
  add(
    "--part",
    metavar="I/N",
    help="write only the I-th of N parts of the shards, as in a job array; the same command "
    "without it then completes the records",
  )
  arguments.engine(p, "INPUT and OUTPUT")
  return p


def run(args: argparse.Namespace) -> int:
  """Prepares, and prints what was written; 3 where videos could not be read or are in no list."""
  try:
    result = prepare(**arguments.given(args), progress=True)
  except shards_lib.UnreadableVideoError as error:
    raise UserError(f"{error} (--strict)") from None
  output = files.printable(args.output)
  classes = f"{output}: {len(result['labels'])} classes"
  if args.part:
    print(f"{output}: part {args.part} is written; when all are, run the command without --part")
    print(f"{classes}, sha256 of these shards {result['sha256'][:16]}")
  else:
    # Under the name, and of the bytes, that RESULT has.
    with files.open_read(files.path(args.output) / manifest.MANIFEST) as file:
      print(f"{classes}, manifest_sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}")
  print(manifest.summary(result))
  unreadable = [f for split in result["splits"].values() for f in split["unreadable"]]
  for file in unreadable[:_LISTED]:
    print(files.printable(f"  unreadable: {file['path']}: {file['reason']}"))
  if len(unreadable) > _LISTED:
    print(f"  and {len(unreadable) - _LISTED} more unreadable videos, see {manifest.MANIFEST}")
  noted = [f for split in result["splits"].values() for f in split.get("noted", [])]
  for file in noted[:_LISTED]:
    print(files.printable(f"  kept: {file['path']}: {'; '.join(file['notes'])}"))
  if len(noted) > _LISTED:
    print(f"  and {len(noted) - _LISTED} more videos with notes, see {manifest.MANIFEST}")
  # Each split has the number of the run that wrote it.
  left_out = max((split.get("left_out", 0) for split in result["splits"].values()), default=0)
  if left_out:
    print(
      f"  left out: {left_out} videos of the folder that are in no list, see {manifest.MANIFEST}"
    )
  return 3 if unreadable or left_out else 0


former.callable_module(__name__, "prepare")
