"""One client on a socket that is only read when there is something to read.

    readable --next_message()--> Frame | None: more to come | end       send() --> all sent | send_rest() when writable

A client that stops in the middle of a message costs a buffer, never a thread. That needs the framed transport, which
shows the end of a message without decoding it.

On top of that, one thread can serve many connections in turns, a whole message of one client after that of another:
FramedMultiplexedConnection, and BufferedMultiplexedConnection, which waits for the end of a message.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import time
from collections.abc import Callable
from struct import Struct

from thriftserve.rpc import make_exchange
from thriftserve.servers.acceptor import arrived_before_s
from thriftserve.servers.busy_poll import BusyPoll, CoreBudget
from thriftserve.servers.connection import FAILURES, Connection, has_hung_up, log_failure
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

log = logging.getLogger(__name__)

_LENGTH = Struct("!i")
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: While the bytes of a large message keep coming, its turn lasts this long; each may be so late.
_TURN_S = 0.02
_NEXT_BYTES_MS = 1.0
_NEXT_RECORD_S = 0.001
#: `serve_alone` asks this often whether to return: a look through epoll costs 0.7 us of each call
#: (docs/explanation/decisions.md, "The server types").
_CHECK_S = 0.005
#: How long `serve_alone` waits for a message: SO_RCVTIMEO, seconds and microseconds.
_RECEIVE_TIMEVAL = Struct("@ll").pack(0, 1000)


class PeerGone(Exception):
    """The client closed the connection between two messages."""


class NonblockingConnection:
    """A client's connection, read and written without waiting. Only one thread at a time may use it.

    Attributes:
        deadline: when to close it if nothing happens, monotonic seconds.
        handshaking: whether the client has not finished its TLS handshake.
    """

    def __init__(self, sock: socket.socket, peer: str, server: ServerContext) -> None:
        self.peer = peer
        self.fd = sock.fileno()
        self.exchange = make_exchange(server.processor, server.settings.protocol, server.settings.max_message_bytes)
        self._settings = settings = server.settings
        self._decoder = FrameDecoder(settings.max_message_bytes)
        self._unsent: list[memoryview] = []
        self._first = True
        self._mid_message = False
        self._tls: ssl.SSLSocket | None = None
        self._tls_context = server.tls
        # A plain socket stays blocking, for `serve_alone`; every other call has MSG_DONTWAIT.
        sock.setblocking(server.tls is None)
        self._flags = socket.MSG_DONTWAIT if server.tls is None else 0
        self.sock = sock
        self.handshaking = server.tls is not None
        timeout_s = settings.handshake_timeout_s if self.handshaking else settings.idle_timeout_s
        self.deadline = time.monotonic() + timeout_s

    @property
    def timeout_reason(self) -> str:
        """Which time-out `deadline` is, for the log."""
        if self.handshaking:
            return f"no TLS handshake within {self._settings.handshake_timeout_s:g} s"
        if self._unsent:
            return f"a response was not taken within {self._settings.write_timeout_s:g} s"
        if self._mid_message:
            return f"a message was incomplete after {self._settings.read_timeout_s:g} s"
        return f"idle for {self._settings.idle_timeout_s:g} s"

    @property
    def in_message(self) -> bool:
        """Whether a part of a message or handshake has arrived, and the rest is to come."""
        return self._mid_message or self.handshaking

    @property
    def has_pending(self) -> bool:
        """Whether bytes were read that are not part of a returned message, or are buffered in the TLS layer."""
        return self._decoder.in_message or (self._tls is not None and self._tls.pending() > 0)

    def next_message(self) -> Frame | None:
        """Return the next message, or None if more of it has to arrive.

        Raises:
            PeerGone: the client closed the connection between two messages.
            ChannelClosed, OSError: it did so in the middle of one, or the connection is broken.
            FrameError: a length is negative or over the limit.
        """
        try:
            if self.handshaking:
                self._handshake()
            frame = self._decoder.next_frame() if self._decoder.in_message else None
            while frame is None:
                frame = self._read()
        except _WOULD_BLOCK:
            self._expect_more()
            return None
        self._mid_message = False
        return frame

    def take_arrival(self) -> float | None:
        """Return when the message just read arrived, if it is the connection's first: it may have waited unread."""
        if not self._first:
            return None
        self._first = False
        return time.monotonic() - arrived_before_s(self.sock)

    def is_abandoned(self, frame: Frame) -> bool:
        """Return whether the client has gone while its message waited, and nobody wants the reply."""
        if self._settings.answer_half_closed or not has_hung_up(self.sock) or self.exchange.is_oneway(frame):
            return False
        log.info("%s: closed: the client had gone before its request was run", self.peer)
        return True

    def restart_idle_timeout(self) -> None:
        """Start the idle time again, after a message without a response. `send` does so itself."""
        self.deadline = time.monotonic() + self._settings.idle_timeout_s

    def send(self, parts: list[bytes], size: int) -> bool:
        """Send a message of `size` bytes as far as the socket takes it.

        Returns:
            True if all of it is sent. False: call `send_rest` when the socket is writable.

        Raises:
            OSError: the connection is broken.
        """
        parts.insert(0, _LENGTH.pack(size))
        now = time.monotonic()
        if size <= JOIN_BYTES or self._tls is not None:
            data = b"".join(parts)
            try:
                sent = self.sock.send(data, self._flags)
            except _WOULD_BLOCK:
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
        """Send more of the message. Returns and raises as `send` does."""
        views = self._unsent
        try:
            while views:
                views = drop_sent(views, self._send_some(views))
        except _WOULD_BLOCK:
            self._unsent = views
            return False
        self._unsent = []
        self.deadline = time.monotonic() + self._settings.idle_timeout_s
        return True

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        self.sock.close()

    def _handshake(self) -> None:
        if self._tls is None:
            assert self._tls_context is not None
            self.sock = self._tls = self._tls_context.wrap_socket(
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

    def _send_some(self, views: list[memoryview]) -> int:
        if len(views) == 1:
            return self.sock.send(views[0], self._flags)
        return self.sock.sendmsg(views[:MAX_SEGMENTS], [], self._flags)


class FramedMultiplexedConnection(NonblockingConnection):
    """A connection of the framed transport that takes turns with others in one thread."""

    def __init__(self, sock: socket.socket, peer: str, server: ServerContext) -> None:
        super().__init__(sock, peer, server)
        self._server = server
        self._counters = server.context.counters
        self._busy_poll = BusyPoll(server.settings.spin_us)
        self._core_budget = CoreBudget(server.context.board, every=1)
        if server.tls is None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _RECEIVE_TIMEVAL)

    def serve_turn(self) -> bool:
        """Read what has arrived and answer at most one message. Return False if the connection has ended."""
        return self._guard(self._serve_turn)

    @property
    def can_serve_alone(self) -> bool:
        """Whether `serve_alone` is possible now."""
        return self._tls is None and not self.in_message and not self._decoder.in_message

    def serve_alone(self, must_return: Callable[[], bool]) -> bool:
        """Answer messages as long as each follows soon after the last response, for a thread with no other connection.

        A wait in `recv` is one system call less per message than a wait for any of several connections.

        Args:
            must_return: asked every few milliseconds; must not block. Whether something else is to be done.

        Returns:
            False if the connection has ended.
        """
        return self._guard(lambda: self._serve_alone(must_return))

    def _guard(self, step: Callable[[], bool]) -> bool:
        """Run a step. Whatever is the client's or the connection's fault ends the connection and nothing else."""
        try:
            return step()
        except PeerGone:
            return False
        except FAILURES as error:
            log_failure(self.peer, error)
        return False

    def _serve_turn(self) -> bool:
        frame = self.next_message() or self._read_rest()
        if frame is None:
            return True
        return not self.is_abandoned(frame) and self._answer(frame)

    def _serve_alone(self, must_return: Callable[[], bool]) -> bool:
        cut = self._decoder.cut
        receive = self._choose_receive()
        # Each response sets the deadline, which therefore tells the time without a system call.
        check_after_s = self._settings.idle_timeout_s + _CHECK_S
        check_at = time.monotonic() + check_after_s
        while not self._server.draining:
            if self.deadline >= check_at:
                if must_return():
                    return True
                check_at = self.deadline + _CHECK_S
                receive = self._choose_receive()
            try:
                data = receive(READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            frame = cut(data)
            if frame is None:
                self._expect_more()
                frame = self._read_rest()
            if frame is None:
                return True
            if not self._answer(frame):
                return False
            if self._decoder.in_message:
                return True
        return True

    def _choose_receive(self) -> Callable[[int], bytes]:
        """Return how to receive: busy-waiting only if each process with a client has a core."""
        return self._receive if self._core_budget.available() else self.sock.recv

    def _receive(self, size: int) -> bytes:
        data = self._busy_poll.recv(self.sock, size)
        if data is None:
            data = self.sock.recv(size)
            self._busy_poll.woke_up()
        return data

    def _answer(self, frame: Frame) -> bool:
        self._counters.begin_request()
        try:
            parts = self.exchange.answer(frame, self.take_arrival() if self._first else None)
            if not parts:  # a oneway call
                self.restart_idle_timeout()
            elif not self.send(parts, self.exchange.size):
                self._send_rest_blocking()
        finally:
            self._counters.end_request()  # after the send: the client need not wait for it
        return not self.exchange.broken

    def _read_rest(self) -> Frame | None:
        """Return a message that has begun to arrive if its bytes keep coming."""
        if not self.in_message:
            return None
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        turn_ends = time.monotonic() + _TURN_S
        frame = None
        while frame is None and time.monotonic() < turn_ends and poll.poll(_NEXT_BYTES_MS):
            self._fill()
            frame = self.next_message()
        return frame

    def _fill(self) -> None:
        """Read a large message into its buffer, in one call if its bytes follow each other closely."""
        wanted = self._decoder.wanted()
        if wanted is not None and self._tls is None:
            self._decoder.filled(self.sock.recv_into(wanted, 0, socket.MSG_WAITALL))

    def _send_rest_blocking(self) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        while (left_s := self.deadline - time.monotonic()) > 0:
            poll.poll(left_s * 1000)
            if self.send_rest():
                return
        raise ChannelTimeout(self.timeout_reason)


class BufferedMultiplexedConnection(Connection):
    """A connection of the buffered transport that takes turns with others in one thread."""

    @property
    def fd(self) -> int:
        """The descriptor of the socket."""
        return self.sock.fileno()

    @property
    def in_message(self) -> bool:
        """Whether a TLS handshake is incomplete. A turn reads a message to its end."""
        return self.handshaking

    def serve_turn(self) -> bool:
        """Answer one message that has begun to arrive. Return False if the connection has ended."""
        # Over TLS, less than a record may have arrived: waiting for the rest must not hold up the other connections.
        return self.serve_while_busy(_NEXT_RECORD_S if self.server.tls else None, lambda: True)


MultiplexedConnection = FramedMultiplexedConnection | BufferedMultiplexedConnection
