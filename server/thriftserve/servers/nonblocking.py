"""TNonblockingServer: one I/O thread on the readiness API, N handler threads, one session shared.

    I/O thread: poll --> read what is there --> whole message --> queue
    handler thread: queue --> answer --> send what the socket takes --> the rest is the I/O thread's

A connection has one message in hand at a time. While it has, the I/O thread leaves it alone: it stays
watched, for the client most likely waits, and is unwatched only when something comes after all.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from enum import Enum
from functools import partial

from thriftserve.servers.acceptor import PAUSE_S, Acceptor, OutOfDescriptors
from thriftserve.servers.connection import tell
from thriftserve.servers.context import ServerContext
from thriftserve.servers.nonblocking_connection import NonblockingConnection, PeerGone
from thriftserve_client.wire.framing import Frame

log = logging.getLogger(__name__)

_SWEEP_S = 1.0
#: Connections over the limit that are kept for the moment that it takes to refuse them.
_REFUSING = 64
_DRAIN_STEP_S = 0.01


class Owner(Enum):
    """Which thread has a connection, and for what."""

    READING = "the I/O thread, to read"
    RUNNING = "a handler thread"
    WRITING = "the I/O thread, to write"


class _Connection(NonblockingConnection):
    """A connection and who has it. `owner` and `watched` change under `lock`."""

    def __init__(self, sock: socket.socket, peer: str, host: ServerContext, refusal: str | None) -> None:
        super().__init__(sock, peer, host)
        self.lock = threading.Lock()
        self.owner = Owner.READING
        self.watched = True
        #: Why its first message is refused; None: it is served.
        self.refusal = refusal


_Task = tuple[_Connection, Frame, float]


class TNonblockingServer:
    """Any number of connections on one I/O thread; requests wait in a bounded queue for N handlers."""

    def __init__(self, host: ServerContext) -> None:
        self._host = host
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._connections: dict[int, _Connection] = {}
        self._counters = host.context.counters
        self._epoll: select.epoll
        self._resume_at: float | None = None

    def prepare(self) -> None:
        """Loads what is served."""
        self._host.load()
        self._host.begin()

    def run(self) -> None:
        """Serves until drained."""
        host = self._host
        acceptor = Acceptor(host)
        handlers = [
            threading.Thread(target=self._work, name=f"handler-{n}", daemon=True) for n in range(host.settings.threads)
        ]
        with select.epoll() as self._epoll:
            for handler in handlers:
                handler.start()
            self._epoll.register(acceptor.sock, select.EPOLLIN)
            self._epoll.register(host.wakeup.fd, select.EPOLLIN)
            self._serve(acceptor)
            self._epoll.unregister(acceptor.sock)
            for taken in acceptor.last():
                self._adopt(*taken)
            self._finish()
            for _ in handlers:
                self._tasks.put(None)
            for handler in handlers:
                handler.join()

    # The I/O thread

    def _serve(self, acceptor: Acceptor) -> None:
        listening = acceptor.sock.fileno()
        sweep_at = time.monotonic() + _SWEEP_S
        while not self._host.draining:
            for fd, _ in self._epoll.poll(PAUSE_S if self._resume_at else _SWEEP_S):
                if fd == listening:
                    self._accept(acceptor)
                elif fd in self._connections:
                    self._on_event(self._connections[fd])
            now = time.monotonic()
            if self._resume_at and now >= self._resume_at:
                self._resume_at = None
                self._epoll.modify(acceptor.sock, select.EPOLLIN)
            if now >= sweep_at:
                self._close_late(now)
                sweep_at = now + _SWEEP_S

    def _accept(self, acceptor: Acceptor) -> None:
        limit = self._host.settings.max_connections
        try:
            while (taken := acceptor.take(pause=False)) is not None:
                if len(self._connections) >= limit + _REFUSING:
                    self._counters.add_refused()
                    taken[0].close()
                else:
                    self._adopt(*taken)
        except OutOfDescriptors:
            self._resume_at = time.monotonic() + PAUSE_S  # others are served meanwhile
            self._epoll.modify(acceptor.sock, 0)

    def _adopt(self, sock: socket.socket, peer: str) -> None:
        limit = self._host.settings.max_connections
        full = len(self._connections) >= limit
        refusal = f"{limit} connections are open, the limit; try again later" if full else None
        try:
            connection = _Connection(sock, peer, self._host, refusal)
        except OSError as error:  # it broke before it began
            log.info("%s: broken: %s", peer, error)
            sock.close()
            return
        self._connections[connection.fd] = connection
        self._counters.connection_opened()
        self._epoll.register(connection.fd, select.EPOLLIN)

    def _on_event(self, connection: _Connection) -> None:
        with connection.lock:
            if connection.owner is Owner.RUNNING:
                self._epoll.unregister(connection.fd)
                connection.watched = False
                return
        self._step(connection, self._read if connection.owner is Owner.READING else self._write)

    def _step(self, connection: _Connection, step: Callable[[_Connection], None]) -> None:
        """Does one thing with a connection; whatever goes wrong ends it and nothing else."""
        try:
            step(connection)
        except PeerGone:
            self._end(connection)
        except Exception as error:
            tell(connection.peer, error)
            self._end(connection)

    def _read(self, connection: _Connection) -> None:
        frame = connection.next_message()
        if frame is not None:
            self._dispatch(connection, frame)

    def _write(self, connection: _Connection) -> None:
        if connection.send_rest():
            self._answered(connection)

    def _dispatch(self, connection: _Connection, frame: Frame) -> None:
        connection.owner = Owner.RUNNING
        limit = self._host.settings.max_queued
        if connection.refusal is None and self._tasks.qsize() < limit:
            self._tasks.put((connection, frame, connection.arrival() or time.monotonic()))
            return
        reason = connection.refusal or f"the queue is full: {limit} requests wait already; try again later"
        self._counters.add_refused()
        log.warning("%s: refused: %s", connection.peer, reason)
        self._reply(connection, connection.exchange.refuse(frame, reason, self._host.refusal))

    def _close_late(self, now: float) -> None:
        for connection in list(self._connections.values()):
            if now >= connection.deadline and connection.owner is not Owner.RUNNING:
                log.info("%s: closed: %s", connection.peer, connection.why_late)
                self._end(connection)

    def _finish(self) -> None:
        """Answers whatever has arrived, waits for what is arriving, closes the rest."""
        while self._connections:
            for connection in list(self._connections.values()):
                if connection.owner is Owner.READING:
                    self._step(connection, self._read)
                if connection.owner is Owner.READING and not connection.in_message:
                    self._end(connection)
            self._close_late(time.monotonic())
            for fd, _ in self._epoll.poll(_DRAIN_STEP_S):
                if fd in self._connections and self._connections[fd].owner is Owner.WRITING:
                    self._on_event(self._connections[fd])

    # Either thread, whichever has the connection

    def _reply(self, connection: _Connection, parts: list[bytes]) -> None:
        if not parts:
            connection.not_idle()
        if not parts or connection.send(parts, connection.exchange.size):
            self._answered(connection)
            return
        with connection.lock:
            connection.owner = Owner.WRITING
            self._watch(connection, select.EPOLLOUT)

    def _answered(self, connection: _Connection) -> None:
        if connection.exchange.broken or connection.refusal is not None:
            self._end(connection)
            return
        if connection.has_pending:
            connection.owner = Owner.RUNNING
            frame = connection.next_message()
            if frame is not None:
                self._dispatch(connection, frame)
                return
        with connection.lock:
            writing, connection.owner = connection.owner is Owner.WRITING, Owner.READING
            if writing or not connection.watched:
                self._watch(connection, select.EPOLLIN)

    def _watch(self, connection: _Connection, events: int) -> None:
        if connection.watched:
            self._epoll.modify(connection.fd, events)
        else:
            self._epoll.register(connection.fd, events)
            connection.watched = True

    def _end(self, connection: _Connection) -> None:
        with connection.lock:
            if self._connections.get(connection.fd) is not connection:
                return
            del self._connections[connection.fd]
            if connection.watched:
                with contextlib.suppress(OSError):  # a TLS layer that can't be begun closes its socket by itself
                    self._epoll.unregister(connection.fd)
            connection.close()
        self._counters.connection_closed()

    # A handler thread

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._step(task[0], partial(self._run, task))

    def _run(self, task: _Task, connection: _Connection) -> None:
        _, frame, arrived = task
        self._counters.begin_request()
        try:
            parts = connection.exchange.answer(frame, arrived)
        finally:
            self._counters.end_request()
        self._reply(connection, parts)

    def drain(self) -> None:
        """Finishes what is in hand, then ends."""
        self._host.drain()
