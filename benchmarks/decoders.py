"""Compares decoding the frames of clips by PyAV, as `source=videos` does, with torchcodec.

Both open a video and return the same 16 frames, stride 2, from a random place, as RGB on one
thread; the frames are compared. PyAV has its index of the video, as in training. torchcodec opens
the file with `seek_mode="approximate"`, which is its fastest and trusts the header, and with
"exact", which reads all packets first. Where frames are reduced, torchcodec does it with its
`transforms.Resize`, which is bilinear, while ours is bicubic.

  python benchmarks/decoders.py VIDEOS
  python benchmarks/decoders.py VIDEOS --short_side=256

The two take turns, clip by clip, in one process. Frames per core-second use the CPU time of the
process, so other work on the machine hardly matters; compare the ratio. It needs
`pip install torch torchcodec` and FFmpeg's libraries, which torchcodec takes from the system.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Read = Callable[[str, list[int]], np.ndarray]


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("videos", metavar="DIR", help="folder of videos, or a video")
  parser.add_argument("--frames", type=int, default=16)
  parser.add_argument("--stride", type=int, default=2)
  parser.add_argument("--short_side", type=int, default=0, help="pixels; 0: frames keep their size")
  parser.add_argument("--clips", type=int, default=100, help="clips per round")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--json", default="", help="also write the result to this file")
  return parser.parse_args()


def _pyav(short_side: int, cache: str) -> Read:
  from data_pipelines.videos import decode, wanted

  def read(path: str, frames: list[int]) -> np.ndarray:
    settings = decode.FrameSettings(short_side=short_side, max_seconds=0)
    span = wanted.Span(path, cache, settings)
    length = len(span.index().pts) if path not in lengths else lengths[path]
    lengths[path] = length
    return wanted.read(wanted.Request(span, 0, length, tuple(frames)))

  lengths: dict[str, int] = {}
  return read


def _torchcodec(short_side: int, mode: str) -> Read:
  from torchcodec import decoders, transforms

  def read(path: str, frames: list[int]) -> np.ndarray:
    how: dict[str, Any] = {"dimension_order": "NHWC", "num_ffmpeg_threads": 1, "seek_mode": mode}
    if short_side and path in sizes:
      height, width = sizes[path]
      scale = min(1.0, short_side / min(height, width))
      if scale < 1:
        size = (round(height * scale), round(width * scale))
        how["transforms"] = [transforms.Resize(size)]
    decoder = decoders.VideoDecoder(path, **how)
    if path not in sizes:
      sizes[path] = (decoder.metadata.height, decoder.metadata.width)
      return read(path, frames)
    return decoder.get_frames_at(indices=frames).data.numpy()

  sizes: dict[str, tuple[int, int]] = {}
  return read


def _timed(read: Read, path: str, frames: list[int]) -> tuple[float, np.ndarray]:
  begin = time.process_time()
  found = read(path, frames)
  return time.process_time() - begin, found


def main() -> None:
  """Prints frames per core-second of each side, and the ratios to PyAV."""
  args = _arguments()
  import torch

  from data_pipelines.videos import seek_index

  torch.set_num_threads(1)
  where = pathlib.Path(args.videos)
  paths = [where] if where.is_file() else sorted(p for p in where.rglob("*.*") if p.is_file())
  rng = random.Random(0)
  with tempfile.TemporaryDirectory() as cache:
    readers = {"pyav": _pyav(args.short_side, cache)}
    for mode in ("approximate", "exact"):
      readers[f"torchcodec, {mode}"] = _torchcodec(args.short_side, mode)
    rounds: dict[str, list[float]] = {name: [] for name in readers}
    same, differs, count, unlike = 0, 0.0, 0, 0
    for turn in range(args.rounds + 1):  # the first is short, and warms up
      spent = dict.fromkeys(readers, 0.0)
      clips = args.clips if turn else min(args.clips, 5)
      for _ in range(clips):
        path = str(rng.choice(paths).absolute())
        length = len(seek_index.cached(pathlib.Path(cache), path, seek_index.Reading()).pts)
        span = (args.frames - 1) * args.stride + 1
        first = rng.randrange(max(1, length - span + 1))
        frames = [min(first + args.stride * t, length - 1) for t in range(args.frames)]
        found = {}
        for name in readers:  # warm: the file is in memory, and its index is known
          readers[name](path, frames[:1])
        for name in rng.sample(list(readers), len(readers)):
          seconds, found[name] = _timed(readers[name], path, frames)
          spent[name] += seconds
        ours, theirs = (found[n].astype(np.int16) for n in ("pyav", "torchcodec, approximate"))
        if ours.shape == theirs.shape:
          gap = np.abs(ours - theirs)
          count, same = count + 1, same + (not gap.any())
          differs = max(differs, float(gap.mean()))
        else:
          unlike += 1
      if turn:
        for name, seconds in spent.items():
          rounds[name].append(clips * args.frames / seconds)
  result: dict[str, Any] = {"identical_clips": same / max(count, 1), "other_shape": unlike}
  result["largest_mean_difference"] = differs
  for name, rates in rounds.items():
    ratios = sorted(a / b for a, b in zip(rates, rounds["pyav"], strict=True))
    result[name] = {"frames_per_core_second": statistics.median(rates), "ratios": ratios}
    print(
      f"{name:24}{statistics.median(rates):9.0f} frames per core-second, "
      f"{statistics.median(ratios):.2f} of PyAV's ({ratios[0]:.2f} to {ratios[-1]:.2f} by round)"
    )
  print(
    f"{same} of {count} clips are equal to the byte; the mean difference of a clip's values is at "
    f"most {differs:.2f}; {unlike} have another shape"
  )
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
