"""TFRecord files: records of bytes, each with its length and two checksums.

FILE  --read-->  (1, bytes) (2, Damaged) (3, bytes) …          framed(bytes)  -->  a record as it stands in a file

A record is 8 bytes of length, 4 of the length's sum, the content, 4 of the content's sum; little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from thriftserve.models.crc32c import masked
from thriftserve.models.wire_fields import Damaged

_HEAD = struct.Struct("<QI")
_FOOT = struct.Struct("<I")


def read(path: Path) -> Iterator[tuple[int, bytes | Damaged]]:
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


def _length(file: IO[bytes], size: int) -> tuple[int, Damaged | None]:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return 0, Damaged(f"the file ends {len(head)} bytes into it")
    length, checksum = _HEAD.unpack(head)
    if masked(head[:8]) != checksum:
        return 0, Damaged("its length is damaged, or the file is no TFRecord file: what follows can't be found")
    left = size - file.tell() - _FOOT.size
    if length > left:
        return 0, Damaged(f"it has {length} bytes and the file has {max(0, left)} more")
    return length, None


def _content(file: IO[bytes], length: int) -> bytes | Damaged:
    content = file.read(length)
    (checksum,) = _FOOT.unpack(file.read(_FOOT.size))
    return content if masked(content) == checksum else Damaged("its content is damaged: the checksum is another")
