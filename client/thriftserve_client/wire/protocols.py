"""Apache's binary and compact protocols with this project's limits and encoder. No sockets.

    Frame | Stream --protocol--> struct
    struct --protocol--> Outgoing: segments --Channel.send--> socket

Server and client share it. A connection has one protocol object for each direction; only its `trans` changes.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from io import SEEK_CUR
from struct import Struct
from typing import Any

from thrift.protocol import fastbinary
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.protocol.TProtocol import TProtocolException
from thrift.transport.TTransport import TTransportBase

from thriftserve_client.wire.encoder import BinaryDialect, CompactDialect, plan_of, plans
from thriftserve_client.wire.framing import Frame
from thriftserve_client.wire.visitors import requirement_of, requirements

PROTOCOLS = ("binary", "compact")
DEFAULT_MAX_MESSAGE_BYTES = 64 * 1024 * 1024

#: Limit on a method's name.
MAX_NAME_BYTES = 1024

_VERSION_1 = 0x80010000
_VERSION_MASK = 0xFFFF0000
_MESSAGE = Struct("!II").pack
_TWO = Struct("!II").unpack
_SEQID = Struct("!i")
_U32 = Struct("!I")
_NO_HEAD = (b"-", "", 0)  # no message begins with this


class Outgoing(TTransportBase):
    """An encoded message as a list of segments; large ones refer to the caller's bytes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write = self.parts.append

    #: The channel sends. Apache's code calls this for each message, and `bool` is the cheapest callable.
    flush = staticmethod(bool)

    def take(self) -> list[bytes]:
        """Return the segments written since the last call."""
        parts = self.parts[:]
        self.parts.clear()
        return parts


class _CheckedProtocol:
    """What both protocols add to Apache's: large fields by reference, required fields checked."""

    trans: Any
    #: Method, type and number of the message that is read.
    header: tuple[str, int, int] | None = None
    #: Message types that are accepted.
    _kinds: Container[int] = range(256)
    _dialect: Any
    _decode_c: Any
    #: See `BinaryProtocol`.
    unversioned = False
    writer: Any = None

    def _encode(self, struct: Any, spec: Any) -> bytes:
        try:
            plan = plans[type(struct)]
        except KeyError:
            plan = plan_of(type(struct))
        if not plan.fields or not plan.has_large(struct):
            return self._dialect.encode(struct, spec)  # type: ignore[no-any-return]  # C code is untyped
        plan.emit(self._dialect, struct, self.trans.parts)
        return b""

    def _decode(self, struct: Any, iprot: Any, spec: Any) -> Any:
        decoded = self._decode_c(struct, iprot, spec)
        try:
            check = requirements[spec[0]]
        except KeyError:
            check = requirement_of(spec[0])
        if check is not None:
            check(struct if decoded is None else decoded)
        return decoded


class BinaryProtocol(_CheckedProtocol, TBinaryProtocol):
    """The binary protocol over a `Frame`, a stream or `Outgoing`.

    A server reads messages without a version, too, as old clients and thriftrw send them: length, name, type, number.

    Attributes:
        unversioned: whether messages are written so.
        writer: its `unversioned` follows the messages that are read, so that an answer is of the request's kind.
    """

    _takes_unversioned = False
    _dialect = BinaryDialect(fastbinary.encode_binary)
    _decode_c = staticmethod(fastbinary.decode_binary)
    writeMessageEnd = staticmethod(bool)  # as `Outgoing.flush`

    def __init__(self, trans: Any, max_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        super().__init__(trans, string_length_limit=max_bytes, container_length_limit=max_bytes)
        self._fast_decode = self._decode
        self._fast_encode = self._encode
        # The bytes before the number, of the last message each way: the next one most likely has the same.
        self._last_read = self._last_written = _NO_HEAD
        self._last_unversioned = self.unversioned = False
        self.writer = self

    def writeMessageBegin(self, name: str, type: int, seqid: int) -> None:
        if self.unversioned:
            encoded = name.encode()
            self.trans.write(_U32.pack(len(encoded)) + encoded + bytes([type]) + _SEQID.pack(seqid))
            return
        head, last_name, last_type = self._last_written
        if name != last_name or type != last_type:
            encoded = name.encode()
            head = _MESSAGE(_VERSION_1 | type, len(encoded)) + encoded
            self._last_written = head, name, type
        self.trans.write(head + _SEQID.pack(seqid))

    def readMessageBegin(self) -> tuple[str, int, int]:
        trans = self.trans
        if type(trans) is not Frame:
            return self._read_begin(trans.readAll)
        # A frame is complete, so its buffer is read directly; `_read_begin` finds messages that are too short.
        read = trans.cstringio_buf.read
        last, name, kind = self._last_read
        length = len(last)
        begin = read(length + 4)
        if begin[:-4] == last:
            self.writer.unversioned = self._last_unversioned
            self.header = header = name, kind, _SEQID.unpack_from(begin, length)[0]
            return header
        trans.cstringio_buf.seek(-len(begin), SEEK_CUR)
        return self._read_begin(read)

    def _read_begin(self, read: Callable[[int], bytes]) -> tuple[str, int, int]:
        head = read(8)
        if len(head) < 8:
            raise EOFError("the message ends within its header")
        version, length = _TWO(head)
        if 0 < version <= MAX_NAME_BYTES and self._takes_unversioned:
            return self._read_unversioned(head, version, read)
        if version & _VERSION_MASK != _VERSION_1 or length > MAX_NAME_BYTES:
            raise TProtocolException(TProtocolException.BAD_VERSION, _not_binary(head))
        kind = version & 0xFF
        if kind not in self._kinds:
            raise TProtocolException(TProtocolException.INVALID_DATA, f"message type {kind} is not expected here")
        rest = read(length + 4)
        if len(rest) < length + 4:
            raise EOFError("the message ends within its header")
        name = rest[:length].decode()
        self._last_read = head + rest[:length], name, kind
        self._last_unversioned = self.writer.unversioned = False
        self.header = header = name, kind, _SEQID.unpack_from(rest, length)[0]
        return header

    def _read_unversioned(self, head: bytes, length: int, read: Callable[[int], bytes]) -> tuple[str, int, int]:
        rest = head[_U32.size :] + read(length + 1)
        if len(rest) < length + 5:
            raise EOFError("the message ends within its header")
        name, kind = rest[:length].decode(), rest[length]
        if kind not in self._kinds:
            raise TProtocolException(TProtocolException.INVALID_DATA, f"message type {kind} is not expected here")
        self._last_read = head[: _U32.size] + rest[: length + 1], name, kind
        self._last_unversioned = self.writer.unversioned = True
        self.header = header = name, kind, _SEQID.unpack_from(rest, length + 1)[0]
        return header


def _not_binary(head: bytes) -> str:
    return f"the message begins with {head!r}: not the binary protocol (compact begins with 0x82)"


class CompactProtocol(_CheckedProtocol, TCompactProtocol):
    """The compact protocol over a `Frame`, a stream or `Outgoing`."""

    _dialect = CompactDialect(fastbinary.encode_compact)
    _decode_c = staticmethod(fastbinary.decode_compact)

    def __init__(self, trans: Any, max_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        super().__init__(trans, string_length_limit=max_bytes, container_length_limit=max_bytes)
        self._fast_decode = self._decode
        self._fast_encode = self._encode


def make_protocol(name: str, trans: Any, max_bytes: int) -> Any:
    """Return a protocol object by name, "binary" or "compact"."""
    return {"binary": BinaryProtocol, "compact": CompactProtocol}[name](trans, max_bytes)
