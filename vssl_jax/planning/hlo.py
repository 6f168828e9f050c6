"""Reads a compiled program (XLA's HLO text): FLOPs and collectives, with loops multiplied out.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs. The text of the
program tells the number of iterations of each loop whose length is known at compile time.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from vssl_jax.planning import arithmetic

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
  "collective-broadcast",
  "ragged-all-to-all",
)
_BITS = {"pred": 8, "token": 0, "bf16": 16, "s4": 4, "u4": 4}
_ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]+m[0-9]+[a-z]*)?)\[([0-9,]*)\](\{[^}]*\})?")
_LAYOUT = re.compile(r"\{([\d,]*)(?::(?:T\(([\d,]*)\))?.*?(?:S\((\d+)\))?)?\}")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|[\s)}])([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(
  r"\b(?:calls|to_apply|condition|body|true_computation|false_computation|branch_computations"
  r"|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_LIBRARY = re.compile(r'custom_call_target="(__cu(?:dnn\$conv|blas\$)[^"]*)"')
# The summed axes of the left factor, of a `dot` and of a library's matrix product.
_SUMMED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[)([^}\]]*)')
# A TPU program spreads a collective over several fusions, beside other work. Each of them has it as
# an instruction of one chain; the first also says that it starts.
_CHAIN = re.compile(r'chain_id="(\w+)"')
_STARTS = 'custom_call_target="AsyncCollectiveStart"'
_OP_NAME = re.compile(r'op_name="([^"]*)"')


class Array(NamedTuple):
  """An array of one device.

  Attributes:
    dtype: HLO's name, such as `bf16`.
    shape: its axes.
    space: of the memory where it is; 0 is the device's large one, others of a TPU are on the chip.
    order: the axes from the one whose neighbors lie side by side; empty where it does not matter.
    tile: a TPU stores arrays in tiles of the first axes of `order`, here with the first one last.
  """

  dtype: str
  shape: tuple[int, ...]
  space: int = 0
  order: tuple[int, ...] = ()
  tile: tuple[int, ...] = ()

  def size(self) -> int:
    """Size in bytes."""
    digits = re.sub(r"\D.*", "", self.dtype.lstrip("abcdefghijklmnopqrstuvwxyz"))
    bits = _BITS.get(self.dtype, int(digits or 8))
    return math.prod(self.shape) * bits // 8

  def stored(self) -> int:
    """Size in bytes with what fills up the tiles: 64 channels take a TPU as much as 128."""
    whole = list(self.shape)
    for axis, tile in zip(self.order, reversed(self.tile), strict=False):
      whole[axis] += -whole[axis] % tile
    return Array(self.dtype, tuple(whole)).size()


class Instruction(NamedTuple):
  """One instruction.

  Attributes:
    name: its name in the program.
    opcode: such as `convolution`.
    results: its results.
    operands: names of its operands.
    rest: all that follows the operands.
  """

  name: str
  opcode: str
  results: tuple[Array, ...]
  operands: tuple[str, ...]
  rest: str

  @property
  def source(self) -> str:
    """The JAX operation that it was compiled from; "" if XLA made it."""
    found = _OP_NAME.search(self.rest)
    return found[1] if found else ""


class Collective(NamedTuple):
  """Collectives of one kind.

  Attributes:
    kind: one of `COLLECTIVES`.
    dtype: of the largest array that is exchanged.
    bytes: size of the result on each device.
    times: how often it runs in a step.
    source: the JAX operation that it was compiled from.
  """

  kind: str
  dtype: str
  bytes: int
  times: int
  source: str


class Program:
  """A compiled program of one device.

  Attributes:
    computations: instructions by name of computation.
    entry: the computation that is called.
    unknown_loops: number of loops whose length the program does not tell; they count once.
    inside: names of the instructions inside fusions, reductions and the like.
  """

  def __init__(self, text: str):
    """Parses `compiled.as_text()`."""
    self.computations: dict[str, list[Instruction]] = {}
    self.entry, current = "", ""
    for line in text.splitlines():
      if head := _COMPUTATION.match(line):
        current = head[2]
        self.computations[current] = []
        self.entry = current if head[1] else self.entry
      elif current and (found := _INSTRUCTION.match(line)):
        self.computations[current].append(_parse(found[1], found[2]))
    self.unknown_loops = 0
    self.inside = self._fused()
    self._runs = self._count_runs()

  def instructions(self) -> Iterator[tuple[Instruction, int, dict[str, Instruction]]]:
    """Instructions, how often each runs in a step, and those of its computation by name."""
    for name, body in self.computations.items():
      if runs := self._runs[name]:
        named = {x.name: x for x in body}
        for instruction in body:
          yield instruction, runs, named

  def flops(self) -> int:
    """FLOPs of matrix products and convolutions: two per multiply-add with data (no padding)."""
    total = 0
    for x, runs, named in self.instructions():
      if _is_product(x):
        total += runs * _flops(x, named)
    return total

  def products(self) -> dict[str, int]:
    """FLOPs of matrix products and convolutions by the dtype of their first operand."""
    total: collections.Counter[str] = collections.Counter()
    for x, runs, named in self.instructions():
      if _is_product(x):
        total[_operand(x, 0, named).dtype] += runs * _flops(x, named)
    return dict(total)

  def collectives(self) -> list[Collective]:
    """All collectives, those of one kind, size and source together, the largest first."""
    found: collections.Counter[tuple[str, str, int, str]] = collections.Counter()
    continued = self._continued()
    for x, runs, _ in self.instructions():
      kind = x.opcode.removesuffix("-start")
      if kind not in COLLECTIVES or x.name in continued:
        continue
      arrays = x.results
      if x.opcode.endswith("-start") and kind != "all-reduce":
        # Operands, then as many results, then what the compiler keeps of the exchange.
        arrays = arrays[len(x.operands) : 2 * len(x.operands)]
      if not arrays:
        continue
      largest = max(arrays, key=Array.size)
      found[kind, largest.dtype, sum(a.size() for a in arrays), x.source] += runs
    rows = [Collective(*key[:3], count, key[3]) for key, count in found.items()]
    return sorted(rows, key=lambda c: -c.bytes * c.times)

  def _fused(self) -> set[str]:
    """Names of the instructions inside fusions, reductions and the like."""
    bodies = [
      name
      for instructions in self.computations.values()
      for x in instructions
      if x.opcode not in ("while", "conditional", "call", "async-start")
      for name in called(x)
    ]
    return {x.name for body in bodies for x in self.computations.get(body, ())}

  def _continued(self) -> set[str]:
    """Names of the collectives that are another's, which a fusion before has started."""
    started: dict[str, str] = {}
    chained: dict[str, str] = {}
    for body in self.computations.values():
      own = {x.name: chain[1] for x in body if (chain := _CHAIN.search(x.rest))}
      chained |= own
      if any(_STARTS in x.rest for x in body):
        started |= {chain: name for name, chain in own.items()}
    return {name for name, chain in chained.items() if started.get(chain, name) != name}

  def _trips(self, loop: Instruction, outside: Mapping[str, Instruction]) -> int | None:
    """The number of iterations: as noted, or that of a condition `i < n`, as scans have it.

    It is known only where i begins at 0 and each iteration adds a constant: 1, or more where the
    compiler has put several iterations into one.

    Args:
      loop: the instruction `while`.
      outside: the instructions of its computation by name.
    """
    if noted := _TRIPS.search(loop.rest):
      return int(noted[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    body = self.computations.get(condition[1], []) if condition else []
    if not body or body[-1].opcode != "compare" or "direction=LT" not in body[-1].rest:
      return None
    named = {x.name: x for x in body}
    counter, bound = (_origin(o, named) for o in body[-1].operands)
    if counter is None or counter.opcode != "get-tuple-element":
      return None
    if bound is None or bound.opcode != "constant":
      return None
    index = re.search(r"index=(\d+)", counter.rest)
    begin = _origin(loop.operands[0], outside, int(index[1]) if index else 0)
    if begin is None or begin.opcode != "constant" or begin.operands != ("0",):
      return None
    iteration = re.search(r"body=%?([\w.\-]+)", loop.rest)
    state = self.computations.get(iteration[1], []) if iteration else []
    if not state or state[-1].opcode != "tuple":
      return None
    changed = state[-1].operands[int(index[1]) if index else 0]
    added = self._added(changed, {x.name: x for x in state})
    return -(-int(bound.operands[0]) // added) if added else None

  def _added(self, name: str, named: Mapping[str, Instruction]) -> int | None:
    """The constant of the sum that a value is; None if it is no such sum."""
    x, element = _origin(name, named), 0
    if x is not None and x.opcode == "get-tuple-element":
      element = int(x.rest.partition("index=")[2].partition(",")[0])
      x = _origin(x.operands[0], named)
    if x is None or x.opcode not in ("add", "fusion"):
      return None
    if x.opcode == "fusion":
      body = self.computations[called(x)[0]]
      last = body[-1]
      inner = {i.name: i for i in body}
      for i in body:  # what is given to the fusion may be the constant
        if i.opcode == "parameter" and (given := named.get(x.operands[int(i.operands[0])])):
          inner[i.name] = given
      return self._added(last.operands[element] if last.opcode == "tuple" else last.name, inner)
    constants = [c for o in x.operands if (c := _origin(o, named)) and c.opcode == "constant"]
    return int(constants[0].operands[0]) if constants else None

  def _count_runs(self) -> dict[str, int]:
    """How often each computation runs; all branches of a conditional count."""
    runs: collections.Counter[str] = collections.Counter()
    waiting: dict[str, int] = collections.Counter()  # callers of each computation yet to be visited
    reached, stack = set(), [self.entry]
    while stack:
      if (name := stack.pop()) in reached:
        continue
      reached.add(name)
      for x in self.computations.get(name, ()):
        for body in called(x):
          waiting[body] += 1
          stack.append(body)
    runs[self.entry], ready = 1, [self.entry]
    while ready:
      name = ready.pop()
      named = {x.name: x for x in self.computations.get(name, ())}
      for x in self.computations.get(name, ()):
        times = 1
        if x.opcode == "while":
          trips = self._trips(x, named)
          self.unknown_loops += trips is None
          times = trips or 1
        for body in called(x):
          runs[body] += runs[name] * times
          waiting[body] -= 1
          if not waiting[body]:
            ready.append(body)
    return runs


def _origin(
  name: str, named: Mapping[str, Instruction], index: int | None = None
) -> Instruction | None:
  """The instruction that makes a value, behind copies and the like.

  Args:
    name: the value.
    named: the instructions of its computation by name.
    index: for a tuple, the element that is asked for.

  Returns:
    The instruction; None if it is not found in the computation.
  """
  while (x := named.get(name)) is not None:
    if index is not None and x.opcode == "tuple":
      name, index = x.operands[index], None
    elif x.opcode in ("copy", "bitcast", "reshape", "opt-barrier"):
      name = x.operands[0]
    else:
      return x if index is None else None
  return None


def called(x: Instruction) -> list[str]:
  """Names of the computations that an instruction calls."""
  names = []
  for group in _CALLED.findall(x.rest):
    names += [n.strip().lstrip("%") for n in group.strip("{}").split(",") if n.strip()]
  return names


def _parse(name: str, text: str) -> Instruction:
  opcode = _OPCODE.search(text)
  if opcode is None:
    return Instruction(name, "", (), (), text)
  results = tuple(_arrays(text[: opcode.start(1)]))
  depth, end = 1, opcode.end()
  while depth and end < len(text):
    depth += {"(": 1, ")": -1}.get(text[end], 0)
    end += 1
  operands = re.findall(r"%([\w.\-]+)", text[opcode.end() : end])
  if not operands:  # the short form, without %
    operands = re.findall(r"[\w.\-]+", text[opcode.end() : end])
  return Instruction(name, opcode[1], results, tuple(operands), text[end:])


def _arrays(text: str) -> Iterator[Array]:
  for dtype, shape, layout in _ARRAY.findall(text):
    found = _LAYOUT.fullmatch(layout)
    order, tile, space = found.groups() if found else ("", "", "")
    yield Array(dtype, _numbers(shape), int(space or 0), _numbers(order), _numbers(tile))


def _numbers(text: str | None) -> tuple[int, ...]:
  return tuple(int(x) for x in (text or "").split(",") if x)


def _operand(x: Instruction, index: int, named: dict[str, Instruction]) -> Array:
  return named[x.operands[index]].results[0]


def _is_product(x: Instruction) -> bool:
  return x.opcode in ("dot", "convolution") or bool(_library(x))


def _library(x: Instruction) -> str:
  """The name of the library's function that a GPU program calls for a product; "" if none."""
  found = _LIBRARY.search(x.rest) if x.opcode == "custom-call" else None
  return found[1] if found else ""


def _flops(x: Instruction, named: dict[str, Instruction]) -> int:
  left, right, result = _operand(x, 0, named), _operand(x, 1, named), x.results[0]
  called = _library(x)
  if "BackwardInput" in called:
    return _of_convolution(result, right, left, x.rest)
  if "BackwardFilter" in called:
    return _of_convolution(left, result, right, x.rest)
  if x.opcode == "convolution" or "conv" in called:
    return _of_convolution(left, right, result, x.rest)
  summed = _SUMMED.search(x.rest)
  axes = re.findall(r"\d+", summed[1]) if summed else []
  return 2 * math.prod(result.shape) * math.prod(left.shape[int(a)] for a in axes)


def _of_convolution(image: Array, kernel: Array, result: Array, rest: str) -> int:
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
  assert labels is not None, rest
  of_image, of_kernel, of_result = labels.groups()
  taps = 1
  for axis, (size, stride, low, dilation, spread) in enumerate(_window(rest, of_kernel)):
    taps *= arithmetic.taps(
      image.shape[of_image.index(str(axis))],
      result.shape[of_result.index(str(axis))],
      size,
      stride=stride,
      low=low,
      dilation=dilation,
      kernel_dilation=spread,
    )
  outputs = result.shape[of_result.index("b")] * result.shape[of_result.index("f")]
  return 2 * outputs * kernel.shape[of_kernel.index("i")] * taps


def _window(rest: str, labels: str) -> list[tuple[int, int, int, int, int]]:
  """Size, stride, padding before, dilation of the image and of the kernel, for each axis."""
  axes = sum(c.isdigit() for c in labels)
  text = re.search(r"window=\{([^}]*)\}", rest)
  fields = dict(part.split("=") for part in text[1].split()) if text else {}

  def values(name: str, default: str) -> list[int]:
    given = fields.get(name)
    parts = given.split("x") if given else [default] * axes
    return [int(p.split("_")[0]) for p in parts]

  return list(
    zip(
      values("size", "1"),
      values("stride", "1"),
      values("pad", "0"),
      values("lhs_dilate", "1"),
      values("rhs_dilate", "1"),
      strict=True,
    )
  )
