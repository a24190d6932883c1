"""THeader: one port for clients of several dialects, each answered in its own.

    Frame --THeaderTransport: headers | framed binary | framed compact--> HeaderInput --> processor --> the same dialect

Apache's THeader brings frames of its own, so it runs over the framed transport here, one frame at a time and in memory;
so every server type can carry it. Unframed clients are not recognized.
"""

from __future__ import annotations

from io import BytesIO
from struct import Struct
from typing import Any

from thrift.protocol.THeaderProtocol import THeaderProtocol
from thrift.Thrift import TApplicationException, TProcessor
from thrift.transport.THeaderTransport import THeaderClientType, THeaderSubprotocolID, THeaderTransport
from thrift.transport.TTransport import HARD_MAX_FRAME_SIZE

from thriftserve.rpc.exchange import Exchange, TrackedProtocol
from thriftserve_client.wire.framing import HEADER_BYTES, Frame
from thriftserve_client.wire.protocols import BinaryProtocol, CompactProtocol

_ALLOWED = (THeaderClientType.HEADERS, THeaderClientType.FRAMED_BINARY, THeaderClientType.FRAMED_COMPACT)
_DIALECTS: dict[int, Any] = {THeaderSubprotocolID.BINARY: BinaryProtocol, THeaderSubprotocolID.COMPACT: CompactProtocol}
_LENGTH = Struct("!i")


class _OneFrame:
    """The transport below a THeaderTransport: one frame to read, one to write."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._length: bytes | None = _LENGTH.pack(frame.size)
        self.written: list[bytes] = []
        self.write = self.written.append

    def readAll(self, size: int) -> bytes:
        """Return the frame's length first, as it was on the wire, then its bytes."""
        length, self._length = self._length, None
        return length if length is not None else self._frame.readAll(size)

    def flush(self) -> None:
        """Do nothing: the connection sends what is written."""


class _Transport(THeaderTransport):
    """A THeaderTransport that begins each message in the dialect of the one before."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(None, _ALLOWED)
        self.set_max_frame_size(min(max_bytes, HARD_MAX_FRAME_SIZE - 1))
        self.set_max_decompressed_size(min(max_bytes, HARD_MAX_FRAME_SIZE))

    def attach(self, frame: Frame) -> None:
        """Read the next message from `frame`, and drop what is left of an unfinished reply."""
        self._transport = _OneFrame(frame)
        self._read_buffer = BytesIO()
        self.restart()

    def restart(self) -> None:
        """Drop what was written of a reply."""
        self._write_buffer = BytesIO()

    def take(self) -> list[bytes]:
        """Return the reply's frame without its length, which the connection writes."""
        frame = b"".join(self._transport.written)
        self._transport.written.clear()
        return [frame[HEADER_BYTES:]] if frame else []


class _HeaderInput(TrackedProtocol, THeaderProtocol):
    """THeader's protocol, with this project's limits and checks."""

    def __init__(self, max_bytes: int, transport: _Transport) -> None:
        self._max_bytes = max_bytes
        super().__init__(transport, _ALLOWED)

    def _set_protocol(self) -> None:
        dialect = _DIALECTS.get(self.trans.protocol_id)
        if dialect is None:
            raise TApplicationException(TApplicationException.INVALID_PROTOCOL, "unknown protocol id in the header")
        self._protocol = dialect(self.trans, self._max_bytes)
        self._protocol.container_length_limit = max(1, self.trans.cstringio_buf.getbuffer().nbytes)
        # The transport builds the frame from one piece: nothing is gained by writing by reference.
        self._fast_encode = self._protocol._fast_encode = dialect._dialect.encode
        self._fast_decode = self._protocol._fast_decode

    def begin(self, source: Any) -> None:
        """Start to read a message from the frame `source`."""
        self.trans.attach(source)
        self.header = None
        self.decoded = False

    def take(self) -> list[bytes]:
        """Return what was written since the message began."""
        return self.trans.take()  # type: ignore[no-any-return]  # Apache's attribute is untyped


class HeaderExchange(Exchange):
    """An exchange whose client chooses the dialect."""

    def __init__(self, processor: TProcessor, max_bytes: int) -> None:
        self._transport = _Transport(max_bytes)
        super().__init__(processor, "header", max_bytes)

    def _reset(self) -> None:
        self._transport.restart()  # the same transport: a client's error is written in its own dialect
        self._iprot = self._oprot = self._out = _HeaderInput(self._max_bytes, self._transport)


def make_exchange(processor: TProcessor, protocol: str, max_bytes: int) -> Exchange:
    """Return a new exchange for a protocol by name: "binary", "compact" or "header"."""
    return HeaderExchange(processor, max_bytes) if protocol == "header" else Exchange(processor, protocol, max_bytes)
