"""TThreadedServer: a thread for each connection, one session shared by all of them.

accept --> thread: serve it to its end
"""

from __future__ import annotations

import threading

from thriftserve.servers.acceptor import Acceptor
from thriftserve.servers.connection import Connection
from thriftserve.servers.context import ServerContext
from thriftserve.servers.rejection import Rejector

#: What a connection's thread needs; the C library's own 8 MB would let 1,500 idle clients reserve 12 GB.
_STACK_BYTES = 1024 * 1024


class TThreadedServer:
    """A thread for each connection, up to `max_connections`."""

    def __init__(self, host: ServerContext) -> None:
        self._host = host
        self._threads: dict[Connection, threading.Thread] = {}

    def prepare(self) -> None:
        """Loads what is served."""
        self._host.load()
        self._host.begin()

    def run(self) -> None:
        """Serves until drained."""
        host = self._host
        refuser = Rejector(host)
        limit = host.settings.max_connections
        threading.stack_size(_STACK_BYTES)
        for sock, peer in Acceptor(host):
            if len(self._threads) >= limit:
                refuser.refuse(sock, peer, f"{limit} connections are open, the limit; try again later")
                continue
            connection = Connection(sock, peer, host, self._one)
            thread = threading.Thread(target=self._serve, args=(connection,), name=peer, daemon=True)
            self._threads[connection] = thread
            try:
                thread.start()
            except RuntimeError as error:  # the system's own limit of threads
                del self._threads[connection]
                refuser.refuse(sock, peer, f"no thread for another connection: {error}; try again later")
        self._finish()

    def _serve(self, connection: Connection) -> None:
        counters = self._host.context.counters
        counters.connection_opened()
        try:
            connection.serve()
        finally:
            counters.connection_closed()
            self._threads.pop(connection, None)

    def _one(self) -> bool:
        return len(self._threads) == 1

    def _finish(self) -> None:
        threads = dict(self._threads)
        for connection in threads:
            connection.drain()
        for thread in threads.values():
            thread.join()

    def drain(self) -> None:
        """Finishes what is in hand, then ends."""
        self._host.drain()
