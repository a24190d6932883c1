"""Messages over a blocking socket, for clients and the blocking server types.

    socket --receive--> Frame | Stream --> protocol … Outgoing --send--> socket

A `Channel` reads and writes messages under deadlines. On plain sockets the kernel keeps the deadlines (SO_RCVTIMEO,
SO_SNDTIMEO), so a tiny message costs one system call each way, and one call reads a large one straight into its buffer.
TLS sockets use Python's timeouts.
"""

from __future__ import annotations

import socket
import ssl
import time
from io import BytesIO
from struct import Struct
from typing import Any

from thrift.transport.TTransport import CReadableTransport, TTransportBase

from thriftserve_client.wire.framing import HEADER_BYTES, Frame, FrameDecoder, FrameError

_LENGTH = Struct("!i")
_TIMEVAL = Struct("@ll")
#: Bytes of one read: most messages are complete in it.
READ_BYTES = 32 * 1024
#: Messages up to this size are joined into one segment before they are sent.
JOIN_BYTES = 32 * 1024
#: Segments for one system call (IOV_MAX is 1024 on Linux).
MAX_SEGMENTS = 512


class ChannelTimeout(Exception):
    """The peer did not send or accept a message in time."""


class IdleTimeout(ChannelTimeout):
    """No byte of a message arrived in time: closing loses nothing, and waiting on is possible."""


class ChannelClosed(Exception):
    """The peer closed the connection in the middle of a message."""


class Channel:
    """A connected socket that carries messages. One thread at a time may use it.

    Args:
        sock: connected; the channel owns it.
        idle_timeout_s: limit on the wait for a message's first byte; None for no limit.
        message_timeout_s: limit from a message's first byte to its last.
        write_timeout_s: limit on sending a message.
        max_bytes: limit on a message.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        idle_timeout_s: float | None,
        message_timeout_s: float,
        write_timeout_s: float,
        max_bytes: int,
    ) -> None:
        self.sock = sock
        self.max_bytes = max_bytes
        self._idle_timeout_s = idle_timeout_s
        self._message_timeout_s = message_timeout_s
        self._write_timeout_s = write_timeout_s
        self._tls = isinstance(sock, ssl.SSLSocket)
        if self._tls:
            sock.settimeout(idle_timeout_s)
        else:
            sock.settimeout(None)
            self._set_socket_timeout(socket.SO_RCVTIMEO, idle_timeout_s)
            self._set_socket_timeout(socket.SO_SNDTIMEO, write_timeout_s)

    def set_idle_timeout(self, seconds: float | None) -> None:
        """Change how long `receive` waits for a first byte."""
        self._idle_timeout_s = seconds
        self._set_read_timeout(seconds)

    def _set_socket_timeout(self, option: int, seconds: float | None) -> None:
        micros = 0 if seconds is None else max(1, int(seconds * 1e6))  # 0 means no limit
        self.sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(*divmod(micros, 1_000_000)))

    def _set_read_timeout(self, seconds: float | None) -> None:
        if self._tls:
            self.sock.settimeout(seconds)
        else:
            self._set_socket_timeout(socket.SO_RCVTIMEO, seconds)

    def read_some(self, size: int) -> bytes:
        """Return up to `size` bytes as soon as some arrive; none at the end of the stream.

        Raises:
            IdleTimeout: no byte arrived within the time-out.
        """
        try:
            return self.sock.recv(size)
        except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
            raise IdleTimeout("no data in time") from None

    def read_by(self, deadline: float) -> bytes:
        """Return some bytes, by `deadline` in monotonic seconds."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise ChannelTimeout("a message did not arrive completely in time")
        self._set_read_timeout(left_s)
        try:
            data = self.read_some(READ_BYTES)
        except IdleTimeout:
            raise ChannelTimeout("a message did not arrive completely in time") from None
        finally:
            self._set_read_timeout(self._idle_timeout_s)
        if not data:
            raise ChannelClosed("the peer closed in the middle of a message")
        return data

    def read_into(self, view: memoryview, deadline: float) -> None:
        """Fill `view` by `deadline`, in monotonic seconds.

        Raises:
            ChannelTimeout: the deadline passed.
            ChannelClosed: the stream ended early.
        """
        filled = 0
        flags = 0 if self._tls else socket.MSG_WAITALL
        try:
            while filled < len(view):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise ChannelTimeout(f"{len(view) - filled} bytes of a message did not arrive in time")
                self._set_read_timeout(left_s)
                try:
                    received = self.sock.recv_into(view[filled:], 0, flags)
                except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
                    continue
                if received == 0:
                    raise ChannelClosed(f"the peer closed {len(view) - filled} bytes before the end of a message")
                filled += received
        finally:
            self._set_read_timeout(self._idle_timeout_s)

    def send(self, parts: list[bytes], size: int | None = None) -> None:
        """Send one message.

        Args:
            parts: its segments; the channel may change the list.
            size: bytes of all segments, if known.

        Raises:
            ChannelTimeout: the peer did not accept it in time.
            OSError: the connection broke.
        """
        self.send_bytes(parts, sum(map(len, parts)) if size is None else size)

    def send_bytes(self, parts: list[bytes], size: int) -> None:
        """Send segments of `size` bytes in all. Errors as for `send`."""
        try:
            if size <= JOIN_BYTES and not self._tls:
                data = b"".join(parts)
                sent = self.sock.send(data)
                if sent < size:
                    self._send_rest([memoryview(data)[sent:]])
            else:
                self._send_rest([memoryview(part) for part in parts])
        except (BlockingIOError, TimeoutError, ssl.SSLWantWriteError):
            raise ChannelTimeout("the peer did not take a message in time") from None

    def _send_rest(self, views: list[memoryview]) -> None:
        deadline = time.monotonic() + self._write_timeout_s
        if self._tls:
            self.sock.settimeout(self._write_timeout_s)
            self.sock.sendall(b"".join(views))  # separate parts would be separate TLS records
            self.sock.settimeout(self._idle_timeout_s)
            return
        while views:
            sent = self.sock.sendmsg(views[:MAX_SEGMENTS])
            views = drop_sent(views, sent)
            if views and time.monotonic() > deadline:
                raise ChannelTimeout("the peer took a message too slowly")

    def close(self) -> None:
        """Close the socket; safe to call twice."""
        self.sock.close()


def drop_sent(views: list[memoryview], sent: int) -> list[memoryview]:
    """Return what is left of `views` after their first `sent` bytes were sent."""
    for index, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[index + 1 :]]
        sent -= len(view)
    return []


class FramedChannel(Channel):
    """Messages with a 4-byte length before each: Apache's framed transport."""

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        super().__init__(sock, **options)
        self._decoder = FrameDecoder(self.max_bytes, in_place_bytes=0)

    @property
    def has_pending(self) -> bool:
        """Whether bytes of a further message were read already."""
        return self._decoder.in_message

    def receive(self) -> Frame | None:
        """Return the next message, valid until the one after it; None if the peer closed between two messages.

        Raises:
            IdleTimeout: no byte arrived in time.
            ChannelTimeout: the rest did not arrive in time.
            ChannelClosed: the peer closed in the middle of the message.
            FrameError: its length is negative or above the limit.
            OSError: the connection broke.
        """
        decoder = self._decoder
        if decoder.in_message:
            frame = decoder.next_frame()
        else:
            data = self.read_some(READ_BYTES)
            if not data:
                return None
            frame = decoder.cut(data)
        return self._receive_rest() if frame is None else frame

    def _receive_rest(self) -> Frame:
        """Read until the message is complete: straight into its buffer once its length is known."""
        decoder, deadline = self._decoder, time.monotonic() + self._message_timeout_s
        frame = None
        while frame is None:
            wanted = decoder.wanted()
            if wanted is None:
                decoder.feed(self.read_by(deadline))
            else:
                self.read_into(wanted, deadline)
                decoder.filled(len(wanted))
            frame = decoder.next_frame()
        return frame

    def send(self, parts: list[bytes], size: int | None = None) -> None:
        if size is None:
            size = sum(map(len, parts))
        parts.insert(0, _LENGTH.pack(size))
        self.send_bytes(parts, size + HEADER_BYTES)


class Stream(TTransportBase, CReadableTransport):
    """Messages without a length, one after the other, as protocols read them from the socket."""

    __slots__ = ("_budget", "_channel", "_deadline", "cstringio_buf", "size")

    def __init__(self, channel: BufferedChannel) -> None:
        self._channel = channel
        self.cstringio_buf = BytesIO()
        # Limit on the items that a container announces: lists are allocated before their items arrive.
        self.size = channel.max_bytes // 8
        self._budget = 0
        self._deadline = 0.0

    def begin(self, data: bytes, deadline: float) -> None:
        """Begin a message, whose first bytes are `data`."""
        self.cstringio_buf = BytesIO(data)
        self._budget = self._channel.max_bytes - len(data)
        self._deadline = deadline

    def rest(self) -> bytes:
        """Return the bytes that were received but not read: the beginning of the next message."""
        return self.cstringio_buf.read()

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        return self.readAll(size)

    def readAll(self, size: int) -> bytes:
        """Return exactly `size` bytes; raises as `BufferedChannel.receive` says."""
        data = self.cstringio_buf.read(size)
        if len(data) < size:
            self.cstringio_refill(data, size)
            data = self.cstringio_buf.read(size)
        return data

    def cstringio_refill(self, partial: bytes, size: int) -> BytesIO:
        """Return a buffer that begins with `partial` and has at least `size` bytes."""
        if size - len(partial) > self._budget:
            raise FrameError(f"a message is larger than the limit of {self._channel.max_bytes} bytes")
        data = partial
        if size <= READ_BYTES:
            data = self._read_small(partial, size)
            self.cstringio_buf = BytesIO(data)
        else:
            self.cstringio_buf = BytesIO(bytes(size))
            with self.cstringio_buf.getbuffer() as view:
                view[: len(partial)] = partial
                self._channel.read_into(view[len(partial) :], self._deadline)
        self._budget -= max(size, len(data)) - len(partial)
        return self.cstringio_buf

    def _read_small(self, partial: bytes, size: int) -> bytes:
        pieces = [partial]
        received = len(partial)
        while received < size:
            piece = self._channel.read_by(self._deadline)
            pieces.append(piece)
            received += len(piece)
        return b"".join(pieces)


class BufferedChannel(Channel):
    """Messages one after the other without lengths: Apache's buffered transport."""

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        super().__init__(sock, **options)
        self._stream = Stream(self)

    @property
    def has_pending(self) -> bool:
        """Whether bytes of a further message were read already."""
        buffer = self._stream.cstringio_buf
        return buffer.tell() < buffer.getbuffer().nbytes

    def receive(self) -> Stream | None:
        """Return the stream to read the next message from; None if the peer closed between two messages.

        Raises:
            IdleTimeout: no byte arrived in time. Reading from the stream raises ChannelTimeout, ChannelClosed,
                FrameError (too large) or OSError.
        """
        data = self._stream.rest() or self.read_some(READ_BYTES)
        if not data:
            return None
        self._stream.begin(data, time.monotonic() + self._message_timeout_s)
        return self._stream


def make_channel(transport: str, sock: socket.socket, **options: Any) -> FramedChannel | BufferedChannel:
    """Return a channel by transport name, "framed" or "buffered"."""
    return FramedChannel(sock, **options) if transport == "framed" else BufferedChannel(sock, **options)
