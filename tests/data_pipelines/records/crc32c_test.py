"""CRC-32C against RFC 3720's vectors and a bit-by-bit register."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.records.crc32c import crc32c, masked_crc32c


def bitwise(data: bytes) -> int:
  register = 0xFFFFFFFF
  for byte in data:
    register ^= byte
    for _ in range(8):
      register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
  return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
  ("data", "expected"),
  [
    (b"", 0x00000000),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
  ],
)
def test_published_vectors(data, expected):
  assert crc32c(data) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5000), st.randoms(use_true_random=False))
def test_equals_the_bitwise_register_at_any_length(length, random):
  data = random.randbytes(length)
  assert crc32c(data) == bitwise(data)


@pytest.mark.parametrize("length", [511, 512, 513, 767, 768, 769, 1024, 1025, 256 * 7, 256 * 9 + 1])
def test_equals_the_bitwise_register_around_lane_edges(length):
  data = bytes((i * 37 + 11) % 251 for i in range(length))
  assert crc32c(data) == bitwise(data)


def test_leading_zeros_count():
  assert crc32c(bytes(1000)) == bitwise(bytes(1000))
  assert crc32c(bytes(1000)) != crc32c(bytes(1001))


def test_one_flipped_bit_changes_a_long_message():
  data = bytearray(100_000)
  before = crc32c(data)
  data[54_321] ^= 4
  assert crc32c(data) != before


def test_masking_as_tensorflow_defines_it():
  crc = crc32c(b"123456789")
  rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
  assert masked_crc32c(b"123456789") == (rotated + 0xA282EAD8) % 2**32
