"""A SavedModel with everything that can be missing: an asset, an index, two data files.

whole_version()  -->  a version's directory, made once; copy it to damage it
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cramjam
import google_crc32c

from thriftserve.models.tensorflow.preload import preload

#: What the model can't be without, in no order.
PARTS = (
    "saved_model.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00002",
    "variables/variables.data-00001-of-00002",
    "assets/words.txt",
)
PB, INDEX, FIRST, SECOND, ASSET = PARTS


@cache
def whole_version() -> Path:
    """A directory with PARTS, and fingerprint.pb, which is of no use."""
    preload()
    import tensorflow as tf

    scratch = Path(tempfile.mkdtemp(prefix="thriftserve-copied-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    (scratch / "words.txt").write_text("zero\none\ntwo\n")
    module = tf.Module()
    module.first, module.second = tf.Variable([1.0] * 400), tf.Variable([2.0] * 300)
    files = tf.lookup.TextFileInitializer(str(scratch / "words.txt"), tf.string, -2, tf.int64, -1)  # line, its number
    module.table = tf.lookup.StaticHashTable(files, -1)

    def number(word: Any) -> dict[str, Any]:
        found = tf.cast(module.table.lookup(word), tf.float32)
        return {"number": found + module.first[0] + module.second[0]}

    called = tf.function(number, input_signature=[tf.TensorSpec([None], tf.string, "word")])
    halves = tf.train.experimental.MaxShardSizePolicy(max_shard_size=1800)
    options = tf.saved_model.SaveOptions(experimental_sharding_callback=halves)
    tf.saved_model.save(module, str(scratch / "1"), {"serving_default": called}, options)
    return scratch / "1"


def text_version(target: Path) -> Path:
    """The same with saved_model.pbtxt in place of saved_model.pb, at `target`."""
    from google.protobuf import text_format
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    shutil.copytree(whole_version(), target)
    message = SavedModel.FromString((target / PB).read_bytes())
    (target / PB).unlink()
    (target / "saved_model.pbtxt").write_text(text_format.MessageToString(message))
    return target


def compressed_table(table: bytes) -> bytes:
    """The same table (a checkpoint's index) with every block compressed by Snappy."""
    metaindex, at = _handle(table, len(table) - 48)
    index, _ = _handle(table, at)
    out = b""
    entries = []
    for key, value in _entries(table[index[0] : index[0] + index[1]]):
        offset, size = _handle(value, 0)[0]
        entries.append((key, _varint(len(out)) + _varint(len(block := _compressed(table[offset : offset + size])) - 5)))
        out += block
    handles = b""
    for content in (table[metaindex[0] : sum(metaindex)], _table_block(entries)):
        block = _compressed(content)
        handles += _varint(len(out)) + _varint(len(block) - 5)
        out += block
    return out + handles.ljust(40, b"\0") + table[-8:]


def _compressed(content: bytes) -> bytes:
    data = bytes(cramjam.snappy.compress_raw(content)) + b"\1"
    crc = int(google_crc32c.value(data))
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return data + masked.to_bytes(4, "little")


def _table_block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block of whole keys, with a restart before each."""
    content, restarts = b"", []
    for key, value in entries:
        restarts.append(len(content))
        content += _varint(0) + _varint(len(key)) + _varint(len(value)) + key + value
    numbers = (*restarts, len(restarts))
    return content + b"".join(number.to_bytes(4, "little") for number in numbers)


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    end = len(block) - 4 * (int.from_bytes(block[-4:], "little") + 1)
    at, key = 0, b""
    while at < end:
        shared, at = _number(block, at)
        rest, at = _number(block, at)
        size, at = _number(block, at)
        key = key[:shared] + block[at : at + rest]
        yield key, block[at + rest : at + rest + size]
        at += rest + size


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _number(data, at)
    size, at = _number(data, at)
    return (offset, size), at


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])
