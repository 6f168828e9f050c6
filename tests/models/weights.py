"""Weights that any framework can make again: each array from its own name alone."""

import math
import zlib

import jax
import numpy as np


def draw(name, shape):
  """The array called `name`, e.g. "params/res2_0/conv_a/kernel", float32.

  RandomState's streams are frozen for good, unlike default_rng's.
  """
  rng = np.random.RandomState(zlib.crc32(name.encode()))
  leaf = name.rsplit("/", 1)[-1]
  if leaf == "kernel":
    x = rng.standard_normal(shape) * (1.5 / math.prod(shape[:-1])) ** 0.5
  elif leaf in ("scale", "var"):
    x = rng.uniform(0.5, 1.5, shape)
  else:  # biases and means
    x = 0.1 * rng.standard_normal(shape)
  return x.astype(np.float32)


def fill(shapes):
  """Random everywhere, so that no norm and no bias is the identity."""
  return jax.tree_util.tree_map_with_path(
    lambda path, a: draw("/".join(k.key for k in path), a.shape), shapes
  )


def clips(n, t, size):
  """Clips `[n, t, size, size, 3]` in [-1, 1)."""
  return np.random.RandomState(0).uniform(-1, 1, (n, t, size, size, 3)).astype(np.float32)


def digest(y):
  """What of features `[N, F]` is compared: the first three, the norm, a sum that knows places."""
  y = np.asarray(y, np.float64)
  places = y @ np.cos(np.arange(y.shape[1]))
  return np.concatenate([y[:, :3], np.linalg.norm(y, axis=1)[:, None], places[:, None]], 1)
