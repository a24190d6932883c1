"""The index of a checkpoint: which tensors it has, and how long each data file must be for them.

    variables.index  --read-->  BundleIndex(shards=2, needed={0: 4096, 1: 512}, keys={"dense/kernel", …})

The file is a sorted table in LevelDB's format: data blocks, an index block of where they lie, and a footer of 48
bytes that points at it. Its first entry, of the empty key, is a BundleHeaderProto, every other a BundleEntryProto
(tensorflow/core/protobuf/tensor_bundle.proto). Checksums are not looked at: what is looked for is a copy that is
not done, and that shows in lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from thriftserve.repository.protobuf import CorruptFile, fields, read_varint

#: The last eight bytes of every such table, little-endian.
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER_BYTES = 48
#: Behind each block: one byte that tells its compression, four of checksum.
_TRAILER_BYTES = 5
_NUM_SHARDS = 1
_SHARD, _OFFSET, _SIZE, _SLICES = 3, 4, 5, 7


@dataclass(frozen=True)
class CheckpointIndex:
    """What an index says of its data files."""

    #: How many data files there are.
    shards: int
    #: Bytes that each data file has at least, by its number; 0 for those that hold no tensor.
    needed: dict[int, int]
    #: Names of the tensors.
    keys: frozenset[str]


def read(data: memoryview) -> CheckpointIndex:
    """Reads an index.

    Raises:
        Damaged: it is cut short, or no such table.
    """
    if len(data) < FOOTER_BYTES or bytes(data[-8:]) != MAGIC:
        raise CorruptFile(f"its {len(data)} bytes do not end as a table's do")
    shards, needed, keys = 0, dict[int, int](), set[str]()
    for key, value in _entries(data):
        if key == b"":
            shards = next((one.number_value for one in fields(value) if one.number == _NUM_SHARDS), 0)
            continue
        if not key.startswith(b"\0"):  # a part of a partitioned tensor, whose own name is there too
            keys.add(key.decode(errors="replace"))
        shard, end = _extent(value)
        needed[shard] = max(needed.get(shard, 0), end)
    if shards < 1 or any(not 0 <= shard < shards for shard in needed):
        raise CorruptFile(f"it tells of {shards} data files, and of tensors in {sorted(needed)}")
    return CheckpointIndex(shards, {shard: needed.get(shard, 0) for shard in range(shards)}, frozenset(keys))


def _extent(entry: memoryview) -> tuple[int, int]:
    """The data file that a tensor is in, and where it ends there."""
    found = {one.number: one for one in fields(entry)}
    shard = found[_SHARD].number_value if _SHARD in found else 0
    if _SLICES in found:  # a partitioned tensor: each of its parts has an entry of its own
        return shard, 0
    offset, size = (found[number].number_value if number in found else 0 for number in (_OFFSET, _SIZE))
    return shard, offset + size


def _entries(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Every key and value of the table."""
    footer = data[-FOOTER_BYTES:]
    _, at = _handle(footer, 0)  # the metaindex block, which holds nothing here
    index, _ = _handle(footer, at)
    for _, handle in _block(data, *index):
        yield from _block(data, *_handle(handle, 0)[0])


def _handle(data: memoryview, at: int) -> tuple[tuple[int, int], int]:
    """Offset and length of a block, and the offset behind the two."""
    offset, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return (offset, size), at


def _block(data: memoryview, offset: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of a block. Each key is written as what it shares with the one before, and the rest."""
    if offset + size + _TRAILER_BYTES > len(data) or size < 4:
        raise CorruptFile(f"a block of {size} bytes at {offset} does not lie in its {len(data)} bytes")
    if data[offset + size] != 0:
        raise CorruptFile("it is compressed, and no TensorFlow writes it so: save the model again")
    block = data[offset : offset + size]
    restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 * (restarts + 1)
    if end < 0:
        raise CorruptFile(f"a block at {offset} has {restarts} restarts in {size} bytes")
    at, key = 0, b""
    while at < end:
        shared, at = read_varint(block, at)
        rest, at = read_varint(block, at)
        length, at = read_varint(block, at)
        if shared > len(key) or at + rest + length > end:
            raise CorruptFile(f"an entry of the block at {offset} runs out of it")
        key = key[:shared] + bytes(block[at : at + rest])
        yield key, block[at + rest : at + rest + length]
        at += rest + length
