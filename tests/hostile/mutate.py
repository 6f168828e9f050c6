"""Damages files as disks, half copies, editors and strangers do; the same seed, the same damage."""

import json
import re

import numpy as np

NUMBERS = ("-1", "0", "NaN", "1e999", "-Infinity", "9" * 30, "1152921504606846976", "null", "0.5")
TEXTS = (
  '""',
  '"../../x"',
  '"/x"',
  '"\\u0000"',
  '"\\ud800"',
  "[]",
  "{}",
  "true",
  '"' + "a" * 300 + '"',
)
LINES = (",", '"', "\t", "\x00", "a,b,c,d,e,f,g", "../../x,1", "\ufeff", "-1", "'; --", "é" * 200)


def mutate(data: bytes, rng: np.random.Generator, *, text: bool) -> bytes:
  """One damaged copy of a file's bytes.

  Args:
    data: the whole file.
    rng: decides the damage.
    text: whether values and lines may be replaced, as in JSON and CSV.
  """
  kinds = [_flip, _flip, _cut, _byte, _remove, _double, _zeros, _insert]
  kinds += [_value, _value, _value, _key, _line, _line] if text else [_word, _word, _word]
  for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
    data = kinds[int(rng.integers(len(kinds)))](data, rng)
  return data


def _span(data, rng, longest=64):
  start = int(rng.integers(len(data) + 1))
  return start, min(len(data), start + int(rng.integers(1, longest)))


def _flip(data, rng):
  if not data:
    return data
  changed, at = bytearray(data), int(rng.integers(len(data)))
  changed[at] ^= 1 << int(rng.integers(8))
  return bytes(changed)


def _cut(data, rng):
  return data[: int(rng.integers(len(data) + 1))]


def _byte(data, rng):
  a, _ = _span(data, rng)
  return data[:a] + bytes([rng.integers(256)]) + data[a + 1 :]


def _remove(data, rng):
  a, b = _span(data, rng)
  return data[:a] + data[b:]


def _double(data, rng):
  a, b = _span(data, rng)
  return data[:b] + data[a:]


def _zeros(data, rng):
  a, b = _span(data, rng)
  return data[:a] + b"\0" * (b - a) + data[b:]


def _insert(data, rng):
  a, _ = _span(data, rng)
  return data[:a] + rng.bytes(int(rng.integers(1, 9))) + data[a:]


def _word(data, rng):
  """A number of eight bytes as none should be: a length far past the end, or negative."""
  value = int(rng.choice([-1, 0, 1, 2**31, 2**40, 2**60, 2**62, 2**63 - 1, -(2**63)]))
  a = int(rng.integers(max(1, len(data) - 8)))
  return data[:a] + value.to_bytes(8, "little", signed=True) + data[a + 8 :]


def _value(data, rng):
  """Another value, of another type, in the place of one in JSON or CSV."""
  found = list(re.finditer(rb'-?\d+\.?\d*|"[^"\n]*"|\[|\{|true|false|null|[A-Za-z_.]+', data))
  if not found:
    return data
  at = found[int(rng.integers(len(found)))]
  new = str(rng.choice([*NUMBERS, *TEXTS])).encode("utf-8", "replace")
  return data[: at.start()] + new + data[at.end() :]


def _key(data, rng):
  """JSON without one of its keys, or with another value there, however deep."""
  try:
    tree = json.loads(data)
  except ValueError:
    return data
  places = list(_places(tree))
  if not places:
    return data
  owner, key = places[int(rng.integers(len(places)))]
  if rng.random() < 0.5:
    del owner[key]
  else:
    owner[key] = [None, [], {}, "", -1, 1e300, [[]], {"a": 1}, "../x", True][int(rng.integers(10))]
  return json.dumps(tree).encode()


def _places(tree):
  if isinstance(tree, dict | list):
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
      yield tree, key
      yield from _places(tree[key])


def _line(data, rng):
  lines = data.split(b"\n")
  at = int(rng.integers(len(lines)))
  new = str(rng.choice(LINES)).encode()
  if rng.random() < 0.5:
    lines.insert(at, new)
  else:
    lines[at] = lines[at] + new
  return b"\n".join(lines)
