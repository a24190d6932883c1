r"""Frames without sockets: bytes in, whole messages out.

    recv --bytes--> FrameDecoder --Frame--> protocol        (framed transport: 4-byte length, message)

Every length is checked before a byte of its message is kept, so a hostile length costs nothing.
A small frame is cut out of what one read brought; a large one is read straight into the buffer that
the decoder of its message will read from, so its bytes are never moved. Whoever has decoded it may release it:
its buffer serves a later one then.

    >>> decoder = FrameDecoder(max_bytes=100)
    >>> decoder.feed(b"\0\0\0\2hi\0\0")
    >>> decoder.next_frame().read(9)
    b'hi'
    >>> decoder.next_frame() is None
    True
"""

from __future__ import annotations

from io import BytesIO
from struct import Struct

from thrift.transport.TTransport import CReadableTransport, TTransportBase

from thriftserve_client.wire.buffers import Buffer, buffers

_LENGTH = Struct("!i")
HEADER_BYTES = 4
#: A frame with more than this still to come is read in place.
IN_PLACE_BYTES = 64 * 1024


class FrameError(Exception):
    """The peer sent a length that no frame has; the connection is out of step for good."""


class Frame(TTransportBase, CReadableTransport):
    """One message, whole, in memory: what a protocol reads from."""

    __slots__ = ("cstringio_buf", "size")  # slots of these names stand over Apache's own

    def __init__(self, buffer: BytesIO, size: int) -> None:
        self.cstringio_buf = buffer  # the C decoder reads from it, under this name
        self.size = size

    def read(self, size: int) -> bytes:
        """Up to so many bytes; none at the end."""
        return self.cstringio_buf.read(size)

    def rewind(self) -> None:
        """Goes back to the beginning of the message."""
        self.cstringio_buf.seek(0)

    def readAll(self, size: int) -> bytes:
        """Exactly `size` bytes.

        Raises:
            EOFError: the message is shorter.
        """
        data = self.read(size)
        if len(data) < size:
            raise EOFError(f"the message ends {size - len(data)} bytes early")
        return data

    def cstringio_refill(self, partial: bytes, size: int) -> BytesIO:
        """There is no more than the frame."""
        raise EOFError(f"the message ends {size - len(partial)} bytes early")


class LargeFrame(Frame):
    """A message whose buffer another one may use, once it is released."""

    __slots__ = ()
    cstringio_buf: Buffer

    def release(self) -> None:
        """It was decoded (which copies), and is read no more: only once, and by whoever reads it."""
        buffers.give(self.cstringio_buf)


def frame_end(data: bytes | bytearray | memoryview, max_bytes: int, start: int = 0) -> int | None:
    """Return where the frame that begins at `start` ends, which may be beyond `data`; None if its length is not whole.

    Raises:
        FrameError: the length is negative or more than `max_bytes`.
    """
    if len(data) - start < HEADER_BYTES:
        return None
    (size,) = _LENGTH.unpack_from(data, start)
    if not 0 <= size <= max_bytes:
        raise FrameError(_refusal(size, max_bytes))
    return start + HEADER_BYTES + int(size)


def is_one_frame(data: bytes, max_bytes: int) -> bool:
    """Return whether `data` is one frame and nothing else, as most reads are; a length over the limit is none."""
    size = len(data) - HEADER_BYTES
    return 0 <= size <= max_bytes and _LENGTH.unpack_from(data)[0] == size


def _refusal(size: int, max_bytes: int) -> str:
    text = _LENGTH.pack(size)
    if text.isalpha() or text in (b"GET ", b"PUT ") or text[:3] == b"\x16\x03\x01":
        return f"the frame's length reads {text!r}: the peer seems to speak another protocol"
    if size < 0:
        return f"negative frame length {size}: a client with another transport (buffered, not framed) sends that"
    return f"frame of {size} bytes, the limit is {max_bytes}"


class FrameDecoder:
    """The frames of one connection, cut out of whatever pieces they arrive in.

    Args:
        max_bytes: the largest message.
        in_place_bytes: a frame with more than this still to come is read in place.
    """

    def __init__(self, max_bytes: int, in_place_bytes: int = IN_PLACE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._in_place_bytes = in_place_bytes
        self._pending = b""
        self._whole = Frame(BytesIO(), 0)
        self._large: Buffer | None = None
        self._view: memoryview | None = None
        self._filled = 0

    def cut(self, data: bytes) -> Frame | None:
        """`feed` and `next_frame` in one; a message that comes whole and alone, as most do, is there until the next.

        Raises:
            FrameError: the next frame's length is negative or over the limit.
        """
        if self._pending:
            self._pending += data
        else:
            if is_one_frame(data, self._max_bytes):
                frame = self._whole
                frame.cstringio_buf = BytesIO(data[HEADER_BYTES:])
                frame.size = len(data) - HEADER_BYTES
                return frame
            self._pending = data
        return self.next_frame()

    @property
    def in_message(self) -> bool:
        """True between a message's first byte and its last."""
        return bool(self._pending) or self._large is not None

    def wanted(self) -> memoryview | None:
        """Where the next bytes are to be read to (then call `filled`); None: anywhere (then call `feed`)."""
        return self._view[self._filled :] if self._view is not None else None

    def filled(self, size: int) -> None:
        """`size` bytes were read into `wanted()`."""
        self._filled += size

    def feed(self, data: bytes) -> None:
        """Takes bytes as they arrived."""
        self._pending = self._pending + data if self._pending else data

    def next_frame(self) -> Frame | None:
        """The next whole frame; None where more bytes are needed.

        Raises:
            FrameError: the next frame's length is negative or over the limit.
        """
        if self._view is not None:
            return self._finish_large() if self._filled == len(self._view) else None
        pending = self._pending
        end = frame_end(pending, self._max_bytes)
        if end is None:
            return None
        if len(pending) >= end:
            self._pending = pending[end:]
            return Frame(BytesIO(pending[HEADER_BYTES:end]), end - HEADER_BYTES)
        if end - len(pending) > self._in_place_bytes:
            self._begin_large(end - HEADER_BYTES)
        return None

    def _begin_large(self, size: int) -> None:
        self._large = buffers.take(size)
        self._view = self._large.getbuffer()
        self._filled = len(self._pending) - HEADER_BYTES
        self._view[: self._filled] = self._pending[HEADER_BYTES:]
        self._pending = b""

    def _finish_large(self) -> Frame:
        assert self._large is not None and self._view is not None
        self._view.release()
        frame = LargeFrame(self._large, self._filled)
        self._large = self._view = None
        return frame
