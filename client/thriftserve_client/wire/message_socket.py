"""Messages over a blocking socket: what clients and the blocking server types share.

    socket --receive()--> Frame | Stream --> protocol ... Outgoing --send()--> socket

A `Channel` reads and writes whole messages under deadlines. On plain sockets the deadlines are the
kernel's (SO_RCVTIMEO, SO_SNDTIMEO), so that a tiny message costs one system call each way and a large
one is read by one call straight into place; TLS sockets go through Python's own timeouts.
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
#: What one read asks for: most messages come whole in it.
READ_BYTES = 32 * 1024
#: Messages up to this size are joined into one segment before they are sent.
JOIN_BYTES = 32 * 1024
#: Segments one system call takes (IOV_MAX is 1024 on Linux).
MAX_SEGMENTS = 512


class ChannelTimeout(Exception):
    """The peer did not send, or did not take, what was due in time."""


class IdleTimeout(ChannelTimeout):
    """Not even the first byte of a message came in time: nothing is lost by closing, or by waiting on."""


class ChannelClosed(Exception):
    """The peer closed the connection in the middle of a message."""


class Channel:
    """A connected socket that carries messages.

    Args:
        sock: connected; the channel owns it from now on.
        idle_timeout_s: the first byte of a message must come within this time.
        message_timeout_s: the rest of it within this time from its first byte.
        write_timeout_s: the peer must take a message within this time.
        max_bytes: no message is larger.
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
            self._limit(socket.SO_RCVTIMEO, idle_timeout_s)
            self._limit(socket.SO_SNDTIMEO, write_timeout_s)

    def set_idle_timeout(self, seconds: float | None) -> None:
        """Changes how long `receive` waits for a first byte."""
        self._idle_timeout_s = seconds
        self._wait_up_to(seconds)

    def _limit(self, option: int, seconds: float | None) -> None:
        micros = 0 if seconds is None else max(1, int(seconds * 1e6))  # 0 means for ever
        self.sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(*divmod(micros, 1_000_000)))

    def _wait_up_to(self, seconds: float | None) -> None:
        if self._tls:
            self.sock.settimeout(seconds)
        else:
            self._limit(socket.SO_RCVTIMEO, seconds)

    def read_some(self, size: int) -> bytes:
        """Up to `size` bytes as soon as there are any; none at the end of the stream.

        Raises:
            IdleTimeout: nothing came within the time set last.
        """
        try:
            return self.sock.recv(size)
        except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
            raise IdleTimeout("no data in time") from None

    def read_by(self, deadline: float) -> bytes:
        """Some bytes, by `deadline` (monotonic seconds)."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise ChannelTimeout("a message did not come whole in time")
        self._wait_up_to(left)
        try:
            data = self.read_some(READ_BYTES)
        except IdleTimeout:
            raise ChannelTimeout("a message did not come whole in time") from None
        finally:
            self._wait_up_to(self._idle_timeout_s)
        if not data:
            raise ChannelClosed("the peer closed in the middle of a message")
        return data

    def read_into(self, view: memoryview, deadline: float) -> None:
        """Fills `view` by `deadline` (monotonic seconds).

        Raises:
            ChannelTimeout: the deadline passed.
            ChannelClosed: the stream ended before.
        """
        done = 0
        flags = 0 if self._tls else socket.MSG_WAITALL
        try:
            while done < len(view):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ChannelTimeout(f"{len(view) - done} bytes of a message did not come in time")
                self._wait_up_to(left)
                try:
                    got = self.sock.recv_into(view[done:], 0, flags)
                except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
                    continue
                if got == 0:
                    raise ChannelClosed(f"the peer closed {len(view) - done} bytes before the end of a message")
                done += got
        finally:
            self._wait_up_to(self._idle_timeout_s)

    def send(self, parts: list[bytes], size: int | None = None) -> None:
        """Sends one message.

        Args:
            parts: its segments; the list is the channel's from now on.
            size: bytes in all of them, where that is known.

        Raises:
            ChannelTimeout: the peer did not take it in time.
            OSError: the connection broke.
        """
        self.send_bytes(parts, sum(map(len, parts)) if size is None else size)

    def send_bytes(self, parts: list[bytes], size: int) -> None:
        """Sends segments of `size` bytes in all."""
        try:
            if size <= JOIN_BYTES and not self._tls:
                data = b"".join(parts)
                sent = self.sock.send(data)
                if sent < size:
                    self._send_rest([memoryview(data)[sent:]])
            else:
                self._send_rest([memoryview(part) for part in parts])
        except (BlockingIOError, TimeoutError, ssl.SSLWantWriteError):
            raise ChannelTimeout("the peer did not take an answer in time") from None

    def _send_rest(self, views: list[memoryview]) -> None:
        deadline = time.monotonic() + self._write_timeout_s
        if self._tls:
            self.sock.settimeout(self._write_timeout_s)
            self.sock.sendall(b"".join(views))  # a part by itself would be a record by itself
            self.sock.settimeout(self._idle_timeout_s)
            return
        while views:
            sent = self.sock.sendmsg(views[:MAX_SEGMENTS])
            views = drop_sent(views, sent)
            if views and time.monotonic() > deadline:
                raise ChannelTimeout("the peer took an answer too slowly")

    def close(self) -> None:
        """Closes the socket; safe to call twice."""
        self.sock.close()


def drop_sent(views: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of `views` after their first `sent` bytes went out."""
    for at, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[at + 1 :]]
        sent -= len(view)
    return []


class FramedChannel(Channel):
    """Messages with a 4-byte length before each: Apache's framed transport."""

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        super().__init__(sock, **options)
        self._decoder = FrameDecoder(self.max_bytes, in_place_bytes=0)

    @property
    def has_pending(self) -> bool:
        """True if bytes of a further message were read already."""
        return self._decoder.in_message

    def receive(self) -> Frame | None:
        """Return the next message, valid until the one after it; None if the peer closed between two messages.

        Raises:
            IdleTimeout, ChannelTimeout, ChannelClosed, OSError: as it came.
            FrameError: the length announced is negative or over the limit.
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
        """Read on until the message is whole: straight into its buffer once its length is known."""
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
    """Messages without a length, one after the other: what a protocol reads from, straight off the socket."""

    __slots__ = ("_budget", "_channel", "_deadline", "cstringio_buf", "size")

    def __init__(self, channel: BufferedChannel) -> None:
        self._channel = channel
        self.cstringio_buf = BytesIO()
        # No container may announce more items than this: a list is allocated before its items come.
        self.size = channel.max_bytes // 8
        self._budget = 0
        self._deadline = 0.0

    def begin(self, data: bytes, deadline: float) -> None:
        """A message begins with `data`."""
        self.cstringio_buf = BytesIO(data)
        self._budget = self._channel.max_bytes - len(data)
        self._deadline = deadline

    def rest(self) -> bytes:
        """Bytes that were read but not consumed: the beginning of the next message."""
        return self.cstringio_buf.read()

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        return self.readAll(size)

    def readAll(self, size: int) -> bytes:
        """Exactly `size` bytes; see `receive` of the channel for what it raises."""
        data = self.cstringio_buf.read(size)
        if len(data) < size:
            self.cstringio_refill(data, size)
            data = self.cstringio_buf.read(size)
        return data

    def cstringio_refill(self, partial: bytes, size: int) -> BytesIO:
        """A buffer that begins with `partial` and holds at least `size` bytes."""
        if size - len(partial) > self._budget:
            raise FrameError(f"a message of more than {self._channel.max_bytes} bytes, which is the limit")
        data = partial
        if size <= READ_BYTES:
            data = self._small(partial, size)
            self.cstringio_buf = BytesIO(data)
        else:
            self.cstringio_buf = BytesIO(bytes(size))
            with self.cstringio_buf.getbuffer() as view:
                view[: len(partial)] = partial
                self._channel.read_into(view[len(partial) :], self._deadline)
        self._budget -= max(size, len(data)) - len(partial)
        return self.cstringio_buf

    def _small(self, partial: bytes, size: int) -> bytes:
        pieces = [partial]
        have = len(partial)
        while have < size:
            piece = self._channel.read_by(self._deadline)
            pieces.append(piece)
            have += len(piece)
        return b"".join(pieces)


class BufferedChannel(Channel):
    """Messages one after the other without lengths: Apache's buffered transport."""

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        super().__init__(sock, **options)
        self._stream = Stream(self)

    @property
    def has_pending(self) -> bool:
        """True where bytes of a further message were read already."""
        at = self._stream.cstringio_buf
        return at.tell() < at.getbuffer().nbytes

    def receive(self) -> Stream | None:
        """Where the next message is to be read from; None where the peer closed between two messages.

        Raises:
            IdleTimeout: no first byte came in time. Reading from the stream raises ChannelTimeout,
                ChannelClosed, FrameError (too large) or OSError as it comes.
        """
        data = self._stream.rest() or self.read_some(READ_BYTES)
        if not data:
            return None
        self._stream.begin(data, time.monotonic() + self._message_timeout_s)
        return self._stream


def make_channel(transport: str, sock: socket.socket, **options: Any) -> FramedChannel | BufferedChannel:
    """A channel by transport name, "framed" or "buffered"."""
    return FramedChannel(sock, **options) if transport == "framed" else BufferedChannel(sock, **options)
