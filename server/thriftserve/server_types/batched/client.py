"""One client of a front: its frames in, its answers out in their order, neither waited for.

    readable --> small frame: as it came | large frame: read into the arena --> front.arrived(Request)
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

from thriftserve.server_types.batched.request import Request
from thriftserve_client.channel import READ_BYTES, ChannelClosed
from thriftserve_client.framing import HEADER_BYTES, IN_PLACE_BYTES, FrameError, frame_length

if TYPE_CHECKING:
    from thriftserve.server_types.batched.arena import Block
    from thriftserve.server_types.batched.front import TBatchingFront

log = logging.getLogger(__name__)

_LENGTH = Struct("!i").unpack_from
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: Requests of one client that are taken before the first of them is answered, at most.
AHEAD = 256
#: Reads of a large frame in a row, before others get their turn.
_READS = 8
#: So much of a large frame is to be there before the front is woken for it.
_WAKE_BYTES = 256 * 1024
#: What is kept of a frame that is too much to hold: enough to refuse it by name.
_HEAD_BYTES = 2048
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


class PeerGone(Exception):
    """The client closed the connection, and nothing of it is under way."""


class Client:
    """A client's connection."""

    def __init__(self, sock: socket.socket, peer: str, front: TBatchingFront, refusal: str | None) -> None:
        self.peer = peer
        self.fd = sock.fileno()
        self._front = front
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
        self._ended = False
        self._buffer = b""
        self._block: Block | None = None
        self._filled = 0
        #: Requests of it that are taken before the first one is answered: a few such clients must not fill the queue.
        self._ahead = min(AHEAD, max(16, front.settings.max_queued // 8))
        self._discard = 0
        self._low_water = 1
        self._unsent: deque[memoryview] = deque()
        self._events = _IN
        tls = front.tls
        sock.setblocking(tls is None)
        self._flags = socket.MSG_DONTWAIT if tls is None else 0
        self.sock = sock
        self._tls: ssl.SSLSocket | None = None
        self._shaking = tls is not None
        #: When it began to do what it does: see `deadline`; monotonic seconds.
        self.since = front.now
        self.opened = front.now
        self.served = False

    # What it waits for

    @property
    def mid_message(self) -> bool:
        """True where part of a message came, and the rest is to come."""
        return bool(self._buffer) or self._block is not None or self._discard > 0 or self._shaking

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
            elif self._block is not None or self._discard:
                self._read_large()
            else:
                self._take(self.sock.recv(READ_BYTES, socket.MSG_DONTWAIT))
        except _NOT_YET:
            pass

    def _read_tls(self) -> None:
        if self._shaking:
            self._shake()
        while self._events & _IN and not self._ended:  # what the TLS layer holds does not make the socket readable
            if self._block is not None or self._discard:
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
        self.since = self._front.now

    def _take(self, data: bytes) -> None:
        size = len(data) - HEADER_BYTES
        if not self._buffer and size >= 0 and _LENGTH(data)[0] == size <= self._settings.max_message_bytes:
            self._arrived(Request(self, data, None, size, self._front.now))  # whole and alone, as most are
        elif data:
            if not self._buffer:
                self.since = self._front.now
            self._buffer += data
            self._cut()
        else:
            self._peer_ended()

    def _peer_ended(self) -> None:
        if self.mid_message:
            raise ChannelClosed("the peer closed in the middle of a message")
        if not self.pending:
            raise PeerGone
        self._ended = True  # it may have closed its sending side alone: what it asked is still answered
        self._watch(self._events & ~_IN)

    def _cut(self) -> None:
        """Makes requests of what was read."""
        buffer, at = self._buffer, 0
        while len(self.pending) < self._ahead and len(buffer) - at >= HEADER_BYTES:
            try:
                size = frame_length(buffer, self._settings.max_message_bytes, at)
            except FrameError as error:
                self._out_of_step(error)
                return
            end = at + HEADER_BYTES + size
            if end <= len(buffer):
                self._arrived(Request(self, buffer[at:end], None, size, self._front.now))
                at = end
                continue
            if end - len(buffer) > IN_PLACE_BYTES:
                self._begin_large(size, buffer[at + HEADER_BYTES :])
                at = len(buffer)
            break
        self._buffer = buffer[at:]
        if len(self.pending) >= self._ahead:
            self._watch(self._events & ~_IN)

    def _out_of_step(self, error: FrameError) -> None:
        """Where the next message begins is unknown: what came before is still answered, then it is over."""
        self._buffer = b""
        if not self.pending:
            raise error
        log.warning("%s: no more is read: %s", self.peer, error)
        self._ended = True
        self._watch(self._events & ~_IN)

    def _begin_large(self, size: int, have: bytes) -> None:
        block = self._front.room_for(size)
        if block is None:
            self._discard = size - len(have)
            self._head = (size.to_bytes(HEADER_BYTES, "big") + have)[:_HEAD_BYTES]
            return
        block.view[: len(have)] = have
        self._block, self._filled = block, len(have)

    def _read_large(self) -> None:
        left = 0
        for _ in range(_READS):
            short = self._read_part()
            left = len(self._block.view) - self._filled if self._block is not None else self._discard
            if not left:
                self._wake_at(1)
                self._large_came()
                return
            if short:
                break
        self._wake_at(min(left, _WAKE_BYTES))

    def _read_part(self) -> bool:
        """Reads on; true where the socket had less than was asked for."""
        if self._block is not None:
            space = self._block.view[self._filled :]
            got = self.sock.recv_into(space, 0, self._flags)
            self._filled += got
        else:
            space = self._front.scrap[: self._discard]
            got = self.sock.recv_into(space, 0, self._flags)
            self._discard -= got
        if not got:
            raise ChannelClosed("the peer closed in the middle of a message")
        return got < len(space)

    def _wake_at(self, size: int) -> None:
        """Has the kernel wait for so many bytes before it tells of them: waking for each packet costs more."""
        if self._tls is None and size != self._low_water:
            self._low_water = size
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def _large_came(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            self._arrived(Request(self, None, block, self._filled, self._front.now))
            return
        request = Request(self, self._head, None, len(self._head) - HEADER_BYTES, self._front.now)
        self.pending.append(request)
        self._front.refuse_for_bytes(request)

    def _arrived(self, request: Request) -> None:
        self.served = True
        self.pending.append(request)
        self._front.arrived(request)

    # Writing

    def answered(self, request: Request, answer: bytes | memoryview) -> None:
        """Sends an answer (nothing for a oneway call) as soon as those before it are sent.

        Raises:
            PeerGone, ChannelClosed, OSError, FrameError: as `on_event`, for what it sent on may be read now.
        """
        pending = self.pending
        if pending[0] is not request:
            request.answer = answer
            return
        pending.popleft()
        self._send(answer)
        while pending and (ready := pending[0].answer) is not None:
            pending.popleft()
            self._send(ready)
        if not self._events & _IN and not self._ended and not self._unsent and len(pending) <= self._ahead // 2:
            self._resume()

    def _send(self, data: bytes | memoryview) -> None:
        self.since = self._front.now
        if self._unsent:
            self._unsent.append(memoryview(data))
            return
        if not data:
            return
        try:
            sent = self.sock.send(data, self._flags)
        except _NOT_YET:
            sent = 0
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
            self._front.hold(self, True)
            self._watch(_OUT)

    def _send_rest(self) -> None:
        try:
            while self._unsent:
                view = self._unsent[0]
                sent = self.sock.send(view, self._flags)
                self.since = self._front.now
                if sent < len(view):
                    self._unsent[0] = view[sent:]
                    return
                self._unsent.popleft()
        except _NOT_YET:
            return
        self._front.hold(self, False)
        if self._ended:
            self._watch(0)
        else:
            self._resume()

    def _resume(self) -> None:
        self._watch(_IN)
        if self._buffer:
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

    def close(self) -> Block | None:
        """Closes the socket.

        Returns:
            The block of a message that did not come whole.
        """
        self.closed = True
        self.sock.close()
        block, self._block = self._block, None
        return block
