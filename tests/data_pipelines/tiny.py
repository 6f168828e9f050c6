"""Tiny records whose pixels tell where they come from.

Frame t of video v is one color, red 2 t and green 16 v (both kept by JPEG to ±3), unless a test
asks for `ramp` frames: red 20 + 7 · row, green 20 + 7 · column (kept to ±6).
"""

import io
import itertools

import numpy as np
import PIL.Image

from data_pipelines import source
from data_pipelines.records import sequence_example as example
from data_pipelines.records import tfrecord
from vssl_jax import config


def jpeg(frame, **kwargs):
  buffer = io.BytesIO()
  PIL.Image.fromarray(frame).save(buffer, "JPEG", quality=95, subsampling=0, **kwargs)
  return buffer.getvalue()


def png(frame):
  buffer = io.BytesIO()
  PIL.Image.fromarray(frame).save(buffer, "PNG")
  return buffer.getvalue()


def flat(t, v=0, height=24, width=32):
  frame = np.full((height, width, 3), 40, np.uint8)
  frame[..., 0], frame[..., 1] = 2 * t, 16 * v
  return frame


def ramp(height=24, width=32):
  frame = np.full((height, width, 3), 60, np.uint8)
  frame[..., 0] = 20 + 7 * np.arange(height)[:, None]
  frame[..., 1] = 20 + 7 * np.arange(width)[None, :]
  return frame


def video(v=0, length=40, fps=25.0, **kwargs):
  frames = [jpeg(flat(t, v)) for t in range(length)]
  return example.Video(frames=frames, fps=fps, label=v % 3, filename=f"videos/{v}.avi", **kwargs)


def write(folder, videos, split="train", shards=2):
  """Writes records, given as `records.Video` or as bytes, to shards in turn."""
  folder.mkdir(parents=True, exist_ok=True)
  payloads = [v if isinstance(v, bytes) else example.encode(v) for v in videos]
  per_shard = -(-len(payloads) // shards)
  for s in range(shards):
    with tfrecord.ShardWriter(folder / f"{split}-{s:05d}-of-{shards:05d}.tfrecord") as writer:
      for payload in payloads[s * per_shard : (s + 1) * per_shard]:
        writer.write(payload)
  return folder


def data(path="", **fields):
  """`config.data` for tiny records; `crop__area=…` sets `crop.area`."""
  result = config.data()
  result.path, result.size, result.frames, result.stride = str(path), 8, 4, 2
  result.threads = 2
  for name, value in fields.items():
    group, _, leaf = name.rpartition("__")
    (result[group] if group else result)[leaf or name] = value
  return result


def load(path="", *, split="train", batch_size=4, seed=0, process=(0, 1), **fields):
  """The source of `data(path, **fields)`, for process `process[0]` of `process[1]`."""
  return source.load(
    data(path, **fields),
    split=split,
    batch_size=batch_size,
    seed=seed,
    process_index=process[0],
    process_count=process[1],
  )


def take(batches, count):
  return list(itertools.islice(batches, count))


def assert_equal(a, b):
  """Whether two batches are equal, bit for bit."""
  assert a.keys() == b.keys()
  for k in a:
    np.testing.assert_array_equal(a[k], b[k], err_msg=k)
