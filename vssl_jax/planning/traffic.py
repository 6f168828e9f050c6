"""The bytes that a compiled program reads and writes in the memory of a device.

Each operand and result of an instruction counts once; what a fusion computes inside stays on the
chip, and so does what a TPU program keeps in its scratch memory. A slice counts as large as the
part it takes, an update as the part that it writes. This is more than is really moved, because a
fusion may need only a part of an operand. XLA's own `bytes accessed` counts loops once, and of a
TPU program the memory on the chip too.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping

from vssl_jax.planning.hlo import Array, Instruction, Program, called

# Instructions that move no data, or only announce and finish what another one moves.
_FREE = re.compile(
  r"parameter|constant|tuple|get-tuple-element|bitcast|while|conditional|call|after-all|iota"
  r"|partition-id|replica-id|opt-barrier|async-.*|.*-done"
)
# Custom calls of TPU programs that name memory and move nothing.
_NAMING = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')
_SLICES = ("dynamic-slice", "slice", "gather")
# Copies that go on beside other instructions: which of their results is the copy. The others are
# the operand once more, and what the compiler keeps of the copy.
_STARTED = {"copy-start": 0, "slice-start": 1}
# Memory on the chip: a TPU's vector memory, scalar memory and semaphores.
_ON_CHIP = (1, 2, 6)


def moved(program: Program) -> int:
  """Bytes that are read and written in a step, on one device, with loops multiplied out."""
  return sum(runs * count for _, runs, count in by_instruction(program))


def by_instruction(program: Program) -> Iterable[tuple[Instruction, int, int]]:
  """Instructions that move data, how often each runs in a step, and its bytes each time."""
  for x, runs, named in program.instructions():
    if x.name in program.inside or _FREE.fullmatch(x.opcode):
      continue
    if x.opcode != "custom-call" or not _NAMING.search(x.rest):
      yield x, runs, _of_instruction(x, program, named)


def _of_instruction(x: Instruction, program: Program, named: Mapping[str, Instruction]) -> int:
  body = program.computations.get(called(x)[0], []) if x.opcode == "fusion" else []
  if not body:  # as a fusion of one instruction
    body = [_parameter(o, i) for i, o in enumerate(x.operands)] + [x]
  inner = {i.name: i for i in body}
  users = _users(body)
  read = 0
  for i in body:
    if i.opcode == "parameter" and int(i.operands[0]) < len(x.operands):
      given = named.get(x.operands[int(i.operands[0])])
      whole = _size(given.results) if given else 0
      read += min(whole, _read(i.name, whole, users, program))
  if x.opcode in _STARTED:
    return read + _size(_copy(x))
  return read + _written(body[-1], x.results, inner, named)


def _size(arrays: Iterable[Array]) -> int:
  return sum(a.stored() for a in arrays if a.space not in _ON_CHIP)


def _copy(x: Instruction) -> tuple[Array, ...]:
  return x.results[_STARTED[x.opcode] :][:1]


def _parameter(name: str, number: int) -> Instruction:
  return Instruction(name, "parameter", (), (str(number),), "")


def _users(body: Iterable[Instruction]) -> dict[str, list[Instruction]]:
  """The instructions that use each value."""
  users = collections.defaultdict(list)
  for i in body:
    for operand in set(i.operands):
      users[operand].append(i)
  return users


def _read(name: str, whole: int, users: Mapping[str, list[Instruction]], program: Program) -> int:
  """Bytes that are read of a parameter of `whole` bytes: of slices, only what they take."""
  total = 0
  for user in users[name]:
    if user.opcode == "bitcast":
      total += _read(user.name, whole, users, program)
    elif user.opcode == "fusion":  # a TPU program has fusions inside of fusions
      body = program.computations.get(called(user)[0], [])
      numbers = [str(i) for i, operand in enumerate(user.operands) if operand == name]
      for i in body:
        if i.opcode == "parameter" and i.operands[0] in numbers:
          total += _read(i.name, whole, _users(body), program)
    elif user.opcode == "slice-start":
      total += sum(a.stored() for a in _copy(user))
    elif user.opcode in _SLICES and user.operands[0] == name:
      total += sum(a.stored() for a in user.results)
    elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
      return whole
  return total


def _written(
  x: Instruction,
  results: tuple[Array, ...],
  inner: Mapping[str, Instruction],
  named: Mapping[str, Instruction],
) -> int:
  """Bytes that are written of results: of an update in place, only its part.

  Args:
    x: the instruction inside the fusion that makes the results.
    results: what the fusion returns of it, which tells where it is written.
    inner: the instructions of the fusion by name.
    named: the instructions around the fusion by name.
  """
  if x.opcode == "tuple":
    parts = [inner[o] for o in x.operands]
    if len(parts) == len(results):
      each = zip(parts, results, strict=True)
      return sum(_written(part, (result,), inner, named) for part, result in each)
  if all(a.space in _ON_CHIP for a in results):
    return 0
  if x.opcode == "bitcast" and x.operands[0] in inner:
    return _written(inner[x.operands[0]], results, inner, named)
  if x.opcode == "dynamic-update-slice":
    part = inner.get(x.operands[1])
    if part is None or (part.opcode == "parameter" and not part.results):
      part = named.get(x.operands[1])
    return sum(a.stored() for a in part.results) if part else 0
  return _size(results)
