"""One client's connection to a front: its requests in, its replies out in their order, neither waited for.

    readable --> small frame: as it came | large frame: into the arena --> AdmissionControl.arrived(Request)
    reply(Request) --> sent at once | kept until the client reads, and nothing more of it is read or run meanwhile

A client may send on before its replies come (pipelining); `MAX_AHEAD` requests of it are read, the rest stays with the
kernel, and so with the client. The states of a connection are in `life.CONNECTION_LIFE`.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from thriftserve.servers.batching.admission import AdmissionControl, MemoryBudget
from thriftserve.servers.batching.frame_reader import FrameReader
from thriftserve.servers.batching.life import CONNECTION_LIFE, ConnectionEvent, ConnectionState, next_state
from thriftserve.servers.batching.request_queue import ClientQueue, Clock, Request, RequestQueue
from thriftserve.servers.connection import FAILURES, log_failure
from thriftserve.servers.nonblocking_connection import PeerGone
from thriftserve.settings import HostSettings
from thriftserve_client.wire.framing import HEADER_BYTES, FrameError, is_one_frame
from thriftserve_client.wire.message_socket import READ_BYTES, ChannelClosed

log = logging.getLogger(__name__)

#: Requests of one client that are read before the first of them is answered, at most.
MAX_AHEAD = 256
#: Bytes of a client's replies that may wait for one before them; past it no more of its requests are read or run.
_MAX_UNSENT_BYTES = 1 << 20
#: A client that holds memory others need is given this long to make headway.
_PATIENCE_S = 1.0
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_IN, _OUT, _GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP
# Plain names: access to a member of an enum takes ten times as long.
_HANDSHAKE, _OPEN = ConnectionState.HANDSHAKE, ConnectionState.OPEN
_DRAINING, _CLOSED = ConnectionState.DRAINING, ConnectionState.CLOSED


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """What a front hands to each of its connections.

    Attributes:
        settings: the limits and time-outs.
        clock: the front's.
        budget: counts the memory that the connection holds.
        queue: has the requests that wait.
        admission: gets every request that came whole.
        watch: sets the events to wait for on a descriptor.
        on_end: is told of a connection that has ended and must be closed; it may be told twice.
        tls: None for plain connections.
    """

    settings: HostSettings
    clock: Clock
    budget: MemoryBudget
    queue: RequestQueue
    admission: AdmissionControl
    watch: Callable[[int, int], None]
    on_end: Callable[[FrontConnection], None]
    tls: ssl.SSLContext | None


class FrontConnection:
    """A client's connection.

    Args:
        sock: connected; the connection owns it.
        peer: its name in the log.
        context: the front's.
        refusal: why its first request is refused; None: it is served.
    """

    def __init__(self, sock: socket.socket, peer: str, context: ConnectionContext, refusal: str | None) -> None:
        self.peer = peer
        self.fd = sock.fileno()
        self.refusal = refusal
        self._context = context
        self._settings = settings = context.settings
        self._clock = context.clock
        self._admission = context.admission
        #: Its requests that no slot has yet, for `RequestQueue`.
        self.queue = ClientQueue()
        #: Requests that are not answered, in their order.
        self.pending: deque[Request] = deque()
        self._max_ahead = min(MAX_AHEAD, max(16, settings.max_queued // 8))  # few such clients must not fill the queue
        self._unsent: deque[memoryview] = deque()
        #: Bytes of replies that the client does not read, or that wait for one before them.
        self._unsent_bytes = 0
        self._events = _IN
        tls = context.tls
        sock.setblocking(tls is None)
        self._flags = socket.MSG_DONTWAIT if tls is None else 0
        self.sock = sock
        self._tls: ssl.SSLSocket | None = None
        self.state = _OPEN if tls is None else _HANDSHAKE
        self._reader = FrameReader(
            context.budget,
            context.clock,
            context.admission.allocate,
            settings.max_message_bytes,
            self._flags,
            sets_low_water=tls is None,
        )
        #: When the current wait began: see `deadline`; monotonic seconds.
        self.since = self.opened = context.clock.now
        #: True once a request of it came whole.
        self.served = False

    # What it waits for

    @property
    def closed(self) -> bool:
        """True once its socket is closed: nobody waits for its replies."""
        return self.state is _CLOSED

    @property
    def unsent(self) -> bool:
        """True if replies wait for the client to read."""
        return bool(self._unsent)

    @property
    def mid_message(self) -> bool:
        """True between a message's first byte and its last, and during the TLS handshake."""
        return self._reader.partial or self.state is _HANDSHAKE

    def deadline(self) -> tuple[float, str] | None:
        """Return when it is closed if nothing happens, and why; None if it waits for the server."""
        settings = self._settings
        if self.state is _HANDSHAKE:
            return (
                self.since + settings.handshake_timeout_s,
                f"no TLS handshake within {settings.handshake_timeout_s:g} s",
            )
        if self._unsent:
            reason = f"a response was not taken within {settings.write_timeout_s:g} s"
            return self.since + settings.write_timeout_s, reason
        if self.pending:
            return None
        if self.mid_message:
            reason = f"a message was incomplete after {settings.read_timeout_s:g} s"
            return self.since + settings.read_timeout_s, reason
        return self.since + settings.idle_timeout_s, f"idle for {settings.idle_timeout_s:g} s"

    @property
    def stalled(self) -> bool:
        """True if it holds memory and does not do what would free it."""
        age_s = self._clock.now - self.since
        if age_s < _PATIENCE_S:
            return False
        if self._unsent or self._reader.silent_s >= _PATIENCE_S:
            return True
        return self._reader.too_slow(age_s, self._settings.read_timeout_s)

    # Reading

    def on_event(self, mask: int) -> None:
        """Do what the socket is ready for; report the end of the connection to `on_end`."""
        try:
            if mask & _OUT and self._unsent:
                self._send_rest()
            if mask & ~_OUT and self._events & _IN:
                self._read()
            elif mask & _GONE and self._events & _GONE:
                self._on_gone()
            elif mask & (select.EPOLLERR | select.EPOLLHUP):
                raise ChannelClosed("the connection broke")
        except (PeerGone, *FAILURES) as error:
            self._fail(error)
        else:
            if self.state is _DRAINING:
                self._end_if_drained()

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, PeerGone):
            log_failure(self.peer, error)
        self._context.on_end(self)

    def _end_if_drained(self) -> None:
        if not self.pending and not self._unsent:
            self._context.on_end(self)

    def _read(self) -> None:
        try:
            if self._context.tls is not None:
                self._read_tls()
            elif self._reader.large:
                self._read_large()
            else:
                self._on_data(self.sock.recv(READ_BYTES, socket.MSG_DONTWAIT))
        except _NOT_YET:
            pass

    def _read_tls(self) -> None:
        if self.state is _HANDSHAKE:
            self._shake_hands(self._context.tls)
        while self._events & _IN and self.state is _OPEN:  # what the TLS layer holds does not make the socket readable
            if self._reader.large:
                self._read_large()
            else:
                self._on_data(self.sock.recv(READ_BYTES))

    def _shake_hands(self, context: ssl.SSLContext | None) -> None:
        if self._tls is None:
            assert context is not None
            self.sock = self._tls = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        self._tls.do_handshake()
        self.state = next_state(CONNECTION_LIFE, self.state, ConnectionEvent.HANDSHAKE_DONE)
        self.since = self._clock.now

    def _on_data(self, data: bytes) -> None:
        if not self._reader.buffer and is_one_frame(data, self._settings.max_message_bytes):
            self._on_frame(data)  # whole and alone, as most are
        elif data:
            if not self._reader.buffer:
                self.since = self._clock.now
            self._reader.feed(data)
            self._cut()
        else:
            self._on_end_of_stream()

    def _on_frame(self, frame: bytes) -> None:
        if not self.pending and self.refusal is None and (refusal := self._admission.turn_away(frame)) is not None:
            self.served = True
            self._send(refusal)
            return
        self._on_request(Request(self, frame, None, len(frame) - HEADER_BYTES, self._clock.now))

    def _on_request(self, request: Request) -> None:
        self.served = True
        self.pending.append(request)
        if self.refusal is not None:
            self._stop_reading()
        self._admission.arrived(request)

    def _on_end_of_stream(self) -> None:
        if self.mid_message:
            raise ChannelClosed("the peer closed in the middle of a message")
        if not self.pending:
            raise PeerGone
        self._stop_reading()
        if not self._settings.answer_half_closed:
            self._abandon()
            if not self.queue.waiting:
                raise PeerGone

    def _on_gone(self) -> None:
        """Drop what waits of a client that has gone while no more of it was read; that may hold oneway calls."""
        self._watch(self._events & ~_GONE)
        if not self._settings.answer_half_closed:
            self._abandon()

    def _abandon(self) -> None:
        if count := self._context.admission.abandon(self):
            log.info("%s: the client had gone before %d of its requests were run", self.peer, count)

    def _stop_reading(self) -> None:
        self.state = next_state(CONNECTION_LIFE, self.state, ConnectionEvent.READ_END)
        self._watch(self._events & ~_IN)

    def _cut(self) -> None:
        """Make requests of what was read."""
        reader = self._reader
        try:
            while self._reads_more and (frame := reader.next_frame()) is not None:
                self._on_frame(frame)
        except FrameError as error:  # where the next message begins is unknown; what came before is still answered
            reader.drop()
            if not self.pending:
                raise
            log.warning("%s: no more is read: %s", self.peer, error)
            self._stop_reading()
        if reader.large:
            reader.await_large(self.sock)
        if not self._reads_more:
            self._watch(self._events & ~_IN | _GONE)

    @property
    def _reads_more(self) -> bool:
        """Whether further requests of it are read now."""
        return (
            len(self.pending) < self._max_ahead
            and not self._unsent
            and self._unsent_bytes <= _MAX_UNSENT_BYTES
            and self.state is _OPEN
        )

    def _read_large(self) -> None:
        if not self._reader.read_large(self.sock):
            return
        head, block, size = self._reader.pop_large()
        request = Request(self, None if block is not None else head, block, size, self._clock.now)
        if block is not None:
            self._on_request(request)
            return
        self.pending.append(request)
        self._admission.refuse_discarded(request)

    # Writing

    def reply(self, request: Request, data: bytes | memoryview | None) -> None:
        """Send a framed reply as soon as those before it are sent: nothing for a oneway call; None closes."""
        if self.state is _CLOSED:
            return
        if data is None:
            self._context.on_end(self)
            return
        try:
            self._reply(request, data)
        except (PeerGone, *FAILURES) as error:  # of what it sent on, which is read now
            self._fail(error)
        else:
            if self.state is _DRAINING:
                self._end_if_drained()

    def _reply(self, request: Request, data: bytes | memoryview) -> None:
        pending = self.pending
        if pending[0] is not request:
            request.reply = data
            self._change_unsent(len(data))
            if self._unsent_bytes > _MAX_UNSENT_BYTES:
                self._watch(self._events & ~_IN)
                self._context.queue.set_held(self.queue, not self._may_run)
            return
        pending.popleft()
        self._send(data)
        while pending and (ready := pending[0].reply) is not None:
            pending.popleft()
            self._change_unsent(-len(ready))
            self._send(ready)
        if self.queue.held and self._may_run:
            self._context.queue.set_held(self.queue, False)
        if not self._events & _IN and self._reads_more and len(pending) <= self._max_ahead // 2:
            self._resume()

    def _change_unsent(self, size: int) -> None:
        self._unsent_bytes += size
        self._context.budget.change_replies(size)

    @property
    def _may_run(self) -> bool:
        """Whether slots may get its requests: its replies go out, or the one that they wait for must still run."""
        if self._unsent:
            return False
        waiting = self.queue.waiting
        return self._unsent_bytes <= _MAX_UNSENT_BYTES or bool(waiting and waiting[0] is self.pending[0])

    def _send(self, data: bytes | memoryview) -> None:
        self.since = self._clock.now
        if self._unsent:
            self._unsent.append(memoryview(data))
            self._change_unsent(len(data))
            return
        if not data:
            return
        try:
            sent = self.sock.send(data, self._flags)
        except _NOT_YET:
            sent = 0
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
            self._change_unsent(len(data) - sent)
            self._context.queue.set_held(self.queue, True)
            self._watch(_OUT)

    def _send_rest(self) -> None:
        try:
            while self._unsent:
                view = self._unsent[0]
                sent = self.sock.send(view, self._flags)
                self.since = self._clock.now
                self._change_unsent(-sent)
                if sent < len(view):
                    self._unsent[0] = view[sent:]
                    return
                self._unsent.popleft()
        except _NOT_YET:
            return
        self._context.queue.set_held(self.queue, not self._may_run)
        self._watch(0)
        if self._reads_more:
            self._resume()

    def _resume(self) -> None:
        self._watch(_IN)
        if self._reader.buffer:
            self._cut()
        if self._tls is not None and self._events & _IN:
            self._read()

    def _watch(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._context.watch(self.fd, events)

    def close(self) -> None:
        """Close the socket, and free what is held of a message that did not come whole."""
        self.state = next_state(CONNECTION_LIFE, self.state, ConnectionEvent.CLOSE)
        self.sock.close()
        self._change_unsent(-self._unsent_bytes)
        self._reader.close()
