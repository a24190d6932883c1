"""The checksum of TFRecord files: CRC-32C, in numpy, at tens of MB a second.

bytes  --cut into lanes of equal length, all summed side by side, joined-->  crc32c  --masked-->  as TFRecord has it

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'

A sum of bytes is linear in them, so the sums of two neighbours join: the first is carried over as many zero bytes
as the second has (a 32 x 32 matrix of bits), and the two are xored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Words = npt.NDArray[Any]
#: Castagnoli's polynomial, its bits reversed.
_POLYNOMIAL = 0x82F63B78
_ALL = 0xFFFFFFFF
#: Bytes that a lane has about, and below twice how many there are no lanes.
_LANE = 256
_MASK_DELTA = 0xA282EAD8


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()
_WORDS = np.array(_TABLE, np.uint32)
#: Column i: what bit i of a sum becomes when a zero byte follows.
_ONE_ZERO = np.array([_TABLE[1 << bit & 0xFF] ^ (1 << bit) >> 8 for bit in range(32)], np.uint32)


def crc32c(data: bytes | memoryview) -> int:
    """The CRC-32C of some bytes."""
    lanes = 1 << max(0, (len(data) // _LANE).bit_length() - 1)
    length = len(data) // lanes if lanes > 1 else 0
    together = _ALL
    if length:
        rows = np.frombuffer(data, np.uint8, lanes * length).reshape(lanes, length)
        together = _joined(_lane_sums(rows), length)
    for byte in bytes(data[lanes * length :]):
        together = _TABLE[(together ^ byte) & 0xFF] ^ together >> 8
    return together ^ _ALL


def masked(data: bytes | memoryview) -> int:
    """As TFRecord writes it: turned and shifted, so that a sum of data that holds sums stays a good one."""
    found = crc32c(data)
    return ((found >> 15 | found << 17) + _MASK_DELTA) & _ALL


def _lane_sums(rows: _Words) -> _Words:
    sums = np.zeros(len(rows), np.uint32)
    sums[0] = _ALL
    for column in np.ascontiguousarray(rows.T):
        sums = _WORDS[(sums ^ column) & 0xFF] ^ sums >> np.uint32(8)
    return sums


def _joined(sums: _Words, length: int) -> int:
    over = _zeros(length)
    while len(sums) > 1:
        sums = _carried(over, sums[0::2]) ^ sums[1::2]
        over = _carried(over, over)
    return int(sums[0])


def _zeros(count: int) -> _Words:
    """The matrix that carries a sum over so many zero bytes."""
    result, power = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32)), _ONE_ZERO
    while count:
        if count & 1:
            result = _carried(power, result)
        power = _carried(power, power)
        count >>= 1
    return result


def _carried(matrix: _Words, sums: _Words) -> _Words:
    result = np.zeros_like(sums)
    for bit in range(32):
        result ^= np.where(sums >> np.uint32(bit) & np.uint32(1), matrix[bit], np.uint32(0))
    return result
