"""TProcessPoolServer: N worker processes on one listening socket, and a session in each.

    worker: poll(listener, its connections) --> one complete request at a time --> answer --> poll

A worker runs one request at a time and holds any number of connections, so idle clients cost it nothing. It accepts a
connection only while it is idle, and leaves it to an idle worker that has fewer. So clients spread over the workers. On
TCP the kernel shows a connection only once its first request has arrived (TCP_DEFER_ACCEPT), so accepting it and
working on it are one step. docs/explanation/decisions.md, "The server types", has the figures.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from collections import deque

from thriftserve.servers.acceptor import Acceptor, OutOfDescriptors, is_tcp
from thriftserve.servers.context import ServerContext
from thriftserve.servers.nonblocking_connection import (
    BufferedMultiplexedConnection,
    FramedMultiplexedConnection,
    MultiplexedConnection,
)
from thriftserve.servers.rejection import AcceptQueueLimiter, Rejector, too_many_connections

log = logging.getLogger(__name__)

#: How long a worker leaves a pending connection to an idle worker that has fewer.
_STEP_BACK_S = 0.002
_SWEEP_S = 1.0
#: How long the kernel holds a connection back that has sent nothing: tcp(7).
_DEFER_ACCEPT_S = 1


class TProcessPoolServer:
    """A worker of the pool."""

    def __init__(self, server: ServerContext) -> None:
        self._server = server
        self._connections: dict[int, MultiplexedConnection] = {}
        #: Connections of which a further message was already read.
        self._pending: deque[MultiplexedConnection] = deque()
        framed = server.settings.framing == "framed"
        self._connection_class = FramedMultiplexedConnection if framed else BufferedMultiplexedConnection
        self._max_connections = max(1, server.settings.max_connections // server.context.workers)
        self._listening = True
        self._listen_again_at = 0.0
        self._sweep_at = 0.0
        self._epoll: select.epoll

    def prepare(self) -> None:
        """Load the service."""
        self._server.load()
        self._server.mark_ready()
        self._server.context.counters.for_one_thread()
        sock = self._server.listener.sock
        if is_tcp(sock):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _DEFER_ACCEPT_S)

    def run(self) -> None:
        """Serve until drained."""
        server = self._server
        acceptor = Acceptor(server)
        rejector = Rejector(server)
        AcceptQueueLimiter(server, acceptor, rejector).start()
        with select.epoll() as self._epoll:
            self._epoll.register(acceptor.sock, select.EPOLLIN)
            self._epoll.register(server.wakeup.fd, select.EPOLLIN)
            self._serve(acceptor, rejector)
            self._epoll.unregister(acceptor.sock)
            for accepted in acceptor.accept_pending():
                self._adopt(*accepted)
            self._finish()

    def drain(self) -> None:
        """Finish accepted requests, then end."""
        self._server.drain()

    def _serve(self, acceptor: Acceptor, rejector: Rejector) -> None:
        server = self._server
        listening, wakeup = acceptor.sock.fileno(), server.wakeup.fd
        self._sweep_at = time.monotonic() + _SWEEP_S
        while not self._server.draining:
            for fd, _ in self._epoll.poll(self._wait_s()):
                if fd == listening:
                    self._accept(acceptor, rejector)
                elif fd != wakeup:
                    self._serve_turn(self._connections[fd])
                if server.draining:
                    return
            self._serve_pending()
            self._serve_only_connection()
            now = time.monotonic()
            if not self._listening and now >= self._listen_again_at:
                self._listen(acceptor, True)
            if now >= self._sweep_at:
                self._close_expired(now)
                self._sweep_at = now + _SWEEP_S

    def _wait_s(self) -> float:
        if self._pending:
            return 0.0
        return _SWEEP_S if self._listening else _STEP_BACK_S

    # Accepting

    def _listen(self, acceptor: Acceptor, on: bool) -> None:
        self._listening = on
        self._listen_again_at = time.monotonic() + _STEP_BACK_S
        self._epoll.modify(acceptor.sock, select.EPOLLIN if on else 0)

    def _accept(self, acceptor: Acceptor, rejector: Rejector) -> None:
        if self._idle_worker_has_fewer():
            self._listen(acceptor, False)
            return
        try:
            accepted = acceptor.accept()
        except OutOfDescriptors:
            return
        if accepted is None:
            return
        if len(self._connections) >= self._max_connections:
            rejector.reject(*accepted, too_many_connections(self._max_connections, " of this worker"))
            return
        connection = self._adopt(*accepted)
        if connection is not None:
            self._serve_turn(connection)

    def _idle_worker_has_fewer(self) -> bool:
        own_count = len(self._connections)
        if own_count == 0:
            return False
        own_pid = os.getpid()
        return any(
            peer.pid != own_pid and peer.in_flight == 0 and peer.connections < own_count
            for peer in self._server.context.board.peers()
        )

    def _adopt(self, sock: socket.socket, peer: str) -> MultiplexedConnection | None:
        try:
            connection = self._connection_class(sock, peer, self._server)
        except OSError as error:  # the client has already gone
            log.info("%s: broken: %s", peer, error)
            sock.close()
            return None
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)
        self._server.context.counters.connection_opened()
        return connection

    # Serving

    def _serve_turn(self, connection: MultiplexedConnection) -> None:
        try:
            is_open = connection.serve_turn()
        except Exception:
            log.exception("%s: closed", connection.peer)
            is_open = False
        if is_open:
            self._enqueue_pending(connection)
        else:
            self._end(connection)

    def _serve_only_connection(self) -> None:
        """If there is only one connection, stay with it as long as its messages follow each other closely."""
        if len(self._connections) != 1 or self._pending:
            return
        ((fd, connection),) = self._connections.items()
        if not (isinstance(connection, FramedMultiplexedConnection) and connection.can_serve_alone):
            return
        self._epoll.unregister(fd)  # otherwise each of its messages would end the stay
        if not connection.serve_alone(self._has_other_work):
            self._end(connection)
            return
        self._epoll.register(fd, select.EPOLLIN)
        self._enqueue_pending(connection)

    def _has_other_work(self) -> bool:
        return not self._listening or time.monotonic() >= self._sweep_at or bool(self._epoll.poll(0))

    def _enqueue_pending(self, connection: MultiplexedConnection) -> None:
        if connection.has_pending and not connection.in_message:
            self._pending.append(connection)

    def _serve_pending(self) -> None:
        for _ in range(len(self._pending)):
            connection = self._pending.popleft()
            if connection.sock.fileno() >= 0:
                self._serve_turn(connection)

    # Ending

    def _end(self, connection: MultiplexedConnection) -> None:
        fd = next((fd for fd, other in self._connections.items() if other is connection), None)
        if fd is not None:
            del self._connections[fd]
            with contextlib.suppress(OSError):  # a failed TLS layer has closed its socket itself
                self._epoll.unregister(fd)
        connection.close()
        self._server.context.counters.connection_closed()

    def _close_expired(self, now: float) -> None:
        for connection in list(self._connections.values()):
            if now >= connection.deadline:
                log.info("%s: closed: %s", connection.peer, connection.timeout_reason)
                self._end(connection)

    def _finish(self) -> None:
        """Answer what has arrived, wait for incomplete messages, close all other connections."""
        while self._connections:
            ready = {fd for fd, _ in self._epoll.poll(0)} | {connection.fd for connection in self._pending}
            self._pending.clear()
            for fd, connection in list(self._connections.items()):
                if fd in ready:
                    self._serve_turn(connection)
                elif not connection.in_message or time.monotonic() >= connection.deadline:
                    self._end(connection)
            if self._connections and not ready:
                time.sleep(_STEP_BACK_S)
