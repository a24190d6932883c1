"""TThreadPoolServer: N threads take connections from a queue; one session shared by all of them.

    accept --> queue --> thread: serve it while it is busy --> idle --> parked --> readable --> queue

While there are no more connections than threads, each keeps its thread for a moment between two requests,
which spares both the way through the queue. With more of them, a connection whose next request is not
there yet is parked with the thread that accepts, so that quiet clients, however many, hold no thread;
one that is busy goes to the back of the queue after each turn, so that it does not starve the others.
"""

from __future__ import annotations

import logging
import queue
import select
import threading
import time

from thriftserve.servers.acceptor import Acceptor, OutOfDescriptors
from thriftserve.servers.connection import Connection
from thriftserve.servers.context import ServerContext
from thriftserve.servers.rejection import Rejector

log = logging.getLogger(__name__)

#: How long a thread waits for its connection's next request before it parks it. Longer than a client
#: takes between two calls in a row, and short against anything a person would notice.
LINGER_S = 0.02
#: The same while there are more connections than threads, for as many threads as may wait at once then: few, or
#: the quiet clients of an even load hold them all. Waited by poll: the kernel rounds a socket's own time-out up.
_CROWDED_LINGER_MS = 1
_CROWDED_LINGERERS = 0.25
#: How long a connection may keep its thread while others wait.
TURN_S = 0.01
_SWEEP_S = 1.0


class TThreadPoolServer:
    """A pool of `threads` threads; connections wait their turn in a bounded queue."""

    def __init__(self, host: ServerContext) -> None:
        self._host = host
        self._ready: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._parked: dict[int, Connection] = {}
        self._lock = threading.Lock()
        self._epoll: select.epoll
        self._refuser = Rejector(host)
        self._open = 0
        self._lingering = 0
        self._closing = False

    def prepare(self) -> None:
        """Loads what is served."""
        self._host.load()
        self._host.begin()

    def run(self) -> None:
        """Serves until drained."""
        host = self._host
        threads = [
            threading.Thread(target=self._work, name=f"pool-{n}", daemon=True) for n in range(host.settings.threads)
        ]
        with select.epoll() as self._epoll:
            for thread in threads:
                thread.start()
            self._accept_all(Acceptor(host))
            self._drain_parked()
            for _ in threads:
                self._ready.put(None)
            for thread in threads:
                thread.join()

    def _accept_all(self, acceptor: Acceptor) -> None:
        host = self._host
        listening = acceptor.sock.fileno()
        self._epoll.register(listening, select.EPOLLIN)
        self._epoll.register(host.wakeup.fd, select.EPOLLIN)
        sweep_at = time.monotonic() + _SWEEP_S
        while not host.draining:
            for fd, _ in self._epoll.poll(_SWEEP_S):
                if fd == listening:
                    self._accept(acceptor)
                elif fd != host.wakeup.fd:
                    self._unpark(fd)
            if time.monotonic() >= sweep_at:
                self._close_late(time.monotonic())
                sweep_at = time.monotonic() + _SWEEP_S
        self._epoll.unregister(listening)
        for taken in acceptor.last():
            self._take(Connection(*taken, host, self._one))

    def _accept(self, acceptor: Acceptor) -> None:
        settings = self._host.settings
        try:
            while (taken := acceptor.take()) is not None:
                if self._open >= settings.max_connections:
                    self._refuser.refuse(*taken, f"{settings.max_connections} connections are open, the limit")
                elif self._ready.qsize() >= settings.max_queued:
                    self._refuser.refuse(*taken, f"the queue is full: {settings.max_queued} connections wait already")
                else:
                    self._take(Connection(*taken, self._host, self._one))
        except OutOfDescriptors:
            return

    def _take(self, connection: Connection) -> None:
        with self._lock:
            self._open += 1
        self._host.context.counters.connection_opened()
        self._ready.put(connection)

    def _work(self) -> None:
        while (connection := self._ready.get()) is not None:
            try:
                open_still = self._serve_turn(connection)
                if open_still and not self._park(connection):
                    connection.serve()  # the host drains: answers what had arrived, then ends
                    open_still = False
            except Exception:
                log.exception("%s: closed", connection.peer)
                open_still = False
            if not open_still:
                self._end(connection)

    def _serve_turn(self, connection: Connection) -> bool:
        """Serves it while it is busy, and while nobody waits or it has not had its time; false where it ended."""
        turn_ends = time.monotonic() + TURN_S
        threads = self._host.settings.threads

        def over() -> bool:
            if self._open <= threads:
                return False
            if time.monotonic() >= turn_ends and not self._ready.empty():
                return True
            return not self._more_comes(connection)

        return over() or connection.serve_while_busy(LINGER_S, over)

    def _more_comes(self, connection: Connection) -> bool:
        """Whether its next request is there; waited for a moment where nobody else waits and few threads do."""
        allowed = self._lingering < _CROWDED_LINGERERS * self._host.settings.threads
        if not (allowed and self._ready.empty()):
            return connection.readable_within(0)
        with self._lock:
            self._lingering += 1
        try:
            return connection.readable_within(_CROWDED_LINGER_MS)
        finally:
            with self._lock:
                self._lingering -= 1

    def _park(self, connection: Connection) -> bool:
        """Has the connection watched, or queued where more of it was read already; false once the host drains."""
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

    def _unpark(self, fd: int) -> None:
        with self._lock:
            connection = self._parked.pop(fd, None)
            if connection is not None:
                self._epoll.unregister(fd)
        if connection is not None:
            self._ready.put(connection)

    def _close_late(self, now: float) -> None:
        for fd, connection in list(self._parked.items()):
            if now >= connection.deadline:
                with self._lock:
                    found = self._parked.pop(fd, None)
                    if found is not None:
                        self._epoll.unregister(fd)
                if found is not None:
                    log.info("%s: closed: %s", connection.peer, connection.why_late)
                    self._end(connection)

    def _drain_parked(self) -> None:
        with self._lock:
            self._closing = True
        for fd in list(self._parked):
            self._unpark(fd)  # a thread answers what had arrived, and ends it

    def _one(self) -> bool:
        return self._open == 1

    def _end(self, connection: Connection) -> None:
        connection.close()
        self._closed()

    def _closed(self) -> None:
        with self._lock:
            self._open -= 1
        self._host.context.counters.connection_closed()

    def drain(self) -> None:
        """Finishes what is in hand, then ends."""
        self._host.drain()
