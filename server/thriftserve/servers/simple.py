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
    """Serves one connection after the other. For tests and debugging: everyone else waits."""

    def __init__(self, host: ServerContext) -> None:
        self._host = host
        self._current: Connection | None = None

    def prepare(self) -> None:
        """Loads what is served."""
        self._host.load()
        self._host.begin()
        self._host.context.counters.for_one_thread()

    def run(self) -> None:
        """Serves until drained."""
        host = self._host
        acceptor = Acceptor(host)
        AcceptQueueLimiter(host, acceptor, Rejector(host)).start()
        for sock, peer in acceptor:
            self._current = Connection(sock, peer, host, lambda: True)
            host.context.counters.connection_opened()
            try:
                self._current.serve()
            finally:
                host.context.counters.connection_closed()

    def drain(self) -> None:
        """Finishes what is in hand, then ends."""
        self._host.drain()
        if self._current is not None:
            self._current.drain()
