"""Connections that one thread serves in turns: one whole message of one client, then the next client's.

    readable --> turn(): read what is there; a message is whole --> answer it --> send

`FramedTurns` reads without waiting. `BufferedTurns` has to wait for the rest of a message that has begun,
for the buffered transport shows its end only to the decoder.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from struct import Struct

from thriftserve.server_types.connection import Connection
from thriftserve.server_types.ending import FAILURES, tell
from thriftserve.server_types.host import Host
from thriftserve.server_types.polled import PeerGone, PolledConnection
from thriftserve.server_types.spin import Room, Spin
from thriftserve_client.channel import READ_BYTES, ChannelTimeout
from thriftserve_client.framing import Frame

#: A large message whose bytes keep coming is read on for this long, before others get their turn.
_READ_ON_S = 0.02
_NEXT_BYTES_MS = 1.0
_NEXT_RECORD_S = 0.001
#: A worker that stays with its only connection asks for news this often, and waits so long for one message of it.
_NEWS_S = 0.005
_STAY_TIMEVAL = Struct("@ll").pack(0, 1000)


class FramedTurns(PolledConnection):
    """A framed connection served in turns."""

    def __init__(self, sock: socket.socket, peer: str, host: Host) -> None:
        super().__init__(sock, peer, host)
        self._host = host
        self._counters = host.context.counters
        self._spin = Spin(host.settings.spin_us)
        self._room = Room(host.context.board, every=1)
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


class BufferedTurns(Connection):
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


Turns = FramedTurns | BufferedTurns
