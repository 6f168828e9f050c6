"""Gaussian blur of frames, as one pass along rows and one along columns."""

from __future__ import annotations

import jax
import jax.numpy as jnp

PADDINGS = ("zeros", "edge")


def taps(size: int, kernel: int = 0) -> int:
  """The number of taps for frames of side `size`: `kernel`, or if that is 0, size // 10 made odd.

  CVRL's pipeline requests 224 // 10 = 22 taps and gets 2 · (22 // 2) + 1 = 23.
  """
  return kernel or 2 * (size // 10 // 2) + 1


def weights(sigma: jax.Array | float, count: int) -> jax.Array:
  """Half a normalized Gaussian kernel, from the center outwards.

  Args:
    sigma: standard deviation, pixels, positive.
    count: taps of the whole kernel, odd.

  Returns:
    float32 `[count // 2 + 1]`; the first plus twice the others is 1.
  """
  x = jnp.arange(count // 2 + 1, dtype=jnp.float32)
  w = jnp.exp(-(x**2) / (2.0 * jnp.asarray(sigma, jnp.float32) ** 2))
  return w / (w[0] + 2.0 * jnp.sum(w[1:]))


def blur_plane(plane: jax.Array, half: jax.Array, padding: str = "zeros") -> jax.Array:
  """Blurs the last two axes of `[..., H, W]` by the kernel that `weights` gives.

  Args:
    plane: float `[..., H, W]`.
    half: half the kernel.
    padding: pixels outside the frame are 0 ("zeros", TensorFlow's padding "SAME"), or equal to the
      nearest pixel inside ("edge", PIL).
  """
  for axis in (-1, -2):
    # Without the barrier XLA may fuse both passes and compute the first pass once per tap.
    plane = jax.lax.optimization_barrier(_pass(plane, half, axis, padding))
  return plane


def _pass(plane, half, axis, padding):
  axis %= plane.ndim
  radius, length = half.shape[0] - 1, plane.shape[axis]
  pad = [(0, 0)] * plane.ndim
  pad[axis] = (radius, radius)
  padded = jnp.pad(plane, pad, mode="edge" if padding == "edge" else "constant")

  def shifted(by):
    return jax.lax.slice_in_dim(padded, radius + by, radius + by + length, axis=axis)

  total = half[0] * plane
  for k in range(1, radius + 1):
    total += half[k] * (shifted(-k) + shifted(k))
  return total


def gaussian_blur(
  clip: jax.Array, sigma: jax.Array | float, kernel: int, padding: str = "zeros"
) -> jax.Array:
  """Blurs every frame with the same Gaussian.

  Args:
    clip: float `[T, H, W, C]`.
    sigma: standard deviation, pixels, positive.
    kernel: taps, odd.
    padding: with "zeros", pixels outside the frame count as 0, so borders darken, as in CVRL's
      original (`tf.nn.depthwise_conv2d` with padding "SAME"); with "edge", they equal the nearest
      pixel inside, as in PIL, which the ρ-study uses.

  Returns:
    float `[T, H, W, C]`.
  """
  planes = jnp.moveaxis(clip, -1, 0)
  return jnp.moveaxis(blur_plane(planes, weights(sigma, kernel), padding), 0, -1)
