"""One client on a socket that is only read when there is something to read.

    readable --next_message()--> Frame | nothing yet | end        send() --> all out | the rest is kept

A client that stops in the middle of a message holds a buffer, never a thread. Framed transport only: a
message's end must be known without decoding it.
"""

from __future__ import annotations

import socket
import ssl
import time
from struct import Struct

from thriftserve.rpc import make_exchange
from thriftserve.server_types.accepting import arrived_before_s
from thriftserve.server_types.host import Host
from thriftserve_client.channel import JOIN_BYTES, MAX_SEGMENTS, READ_BYTES, ChannelClosed, drop_sent
from thriftserve_client.framing import Frame, FrameDecoder

_LENGTH = Struct("!i")
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class PeerGone(Exception):
    """The client closed the connection between two messages."""


class PolledConnection:
    """A client's connection, read and written without waiting."""

    def __init__(self, sock: socket.socket, peer: str, host: Host) -> None:
        self.peer = peer
        self.fd = sock.fileno()
        self.exchange = make_exchange(host.processor, host.settings.protocol, host.settings.max_message_bytes)
        self._settings = settings = host.settings
        self._decoder = FrameDecoder(settings.max_message_bytes)
        self._unsent: list[memoryview] = []
        self._first = True
        self._mid_message = False
        self._tls: ssl.SSLSocket | None = None
        # Plain sockets stay blocking, for whoever chooses to wait; nothing here does.
        sock.setblocking(host.tls is None)
        self._flags = socket.MSG_DONTWAIT if host.tls is None else 0
        self.sock = sock
        self._context = host.tls
        self.handshaking = host.tls is not None
        #: When it is closed if nothing happens, monotonic seconds.
        self.deadline = time.monotonic() + (
            settings.handshake_timeout_s if self.handshaking else settings.idle_timeout_s
        )

    @property
    def why_late(self) -> str:
        """What `deadline` was set for."""
        if self.handshaking:
            return f"no TLS handshake within {self._settings.handshake_timeout_s:g} s"
        if self._unsent:
            return f"an answer was not taken within {self._settings.write_timeout_s:g} s"
        if self._mid_message:
            return f"a message did not come whole within {self._settings.read_timeout_s:g} s"
        return f"idle for {self._settings.idle_timeout_s:g} s"

    @property
    def in_message(self) -> bool:
        """True where part of a message came, and the rest is to come."""
        return self._mid_message or self.handshaking

    def next_message(self) -> Frame | None:
        """The next message; None where more of it is to come.

        Raises:
            PeerGone: the client closed between two messages.
            ChannelClosed, OSError: it did in the middle of one, or the connection broke.
            FrameError: a length is negative or over the limit.
        """
        try:
            if self.handshaking:
                self._handshake()
            frame = self._decoder.next_frame() if self._decoder.in_message else None
            while frame is None:
                frame = self._read()
        except _NOT_YET:
            self._expect_more()
            return None
        self._mid_message = False
        return frame

    def _handshake(self) -> None:
        if self._tls is None:
            assert self._context is not None
            self.sock = self._tls = self._context.wrap_socket(
                self.sock, server_side=True, do_handshake_on_connect=False
            )
        self._tls.do_handshake()
        self.handshaking = False

    def _read(self) -> Frame | None:
        wanted = self._decoder.wanted()
        if wanted is None:
            data = self.sock.recv(READ_BYTES, self._flags)
            if data:
                return self._decoder.cut(data)
        elif size := self.sock.recv_into(wanted, 0, self._flags):
            self._decoder.filled(size)
            return self._decoder.next_frame()
        if self._decoder.in_message:
            raise ChannelClosed("the peer closed in the middle of a message")
        raise PeerGone

    def _expect_more(self) -> None:
        if not self._mid_message and self._decoder.in_message:
            self._mid_message = True
            self.deadline = time.monotonic() + self._settings.read_timeout_s

    @property
    def has_pending(self) -> bool:
        """True where bytes were read that no message was made of yet, or lie in the TLS layer."""
        return self._decoder.in_message or (self._tls is not None and self._tls.pending() > 0)

    def arrival(self) -> float | None:
        """When the message just read came: a connection's first may have waited unread; None: now."""
        if not self._first:
            return None
        self._first = False
        return time.monotonic() - arrived_before_s(self.sock)

    def not_idle(self) -> None:
        """A message was dealt with that has no answer: its idle time begins anew, as it does when one is sent."""
        self.deadline = time.monotonic() + self._settings.idle_timeout_s

    def send(self, parts: list[bytes], size: int) -> bool:
        """Sends one message of `size` bytes as far as the socket takes it.

        Returns:
            True where it is all out; false where `send_rest` has to be called when the socket is writable.

        Raises:
            OSError: the connection broke.
        """
        parts.insert(0, _LENGTH.pack(size))
        now = time.monotonic()
        if size <= JOIN_BYTES or self._tls is not None:
            data = b"".join(parts)
            try:
                sent = self.sock.send(data, self._flags)
            except _NOT_YET:
                sent = 0
            if sent == len(data):
                self.deadline = now + self._settings.idle_timeout_s
                return True
            self._unsent = [memoryview(data)[sent:]]
        else:
            self._unsent = [memoryview(part) for part in parts]
        self.deadline = now + self._settings.write_timeout_s
        return self.send_rest()

    def send_rest(self) -> bool:
        """Sends on; returns and raises as `send` does."""
        views = self._unsent
        try:
            while views:
                views = drop_sent(views, self._send_some(views))
        except _NOT_YET:
            self._unsent = views
            return False
        self._unsent = []
        self.deadline = time.monotonic() + self._settings.idle_timeout_s
        return True

    def _send_some(self, views: list[memoryview]) -> int:
        if len(views) == 1:
            return self.sock.send(views[0], self._flags)
        return self.sock.sendmsg(views[:MAX_SEGMENTS], [], self._flags)

    def close(self) -> None:
        """Closes the socket; safe to call twice."""
        self.sock.close()
