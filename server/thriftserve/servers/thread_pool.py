"""TThreadPoolServer: N threads take connections from a queue. All of them share one session.

    accept --> queue --> thread: serve it while it is busy --> idle --> parked --> readable --> queue

While there are no more connections than threads, each keeps its thread for a moment between two requests, which spares
both the way through the queue. With more connections, one whose next request has not arrived is parked with the thread
that accepts, so that any number of quiet clients costs no thread; a busy one goes to the back of the queue after its
turn, so that it does not starve the others. docs/explanation/decisions.md, "The server types", has the figures.
"""

from __future__ import annotations

import logging
import queue
import select
import socket
import threading
import time

from thriftserve.servers.acceptor import Acceptor, OutOfDescriptors
from thriftserve.servers.connection import Connection
from thriftserve.servers.context import ServerContext
from thriftserve.servers.rejection import Rejector, queue_is_full, too_many_connections

log = logging.getLogger(__name__)

#: How long a thread waits for its connection's next request before it parks it: longer than a client takes between
#: two calls in a row.
LINGER_S = 0.02
#: The same while there are more connections than threads, for this share of the threads: otherwise quiet clients would
#: hold all of them. By poll, because the kernel rounds the time-out of a socket up.
_CROWDED_LINGER_MS = 1
_CROWDED_SHARE = 0.25
#: How long a connection may keep its thread while others wait.
TURN_S = 0.01
_SWEEP_S = 1.0


class TThreadPoolServer:
    """A pool of `threads` threads. Connections wait for a thread in a bounded queue."""

    def __init__(self, server: ServerContext) -> None:
        self._server = server
        self._ready: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # Changed under the lock only:
        self._parked: dict[int, Connection] = {}
        self._open_connections = 0
        self._lingering = 0
        self._closing = False
        self._epoll: select.epoll
        self._rejector: Rejector

    def prepare(self) -> None:
        """Load the service."""
        self._server.load()
        self._server.mark_ready()

    def run(self) -> None:
        """Serve until drained."""
        self._rejector = Rejector(self._server)
        threads = [
            threading.Thread(target=self._work, name=f"pool-{n}", daemon=True)
            for n in range(self._server.settings.threads)
        ]
        with select.epoll() as self._epoll:
            for thread in threads:
                thread.start()
            self._accept_all(Acceptor(self._server))
            self._unpark_all()
            for _ in threads:
                self._ready.put(None)
            for thread in threads:
                thread.join()

    def drain(self) -> None:
        """Finish accepted requests, then end."""
        self._server.drain()

    # The accepting thread

    def _accept_all(self, acceptor: Acceptor) -> None:
        server = self._server
        listening = acceptor.sock.fileno()
        self._epoll.register(listening, select.EPOLLIN)
        self._epoll.register(server.wakeup.fd, select.EPOLLIN)
        sweep_at = time.monotonic() + _SWEEP_S
        while not server.draining:
            for fd, _ in self._epoll.poll(_SWEEP_S):
                if fd == listening:
                    self._accept(acceptor)
                elif fd != server.wakeup.fd:
                    self._unpark(fd)
            if time.monotonic() >= sweep_at:
                self._close_expired(time.monotonic())
                sweep_at = time.monotonic() + _SWEEP_S
        self._epoll.unregister(listening)
        for accepted in acceptor.accept_pending():
            self._enqueue(*accepted)

    def _accept(self, acceptor: Acceptor) -> None:
        settings = self._server.settings
        try:
            while (accepted := acceptor.accept()) is not None:
                if self._open_connections >= settings.max_connections:
                    self._rejector.reject(*accepted, too_many_connections(settings.max_connections))
                elif self._ready.qsize() >= settings.max_queued:
                    self._rejector.reject(*accepted, queue_is_full(settings.max_queued))
                else:
                    self._enqueue(*accepted)
        except OutOfDescriptors:
            return

    def _enqueue(self, sock: socket.socket, peer: str) -> None:
        connection = Connection(sock, peer, self._server, self._is_only_connection)
        with self._lock:
            self._open_connections += 1
        self._server.context.counters.connection_opened()
        self._ready.put(connection)

    def _unpark(self, fd: int) -> None:
        connection = self._remove_parked(fd)
        if connection is not None:
            self._ready.put(connection)

    def _remove_parked(self, fd: int) -> Connection | None:
        with self._lock:
            connection = self._parked.pop(fd, None)
            if connection is not None:
                self._epoll.unregister(fd)
            return connection

    def _close_expired(self, now: float) -> None:
        for fd, connection in list(self._parked.items()):
            if now >= connection.deadline and self._remove_parked(fd) is not None:
                log.info("%s: closed: %s", connection.peer, connection.timeout_reason)
                self._end(connection)

    def _unpark_all(self) -> None:
        """Have threads answer what has arrived on parked connections, and end them."""
        with self._lock:
            self._closing = True
        for fd in list(self._parked):
            self._unpark(fd)

    # A thread of the pool

    def _work(self) -> None:
        while (connection := self._ready.get()) is not None:
            try:
                is_open = self._serve_turn(connection)
                if is_open and not self._park(connection):
                    connection.serve()  # the server drains: answers what has arrived, then ends
                    is_open = False
            except Exception:
                log.exception("%s: closed", connection.peer)
                is_open = False
            if not is_open:
                self._end(connection)

    def _serve_turn(self, connection: Connection) -> bool:
        """Serve a connection while it is busy, and its turn lasts or no other waits. Return False if it has ended."""
        turn_ends = time.monotonic() + TURN_S
        threads = self._server.settings.threads

        def must_yield() -> bool:
            if self._open_connections <= threads:
                return False
            if time.monotonic() >= turn_ends and not self._ready.empty():
                return True
            return not self._has_next_request(connection)

        return must_yield() or connection.serve_while_busy(LINGER_S, must_yield)

    def _has_next_request(self, connection: Connection) -> bool:
        """Return whether the next request has arrived; wait for it if no other connection and few threads wait."""
        may_linger = self._lingering < _CROWDED_SHARE * self._server.settings.threads
        if not (may_linger and self._ready.empty()):
            return connection.wait_readable(0)
        with self._lock:
            self._lingering += 1
        try:
            return connection.wait_readable(_CROWDED_LINGER_MS)
        finally:
            with self._lock:
                self._lingering -= 1

    def _park(self, connection: Connection) -> bool:
        """Watch an idle connection, or queue it if more of it was already read. Return False once the server drains."""
        with self._lock:
            if self._closing:
                return False
            if connection.has_pending:
                self._ready.put(connection)
                return True
            fd = connection.sock.fileno()
            self._parked[fd] = connection
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
            return True

    # Either

    def _is_only_connection(self) -> bool:
        return self._open_connections == 1

    def _end(self, connection: Connection) -> None:
        connection.close()
        with self._lock:
            self._open_connections -= 1
        self._server.context.counters.connection_closed()
