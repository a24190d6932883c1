"""One client of a front: its frames in, its answers out in their order, neither waited for.

    readable --> small frame: as it came | large frame: into the arena --> door.arrived(Request)
    answered(Request) --> sent at once | kept until the client reads, and nothing more of it is read or run meanwhile

A client may send on before its answers come (pipelining); `AHEAD` requests of it are taken, the rest stays
with the kernel, and so with the client.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING

from thriftserve.servers.batching.frame_reader import FrameReader
from thriftserve.servers.batching.request_queue import Request
from thriftserve.servers.nonblocking_connection import PeerGone
from thriftserve_client.wire.framing import HEADER_BYTES, FrameError
from thriftserve_client.wire.message_socket import READ_BYTES, ChannelClosed

if TYPE_CHECKING:
    from thriftserve.servers.batching.front import TBatchingFront

log = logging.getLogger(__name__)

_LENGTH = Struct("!i").unpack_from
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: Requests of one client that are taken before the first of them is answered, at most.
AHEAD = 256
#: Bytes of a client's answers that may wait for one before them; past it no more of its requests are taken or run.
_OWED_BYTES = 1 << 20
#: A client that holds memory others need is given this long to make headway.
_PATIENCE_S = 1.0
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


class FrontConnection:
    """A client's connection."""

    def __init__(self, sock: socket.socket, peer: str, front: TBatchingFront, refusal: str | None) -> None:
        self.peer = peer
        self.fd = sock.fileno()
        self._front = front
        self._door = front.door
        self._settings = front.settings
        #: Requests that no slot has yet, in their order; `Waiting` keeps it.
        self.waiting: deque[Request] = deque()
        #: Requests that are not answered yet, in their order.
        self.pending: deque[Request] = deque()
        #: Why its first request is refused; None: it is served.
        self.refusal = refusal
        #: Requests that slots have.
        self.in_hand = 0
        self.closed = False
        #: True where it does not read its answers: its requests wait.
        self.held = False
        #: False while nothing tells that it will be `finished` some time.
        self.ending = refusal is not None
        self._ended = False
        #: Requests of it that are taken before the first one is answered: a few such clients must not fill the queue.
        self._ahead = min(AHEAD, max(16, front.settings.max_queued // 8))
        self._unsent: deque[memoryview] = deque()
        #: Bytes of answers that it does not read, or that wait for one before them.
        self._owed = 0
        self._events = _IN
        tls = front.tls
        sock.setblocking(tls is None)
        self._flags = socket.MSG_DONTWAIT if tls is None else 0
        self.sock = sock
        self._tls: ssl.SSLSocket | None = None
        self._shaking = tls is not None
        self._incoming = FrameReader(front.door, front.settings.max_message_bytes, self._flags, wakes=tls is None)
        #: When it began to do what it does: see `deadline`; monotonic seconds.
        self.since = self.opened = front.door.now
        self.served = False

    # What it waits for

    @property
    def mid_message(self) -> bool:
        """True where part of a message came, and the rest is to come."""
        return self._incoming.partial or self._shaking

    def deadline(self) -> tuple[float, str] | None:
        """When it is closed if nothing happens, and why; None where it waits for us."""
        settings = self._settings
        if self._shaking:
            return self.since + settings.handshake_timeout_s, f"no TLS handshake in {settings.handshake_timeout_s:g} s"
        if self._unsent:
            return (
                self.since + settings.write_timeout_s,
                f"an answer was not taken within {settings.write_timeout_s:g} s",
            )
        if self.pending:
            return None
        if self.mid_message:
            why = f"a message did not come whole within {settings.read_timeout_s:g} s"
            return self.since + settings.read_timeout_s, why
        return self.since + settings.idle_timeout_s, f"idle for {settings.idle_timeout_s:g} s"

    @property
    def stalled(self) -> bool:
        """True where it holds memory and does not do what it must to let it go."""
        age_s = self._door.now - self.since
        if age_s < _PATIENCE_S:
            return False
        if self._unsent or self._incoming.silent_s >= _PATIENCE_S:
            return True
        return self._incoming.hopeless(age_s, self._settings.read_timeout_s)

    # Reading

    def on_event(self, mask: int) -> None:
        """Does what the socket is ready for.

        Raises:
            PeerGone: the client closed between two messages.
            ChannelClosed, OSError: it did in the middle of one, or the connection broke.
            FrameError: a length is negative or over the limit.
        """
        if mask & _OUT and self._unsent:
            self._send_rest()
        if mask & ~_OUT and self._events & _IN:
            self._read()
        elif mask & (select.EPOLLERR | select.EPOLLHUP):
            raise ChannelClosed("the connection broke")

    def _read(self) -> None:
        try:
            if self._tls is not None or self._shaking:
                self._read_tls()
            elif self._incoming.large:
                self._read_large()
            else:
                self._take(self.sock.recv(READ_BYTES, socket.MSG_DONTWAIT))
        except _NOT_YET:
            pass

    def _read_tls(self) -> None:
        if self._shaking:
            self._shake()
        while self._events & _IN and not self._ended:  # what the TLS layer holds does not make the socket readable
            if self._incoming.large:
                self._read_large()
            else:
                self._take(self.sock.recv(READ_BYTES))

    def _shake(self) -> None:
        if self._tls is None:
            assert self._front.tls is not None
            self.sock = self._tls = self._front.tls.wrap_socket(
                self.sock, server_side=True, do_handshake_on_connect=False
            )
        self._tls.do_handshake()
        self._shaking = False
        self.since = self._door.now

    def _take(self, data: bytes) -> None:
        size = len(data) - HEADER_BYTES
        if not self._incoming.buffer and size >= 0 and _LENGTH(data)[0] == size <= self._settings.max_message_bytes:
            self._came(data)  # whole and alone, as most are
        elif data:
            if not self._incoming.buffer:
                self.since = self._door.now
            self._incoming.feed(data)
            self._cut()
        else:
            self._peer_ended()

    def _came(self, frame: bytes) -> None:
        if not self.pending and not self.ending and (refusal := self._door.turn_away(frame)) is not None:
            self.served = True
            self._send(refusal)
            return
        self._arrived(Request(self, frame, None, len(frame) - HEADER_BYTES, self._door.now))

    def _peer_ended(self) -> None:
        if self.mid_message:
            raise ChannelClosed("the peer closed in the middle of a message")
        if not self.pending:
            raise PeerGone
        self._ended = self.ending = True  # it may have closed its sending side alone: what it asked is still answered
        self._watch(self._events & ~_IN)

    def _cut(self) -> None:
        """Makes requests of what was read."""
        incoming = self._incoming
        try:
            while self._takes_more and (frame := incoming.next_frame()) is not None:
                self._came(frame)
        except FrameError as error:
            self._out_of_step(error)
        if incoming.large:
            incoming.await_large(self.sock)
        if not self._takes_more:
            self._watch(self._events & ~_IN)

    @property
    def _takes_more(self) -> bool:
        """Whether further requests of it are taken now."""
        return len(self.pending) < self._ahead and not self._unsent and self._owed <= _OWED_BYTES

    def _out_of_step(self, error: FrameError) -> None:
        """Where the next message begins is unknown: what came before is still answered, then it is over."""
        self._incoming.drop()
        if not self.pending:
            raise error
        log.warning("%s: no more is read: %s", self.peer, error)
        self._ended = self.ending = True
        self._watch(self._events & ~_IN)

    def _read_large(self) -> None:
        if not self._incoming.read_large(self.sock):
            return
        head, block, size = self._incoming.take_large()
        request = Request(self, None if block is not None else head, block, size, self._door.now)
        if block is not None:
            self._arrived(request)
            return
        self.pending.append(request)
        self._door.refuse_for_bytes(request)

    def _arrived(self, request: Request) -> None:
        self.served = True
        self.pending.append(request)
        self._door.arrived(request)

    # Writing

    def answered(self, request: Request, answer: bytes | memoryview) -> None:
        """Sends an answer (nothing for a oneway call) as soon as those before it are sent.

        Raises:
            PeerGone, ChannelClosed, OSError, FrameError: as `on_event`, for what it sent on may be read now.
        """
        pending = self.pending
        if pending[0] is not request:
            request.answer = answer
            self._owe(len(answer))
            if self._owed > _OWED_BYTES:
                self._watch(self._events & ~_IN)
                self._door.waiting.hold(self, not self._may_run)
            return
        pending.popleft()
        self._send(answer)
        while pending and (ready := pending[0].answer) is not None:
            pending.popleft()
            self._owe(-len(ready))
            self._send(ready)
        if self.held and self._may_run:
            self._door.waiting.hold(self, False)
        if not self._events & _IN and not self._ended and self._takes_more and len(pending) <= self._ahead // 2:
            self._resume()

    def _owe(self, more: int) -> None:
        """So many bytes more of answers wait to be sent."""
        self._owed += more
        self._door.owed_bytes += more

    @property
    def _may_run(self) -> bool:
        """Whether slots may get its requests: its answers go out, or the one that they wait for must still run."""
        if self._unsent:
            return False
        return self._owed <= _OWED_BYTES or bool(self.waiting and self.waiting[0] is self.pending[0])

    def _send(self, data: bytes | memoryview) -> None:
        self.since = self._door.now
        if self._unsent:
            self._unsent.append(memoryview(data))
            self._owe(len(data))
            return
        if not data:
            return
        try:
            sent = self.sock.send(data, self._flags)
        except _NOT_YET:
            sent = 0
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
            self._owe(len(data) - sent)
            self._door.waiting.hold(self, True)
            self._watch(_OUT)

    def _send_rest(self) -> None:
        try:
            while self._unsent:
                view = self._unsent[0]
                sent = self.sock.send(view, self._flags)
                self.since = self._door.now
                self._owe(-sent)
                if sent < len(view):
                    self._unsent[0] = view[sent:]
                    return
                self._unsent.popleft()
        except _NOT_YET:
            return
        self._door.waiting.hold(self, not self._may_run)
        self._watch(0)
        if not self._ended and self._takes_more:
            self._resume()

    def _resume(self) -> None:
        self._watch(_IN)
        if self._incoming.buffer:
            self._cut()
        if self._tls is not None and self._events & _IN:
            self._read()

    @property
    def finished(self) -> bool:
        """True where the client closed its side, and has all its answers."""
        return (self._ended or self.refusal is not None) and not self.pending and not self._unsent and self.served

    @property
    def unsent(self) -> bool:
        """True where answers wait for the client to read."""
        return bool(self._unsent)

    def _watch(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._front.watch(self.fd, events)

    def close(self) -> None:
        """Closes the socket; what it holds of a message that did not come whole is given back."""
        self.closed = True
        self.sock.close()
        self._owe(-self._owed)
        self._incoming.close()
