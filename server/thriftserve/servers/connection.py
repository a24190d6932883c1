"""One client on a blocking socket: message after message, until either side ends it.

    socket --handshake--> channel --receive()--> Exchange.answer() --send()--> … --> close

The thread or process that serves the connection does nothing else in the meantime. A drain ends an idle connection at
once and a busy one after its response: it shuts down reading, so what had arrived before is still read and answered.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import time
from collections.abc import Callable

from thrift.Thrift import TProcessor

from thriftserve.rpc import BadMessage, make_exchange
from thriftserve.servers.acceptor import arrived_before_s
from thriftserve.servers.busy_poll import BusyPoll
from thriftserve.servers.context import ServerContext
from thriftserve_client.wire.framing import Frame, FrameError
from thriftserve_client.wire.message_socket import (
    BufferedChannel,
    ChannelClosed,
    ChannelTimeout,
    FramedChannel,
    IdleTimeout,
    Stream,
    make_channel,
)

log = logging.getLogger(__name__)

#: What a client or its connection may do wrong (a TLS failure is an OSError). It ends that connection and nothing else.
FAILURES = (BadMessage, FrameError, ChannelTimeout, ChannelClosed, OSError)
#: A connection younger than this may not have had the time to send its first request: a drain waits for that.
_NEW_CONNECTION_S = 0.1
_FIRST_REQUEST_MS = 50


def log_failure(peer: str, error: Exception) -> None:
    """Log why a connection is closed: bad bytes as a warning, an unforeseen error with its traceback."""
    if isinstance(error, (BadMessage, FrameError)):
        log.warning("%s: closed: %s", peer, error)
    elif isinstance(error, (ChannelTimeout, ChannelClosed)):
        log.info("%s: closed: %s", peer, error)
    elif isinstance(error, OSError):
        log.info("%s: broken: %s", peer, error)
    else:
        log.error("%s: closed", peer, exc_info=error)


def has_hung_up(sock: socket.socket) -> bool:
    """Return whether the client has closed its side of a connection, or broken it."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def _never() -> bool:
    return False


class Connection:
    """A client's connection, served by the thread that calls `serve` or `serve_while_busy`.

    Args:
        sock: connected. The connection owns it.
        peer: the client's name in the log.
        server: the service.
        may_busy_wait: whether the thread may busy-wait for the next message: no other thread of this process has work.
    """

    def __init__(
        self, sock: socket.socket, peer: str, server: ServerContext, may_busy_wait: Callable[[], bool] = _never
    ) -> None:
        self.sock = sock
        self.peer = peer
        self.last_used = time.monotonic()
        self.server = server
        self._channel: FramedChannel | BufferedChannel | None = None
        self._exchange = make_exchange(server.processor, server.settings.protocol, server.settings.max_message_bytes)
        self._counters = server.context.counters
        self._idle = False
        self._first = True
        self._new_turn = True
        self._may_busy_wait = may_busy_wait
        self._busy_poll = BusyPoll(server.settings.spin_us)

    def set_processor(self, processor: TProcessor) -> None:
        """Set what answers from now on, for a connection that is older than the processor."""
        self._exchange.processor = processor

    @property
    def handshaking(self) -> bool:
        """Whether the client has not finished its TLS handshake."""
        return self._channel is None and self.server.tls is not None

    @property
    def deadline(self) -> float:
        """When to close it if nothing happens, monotonic seconds."""
        settings = self.server.settings
        return self.last_used + (settings.handshake_timeout_s if self.handshaking else settings.idle_timeout_s)

    @property
    def timeout_reason(self) -> str:
        """Which time-out `deadline` is, for the log."""
        if self.handshaking:
            return f"no TLS handshake within {self.server.settings.handshake_timeout_s:g} s"
        return f"idle for {self.server.settings.idle_timeout_s:g} s"

    @property
    def has_pending(self) -> bool:
        """Whether bytes of a further message have already been read off the socket."""
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return True
        return self._channel is not None and self._channel.has_pending

    def wait_readable(self, timeout_ms: int) -> bool:
        """Wait until there is something to read. Return False after the time-out."""
        if self.has_pending:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(timeout_ms))

    def serve(self) -> None:
        """Serve the client to its end, and close the connection."""
        with contextlib.closing(self):
            self.serve_while_busy(None)

    def serve_while_busy(self, linger_s: float | None, must_yield: Callable[[], bool] | None = None) -> bool:
        """Serve message after message.

        Args:
            linger_s: how long to wait for the next message, and not at all for a TLS handshake. None: as long as the
                settings allow.
            must_yield: asked between two messages: whether to return.

        Returns:
            True if the connection is open, False if it has ended.
        """
        self._new_turn = True
        try:
            if linger_s is not None and not self._continue_handshake():
                return True
            channel = self._channel or self._open_channel()
            if linger_s is not None:
                channel.set_idle_timeout(linger_s)
            while self._serve_message(channel):
                if must_yield is not None and must_yield():
                    self.last_used = time.monotonic()
                    return True
        except IdleTimeout:
            self.last_used = time.monotonic()
            return linger_s is not None
        except FAILURES as error:
            log_failure(self.peer, error)
        return False

    def drain(self) -> None:
        """End the connection after what has arrived is answered. The server must be draining. Safe in a handler."""
        if self._idle:
            self._shut_down_reading()

    def reject(self, reason: str) -> None:
        """Answer one message with a rejection, and close the connection."""
        with contextlib.closing(self):
            try:
                channel = self._channel or self._open_channel()
                source = channel.receive()
                if source is not None:
                    channel.send(self._exchange.refuse(source, reason, self.server.refusal))
            except FAILURES as error:
                log.info("%s: closed during its rejection: %s", self.peer, error)

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        self.sock.close()

    def _open_channel(self) -> FramedChannel | BufferedChannel:
        settings = self.server.settings
        if self.server.tls is not None:
            tls = self._wrap(self.server.tls)
            tls.settimeout(settings.handshake_timeout_s)
            tls.do_handshake()  # goes on where `_continue_handshake` stopped
        self._channel = make_channel(
            settings.framing,
            self.sock,
            idle_timeout_s=settings.idle_timeout_s,
            message_timeout_s=settings.read_timeout_s,
            write_timeout_s=settings.write_timeout_s,
            max_bytes=settings.max_message_bytes,
        )
        return self._channel

    def _continue_handshake(self) -> bool:
        """Do what can be done of a TLS handshake without waiting. Return whether it is finished."""
        if self._channel is not None or self.server.tls is None:
            return True
        self.sock.setblocking(False)
        try:
            self._wrap(self.server.tls).do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    def _wrap(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        if not isinstance(self.sock, ssl.SSLSocket):
            self.sock = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        return self.sock

    def _serve_message(self, channel: FramedChannel | BufferedChannel) -> bool:
        """Receive and answer one message. Return False at the end of the stream."""
        self._idle = True  # set before `draining` is read: `drain` does it in the other order
        if self.server.draining:
            if self._first and time.monotonic() - self.last_used < _NEW_CONNECTION_S:
                self.wait_readable(_FIRST_REQUEST_MS)
            self._shut_down_reading()
        source = self._receive(channel) if self._may_busy_wait() else channel.receive()
        self._idle = False
        if source is None or self._is_abandoned(source):
            return False
        self._counters.begin_request()
        try:
            parts = self._exchange.answer(source, self._first_arrival() if self._first else None)
            if parts:
                channel.send(parts, self._exchange.size)
        finally:
            self._counters.end_request()  # after the send: the client need not wait for it
        return not self._exchange.broken

    def _is_abandoned(self, source: Frame | Stream) -> bool:
        """Return whether the client has gone while its message waited for this turn, and nobody wants the reply."""
        if not self._new_turn:
            return False
        self._new_turn = False
        if self.server.settings.answer_half_closed or self.server.draining or not has_hung_up(self.sock):
            return False
        if self._exchange.is_oneway(source):
            return False
        log.info("%s: closed: the client had gone before its request was run", self.peer)
        return True

    def _receive(self, channel: FramedChannel | BufferedChannel) -> Frame | Stream | None:
        if channel.has_pending or self.server.tls is not None:
            return channel.receive()
        if self._busy_poll.recv(self.sock, 1, socket.MSG_PEEK) is not None:
            return channel.receive()
        source = channel.receive()
        self._busy_poll.woke_up()
        return source

    def _first_arrival(self) -> float:
        """Return when the first message arrived: it may have waited long before the connection was accepted."""
        self._first = False
        return time.monotonic() - arrived_before_s(self.sock)

    def _shut_down_reading(self) -> None:
        with contextlib.suppress(OSError):
            # Not the method of an SSLSocket, which would continue in plain text.
            socket.socket.shutdown(self.sock, socket.SHUT_RD)
