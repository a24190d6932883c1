"""The index of a SavedModel's variables, read for one thing: how long each of its data files must be.

variables.index  --table of tensors-->  {"variables.data-00000-of-00002": 4096 bytes, …}

TensorFlow writes it as a sorted table: blocks of entries (key, BundleEntryProto), a block that lists the blocks,
and a footer with a magic number at the very end; so an index that was cut off has no footer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_FOOTER_SIZE = 48
_MAGIC = 0xDB4775248B80FB57
#: Behind each block: how it is packed (0: not at all), and its checksum.
_TRAILER_SIZE = 5


class Damaged(Exception):
    """The index can't be read; the message says why."""


def data_files(index: Path) -> dict[str, int]:
    """The data files that an index speaks of, and the bytes that each has at least.

    Raises:
        Damaged: the index is cut off, or no index.
        OSError: it can't be read.
    """
    content = index.read_bytes()
    if len(content) < _FOOTER_SIZE or struct.unpack_from("<Q", content, len(content) - 8)[0] != _MAGIC:
        raise Damaged(f"{index}: has no end: it is cut off, or no index of variables")
    try:
        return _sizes(index.stem, content)
    except (IndexError, ValueError, struct.error) as error:
        raise Damaged(f"{index}: can't be read: {error}") from error


def _sizes(prefix: str, content: bytes) -> dict[str, int]:
    footer = content[-_FOOTER_SIZE:]
    _, at = _handle(footer, 0)  # of the block of properties, which is empty
    root, _ = _handle(footer, at)
    shards, ends = 1, dict[int, int]()
    for _, handle in _entries(_block(content, root)):
        for key, value in _entries(_block(content, _handle(handle, 0)[0])):
            fields = _varints(value)
            if not key:  # the header
                shards = fields.get(1, 0)
                continue
            shard, end = fields.get(3, 0), fields.get(4, 0) + fields.get(5, 0)
            ends[shard] = max(ends.get(shard, 0), end)
    if not 0 < shards < 1 << 20:
        raise ValueError(f"it has {shards} data files")
    return {f"{prefix}.data-{one:05d}-of-{shards:05d}": ends.get(one, 0) for one in range(shards)}


def _block(content: bytes, handle: tuple[int, int]) -> bytes:
    offset, size = handle
    if offset + size + _TRAILER_SIZE > len(content):
        raise ValueError("a block lies beyond its end")
    if content[offset + size] != 0:
        raise ValueError("a block is packed in a way that is not known")
    return content[offset : offset + size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block. A key shares its beginning with the one before."""
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    end, at, key = len(block) - 4 - 4 * restarts, 0, b""
    while at < end:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        size, at = varint(block, at)
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + size]
        at += size


def _handle(content: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = varint(content, at)
    size, at = varint(content, at)
    return (offset, size), at


def _varints(message: bytes) -> dict[int, int]:
    """The fields of a protobuf message that are whole numbers, by number."""
    at, found = 0, dict[int, int]()
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == 0:
            found[tag >> 3], at = varint(message, at)
        elif kind == 2:
            size, at = varint(message, at)
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
    return found


def varint(content: bytes, at: int) -> tuple[int, int]:
    """The number at a place, seven bits a byte, and the place behind it.

    Raises:
        IndexError: the content ends within it.
        ValueError: it is longer than 64 bits.
    """
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number has no end")
