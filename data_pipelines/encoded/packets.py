"""Packets of a video stream: those of a part of a file, copied without decoding them."""

from __future__ import annotations

import dataclasses
import io
import pathlib
from typing import Any

import av
import numpy as np

from data_pipelines.videos import container


@dataclasses.dataclass(frozen=True)
class Listed:
  """The packets of a stream, in the order in which they are decoded.

  Attributes:
    pts: when each is shown, int64 `[P]`.
    keys: see `seek_index.SeekIndex`.
    content: the packets' bytes; () if not asked for.
    streams: number of streams in the file.
    header: what the decoder needs before the packets.
  """

  pts: np.ndarray
  keys: np.ndarray
  content: tuple[bytes, ...]
  streams: int
  header: bytes


def listed(opened: Any, *, with_content: bool) -> Listed:
  """The packets of the video stream of an open container, which is closed.

  Raises:
    ValueError: there is no such stream, or a packet has no time.
    av.FFmpegError: the file is damaged.
  """
  with opened:
    stream = opened.streams.best("video")
    if not isinstance(stream, av.VideoStream):
      raise ValueError("no video stream")
    pts, keys, content = [], [], []
    for packet in opened.demux(stream):
      if not packet.size:
        continue
      if packet.pts is None:
        raise ValueError("a packet without a time")
      pts.append(packet.pts)
      if packet.is_keyframe:
        keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
      if with_content:
        content.append(bytes(packet))
    return Listed(
      np.array(pts, np.int64),
      np.array(sorted(keys), np.int64).reshape(-1, 2),
      tuple(content),
      len(opened.streams),
      bytes(stream.codec_context.extradata or b""),
    )


def kind_of(file: pathlib.Path) -> tuple[str, int]:
  """FFmpeg's name to write a container as that of a file, "" if it is none, and its streams."""
  with container.open_file(file) as opened:
    names = opened.format.name.split(",")
    kind = "mp4" if "mov" in names else "matroska" if "matroska" in names else ""
    return kind, len(opened.streams)


def copied(
  file: pathlib.Path, kind: str, first: tuple[int, int], wanted: np.ndarray
) -> tuple[bytes, np.ndarray, np.ndarray] | None:
  """Copies the packets from a keyframe to the last wanted frame into a file of their own.

  Args:
    file: the video.
    kind: container of the copy.
    first: when the keyframe is shown, and when it is decoded, in the file's units.
    wanted: times of the wanted frames in the file's units, int64 `[L]`, increasing.

  Returns:
    Bytes of the copy, the wanted times in its units, and its keyframes; None if the container
    cannot hold the packets as they are.
  """
  try:
    taken: list[Any] = []
    buffer = io.BytesIO()
    with container.open_file(file) as opened, av.open(buffer, "w", format=kind) as copy:
      stream = opened.streams.best("video")
      if first[1] > 0:
        opened.seek(first[1], stream=stream, backward=True)
      end = 0
      for packet in opened.demux(stream):
        if not packet.size or packet.pts is None or packet.dts is None:
          continue
        if not taken and (packet.pts != first[0] or not packet.is_keyframe):
          if packet.pts > wanted[-1]:
            break
          continue
        taken.append(packet)
        if packet.pts <= wanted[-1]:
          end = len(taken)
        elif packet.dts > wanted[-1]:
          break  # what follows is shown later
      del taken[end:]
      if not taken:
        return None
      target = copy.add_stream_from_template(stream, opaque=True)
      target.time_base = stream.time_base
      shift = -min(packet.dts for packet in taken)
      header = bytes(stream.codec_context.extradata or b"")
      before = [(packet.pts, bytes(packet)) for packet in taken]
      for packet in taken:
        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, target
        copy.mux(packet)
    content = buffer.getvalue()
    found = listed(container.open_bytes(content, kind), with_content=True)
  except (av.FFmpegError, ValueError):
    return None
  pts = np.array([time for time, _ in before], np.int64)
  order = np.argsort(pts)
  same = found.content == tuple(data for _, data in before) and found.header == header
  if not same or np.any(np.diff(found.pts[order]) <= 0) or not len(found.keys):
    return None
  places = np.searchsorted(pts[order], wanted)
  if np.any(places >= len(pts)) or not np.array_equal(pts[order][places], wanted):
    return None
  return content, found.pts[order][places], found.keys
