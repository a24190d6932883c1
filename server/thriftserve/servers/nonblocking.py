"""TNonblockingServer: one I/O thread on the readiness API, N handler threads. All of them share one session.

    I/O thread: poll --> read what has arrived --> complete message --> queue
    handler thread: queue --> answer --> send what the socket takes --> the I/O thread sends the rest

A connection has at most one message queued or running, and the I/O thread does not touch it meanwhile. It stays
registered in epoll, because the client most likely waits for the response; it is only unregistered if an event comes
after all.
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
from typing import NamedTuple

from thriftserve.servers.acceptor import PAUSE_S, Acceptor, OutOfDescriptors
from thriftserve.servers.connection import log_failure
from thriftserve.servers.context import ServerContext
from thriftserve.servers.nonblocking_connection import NonblockingConnection, PeerGone
from thriftserve.servers.rejection import queue_is_full, too_many_connections
from thriftserve_client.wire.framing import Frame

log = logging.getLogger(__name__)

#: A request that waited longer than this may have lost its client.
_LONG_WAIT_S = 0.001
_SWEEP_S = 1.0
#: Connections over the limit that are held, for the moment that it takes to reject them.
_MAX_REJECTING = 64
_DRAIN_STEP_S = 0.01


class ConnectionOwner(Enum):
    """The thread that owns a connection, and what for."""

    READING = "the I/O thread, to read"
    RUNNING = "a handler thread"
    WRITING = "the I/O thread, to write"


class _OwnedConnection(NonblockingConnection):
    """A connection and its owner.

    Attributes:
        lock: held while `owner` and `registered` change.
        registered: whether it is registered in epoll.
        rejection: why its first message is rejected; None: it is served.
    """

    def __init__(self, sock: socket.socket, peer: str, server: ServerContext, rejection: str | None) -> None:
        super().__init__(sock, peer, server)
        self.lock = threading.Lock()
        self.owner = ConnectionOwner.READING
        self.registered = True
        self.rejection = rejection


class _QueuedMessage(NamedTuple):
    connection: _OwnedConnection
    frame: Frame
    arrived: float


class TNonblockingServer:
    """Any number of connections on one I/O thread. Requests wait in a bounded queue for N handler threads."""

    def __init__(self, server: ServerContext) -> None:
        self._server = server
        self._messages: queue.SimpleQueue[_QueuedMessage | None] = queue.SimpleQueue()
        self._connections: dict[int, _OwnedConnection] = {}
        self._counters = server.context.counters
        self._epoll: select.epoll
        self._resume_accepting_at: float | None = None

    def prepare(self) -> None:
        """Load the service."""
        self._server.load()
        self._server.mark_ready()

    def run(self) -> None:
        """Serve until drained."""
        server = self._server
        acceptor = Acceptor(server)
        handlers = [
            threading.Thread(target=self._work, name=f"handler-{n}", daemon=True)
            for n in range(server.settings.threads)
        ]
        with select.epoll() as self._epoll:
            for handler in handlers:
                handler.start()
            self._epoll.register(acceptor.sock, select.EPOLLIN)
            self._epoll.register(server.wakeup.fd, select.EPOLLIN)
            self._serve(acceptor)
            self._epoll.unregister(acceptor.sock)
            for accepted in acceptor.accept_pending():
                self._adopt(*accepted)
            self._finish()
            for _ in handlers:
                self._messages.put(None)
            for handler in handlers:
                handler.join()

    def drain(self) -> None:
        """Finish accepted requests, then end."""
        self._server.drain()

    # The I/O thread

    def _serve(self, acceptor: Acceptor) -> None:
        listening = acceptor.sock.fileno()
        sweep_at = time.monotonic() + _SWEEP_S
        while not self._server.draining:
            for fd, _ in self._epoll.poll(PAUSE_S if self._resume_accepting_at else _SWEEP_S):
                if fd == listening:
                    self._accept(acceptor)
                elif fd in self._connections:
                    self._on_event(self._connections[fd])
            now = time.monotonic()
            if self._resume_accepting_at and now >= self._resume_accepting_at:
                self._resume_accepting_at = None
                self._epoll.modify(acceptor.sock, select.EPOLLIN)
            if now >= sweep_at:
                self._close_expired(now)
                sweep_at = now + _SWEEP_S

    def _accept(self, acceptor: Acceptor) -> None:
        limit = self._server.settings.max_connections
        try:
            while (accepted := acceptor.accept(pause=False)) is not None:
                if len(self._connections) >= limit + _MAX_REJECTING:
                    self._counters.add_refused()
                    accepted[0].close()
                else:
                    self._adopt(*accepted)
        except OutOfDescriptors:
            self._resume_accepting_at = time.monotonic() + PAUSE_S  # other connections are served meanwhile
            self._epoll.modify(acceptor.sock, 0)

    def _adopt(self, sock: socket.socket, peer: str) -> None:
        limit = self._server.settings.max_connections
        rejection = too_many_connections(limit) if len(self._connections) >= limit else None
        try:
            connection = _OwnedConnection(sock, peer, self._server, rejection)
        except OSError as error:  # the client has already gone
            log.info("%s: broken: %s", peer, error)
            sock.close()
            return
        self._connections[connection.fd] = connection
        self._counters.connection_opened()
        self._epoll.register(connection.fd, select.EPOLLIN)

    def _on_event(self, connection: _OwnedConnection) -> None:
        with connection.lock:
            if connection.owner is ConnectionOwner.RUNNING:
                self._epoll.unregister(connection.fd)
                connection.registered = False
                return
        self._guard(connection, self._read if connection.owner is ConnectionOwner.READING else self._write)

    def _guard(self, connection: _OwnedConnection, step: Callable[[_OwnedConnection], None]) -> None:
        """Run a step for a connection. Any error ends the connection and nothing else."""
        try:
            step(connection)
        except PeerGone:
            self._end(connection)
        except Exception as error:
            log_failure(connection.peer, error)
            self._end(connection)

    def _read(self, connection: _OwnedConnection) -> None:
        frame = connection.next_message()
        if frame is not None:
            self._enqueue(connection, frame)

    def _write(self, connection: _OwnedConnection) -> None:
        if connection.send_rest():
            self._after_response(connection)

    def _close_expired(self, now: float) -> None:
        for connection in list(self._connections.values()):
            if now >= connection.deadline and connection.owner is not ConnectionOwner.RUNNING:
                log.info("%s: closed: %s", connection.peer, connection.timeout_reason)
                self._end(connection)

    def _finish(self) -> None:
        """Answer what has arrived, wait for incomplete messages, close all other connections."""
        while self._connections:
            for connection in list(self._connections.values()):
                if connection.owner is ConnectionOwner.READING:
                    self._guard(connection, self._read)
                if connection.owner is ConnectionOwner.READING and not connection.in_message:
                    self._end(connection)
            self._close_expired(time.monotonic())
            for fd, _ in self._epoll.poll(_DRAIN_STEP_S):
                if fd in self._connections and self._connections[fd].owner is ConnectionOwner.WRITING:
                    self._on_event(self._connections[fd])

    # The thread that owns the connection

    def _enqueue(self, connection: _OwnedConnection, frame: Frame) -> None:
        connection.owner = ConnectionOwner.RUNNING
        limit = self._server.settings.max_queued
        if connection.rejection is None and self._messages.qsize() < limit:
            self._messages.put(_QueuedMessage(connection, frame, connection.take_arrival() or time.monotonic()))
            return
        reason = connection.rejection or queue_is_full(limit, "requests")
        self._counters.add_refused()
        log.warning("%s: rejected: %s", connection.peer, reason)
        self._respond(connection, connection.exchange.refuse(frame, reason, self._server.refusal))

    def _respond(self, connection: _OwnedConnection, parts: list[bytes]) -> None:
        if not parts:  # a oneway call
            connection.restart_idle_timeout()
        if not parts or connection.send(parts, connection.exchange.size):
            self._after_response(connection)
            return
        with connection.lock:
            connection.owner = ConnectionOwner.WRITING
            self._register(connection, select.EPOLLOUT)

    def _after_response(self, connection: _OwnedConnection) -> None:
        if connection.exchange.broken or connection.rejection is not None:
            self._end(connection)
            return
        if connection.has_pending:
            connection.owner = ConnectionOwner.RUNNING
            frame = connection.next_message()
            if frame is not None:
                self._enqueue(connection, frame)
                return
        with connection.lock:
            was_writing = connection.owner is ConnectionOwner.WRITING
            connection.owner = ConnectionOwner.READING
            if was_writing or not connection.registered:
                self._register(connection, select.EPOLLIN)

    def _register(self, connection: _OwnedConnection, events: int) -> None:
        if connection.registered:
            self._epoll.modify(connection.fd, events)
        else:
            self._epoll.register(connection.fd, events)
            connection.registered = True

    def _end(self, connection: _OwnedConnection) -> None:
        with connection.lock:
            if self._connections.get(connection.fd) is not connection:
                return
            del self._connections[connection.fd]
            if connection.registered:
                with contextlib.suppress(OSError):  # a failed TLS layer has closed its socket itself
                    self._epoll.unregister(connection.fd)
            connection.close()
        self._counters.connection_closed()

    # A handler thread

    def _work(self) -> None:
        while (message := self._messages.get()) is not None:
            self._guard(message.connection, partial(self._run, message))

    def _run(self, message: _QueuedMessage, connection: _OwnedConnection) -> None:
        if time.monotonic() - message.arrived > _LONG_WAIT_S and connection.is_abandoned(message.frame):
            raise PeerGone
        self._counters.begin_request()
        try:
            parts = connection.exchange.answer(message.frame, message.arrived)
        finally:
            self._counters.end_request()
        self._respond(connection, parts)
