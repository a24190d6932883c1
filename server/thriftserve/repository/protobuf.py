"""Protobuf's wire format, as far as looking into a file takes: no schema, nothing copied, nothing skipped unseen.

    bytes  --fields-->  (1, VARINT, 1) (2, BYTES, view of 4,711 bytes) …

A message that is cut anywhere inside a field is refused; one that is cut between two fields can't be told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from thriftserve_client.wire.encoder import varint

# r"""Protobuf's wire format, written: what `wire_fields` reads.


def number_field(number: int, value: int) -> bytes:
    """A whole number from 0 on."""
    return varint(number << 3 | VARINT) + varint(value)


def packed_field(number: int, content: bytes) -> bytes:
    """A string or a message."""
    return varint(number << 3 | BYTES) + varint(len(content)) + content


VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MOST_VARINT = 10


class CorruptFile(ValueError):
    """The bytes are not what they should be; the message says how."""


class WireField(NamedTuple):
    """A field's number, its kind and its value: an int, or a view of the bytes."""

    number: int
    kind: int
    value: int | memoryview

    @property
    def content(self) -> memoryview:
        """The bytes of a string or message.

        Raises:
            Damaged: it is neither.
        """
        if isinstance(self.value, int):
            raise CorruptFile(f"field {self.number} is a number where a message should be")
        return self.value

    @property
    def number_value(self) -> int:
        """The value of a whole number.

        Raises:
            Damaged: it is none.
        """
        if not isinstance(self.value, int):
            raise CorruptFile(f"field {self.number} is a message where a number should be")
        return self.value


def fields(message: memoryview) -> Iterator[WireField]:
    """Every field of a message, in order.

    Raises:
        Damaged: a field is cut short or of no known kind.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = read_varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = read_varint(message, at)
            yield WireField(number, kind, value)
            continue
        if kind == BYTES:
            size, at = read_varint(message, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise CorruptFile(f"field {number} is of the unknown kind {kind}")
        if number == 0 or at + size > end:
            raise CorruptFile(f"field {number} needs {size} bytes and {end - at} are there")
        content = message[at : at + size]
        yield WireField(number, kind, content if kind == BYTES else int.from_bytes(content, "little"))
        at += size


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at an offset, and the offset behind it.

    Raises:
        Damaged: it does not end.
    """
    value = shift = 0
    for position in range(at, min(at + _MOST_VARINT, len(data))):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise CorruptFile(f"a number at byte {at} does not end")
