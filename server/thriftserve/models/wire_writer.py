r"""Protobuf's wire format, written: what `wire_fields` reads.

(1, 7)  --number_field-->  b"\x08\x07"          (2, b"ab")  --packed_field-->  b"\x12\x02ab"
"""

from __future__ import annotations

from thriftserve.models.wire_fields import BYTES, VARINT
from thriftserve_client.encoding import varint


def number_field(number: int, value: int) -> bytes:
    """A whole number from 0 on."""
    return varint(number << 3 | VARINT) + varint(value)


def packed_field(number: int, content: bytes) -> bytes:
    """A string or a message."""
    return varint(number << 3 | BYTES) + varint(len(content)) + content
