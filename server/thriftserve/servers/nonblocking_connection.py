"""One client on a socket that is only read when there is something to read.

    readable --next_message()--> Frame | nothing yet | end        send() --> all out | the rest is kept

A client that stops in the middle of a message holds a buffer, never a thread. Framed transport only: a
message's end must be known without decoding it.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from struct import Struct

from thriftserve.rpc import make_exchange
from thriftserve.servers.acceptor import arrived_before_s
from thriftserve.servers.busy_poll import BusyPoll, CoreBudget
from thriftserve.servers.connection import FAILURES, Connection, tell
from thriftserve.servers.context import ServerContext
from thriftserve_client.wire.framing import Frame, FrameDecoder
from thriftserve_client.wire.message_socket import (
    JOIN_BYTES,
    MAX_SEGMENTS,
    READ_BYTES,
    ChannelClosed,
    ChannelTimeout,
    drop_sent,
)

_LENGTH = Struct("!i")
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class PeerGone(Exception):
    """The client closed the connection between two messages."""


class NonblockingConnection:
    """A client's connection, read and written without waiting."""

    def __init__(self, sock: socket.socket, peer: str, host: ServerContext) -> None:
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


# Connections that one thread serves in turns: one whole message of one client, then the next client's.

#: A large message whose bytes keep coming is read on for this long, before others get their turn.
_READ_ON_S = 0.02
_NEXT_BYTES_MS = 1.0
_NEXT_RECORD_S = 0.001
#: A worker that stays with its only connection asks for news this often, and waits so long for one message of it.
_NEWS_S = 0.005
_STAY_TIMEVAL = Struct("@ll").pack(0, 1000)


class FramedMultiplexedConnection(NonblockingConnection):
    """A framed connection served in turns."""

    def __init__(self, sock: socket.socket, peer: str, host: ServerContext) -> None:
        super().__init__(sock, peer, host)
        self._host = host
        self._counters = host.context.counters
        self._spin = BusyPoll(host.settings.spin_us)
        self._room = CoreBudget(host.context.board, every=1)
        if host.tls is None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _STAY_TIMEVAL)

    def turn(self) -> bool:
        """Reads what is there and answers at most one message; false where the connection has ended."""
        return self._guard(self._turn)

    @property
    def may_stay(self) -> bool:
        """Whether `stay` is for this connection, as it is now."""
        return self._tls is None and not self.in_message and not self._decoder.in_message

    def stay(self, news: Callable[[], bool]) -> bool:
        """Answers on as long as each message comes soon after the last answer; false where the connection has ended.

        For a worker with no other connection: waiting in `recv` is one system call less a message than waiting
        for any of several.

        Args:
            news: asked every few milliseconds, at once; true ends it, so that new connections get their look.
        """
        return self._guard(lambda: self._stay(news))

    def _turn(self) -> bool:
        frame = self.next_message() or self._read_on()
        return self._answer(frame) if frame else True

    def _stay(self, news: Callable[[], bool]) -> bool:
        cut = self._decoder.cut
        receive = self._way_to_receive()
        # Each answer sets the deadline, and so tells the time.
        within = self._settings.idle_timeout_s + _NEWS_S
        news_at = time.monotonic() + within
        while not self._host.draining:
            if self.deadline >= news_at:
                if news():
                    return True
                news_at = self.deadline + _NEWS_S
                receive = self._way_to_receive()
            try:
                data = receive(READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            frame = cut(data) or self._rest_of_message()
            if frame is None:
                return True
            if not self._answer(frame):
                return False
            if self._decoder.in_message:
                return True
        return True

    def _way_to_receive(self) -> Callable[[int], bytes]:
        """Awake, where each of the processes that would has a core for it."""
        return self._receive if self._room.is_there() else self.sock.recv

    def _rest_of_message(self) -> Frame | None:
        self._expect_more()
        return self._read_on()

    def _receive(self, size: int) -> bytes:
        """As `recv`, waiting awake for what comes at once mostly."""
        data = self._spin.soon(self._look)
        if data is None:
            data = self.sock.recv(size)
            self._spin.slept()
        return data

    def _look(self) -> bytes | None:
        try:
            return self.sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def _guard(self, step: Callable[[], bool]) -> bool:
        """Does a step; whatever is the connection's own fault ends it and nothing else."""
        try:
            return step()
        except PeerGone:
            return False
        except FAILURES as error:
            tell(self.peer, error)
        return False

    def _answer(self, frame: Frame) -> bool:
        self._counters.begin_request()
        try:
            parts = self.exchange.answer(frame, self.arrival() if self._first else None)
            if not parts:  # a oneway call
                self.not_idle()
            elif not self.send(parts, self.exchange.size):
                self._send_on()
        finally:
            self._counters.end_request()  # the client need not wait for that
        return not self.exchange.broken

    def _read_on(self) -> Frame | None:
        """The rest of a message that has begun, while its bytes keep coming."""
        if not self.in_message:
            return None
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        until = time.monotonic() + _READ_ON_S
        frame = None
        while frame is None and time.monotonic() < until and poll.poll(_NEXT_BYTES_MS):
            self._fill()
            frame = self.next_message()
        return frame

    def _fill(self) -> None:
        """Reads a large message into place, in one call where its bytes follow each other closely."""
        wanted = self._decoder.wanted()
        if wanted is not None and self._tls is None:
            self._decoder.filled(self.sock.recv_into(wanted, 0, socket.MSG_WAITALL))

    def _send_on(self) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        while (left_s := self.deadline - time.monotonic()) > 0:
            poll.poll(left_s * 1000)
            if self.send_rest():
                return
        raise ChannelTimeout(self.why_late)


class BufferedMultiplexedConnection(Connection):
    """A connection of the buffered transport served in turns."""

    @property
    def fd(self) -> int:
        """The socket's descriptor."""
        return self.sock.fileno()

    @property
    def in_message(self) -> bool:
        """True in a TLS handshake; a turn reads a message to its end."""
        return self.handshaking

    def turn(self) -> bool:
        """Answers one message that has begun to come; false where the connection has ended."""
        # What comes over TLS may be less than a record, which must not hold everyone up.
        return self.serve_while_busy(_NEXT_RECORD_S if self.host.tls else None, lambda: True)


Turns = FramedMultiplexedConnection | BufferedMultiplexedConnection
