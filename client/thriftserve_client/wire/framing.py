r"""Frames without sockets: bytes in, messages out.

    recv --bytes--> FrameDecoder --Frame--> protocol        (framed transport: 4-byte length, message)
    BufferPool.take --> recv_into --> LargeFrame --> decoder, which copies --> LargeFrame.release --> BufferPool.give

Every length is checked before memory is allocated for its message, so a hostile length costs nothing. A small frame is
cut out of the bytes of one read. A large one is read straight into the buffer that its decoder reads from, so its bytes
are never moved; whoever has decoded it may release the buffer for a later frame. That saves about a copy of the
message, because the kernel clears fresh memory page by page.

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
from threading import Lock

from thrift.transport.TTransport import CReadableTransport, TTransportBase

_LENGTH = Struct("!i")
HEADER_BYTES = 4
#: Bytes of unused buffers that a process keeps.
_UNUSED_BYTES = 32 * 1024 * 1024
#: A frame with more than this still to come is read in place.
IN_PLACE_BYTES = 64 * 1024


class FrameError(Exception):
    """The peer sent a length that no frame has; the connection can't be used any more."""


class Frame(TTransportBase, CReadableTransport):
    """One complete message in memory, as protocols read it."""

    __slots__ = ("cstringio_buf", "size")  # these slots hide Apache's attributes

    def __init__(self, buffer: BytesIO, size: int) -> None:
        self.cstringio_buf = buffer  # the C decoder reads from it, under this name
        self.size = size

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; none at the end."""
        return self.cstringio_buf.read(size)

    def rewind(self) -> None:
        """Go back to the beginning of the message."""
        self.cstringio_buf.seek(0)

    def readAll(self, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            EOFError: the message is shorter.
        """
        data = self.read(size)
        if len(data) < size:
            raise EOFError(f"the message ends {size - len(data)} bytes early")
        return data

    def cstringio_refill(self, partial: bytes, size: int) -> BytesIO:
        """Raise EOFError: the frame has no more bytes."""
        raise EOFError(f"the message ends {size - len(partial)} bytes early")


class LargeFrame(Frame):
    """A message whose buffer a later one may use after `release`."""

    __slots__ = ()
    cstringio_buf: Buffer

    def release(self) -> None:
        """Give the buffer back. Only the reader may call it, once, after decoding, which copies."""
        buffer_pool.give(self.cstringio_buf)


def frame_end(data: bytes | bytearray | memoryview, max_bytes: int, start: int = 0) -> int | None:
    """Return where the frame that begins at `start` ends, which may be beyond `data`; None if its length is incomplete.

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
        return f"negative frame length {size}: does the peer use the buffered transport?"
    return f"frame of {size} bytes, the limit is {max_bytes}"


class FrameDecoder:
    """Cut the frames of one connection out of the pieces that arrive. Not for several threads.

    Args:
        max_bytes: limit on a message.
        in_place_bytes: a frame with more bytes than this still to come is read in place.
    """

    def __init__(self, max_bytes: int, in_place_bytes: int = IN_PLACE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._in_place_bytes = in_place_bytes
        self._pending = b""
        self._complete = Frame(BytesIO(), 0)
        self._buffer: Buffer | None = None
        self._view: memoryview | None = None
        self._filled = 0

    def cut(self, data: bytes) -> Frame | None:
        """Feed bytes and return the next frame. If one frame arrives alone, it is valid until the next call.

        Raises:
            FrameError: the next frame's length is negative or over the limit.
        """
        if self._pending:
            self._pending += data
        else:
            if is_one_frame(data, self._max_bytes):
                frame = self._complete
                frame.cstringio_buf = BytesIO(data[HEADER_BYTES:])
                frame.size = len(data) - HEADER_BYTES
                return frame
            self._pending = data
        return self.next_frame()

    @property
    def in_message(self) -> bool:
        """Whether a message has begun and is not complete."""
        return bool(self._pending) or self._buffer is not None

    def wanted(self) -> memoryview | None:
        """Return where to read the next bytes into, then call `filled`. None: read anywhere, then call `feed`."""
        return self._view[self._filled :] if self._view is not None else None

    def filled(self, size: int) -> None:
        """Note that `size` bytes were read into `wanted()`."""
        self._filled += size

    def feed(self, data: bytes) -> None:
        """Add bytes that arrived."""
        self._pending = self._pending + data if self._pending else data

    def next_frame(self) -> Frame | None:
        """Return the next complete frame; None if more bytes are needed.

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
        self._buffer = buffer_pool.take(size)
        self._view = self._buffer.getbuffer()
        self._filled = len(self._pending) - HEADER_BYTES
        self._view[: self._filled] = self._pending[HEADER_BYTES:]
        self._pending = b""

    def _finish_large(self) -> Frame:
        assert self._buffer is not None and self._view is not None
        self._view.release()
        frame = LargeFrame(self._buffer, self._filled)
        self._buffer = self._view = None
        return frame


class Buffer(BytesIO):
    """A buffer with the size that it was allocated with."""

    __slots__ = ("capacity",)

    def __init__(self, size: int) -> None:
        super().__init__(bytes(size))
        self.capacity = size


class BufferPool:
    """Unused buffers, the last one used first. Any thread may call its methods."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._free: list[Buffer] = []
        self._unused_bytes = 0

    def take(self, size: int) -> Buffer:
        """Return a buffer of exactly `size` bytes, at its beginning, with any content."""
        with self._lock:
            for index, buffer in enumerate(self._free):
                if size <= buffer.capacity <= 2 * size:  # BytesIO reallocates one cut to less than half
                    del self._free[index]
                    self._unused_bytes -= buffer.capacity
                    break
            else:
                return Buffer(size)
        buffer.truncate(size)
        if buffer.seek(0, 2) < size:
            buffer.seek(size - 1)
            buffer.write(b"\0")
        buffer.seek(0)
        return buffer

    def give(self, buffer: Buffer) -> None:
        """Add a buffer that nobody reads any more."""
        with self._lock:
            self._free.insert(0, buffer)
            self._unused_bytes += buffer.capacity
            while self._unused_bytes > self._max_bytes:
                self._unused_bytes -= self._free.pop().capacity


#: The pool of this process.
buffer_pool = BufferPool(_UNUSED_BYTES)
