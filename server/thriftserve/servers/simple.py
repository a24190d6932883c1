"""TSimpleServer: one connection at a time, in the one thread.

    accept --> serve it to its end --> accept

The next client waits in the kernel's queue until the one before has gone, or was idle for --idle-timeout-s.
"""

from __future__ import annotations

from thriftserve.servers.acceptor import Acceptor
from thriftserve.servers.connection import Connection
from thriftserve.servers.context import ServerContext
from thriftserve.servers.rejection import AcceptQueueLimiter, Rejector


class TSimpleServer:
    """Serves one connection after the other. For tests and debugging: all other clients wait."""

    def __init__(self, server: ServerContext) -> None:
        self._server = server
        self._current: Connection | None = None

    def prepare(self) -> None:
        """Load the service."""
        self._server.load()
        self._server.mark_ready()
        self._server.context.counters.for_one_thread()

    def run(self) -> None:
        """Serve until drained."""
        server = self._server
        acceptor = Acceptor(server)
        AcceptQueueLimiter(server, acceptor, Rejector(server)).start()
        for sock, peer in acceptor:
            self._current = Connection(sock, peer, server, may_busy_wait=lambda: True)
            server.context.counters.connection_opened()
            try:
                self._current.serve()
            finally:
                server.context.counters.connection_closed()

    def drain(self) -> None:
        """Finish accepted requests, then end."""
        self._server.drain()
        if self._current is not None:
            self._current.drain()
