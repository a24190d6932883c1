"""TFRecord files: records of bytes, each with its length and two checksums.

    FILE  --read-->  (1, bytes) (2, CorruptFile) (3, bytes) …
    bytes  --frame-->  a record as a file has it

A record is 8 bytes of length, 4 of the length's checksum, the content, 4 of the content's checksum; little-endian. The
checksum is a CRC-32C, rotated and shifted so that one of data with checksums in it stays a good one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import google_crc32c

from thriftserve.files import CorruptFile

_HEAD = struct.Struct("<QI")
_FOOT = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8


def read(path: Path) -> Iterator[tuple[int, bytes | CorruptFile]]:
    """Yield the records of a file with their numbers, from 1 on.

    A record whose content is damaged is a CorruptFile that says how, and the next one follows. After a damaged length,
    or the end of the file within a record, there is no next one.

    Raises:
        OSError: The file can't be read.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        number = 0
        while file.tell() < size:
            number += 1
            length = _read_length(file, size)
            if isinstance(length, CorruptFile):
                yield number, length
                return
            yield number, _read_content(file, length)


def frame(content: bytes) -> bytes:
    """Return a record as a file has it."""
    length = struct.pack("<Q", len(content))
    return length + _FOOT.pack(_checksum(length)) + content + _FOOT.pack(_checksum(content))


def _checksum(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _read_length(file: IO[bytes], size: int) -> int | CorruptFile:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return CorruptFile(f"the file ends {len(head)} bytes into it")
    length, checksum = _HEAD.unpack(head)
    if _checksum(head[:8]) != checksum:
        return CorruptFile("its length is damaged, or the file is no TFRecord file: what follows can't be found")
    left = size - file.tell() - _FOOT.size
    if length > left:
        return CorruptFile(f"it has {length} bytes and the file has {max(0, left)} more")
    return int(length)


def _read_content(file: IO[bytes], length: int) -> bytes | CorruptFile:
    content = file.read(length)
    (checksum,) = _FOOT.unpack(file.read(_FOOT.size))
    if _checksum(content) != checksum:
        return CorruptFile("its content is damaged: the checksum is another")
    return content
