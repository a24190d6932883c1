"""The index of a checkpoint: which tensors it has, and how long each data file must be for them.

    variables.index  --read-->  CheckpointIndex(shards=2, needed={0: 4096, 1: 512}, keys={"dense/kernel", …})

The file is a sorted table in LevelDB's format: data blocks, an index block of where they are, and a footer of 48
bytes that points at it. The value of its first entry, whose key is empty, is a BundleHeaderProto; every other is a
BundleEntryProto. No library reads it without TensorFlow. Checksums are not looked at: what is looked for is a copy
that is not done, and that shows in lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from thriftserve.files import CorruptFile
from thriftserve_proto.saved_model_pb2 import BundleEntryProto, BundleHeaderProto

#: The last eight bytes of every such table, little-endian.
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER_BYTES = 48
#: Behind each block: one byte for its compression, four of checksum.
_TRAILER_BYTES = 5
_MOST_VARINT_BYTES = 10
#: Bytes of a block, decompressed; TensorFlow's have up to 256 KiB.
_MOST_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class CheckpointIndex:
    """What an index says of its data files."""

    #: Number of data files.
    shards: int
    #: Bytes that each data file has at least, by its number; 0 for those without a tensor.
    needed: dict[int, int]
    #: Names of the tensors.
    keys: frozenset[str]


def read(data: memoryview) -> CheckpointIndex:
    """Read an index.

    Raises:
        CorruptFile: It is cut short, or no such table.
    """
    if len(data) < FOOTER_BYTES or bytes(data[-8:]) != MAGIC:
        raise CorruptFile(f"its {len(data)} bytes do not end as a table's do")
    shards, needed, keys = 0, dict[int, int](), set[str]()
    try:
        for key, value in _entries(data):
            if key == b"":
                shards = BundleHeaderProto.FromString(value).num_shards
                continue
            if not key.startswith(b"\0"):  # a part of a partitioned tensor, whose own name is there too
                keys.add(key.decode(errors="replace"))
            entry = BundleEntryProto.FromString(value)
            # Each part of a partitioned tensor has an entry of its own.
            end = 0 if entry.slices else entry.offset + entry.size
            needed[entry.shard_id] = max(needed.get(entry.shard_id, 0), end)
    except DecodeError as error:
        raise CorruptFile(f"an entry of it can't be read: {error}") from error
    if shards < 1 or any(not 0 <= shard < shards for shard in needed):
        raise CorruptFile(f"it names {shards} data files, and tensors in the files {sorted(needed)}")
    return CheckpointIndex(shards, {shard: needed.get(shard, 0) for shard in range(shards)}, frozenset(keys))


def _entries(data: memoryview) -> Iterator[tuple[bytes, bytes]]:
    """Yield every key and value of the table."""
    footer = data[-FOOTER_BYTES:]
    _, at = _read_handle(footer, 0)  # the metaindex block, which is empty here
    index, _ = _read_handle(footer, at)
    for _, handle in _block_entries(data, *index):
        yield from _block_entries(data, *_read_handle(memoryview(handle), 0)[0])


def _read_handle(data: memoryview, at: int) -> tuple[tuple[int, int], int]:
    """Return offset and length of a block, and the offset behind the two."""
    offset, at = _read_varint(data, at)
    size, at = _read_varint(data, at)
    return (offset, size), at


def _block_entries(data: memoryview, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a block. A key is written as what it shares with the one before, and the rest."""
    if offset + size + _TRAILER_BYTES > len(data) or size < 4:
        raise CorruptFile(f"a block of {size} bytes at {offset} is not within its {len(data)} bytes")
    block = decompressed(data[offset : offset + size], data[offset + size])
    size = len(block)
    restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 * (restarts + 1)
    if end < 0:
        raise CorruptFile(f"a block at {offset} has {restarts} restarts in {size} bytes")
    at, key = 0, b""
    while at < end:
        shared, at = _read_varint(block, at)
        rest, at = _read_varint(block, at)
        length, at = _read_varint(block, at)
        if shared > len(key) or at + rest + length > end:
            raise CorruptFile(f"an entry of the block at {offset} runs out of it")
        key = key[:shared] + bytes(block[at : at + rest])
        yield key, bytes(block[at + rest : at + rest + length])
        at += rest + length


def decompressed(block: memoryview, compression: int) -> memoryview:
    """Return the contents of a block: as it is (0), or compressed by Snappy (1), as some versions of TensorFlow do."""
    if compression == 0:
        return block
    if compression != 1:
        raise CorruptFile(f"a block is compressed in a way that no table has: {compression}")
    size, at = _read_varint(block, 0)
    if size > _MOST_BLOCK_BYTES:
        raise CorruptFile(f"a block has {size} bytes")
    out = bytearray()
    try:
        while at < len(block) and len(out) <= size:
            at = _snappy_element(block, at, out)
    except IndexError:
        raise CorruptFile("a compressed block ends early") from None
    if len(out) != size:
        raise CorruptFile(f"a compressed block has {len(out)} of its {size} bytes")
    return memoryview(bytes(out))


def _snappy_element(block: memoryview, at: int, out: bytearray) -> int:
    """Append what one element of Snappy's raw format stands for, and return where the next one begins.

    The lowest two bits of its first byte tell the kind: 0: bytes follow; 1 to 3: a copy of what came before, with an
    offset of 11, 16 or 32 bits.

    Raises:
        CorruptFile, IndexError: it ends early, or copies what is not there.
    """
    tag = block[at]
    kind, length, at = tag & 3, tag >> 2, at + 1
    if kind == 0:
        if length >= 60:
            width = length - 59
            length, at = int.from_bytes(block[at : at + width], "little"), at + width
        if at + length + 1 > len(block):
            raise CorruptFile("a compressed block ends early")
        out += block[at : at + length + 1]
        return at + length + 1
    if kind == 1:
        offset, length, at = (tag >> 5) << 8 | block[at], (length & 7) + 4, at + 1
    else:
        width = 2 if kind == 2 else 4
        offset, length, at = int.from_bytes(block[at : at + width], "little"), length + 1, at + width
    if not 0 < offset <= len(out):
        raise CorruptFile("a compressed block copies what is not there")
    for _ in range(length):  # the copy may overlap itself
        out.append(out[-offset])
    return at


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at an offset, and the offset behind it.

    Raises:
        CorruptFile: It does not end.
    """
    value = shift = 0
    for position in range(at, min(at + _MOST_VARINT_BYTES, len(data))):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise CorruptFile(f"a number at byte {at} does not end")
