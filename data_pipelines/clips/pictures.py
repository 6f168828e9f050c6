"""A step that reads the chosen frames of a video in worker processes with a time limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipelines.clips.builders import IMAGE, Features
from data_pipelines.videos import servers
from data_pipelines.videos.damage import UnreadableError
from vssl_jax.errors import UserError


class Fetcher:
  """Replaces the numbers of the chosen frames by their pictures.

  Args:
    call: returns pictures, uint8 `[n, H, W, C]`, of the number of a video in its store, further
      features, and the numbers of the n frames.
    keys: names of the features: the number of the video, int64 `[]`, and those further ones.
    place: where the video of a number is, for messages.
    channels: C.
    faults: exceptions that `call` raises where a video is at fault, which is then left out.

  Attributes:
    reasons: why videos could not be read, by their numbers.
  """

  def __init__(
    self,
    call: Callable[..., np.ndarray],
    keys: Sequence[str],
    *,
    place: Callable[[int], str],
    channels: int = 3,
    faults: tuple[type[Exception], ...] = (UnreadableError, servers.LostError),
  ):
    self._call, self._keys, self._place = call, keys, place
    self._channels, self._faults = channels, faults
    self._failure = ""
    self.reasons: dict[int, str] = {}

  def check(self) -> None:
    """Raises `UserError` if something failed that is no fault of a video."""
    if self._failure:
      raise UserError(
        f"{self._failure}: the videos cannot be read now; run the same command again, it goes on "
        "where it stopped"
      )

  def fetch(self, features: Features) -> Features:
    """Replaces numbers of frames `[…]` by their pictures, uint8 `[…, H, W, C]`; see `Store`."""
    features = dict(features)
    numbers, about = features[IMAGE], [features.pop(key) for key in self._keys]
    flat = tf.reshape(numbers, [-1])
    pictures = tf.numpy_function(self._pictures, [flat, *about], tf.uint8)
    shape = tf.concat([tf.shape(numbers), tf.shape(pictures)[1:]], axis=0)
    known = [*numbers.shape, None, None, self._channels]
    features[IMAGE] = tf.ensure_shape(tf.reshape(pictures, shape), known)
    return features

  def _pictures(self, numbers: np.ndarray, item: np.ndarray, *further: Any) -> np.ndarray:
    frames = tuple(int(n) for n in numbers)
    try:
      return self._call(int(item), *further, frames)
    except self._faults as error:
      if isinstance(error, servers.LostError) and error.crash.outside:
        self._failure = f"worker processes that decode videos are lost: {error}"
      elif getattr(error, "passing", False):  # replaced, the batch would depend on chance
        self._failure = f"{self._place(int(item))}: {error}"
      self.reasons[int(item)] = str(error)
      raise ValueError(str(error)) from None
    except Exception as error:  # a storage, or the cache: no fault of the video
      self._failure = f"{self._place(int(item))}: {error}"
      raise


def in_processes(
  read: Callable[[Any], np.ndarray],
  request: Callable[..., Any],
  *,
  processes: int,
  timeout: float,
) -> Callable[..., np.ndarray]:
  """A function for `Fetcher` that reads in worker processes with a time limit.

  Args:
    read: importable function from a request to pictures.
    request: makes the request of what `Fetcher` calls with.
    processes: number of worker processes.
    timeout: seconds that a request may take; 0 sets no limit.
  """

  def call(*args: Any) -> np.ndarray:
    return servers.shared(processes).call(read, request(*args), timeout=timeout)

  return call
