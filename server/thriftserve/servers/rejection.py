"""Rejecting clients over a limit: a typed answer that the client may retry, instead of silence.

connection over a limit --> Rejector (one thread) --> reads one request, answers RESOURCE_EXHAUSTED, closes

AcceptQueueLimiter watches the kernel's queue of a server that runs one request at a time, and hands what is over
--max-queued to the Rejector.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
from dataclasses import replace

from thriftserve.servers.acceptor import Acceptor, OutOfDescriptors, accept_queue_length, is_tcp
from thriftserve.servers.connection import Connection
from thriftserve.servers.context import ServerContext

log = logging.getLogger(__name__)

#: How long a rejected client may take for each step.
_STEP_TIMEOUT_S = 2.0
#: Connections that wait to be rejected. Further ones are just closed.
_MAX_WAITING = 256
_POLL_S = 0.1


def too_many_connections(limit: int, where: str = "") -> str:
    """Return the reason for rejecting a connection over `max_connections`."""
    return f"the limit of {limit} open connections{where} is reached; try again later"


def queue_is_full(limit: int, what: str = "connections") -> str:
    """Return the reason for rejecting a connection or request over `max_queued`."""
    return f"the queue is full: {limit} {what} are waiting; try again later"


class Rejector:
    """Rejects connections in its own thread, so that a slow client delays nobody. Thread-safe."""

    def __init__(self, server: ServerContext) -> None:
        settings = replace(
            server.settings,
            idle_timeout_s=_STEP_TIMEOUT_S,
            read_timeout_s=_STEP_TIMEOUT_S,
            write_timeout_s=_STEP_TIMEOUT_S,
            handshake_timeout_s=_STEP_TIMEOUT_S,
        )
        self._server = replace(server, settings=settings)
        self._waiting: queue.Queue[tuple[socket.socket, str, str]] = queue.Queue(_MAX_WAITING)
        self._thread: threading.Thread | None = None

    def reject(self, sock: socket.socket, peer: str, reason: str) -> None:
        """Take a connection over, answer its first request with `reason` and close it. Does not block."""
        self._server.context.counters.add_refused()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rejector", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((sock, peer, reason))
        except queue.Full:
            sock.close()

    def _run(self) -> None:
        while True:
            sock, peer, reason = self._waiting.get()
            log.warning("%s: rejected: %s", peer, reason)
            try:
                Connection(sock, peer, self._server).reject(reason)
            except Exception:
                log.exception("%s: could not be rejected", peer)


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
