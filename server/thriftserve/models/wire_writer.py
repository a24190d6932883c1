r"""Protobuf's wire format, written: what `wire_fields` reads.

(1, 7)  --number_field-->  b"\x08\x07"          (2, b"ab")  --packed_field-->  b"\x12\x02ab"
"""

from __future__ import annotations

from thriftserve.models.wire_fields import BYTES, VARINT


def number_field(number: int, value: int) -> bytes:
    """A whole number from 0 on."""
    return _varint(number << 3 | VARINT) + _varint(value)


def packed_field(number: int, content: bytes) -> bytes:
    """A string or a message."""
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
