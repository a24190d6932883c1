"""Rejecting clients over a limit: a typed answer that the client may retry, instead of silence.

connection over a limit --> Rejector (one thread, any number at once) --> one request in, RESOURCE_EXHAUSTED out, closed

AcceptQueueLimiter watches the kernel's queue of a server that runs one request at a time, and hands what is over
--max-queued to the Rejector.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections import deque
from dataclasses import replace

from thriftserve.servers.acceptor import Acceptor, OutOfDescriptors, accept_queue_length, is_tcp
from thriftserve.servers.connection import FAILURES, Connection
from thriftserve.servers.context import ServerContext, Wakeup
from thriftserve.servers.nonblocking_connection import NonblockingConnection, PeerGone
from thriftserve_client.wire.message_socket import READ_BYTES

log = logging.getLogger(__name__)

#: How long a rejected client may take for each step, and in all.
_STEP_TIMEOUT_S, _REJECTION_S = 2.0, 10.0
#: How long one that was answered may take to close its side, and one of the buffered transport to send the rest.
_DRAIN_S = 0.2
#: Connections that are being rejected at once; for another one the oldest is closed.
_MAX_OPEN = 4096
_POLL_S = 0.1


def too_many_connections(limit: int, where: str = "") -> str:
    """Return the reason for rejecting a connection over `max_connections`."""
    return f"the limit of {limit} open connections{where} is reached; try again later"


def queue_is_full(limit: int, what: str = "connections") -> str:
    """Return the reason for rejecting a connection or request over `max_queued`."""
    return f"the queue is full: {limit} {what} are waiting; try again later"


class Rejector:
    """Rejects connections in its own thread, none of which waits for another. Thread-safe."""

    def __init__(self, server: ServerContext) -> None:
        settings = replace(
            server.settings,
            idle_timeout_s=_STEP_TIMEOUT_S,
            read_timeout_s=_STEP_TIMEOUT_S,
            write_timeout_s=_STEP_TIMEOUT_S,
            handshake_timeout_s=_STEP_TIMEOUT_S,
        )
        self._server = replace(server, settings=settings)
        self._lock = threading.Lock()
        self._new: deque[tuple[socket.socket, str, str]] = deque()
        self._wakeup: Wakeup | None = None
        #: The connections being rejected, the oldest first.
        self._open: dict[int, _Rejected] = {}
        self._epoll: select.epoll

    def close_inherited(self) -> None:
        """Close, in a forked child, what its parent rejects: there is no thread for it here."""
        if self._wakeup is not None:
            self._epoll.close()
            for rejected in self._open.values():
                rejected.close()
            for sock, _, _ in self._new:
                sock.close()

    def reject(self, sock: socket.socket, peer: str, reason: str) -> None:
        """Take a connection over, answer its first request with `reason` and close it. Does not block."""
        self._server.context.counters.add_refused()
        with self._lock:
            if self._wakeup is None:
                self._wakeup, self._epoll = Wakeup(), select.epoll()
                threading.Thread(target=self._run, args=(self._wakeup,), name="rejector", daemon=True).start()
            self._new.append((sock, peer, reason))
        self._wakeup.set()

    def _run(self, wakeup: Wakeup) -> None:
        self._epoll.register(wakeup.fd, select.EPOLLIN)
        while True:
            for fd, _ in self._epoll.poll(_POLL_S if self._open else -1):
                if fd == wakeup.fd:
                    wakeup.clear()
                    self._adopt_new()
                elif fd in self._open:
                    self._step(self._open[fd])
            now = time.monotonic()
            for rejected in [each for each in self._open.values() if now >= each.deadline]:
                log.info("%s: closed during its rejection: it made no headway", rejected.peer)
                self._end(rejected)

    def _adopt_new(self) -> None:
        while self._new:
            sock, peer, reason = self._new.popleft()
            log.warning("%s: rejected: %s", peer, reason)
            if len(self._open) >= _MAX_OPEN:  # the oldest has said nothing for the longest time
                self._end(next(iter(self._open.values())))
            try:
                rejected = _rejected(sock, peer, reason, self._server)
                self._open[rejected.fd] = rejected
                self._epoll.register(rejected.fd, select.EPOLLIN)
            except OSError as error:  # the client has already gone
                log.info("%s: broken: %s", peer, error)
                sock.close()

    def _step(self, rejected: _Rejected) -> None:
        """Go on with a rejection. Any error ends it and nothing else."""
        try:
            events = rejected.step()
        except PeerGone:
            events = 0
        except Exception as error:
            if isinstance(error, FAILURES):
                log.info("%s: closed during its rejection: %s", rejected.peer, error)
            else:
                log.exception("%s: could not be rejected", rejected.peer)
            events = 0
        if events:
            self._epoll.modify(rejected.fd, events)
        else:
            self._end(rejected)

    def _end(self, rejected: _Rejected) -> None:
        del self._open[rejected.fd]
        with contextlib.suppress(OSError):  # a failed TLS layer has closed its socket itself
            self._epoll.unregister(rejected.fd)
        rejected.close()


class _FramedRejected:
    """A connection of the framed transport that is being rejected: read, answered, and read to its end.

    A socket that is closed with unread bytes sends a reset, which may overtake the reply.
    """

    def __init__(self, sock: socket.socket, peer: str, reason: str, server: ServerContext) -> None:
        self.peer = peer
        self._reason = reason
        self._refusal = server.refusal
        self._connection = NonblockingConnection(sock, peer, server)
        self.fd = self._connection.fd
        self._answered = False
        self._gives_up = time.monotonic() + _REJECTION_S

    @property
    def deadline(self) -> float:
        """When to close it whatever it does, monotonic seconds."""
        return min(self._connection.deadline, self._gives_up)

    def step(self) -> int:
        """Do what can be done without waiting; return the events to wait for, 0 at the end.

        Raises:
            PeerGone, and those of FAILURES: the connection ended.
        """
        connection = self._connection
        if self._answered:
            if not connection.send_rest():
                return select.EPOLLOUT
            return self._drain()
        frame = connection.next_message()
        if frame is None:
            return select.EPOLLIN
        parts = connection.exchange.refuse(frame, self._reason, self._refusal)
        if not parts:  # a oneway call
            return 0
        self._answered = True
        if not connection.send(parts, connection.exchange.size):
            return select.EPOLLOUT
        return self._drain()

    def _drain(self) -> int:
        """Read on until the client closes its side."""
        sock = self._connection.sock
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_WR)
        self._gives_up = min(self._gives_up, time.monotonic() + _DRAIN_S)
        try:
            while socket.socket.recv(sock, READ_BYTES, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            return select.EPOLLIN
        return 0

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()


class _BufferedRejected:
    """A connection of the buffered transport that is being rejected: in one step, once something of it has come."""

    def __init__(self, sock: socket.socket, peer: str, reason: str, server: ServerContext) -> None:
        self.peer = peer
        self.fd = sock.fileno()
        self._reason = reason
        settings = replace(server.settings, idle_timeout_s=_DRAIN_S, read_timeout_s=_DRAIN_S, write_timeout_s=_DRAIN_S)
        self._connection = Connection(sock, peer, replace(server, settings=settings))
        self.deadline = time.monotonic() + _REJECTION_S

    def step(self) -> int:
        """Answer, and end."""
        self._connection.reject(self._reason)
        return 0

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()


_Rejected = _FramedRejected | _BufferedRejected


def _rejected(sock: socket.socket, peer: str, reason: str, server: ServerContext) -> _Rejected:
    kind = _FramedRejected if server.settings.framing == "framed" else _BufferedRejected
    return kind(sock, peer, reason, server)


class AcceptQueueLimiter:
    """Keeps the kernel's queue of connections within `max_queued` while the serving thread is busy."""

    def __init__(self, server: ServerContext, acceptor: Acceptor, rejector: Rejector) -> None:
        self._server = server
        self._acceptor = acceptor
        self._rejector = rejector

    def start(self) -> None:
        """Start the watching thread. Does nothing for a Unix socket, whose queue length the kernel does not tell."""
        if is_tcp(self._acceptor.sock):
            threading.Thread(target=self._run, name="accept-queue-limiter", daemon=True).start()

    def _run(self) -> None:
        while not self._server.draining:
            self._server.wakeup.wait(_POLL_S)
            if self._server.context.counters.in_flight:
                self._reject_excess(self._server.settings.max_queued)

    def _reject_excess(self, limit: int) -> None:
        while accept_queue_length(self._acceptor.sock) > limit:
            try:
                accepted = self._acceptor.accept(pause=False)
            except OutOfDescriptors:
                return
            if accepted is None:
                return
            self._rejector.reject(*accepted, queue_is_full(limit))
