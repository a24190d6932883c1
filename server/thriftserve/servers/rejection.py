"""Turning clients away politely: a typed, retryable answer instead of silence.

connection over a limit --> Refuser (one thread) --> reads one request, answers RESOURCE_EXHAUSTED, closes

Doorman: watches the kernel's queue of a server that serves one request at a time, and hands what is
over --max-queued to the Refuser
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
from dataclasses import replace

from thriftserve.servers.acceptor import Acceptor, OutOfDescriptors, accept_queue_length
from thriftserve.servers.connection import Connection
from thriftserve.servers.context import ServerContext

log = logging.getLogger(__name__)

#: A client that is refused has this long for each step.
_PATIENCE_S = 2.0
#: Clients that wait to be refused; past it connections are just closed.
_WAITING = 256
_LOOK_EVERY_S = 0.1


class Rejector:
    """Refuses connections in a thread of its own, so that a slow client delays nobody."""

    def __init__(self, host: ServerContext) -> None:
        patience = replace(
            host.settings,
            idle_timeout_s=_PATIENCE_S,
            read_timeout_s=_PATIENCE_S,
            write_timeout_s=_PATIENCE_S,
            handshake_timeout_s=_PATIENCE_S,
        )
        self._host = replace(host, settings=patience)
        self._waiting: queue.Queue[tuple[socket.socket, str, str]] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def refuse(self, sock: socket.socket, peer: str, reason: str) -> None:
        """Takes a connection over, answers its first request with `reason` and closes it."""
        self._host.context.counters.add_refused()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="refuser", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((sock, peer, reason))
        except queue.Full:
            sock.close()

    def _run(self) -> None:
        while True:
            sock, peer, reason = self._waiting.get()
            log.warning("%s: refused: %s", peer, reason)
            try:
                Connection(sock, peer, self._host).refuse(reason)
            except Exception:
                log.exception("%s: could not be refused", peer)


class AcceptQueueLimiter:
    """Keeps the kernel's queue of connections within `max_queued` while the serving thread is busy."""

    def __init__(self, host: ServerContext, acceptor: Acceptor, refuser: Rejector) -> None:
        self._host = host
        self._acceptor = acceptor
        self._refuser = refuser

    def start(self) -> None:
        """Begins to watch. The kernel tells the length of its queue for TCP alone."""
        if self._acceptor.sock.family in (socket.AF_INET, socket.AF_INET6):
            threading.Thread(target=self._run, name="doorman", daemon=True).start()

    def _run(self) -> None:
        limit = self._host.settings.max_queued
        while not self._host.draining:
            self._host.wakeup.wait(_LOOK_EVERY_S)
            if self._host.context.counters.in_flight:
                self._turn_away(limit)

    def _turn_away(self, limit: int) -> None:
        while accept_queue_length(self._acceptor.sock) > limit:
            try:
                taken = self._acceptor.take(pause=False)
            except OutOfDescriptors:
                return
            if taken is None:
                return
            self._refuser.refuse(*taken, f"the queue is full: {limit} connections wait already; try again later")
