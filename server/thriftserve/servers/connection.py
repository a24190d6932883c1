"""One client on a blocking socket: message after message, until either side ends it.

    socket --handshake--> channel --receive()--> Exchange.answer() --send()--> … --> close

Its thread or process does nothing else meanwhile. A drain ends an idle connection at once and a busy
one after its answer: reading is shut down, so what had arrived before is still read and answered.
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

#: A connection this young has not had the time to send its first request; a drain waits for it so long.
_NEWCOMER_S = 0.1
_NEWCOMER_MS = 50


def _never() -> bool:
    return False


class Connection:
    """A client's connection, served by the thread that calls `serve`.

    Args:
        sock: connected; this owns it.
        peer: what it is called in the log.
        host: the service.
        alone: whether this process has no other connection now: then it may wait awake for the next message.
    """

    def __init__(self, sock: socket.socket, peer: str, host: ServerContext, alone: Callable[[], bool] = _never) -> None:
        self.sock = sock
        self.peer = peer
        self.host = host
        self._channel: FramedChannel | BufferedChannel | None = None
        self._exchange = make_exchange(host.processor, host.settings.protocol, host.settings.max_message_bytes)
        self._counters = host.context.counters
        self._idle = False
        self._first = True
        self._alone = alone
        self._spin = BusyPoll(host.settings.spin_us)
        self.last_used = time.monotonic()

    def use(self, processor: TProcessor) -> None:
        """What answers from now on, where it was not there yet when the connection came."""
        self._exchange.processor = processor

    @property
    def deadline(self) -> float:
        """When it is closed if nothing happens, monotonic seconds."""
        settings = self.host.settings
        return self.last_used + (settings.handshake_timeout_s if self.handshaking else settings.idle_timeout_s)

    @property
    def why_late(self) -> str:
        """What `deadline` was set for."""
        if self.handshaking:
            return f"no TLS handshake within {self.host.settings.handshake_timeout_s:g} s"
        return f"idle for {self.host.settings.idle_timeout_s:g} s"

    def serve(self) -> None:
        """Serves the client to its end, and closes the connection."""
        with contextlib.closing(self):
            self.serve_while_busy(None)

    @property
    def has_pending(self) -> bool:
        """True where bytes of a further message were read off the socket already."""
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return True
        return self._channel is not None and self._channel.has_pending

    def readable_within(self, ms: int) -> bool:
        """Waits that long for something to read; true where there is."""
        if self.has_pending:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(ms))

    def serve_while_busy(self, linger_s: float | None, pause: Callable[[], bool] | None = None) -> bool:
        """Serves message after message.

        Args:
            linger_s: how long to wait for the next one, and not at all for a TLS handshake; None: as long as
                the settings allow.
            pause: asked between two messages; true gives the thread back.

        Returns:
            True where it is idle and open, false where it has ended.
        """
        try:
            if linger_s is not None and not self._shake_on():
                return True
            channel = self._channel or self._open()
            if linger_s is not None:
                channel.set_idle_timeout(linger_s)
            while self._serve_one(channel):
                if pause is not None and pause():
                    self.last_used = time.monotonic()
                    return True
        except IdleTimeout:
            self.last_used = time.monotonic()
            return linger_s is not None
        except FAILURES as error:
            tell(self.peer, error)
        return False

    @property
    def handshaking(self) -> bool:
        """True where the client has yet to finish its TLS handshake."""
        return self._channel is None and self.host.tls is not None

    def _shake_on(self) -> bool:
        """Does what can be done of a TLS handshake without waiting; true where it is over."""
        if self._channel is not None or self.host.tls is None:
            return True
        self.sock.setblocking(False)
        try:
            self._wrap(self.host.tls).do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    def _wrap(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        if not isinstance(self.sock, ssl.SSLSocket):
            self.sock = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        return self.sock

    def _open(self) -> FramedChannel | BufferedChannel:
        settings = self.host.settings
        if self.host.tls is not None:
            tls = self._wrap(self.host.tls)
            tls.settimeout(settings.handshake_timeout_s)
            tls.do_handshake()  # from where `_shake_on` got to
        self._channel = make_channel(
            settings.framing,
            self.sock,
            idle_timeout_s=settings.idle_timeout_s,
            message_timeout_s=settings.read_timeout_s,
            write_timeout_s=settings.write_timeout_s,
            max_bytes=settings.max_message_bytes,
        )
        return self._channel

    def _serve_one(self, channel: FramedChannel | BufferedChannel) -> bool:
        self._idle = True  # before the look at `draining`: a drain looks the other way round
        if self.host.draining:
            if self._first and time.monotonic() - self.last_used < _NEWCOMER_S:
                self.readable_within(_NEWCOMER_MS)  # its first request is on its way most likely
            self._shut_reading()
        source = self._receive(channel) if self._alone() else channel.receive()
        self._idle = False
        if source is None:
            return False
        self._counters.begin_request()
        try:
            parts = self._exchange.answer(source, self._arrival() if self._first else None)
            if parts:
                channel.send(parts, self._exchange.size)
        finally:
            self._counters.end_request()  # the client need not wait for that
        return not self._exchange.broken

    def _receive(self, channel: FramedChannel | BufferedChannel) -> Frame | Stream | None:
        if channel.has_pending or self.host.tls is not None or self._spin.soon(self._look) is not None:
            return channel.receive()
        source = channel.receive()
        self._spin.slept()
        return source

    def _look(self) -> bytes | None:
        try:
            return self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def _arrival(self) -> float:
        """When the first message came: it may have waited long before anyone took the connection."""
        self._first = False
        return time.monotonic() - arrived_before_s(self.sock)

    def drain(self) -> None:
        """Ends it when nothing more of what had arrived is to be answered; the host must be draining."""
        if self._idle:
            self._shut_reading()

    def _shut_reading(self) -> None:
        with contextlib.suppress(OSError):
            # Not the method of an SSLSocket, which would go on in plain text.
            socket.socket.shutdown(self.sock, socket.SHUT_RD)

    def refuse(self, reason: str) -> None:
        """Answers one message with a refusal and closes the connection."""
        with contextlib.closing(self):
            try:
                channel = self._channel or self._open()
                source = channel.receive()
                if source is not None:
                    channel.send(self._exchange.refuse(source, reason, self.host.refusal))
            except FAILURES as error:
                log.info("%s: closed while it was refused: %s", self.peer, error)

    def close(self) -> None:
        """Closes the socket; safe to call twice."""
        self.sock.close()


# Connections that end by a failure: one line in the log for each, the same for every server type.


#: What a client or its connection may do wrong (a TLS failure is an OSError): it ends that connection and nothing else.
FAILURES = (BadMessage, FrameError, ChannelTimeout, ChannelClosed, OSError)


def tell(peer: str, error: Exception) -> None:
    """Logs why a connection is closed: bad bytes as a warning, anything unforeseen with its trace."""
    if isinstance(error, (BadMessage, FrameError)):
        log.warning("%s: closed: %s", peer, error)
    elif isinstance(error, (ChannelTimeout, ChannelClosed)):
        log.info("%s: closed: %s", peer, error)
    elif isinstance(error, OSError):
        log.info("%s: broken: %s", peer, error)
    else:
        log.error("%s: closed", peer, exc_info=error)
