"""TThreadedServer: a thread for each connection. All of them share one session.

accept --> thread: serve the connection to its end
"""

from __future__ import annotations

import threading

from thriftserve.servers.acceptor import Acceptor
from thriftserve.servers.connection import Connection
from thriftserve.servers.context import ServerContext
from thriftserve.servers.rejection import Rejector, too_many_connections

#: Stack of a connection's thread. With the C library's 8 MB, 1,500 idle clients would reserve 12 GB.
_STACK_BYTES = 1024 * 1024


class TThreadedServer:
    """A thread for each connection, up to `max_connections`."""

    def __init__(self, server: ServerContext) -> None:
        self._server = server
        self._threads: dict[Connection, threading.Thread] = {}

    def prepare(self) -> None:
        """Load the service."""
        self._server.load()
        self._server.mark_ready()

    def run(self) -> None:
        """Serve until drained."""
        rejector = Rejector(self._server)
        limit = self._server.settings.max_connections
        threading.stack_size(_STACK_BYTES)
        for sock, peer in Acceptor(self._server):
            if len(self._threads) >= limit:
                rejector.reject(sock, peer, too_many_connections(limit))
                continue
            connection = Connection(sock, peer, self._server, self._is_only_connection)
            thread = threading.Thread(target=self._serve, args=(connection,), name=peer, daemon=True)
            self._threads[connection] = thread
            try:
                thread.start()
            except RuntimeError as error:  # the system's own limit of threads
                del self._threads[connection]
                rejector.reject(sock, peer, f"no thread for another connection: {error}; try again later")
        self._finish()

    def drain(self) -> None:
        """Finish accepted requests, then end."""
        self._server.drain()

    def _serve(self, connection: Connection) -> None:
        counters = self._server.context.counters
        counters.connection_opened()
        try:
            connection.serve()
        finally:
            counters.connection_closed()
            self._threads.pop(connection, None)

    def _is_only_connection(self) -> bool:
        return len(self._threads) == 1

    def _finish(self) -> None:
        threads = dict(self._threads)
        for connection in threads:
            connection.drain()
        for thread in threads.values():
            thread.join()
