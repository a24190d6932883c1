"""TFRecord files: records of bytes, each with its length and two checksums.

FILE  --read-->  (1, bytes) (2, Damaged) (3, bytes) …          framed(bytes)  -->  a record as it stands in a file

A record is 8 bytes of length, 4 of the length's sum, the content, 4 of the content's sum; little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from thriftserve.repository.protobuf import CorruptFile

# The checksum of TFRecord files: CRC-32C, in numpy, at tens of MB a second.

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


_HEAD = struct.Struct("<QI")
_FOOT = struct.Struct("<I")


def read(path: Path) -> Iterator[tuple[int, bytes | CorruptFile]]:
    """The records of a file with their numbers, from 1 on.

    A record whose content is damaged comes as what is wrong with it, and the next one follows; where a length is
    damaged, or the file ends within a record, that is the last that comes.

    Raises:
        OSError: the file can't be read.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        number = 0
        while file.tell() < size:
            number += 1
            length, broken = _length(file, size)
            if broken is not None:
                yield number, broken
                return
            yield number, _content(file, length)


def framed(content: bytes) -> bytes:
    """A record as it stands in a file."""
    length = struct.pack("<Q", len(content))
    return length + _FOOT.pack(masked(length)) + content + _FOOT.pack(masked(content))


def _length(file: IO[bytes], size: int) -> tuple[int, CorruptFile | None]:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return 0, CorruptFile(f"the file ends {len(head)} bytes into it")
    length, checksum = _HEAD.unpack(head)
    if masked(head[:8]) != checksum:
        return 0, CorruptFile("its length is damaged, or the file is no TFRecord file: what follows can't be found")
    left = size - file.tell() - _FOOT.size
    if length > left:
        return 0, CorruptFile(f"it has {length} bytes and the file has {max(0, left)} more")
    return length, None


def _content(file: IO[bytes], length: int) -> bytes | CorruptFile:
    content = file.read(length)
    (checksum,) = _FOOT.unpack(file.read(_FOOT.size))
    return content if masked(content) == checksum else CorruptFile("its content is damaged: the checksum is another")
