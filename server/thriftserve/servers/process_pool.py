"""TProcessPoolServer: N worker processes on one listening socket, a session in each.

    worker: poll(listener, its connections) --> one whole request at a time --> answer --> poll

A worker runs one request at a time and holds any number of connections, so idle clients cost it nothing.
It takes a new connection only while it is idle itself, and leaves it to an idle worker that has fewer:
clients spread over the workers by themselves. On TCP the kernel shows a connection only once its first
request is there (TCP_DEFER_ACCEPT), so taking one and working on it are one step.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from collections import deque

from thriftserve.servers.acceptor import Acceptor, OutOfDescriptors
from thriftserve.servers.context import ServerContext
from thriftserve.servers.nonblocking_connection import BufferedMultiplexedConnection, FramedMultiplexedConnection, Turns
from thriftserve.servers.rejection import AcceptQueueLimiter, Rejector

log = logging.getLogger(__name__)

#: How long a worker leaves a waiting connection to an idle one that has fewer.
_STEP_BACK_S = 0.002
_SWEEP_S = 1.0
_DEFER_S = 1


class TProcessPoolServer:
    """One worker of the pool."""

    def __init__(self, host: ServerContext) -> None:
        self._host = host
        self._connections: dict[int, Turns] = {}
        self._pending: deque[Turns] = deque()
        self._make = FramedMultiplexedConnection if host.settings.framing == "framed" else BufferedMultiplexedConnection
        self._limit = max(1, host.settings.max_connections // host.context.workers)
        self._listening = True
        self._rearm_at = 0.0
        self._sweep_at = 0.0

    def prepare(self) -> None:
        """Loads what is served."""
        self._host.load()
        self._host.begin()
        self._host.context.counters.for_one_thread()
        if self._host.listener.sock.family in (socket.AF_INET, socket.AF_INET6):
            self._host.listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _DEFER_S)

    def run(self) -> None:
        """Serves until drained."""
        host = self._host
        acceptor = Acceptor(host)
        refuser = Rejector(host)
        AcceptQueueLimiter(host, acceptor, refuser).start()
        with select.epoll() as epoll:
            self._epoll = epoll
            epoll.register(acceptor.sock, select.EPOLLIN)
            epoll.register(host.wakeup.fd, select.EPOLLIN)
            self._serve(acceptor, refuser)
            self._epoll.unregister(acceptor.sock)
            for taken in acceptor.last():
                self._adopt(*taken)
            self._finish()

    def _serve(self, acceptor: Acceptor, refuser: Rejector) -> None:
        host = self._host
        listening, waking = acceptor.sock.fileno(), host.wakeup.fd
        self._sweep_at = time.monotonic() + _SWEEP_S
        while not host.draining:
            for fd, _ in self._epoll.poll(self._wait_s()):
                if fd == listening:
                    self._accept_one(acceptor, refuser)
                elif fd != waking:
                    self._turn(self._connections[fd])
                if self._host.draining:
                    return
            self._turn_pending()
            self._stay_with_only()
            now = time.monotonic()
            if not self._listening and now >= self._rearm_at:
                self._listen(acceptor, True)
            if now >= self._sweep_at:
                self._close_late(now)
                self._sweep_at = now + _SWEEP_S

    def _wait_s(self) -> float:
        if self._pending:
            return 0.0
        return _SWEEP_S if self._listening else _STEP_BACK_S

    def _listen(self, acceptor: Acceptor, on: bool) -> None:
        self._listening = on
        self._rearm_at = time.monotonic() + _STEP_BACK_S
        self._epoll.modify(acceptor.sock, select.EPOLLIN if on else 0)

    def _accept_one(self, acceptor: Acceptor, refuser: Rejector) -> None:
        if self._an_idler_has_fewer():
            self._listen(acceptor, False)
            return
        try:
            taken = acceptor.take()
        except OutOfDescriptors:
            return
        if taken is None:
            return
        if len(self._connections) >= self._limit:
            refuser.refuse(*taken, f"{self._limit} connections are open in this worker, the limit; try again later")
            return
        connection = self._adopt(*taken)
        if connection is not None:
            self._turn(connection)

    def _an_idler_has_fewer(self) -> bool:
        mine = len(self._connections)
        if mine == 0:
            return False
        own = os.getpid()
        return any(
            pid != own and in_flight == 0 and connections < mine
            for pid, in_flight, connections in self._host.context.board.peers()
        )

    def _adopt(self, sock: socket.socket, peer: str) -> Turns | None:
        try:
            connection = self._make(sock, peer, self._host)
        except OSError as error:  # it broke before it began
            log.info("%s: broken: %s", peer, error)
            sock.close()
            return None
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)
        self._host.context.counters.connection_opened()
        return connection

    def _turn(self, connection: Turns) -> bool:
        try:
            open_still = connection.turn()
        except Exception:
            log.exception("%s: closed", connection.peer)
            open_still = False
        if not open_still:
            self._end(connection)
        elif connection.has_pending and not connection.in_message:
            self._pending.append(connection)
        return open_still

    def _stay_with_only(self) -> None:
        if len(self._connections) != 1 or self._pending:
            return
        ((fd, only),) = self._connections.items()
        if not (isinstance(only, FramedMultiplexedConnection) and only.may_stay):
            return
        self._epoll.unregister(fd)  # or every message of it would stir this, too
        if not only.stay(self._has_news):
            self._end(only)
            return
        self._epoll.register(fd, select.EPOLLIN)
        if only.has_pending and not only.in_message:
            self._pending.append(only)

    def _has_news(self) -> bool:
        return not self._listening or time.monotonic() >= self._sweep_at or bool(self._epoll.poll(0))

    def _turn_pending(self) -> None:
        for _ in range(len(self._pending)):
            connection = self._pending.popleft()
            if connection.sock.fileno() >= 0:
                self._turn(connection)

    def _end(self, connection: Turns) -> None:
        fd = next((fd for fd, each in self._connections.items() if each is connection), None)
        if fd is not None:
            del self._connections[fd]
            with contextlib.suppress(OSError):  # a TLS layer that can't be begun closes its socket by itself
                self._epoll.unregister(fd)
        connection.close()
        self._host.context.counters.connection_closed()

    def _close_late(self, now: float) -> None:
        for connection in list(self._connections.values()):
            if now >= connection.deadline:
                log.info("%s: closed: %s", connection.peer, connection.why_late)
                self._end(connection)

    def _finish(self) -> None:
        """Answers whatever has arrived, waits for what is arriving, closes the rest."""
        while self._connections:
            ready = {fd for fd, _ in self._epoll.poll(0)} | {each.fd for each in self._pending}
            self._pending.clear()
            for fd, connection in list(self._connections.items()):
                if fd in ready:
                    self._turn(connection)
                elif not connection.in_message or time.monotonic() >= connection.deadline:
                    self._end(connection)
            if self._connections and not ready:
                time.sleep(_STEP_BACK_S)

    def drain(self) -> None:
        """Finishes what is in hand, then ends."""
        self._host.drain()
