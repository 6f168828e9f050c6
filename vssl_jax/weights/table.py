"""Converts arrays between our networks and another framework, by a table of module names.

In this file, "theirs" means the other framework. A converter gives `names`, which maps each module
of our network (`res2_0/conv_a`) to their name (`s2.pathway0_res0.branch2.a`). Names and axis order
of a layer's arrays are the same for all layers of a framework: they are its `Layout`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vssl_jax.errors import UserError

Tensors = dict[str, np.ndarray]
Names = Mapping[str, str]  # our module's path -> theirs
Variables = dict[str, Any]  # {"params": ..., "batch_stats": ...}
COLLECTIONS = ("params", "batch_stats")


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a framework stores layers.

  Attributes:
    layer: our names of the arrays of a convolution or dense layer -> their names.
    norm: our names of the arrays of a batch norm -> their names.
    joint: separator between the name of a module and the name of an array.
    suffix: suffix after the name of an array.
    axes: by rank, the order in which they store our axes; ours are `[t, h, w, in, out]` and
      `[in, out]`.
  """

  layer: Mapping[str, str]
  norm: Mapping[str, str]
  joint: str
  suffix: str = ""
  axes: Mapping[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)

  def name(self, module: str, leaf: str, is_norm: bool) -> str:
    """Their name of the array `leaf` of their `module`."""
    return f"{module}{self.joint}{(self.norm if is_norm else self.layer)[leaf]}{self.suffix}"

  def theirs(self, x: np.ndarray) -> np.ndarray:
    """Our array with their axes."""
    return np.ascontiguousarray(x.transpose(self.axes.get(x.ndim, range(x.ndim))))

  def ours(self, x: np.ndarray) -> np.ndarray:
    """Their array with our axes."""
    axes = self.axes.get(x.ndim, range(x.ndim))
    return np.ascontiguousarray(x.transpose(np.argsort(axes)))


TORCH = Layout(
  layer={"kernel": "weight", "bias": "bias"},
  norm={"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"},
  joint=".",
  axes={5: (4, 3, 0, 1, 2), 2: (1, 0)},
)
KERAS = Layout(  # in a checkpoint of tf.train.Checkpoint
  layer={"kernel": "kernel", "bias": "bias"},
  norm={"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"},
  joint="/",
  suffix="/.ATTRIBUTES/VARIABLE_VALUE",
)


class Ledger:
  """The arrays of one file; checks that each is either read or explicitly left out."""

  def __init__(self, tensors: Mapping[str, np.ndarray], where: str):
    self._tensors = tensors
    self._where = where
    self._read: set[str] = set()
    self._left: set[str] = set()
    self._missing: list[str] = []
    self._misshapen: list[str] = []
    self._not_finite: list[str] = []
    self._not_floats: list[str] = []

  def array(self, name: str, shape: tuple[int, ...], *, integer: bool = False) -> np.ndarray:
    """Reads the array `name`; if it is not as expected, returns zeros and `settle` will raise.

    Args:
      name: their name of the array.
      shape: the shape that it must have.
      integer: whether to accept integers (a queue's pointer); weights must be finite floats, which
        become float32.
    """
    if name not in self._tensors:
      self._missing.append(f"{name} {list(shape)}")
      return np.zeros(shape, np.float32)
    self._read.add(name)
    x = np.asarray(self._tensors[name])
    if x.shape != tuple(shape):
      self._misshapen.append(f"{name} {list(x.shape)} for {list(shape)}")
      return np.zeros(shape, np.float32)
    if integer:
      return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
      self._not_floats.append(f"{name} {x.dtype}")
      return np.zeros(shape, np.float32)
    with np.errstate(over="ignore"):  # values too large for float32 become infinite: an error below
      x = x.astype(np.float32)
    if not np.isfinite(x).all():
      self._not_finite.append(name)
    return x

  def network(
    self, like: Variables, names: Names, layout: Layout, zero: Collection[str] = ()
  ) -> Variables:
    """Reads the variables of one network.

    Args:
      like: shapes of the arrays, `params` and `batch_stats`.
      names: our module names -> their names.
      layout: how they store layers.
      zero: paths of arrays that they do not have and that are set to zero (`params/dense_0/bias`).

    Returns:
      A tree like `like`.
    """
    flat = _flat(like)
    found = {}
    for path, x in flat.items():
      shape = tuple(x.shape)
      if path in zero:
        found[path] = np.zeros(shape, np.float32)
        continue
      module, leaf, is_norm = _parts(path, flat)
      axes = layout.axes.get(len(shape), range(len(shape)))
      wanted = tuple(shape[a] for a in axes)
      found[path] = layout.ours(self.array(layout.name(names[module], leaf, is_norm), wanted))
    return _nested(found)

  def leave(self, patterns: Iterable[str]) -> None:
    """Leaves out arrays whose names match a pattern (`*` matches anything), without an error."""
    for pattern in patterns:
      self._left |= set(fnmatch.filter(self._tensors, pattern))

  def settle(self, fits: str) -> list[str]:
    """Checks that all arrays were read or left out; returns the names of those left out.

    Args:
      fits: the network that the file was read as, for the message.

    Raises:
      UserError: arrays are missing, extra, misshapen, not floats, or hold NaN or infinity; the
        message names each.
    """
    extra = sorted(set(self._tensors) - self._read - self._left)
    problems = {
      "missing": self._missing,
      "extra": extra,
      "misshapen": self._misshapen,
      "not floats": self._not_floats,
      "not finite": self._not_finite,
    }
    lines = [f"{what}: {', '.join(which)}" for what, which in problems.items() if which]
    if lines:
      raise UserError(f"{self._where} does not fit {fits}: {'; '.join(lines)}.")
    return sorted(self._left - self._read)


def write(
  variables: Variables, names: Names, layout: Layout, skip: Collection[str] = ()
) -> Tensors:
  """Converts our variables to their names and axis order, in float32.

  Args:
    variables: `params` and `batch_stats`.
    names: our module names -> their names.
    layout: how they store layers.
    skip: paths of arrays that they do not have (`params/dense_0/bias`).
  """
  flat = _flat(variables)
  out = {}
  for path, x in flat.items():
    if path not in skip:
      name = layout.name(names[_parts(path, flat)[0]], *_parts(path, flat)[1:])
      out[name] = layout.theirs(np.asarray(x, np.float32))
  return out


def _flat(variables: Variables) -> dict[str, Any]:
  return traverse_util.flatten_dict({k: variables.get(k) or {} for k in COLLECTIONS}, sep="/")


def _nested(flat: Mapping[str, np.ndarray]) -> Variables:
  nested = traverse_util.unflatten_dict(flat, sep="/")
  return {k: nested.get(k, {}) for k in COLLECTIONS}


def _parts(path: str, flat: Mapping[str, Any]) -> tuple[str, str, bool]:
  """The module, the array's name, and whether the module is a batch norm."""
  module, leaf = path.split("/", 1)[1].rsplit("/", 1)
  return module, leaf, f"params/{module}/scale" in flat
