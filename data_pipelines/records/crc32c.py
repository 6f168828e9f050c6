"""CRC-32C of long byte strings in NumPy, as the TFRecord framing wants it.

A CRC is linear over GF(2). The bytes are cut into equal lanes, every lane's CRC advances by one
table look-up for all lanes at once, and neighbouring lanes are then joined pairwise: the CRC of
A‖B is that of A moved past |B| zero bytes, plus that of B. Zero bytes in front of a message
change nothing when the register starts at zero, so padding in front is free.
"""

from __future__ import annotations

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected
_LANE = 256  # bytes; a multiple of 4
_MASK_DELTA = 0xA282EAD8


def crc32c(data: bytes | bytearray | memoryview) -> int:
  """CRC-32C (RFC 3720, B.4) of `data`: 0 to 2^32 − 1."""
  if len(data) <= 2 * _LANE:
    return _crc_short(data)
  raw = np.frombuffer(data, np.uint8)
  padding = -len(raw) % _LANE
  lanes = np.zeros(padding + len(raw), np.uint8)
  lanes[padding:] = raw
  lanes[padding : padding + 4] ^= 0xFF  # the register's start value, moved into the message
  words = np.ascontiguousarray(lanes.view("<u4").reshape(-1, _LANE // 4).T)
  low, high = _word_tables()
  crc = np.zeros(words.shape[1], np.uint32)
  for word in words:
    crc ^= word
    crc = low[crc & 0xFFFF] ^ high[crc >> 16]
  shift = _zeros_operator(_LANE)
  while len(crc) > 1:
    if len(crc) % 2:
      crc = np.concatenate([np.zeros(1, np.uint32), crc])
    crc = _apply(shift, crc[0::2]) ^ crc[1::2]
    shift = _apply(shift, shift)
  return int(crc[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | bytearray | memoryview) -> int:
  """The rotated and offset CRC that TFRecord files store (TensorFlow, lib/hash/crc32c.h)."""
  crc = crc32c(data)
  return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def _crc_short(data) -> int:
  table = _byte_table_list()
  crc = 0xFFFFFFFF
  for byte in bytes(data):
    crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
  return crc ^ 0xFFFFFFFF


def _advance(crc: np.ndarray, num_bytes: int) -> np.ndarray:
  """Moves registers [L] past `num_bytes` zero bytes, bit by bit."""
  for _ in range(8 * num_bytes):
    crc = (crc >> 1) ^ (np.uint32(_POLYNOMIAL) * (crc & 1))
  return crc


@functools.cache
def _byte_table_list() -> list[int]:
  return _advance(np.arange(256, dtype=np.uint32), 1).tolist()


@functools.cache
def _word_tables() -> tuple[np.ndarray, np.ndarray]:
  """Registers after four zero bytes, from their low and from their high 16 bits."""
  halves = np.arange(1 << 16, dtype=np.uint32)
  return _advance(halves, 4), _advance(halves << 16, 4)


@functools.cache
def _zeros_operator(num_bytes: int) -> np.ndarray:
  """The linear map of `num_bytes` zero bytes: images of the 32 unit registers, uint32 [32]."""
  return _advance(np.uint32(1) << np.arange(32, dtype=np.uint32), num_bytes)


def _apply(operator: np.ndarray, registers: np.ndarray) -> np.ndarray:
  """Applies an operator [32] to registers [L] over GF(2)."""
  out = np.zeros_like(registers)
  for bit in range(32):
    out ^= operator[bit] * ((registers >> np.uint32(bit)) & np.uint32(1))
  return out
