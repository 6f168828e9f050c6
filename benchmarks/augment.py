"""Compares device augmentation with the same operations in TensorFlow on the host, in one run.

The rival is CVRL's published pipeline, written with `tf.image`, one clip at a time in tf.data's
parallel map: flip, color jitter in random order, grayscale, blur, solarize, one draw per clip.

  python benchmarks/augment.py --cores=1
  python benchmarks/augment.py --size=224 --frames=16 --batch=8 --json=result.json

On a machine with an accelerator, ours runs on it and the rival still on the host's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import time


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--batch", type=int, default=64, help="videos per batch, two clips each")
  parser.add_argument("--frames", type=int, default=8)
  parser.add_argument("--size", type=int, default=56, help="side of the frames, pixels")
  parser.add_argument("--preset", choices=("code", "plain"), default="code")
  parser.add_argument("--rounds", type=int, default=5, help="timings of each side, alternating")
  parser.add_argument("--cores", type=int, default=0, help="host cores for both sides; 0: all")
  parser.add_argument("--json", default="", help="also write the result to this file")
  return parser.parse_args()


def _ours(args, clips):
  """Returns a function that augments the whole batch and waits for the result."""
  import jax

  from vssl_jax import augment, config

  cfg = getattr(augment.presets, args.preset)(config.augment())
  run = jax.jit(augment.build(cfg, args.size))
  on_device = jax.device_put(clips)
  keys = jax.random.split(jax.random.key(0), args.batch)
  start = time.perf_counter()
  compiled = run.lower(keys, on_device).compile()
  seconds = time.perf_counter() - start
  return lambda: jax.block_until_ready(compiled(keys, on_device)), seconds, jax.devices()[0]


def _rival(args, clips):
  """The same with TensorFlow on the host, or None if TensorFlow is not installed."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  try:
    import tensorflow as tf
  except ImportError:
    return None
  tf.config.set_visible_devices([], "GPU")
  cores = len(os.sched_getaffinity(0))
  tf.config.threading.set_intra_op_parallelism_threads(cores)
  tf.config.threading.set_inter_op_parallelism_threads(cores)
  blur_p, solarize_p = (
    ((1.0, 0.1), (0.0, 0.2)) if args.preset == "code" else ((0.5,) * 2, (0.0,) * 2)
  )

  def perhaps(p, fn, x):
    return tf.cond(tf.random.uniform([]) < p, lambda: fn(x), lambda: x)

  def jitter(image):
    ops = [
      lambda x: x * tf.random.uniform([], 0.2, 1.8),
      lambda x: tf.image.random_contrast(x, 0.2, 1.8),
      lambda x: tf.image.random_saturation(x, 0.2, 1.8),
      lambda x: tf.image.random_hue(x, 0.2),
    ]
    order = tf.random.shuffle(tf.range(4))
    for i in range(4):
      image = tf.switch_case(order[i], [lambda op=op, x=image: op(x) for op in ops])
      image = tf.clip_by_value(image, 0.0, 1.0)
    return image

  def blur(clip):
    radius = args.size // 10 // 2
    x = tf.range(-radius, radius + 1, dtype=tf.float32)
    weights = tf.nn.softmax(-(x**2) / (2.0 * tf.random.uniform([], 0.1, 2.0) ** 2))
    for shape in ((1, -1, 1, 1), (-1, 1, 1, 1)):
      kernel = tf.tile(tf.reshape(weights, shape), (1, 1, 3, 1))
      clip = tf.nn.depthwise_conv2d(clip, kernel, [1, 1, 1, 1], "SAME")
    return clip

  def one_clip(clip, view):
    clip = perhaps(0.5, tf.image.flip_left_right, clip)
    clip = tf.image.convert_image_dtype(clip, tf.float32)
    image = tf.reshape(clip, (-1, args.size, 3))  # one tall image: one draw per clip
    image = perhaps(0.8, jitter, image)
    image = perhaps(0.2, lambda x: tf.tile(tf.image.rgb_to_grayscale(x), (1, 1, 3)), image)
    clip = tf.reshape(image, (args.frames, args.size, args.size, 3))
    clip = perhaps(blur_p[view], blur, clip)
    clip = perhaps(solarize_p[view], lambda x: tf.where(x < 0.5, x, 1.0 - x), clip)
    return tf.clip_by_value(clip, 0.0, 1.0)

  def one_video(pair):
    return tf.stack([one_clip(pair[v], v) for v in range(2)])

  data = tf.data.Dataset.from_tensor_slices(clips).map(one_video, num_parallel_calls=cores)
  data = data.batch(args.batch)

  def run():
    for batch in data:
      assert batch.shape == clips.shape

  return run


def main() -> None:
  """Times both sides alternately and prints one table and one line of JSON."""
  args = _arguments()
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
  if args.cores:  # must happen before either library counts the cores
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
  import jax
  import numpy as np

  rng = np.random.default_rng(0)
  shape = (args.batch, 2, args.frames, args.size, args.size, 3)
  clips = rng.integers(0, 256, shape, dtype=np.uint8)
  ours, compile_seconds, device = _ours(args, clips)
  runs = {"ours": ours, "tensorflow": _rival(args, clips)}
  if runs["tensorflow"] is None:
    print("tensorflow: not run, it is not installed (pip install tensorflow-cpu)")
    del runs["tensorflow"]
  seconds = {name: [] for name in runs}
  for run in runs.values():
    run()  # warm-up: caches, tracing
  for _ in range(args.rounds):
    for name, run in runs.items():
      start = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - start)

  result = {
    "shape": list(shape),
    "preset": args.preset,
    "device": device.device_kind if device.platform != "cpu" else "cpu",
    "machine": platform.machine(),
    "host_cores": len(os.sched_getaffinity(0)),
    "jax": jax.__version__,
    "compile_seconds": round(compile_seconds, 2),
  }
  clips_a_second = {}
  for name, values in seconds.items():
    middle = statistics.median(values)
    clips_a_second[name] = 2 * args.batch / middle
    result[name] = {
      "clips_per_second": round(clips_a_second[name], 1),
      "best_clips_per_second": round(2 * args.batch / min(values), 1),
      "ms_per_pair": round(middle / args.batch * 1e3, 3),
    }
    where = result["device"] if name == "ours" else "host"
    print(
      f"{name:>12} on {where}: {clips_a_second[name]:10.1f} clips/s, "
      f"{middle / args.batch * 1e3:8.3f} ms per pair (median of {args.rounds})"
    )
  if len(clips_a_second) == 2:
    result["ratio"] = round(clips_a_second["ours"] / clips_a_second["tensorflow"], 2)
    print(f"{'ratio':>12}: {result['ratio']:.2f}")
  print(json.dumps(result))
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  main()
