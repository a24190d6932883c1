"""One client of the load: requests out, replies in, no more Python than that; nothing waits.

bytes  --send-->  socket  --receive-->  a whole reply, by its dialect's length
"""

from __future__ import annotations

import socket

from thriftserve_bench.load.protocols import Dialect

_CHUNK = 1 << 16
_CONNECT_TIMEOUT_S = 10.0


class Connection:
    """A connection that has at most one request under way.

    Raises:
        OSError: it could not be made.
    """

    def __init__(self, port: int, dialect: Dialect) -> None:
        self._length = dialect.length
        self._left = memoryview(b"")
        self._come = b""
        #: Number of the question under way, and when it was sent (ns).
        self.asked = 0
        self.began_ns = 0
        self.sock = socket.create_connection(("127.0.0.1", port), _CONNECT_TIMEOUT_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)

    def send(self, request: bytes) -> bool:
        """Begins a request; true once all of it is out, else go on with `send_on`."""
        try:
            sent = self.sock.send(request)
        except BlockingIOError:
            sent = 0
        if sent == len(request):
            return True
        self._left = memoryview(request)[sent:]
        return self.send_on()

    def send_on(self) -> bool:
        """Goes on where the socket took no more."""
        while self._left:
            try:
                self._left = self._left[self.sock.send(self._left) :]
            except BlockingIOError:
                return False
        return True

    def receive(self) -> bytes | None:
        """The reply, once all of it is there.

        Raises:
            ConnectionError: the server closed instead.
            WrongAnswer: it is no reply of this dialect.
        """
        try:
            come = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return None
        if not come:
            raise ConnectionError("closed before a reply")
        if self._come:
            come = self._come + come
        length = self._length(come)
        if length == 0 or len(come) < length:
            self._come = come
            return None
        self._come = b""
        return come

    def close(self) -> None:
        """Closes the socket."""
        self.sock.close()
