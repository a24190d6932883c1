"""Connections of a load generator: frames out, replies in, with as little Python as possible; nothing blocks.

bytes  --send-->  socket  --receive-->  a complete reply, by its protocol's length

Connections.begin(connection, frame)  -->  (the server)  -->  Connections.poll  -->  replies and failures
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress

#: Returns the length of a reply by its beginning, or 0 while that is unknown.
ReplyLength = Callable[[memoryview], int]

_FIRST_BUFFER_BYTES = 1 << 16
_CONNECT_TIMEOUT_S = 10.0
_READ_WRITE = select.EPOLLIN | select.EPOLLOUT


class Connection:
    """A connection that has at most one request in flight.

    Raises:
        OSError: the server did not accept it.

    Attributes:
        client: number of the client that calls on it.
        sample: number of the request in flight, among those of the job.
        replies: complete replies so far.
        busy: whether a request is in flight.
        intended_ns: when that request was to be sent, and when it was: `time.perf_counter_ns`.
        free_ns: since when it could carry the next request.
    """

    def __init__(self, port: int, reply_length: ReplyLength) -> None:
        self._reply_length = reply_length
        self._view = memoryview(bytearray(_FIRST_BUFFER_BYTES))
        self._filled = 0
        self._unsent = memoryview(b"")
        self.client = self.sample = self.replies = 0
        self.busy = False
        self.intended_ns = self.sent_ns = self.free_ns = 0
        self.sock = socket.create_connection(("127.0.0.1", port), _CONNECT_TIMEOUT_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)

    def send(self, frame: bytes) -> bool:
        """Send a request; return whether all of it is out, else continue with `send_rest`."""
        try:
            count = self.sock.send(frame)
        except BlockingIOError:
            count = 0
        if count == len(frame):
            return True
        self._unsent = memoryview(frame)[count:]
        return self.send_rest()

    def send_rest(self) -> bool:
        """Continue sending; return whether all of the request is out."""
        while self._unsent:
            try:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
            except BlockingIOError:
                return False
        return True

    def receive(self) -> memoryview | None:
        """Return the reply once it is complete, else None. It is valid until the next call of `receive`.

        Raises:
            OSError: the connection broke or was closed.
            ValueError: more than one reply came.
        """
        view, filled = self._view, self._filled
        while True:
            try:
                count = self.sock.recv_into(view[filled:] if filled else view)
            except BlockingIOError:
                self._filled = filled
                return None
            if not count:
                raise ConnectionError("closed before a reply")
            filled += count
            length = self._reply_length(view[:filled])
            if length == filled:
                self._filled = 0
                self.replies += 1
                return view[:filled]
            if 0 < length < filled:
                raise ValueError("more than one reply came")
            if length > len(view):
                larger = memoryview(bytearray(length))
                larger[:filled] = view[:filled]
                self._view = view = larger


#: A connection whose request is over, with the reply, or with why there is none.
Finished = tuple[Connection, memoryview | Exception]


class Connections:
    """All connections of a load generator.

    Args:
        port: on the loopback interface.
        reply_length: of the protocol.

    Attributes:
        idle: connections without a request.
        busy: number of connections with one.
    """

    def __init__(self, port: int, reply_length: ReplyLength) -> None:
        self._port = port
        self._reply_length = reply_length
        # Created before the connections: select() takes no descriptor above 1023.
        self._epoll = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._sending: set[int] = set()
        self.idle: deque[Connection] = deque()
        self.busy = 0

    def open(self, client: int = 0) -> Connection:
        """Connect; the new connection is not in `idle`.

        Raises:
            OSError: the server does not accept it.
        """
        connection = Connection(self._port, self._reply_length)
        connection.client = client
        fd = connection.sock.fileno()
        self._by_fd[fd] = connection
        self._epoll.register(fd, select.EPOLLIN)
        return connection

    def begin(self, connection: Connection, frame: bytes, intended_ns: int, now_ns: int) -> None:
        """Send a request on a connection that has none."""
        connection.busy = True
        connection.intended_ns, connection.sent_ns = intended_ns, now_ns
        self.busy += 1
        try:
            if connection.send(frame):
                return
        except OSError:
            return  # the same error comes when the reply is read, and is counted there
        fd = connection.sock.fileno()
        self._sending.add(fd)
        self._epoll.modify(fd, _READ_WRITE)

    def poll(self, timeout_s: float) -> list[Finished]:
        """Wait for replies, up to a millisecond longer than `timeout_s`.

        Returns:
            The connections whose request is over, with the reply, or with why there is none. A broken connection is
            closed; one that broke while it was idle is replaced and is not reported.
        """
        finished: list[Finished] = []
        for fd, _ in self._epoll.poll(max(0.0, timeout_s)):
            self._advance(self._by_fd[fd], finished)
        return finished

    def poll_only(self) -> list[Finished]:
        """Try the only connection, without a system call that says whether it is ready."""
        finished: list[Finished] = []
        (connection,) = self._by_fd.values()
        self._advance(connection, finished)
        return finished

    def _advance(self, connection: Connection, finished: list[Finished]) -> None:
        """Continue to send and to receive; add the connection to `finished` if its request is over."""
        try:
            if self._sending:
                self._send_rest(connection)
            reply = connection.receive()
        except Exception as error:  # broken, closed or no reply: each fails the call, whatever its kind
            if connection.busy:
                self.drop(connection)
                finished.append((connection, error))
            else:
                self._replace_idle(connection)
            return
        if reply is not None:
            connection.busy = False
            self.busy -= 1
            finished.append((connection, reply))

    def _send_rest(self, connection: Connection) -> None:
        fd = connection.sock.fileno()
        if fd in self._sending and connection.send_rest():
            self._sending.discard(fd)
            self._epoll.modify(fd, select.EPOLLIN)

    def poll_precisely(self, timeout_s: float) -> list[Finished]:
        """Wait for replies like `poll`, to some ten microseconds, for one more system call."""
        finished = self.poll(0)
        if finished or timeout_s <= 0:
            return finished
        select.select([self._epoll], [], [], timeout_s)
        return self.poll(0)

    def _replace_idle(self, connection: Connection) -> None:
        self.drop(connection)
        if connection in self.idle:
            self.idle.remove(connection)
            with suppress(OSError):
                self.idle.append(self.open(connection.client))

    def drop(self, connection: Connection) -> None:
        """Close a connection."""
        fd = connection.sock.fileno()
        self._by_fd.pop(fd, None)
        self._sending.discard(fd)
        connection.sock.close()
        if connection.busy:
            connection.busy = False
            self.busy -= 1

    def __len__(self) -> int:
        return len(self._by_fd)

    def busy_connections(self) -> list[Connection]:
        """Return the connections with a request in flight."""
        return [connection for connection in self._by_fd.values() if connection.busy]

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self._by_fd.values()):
            self.drop(connection)
        self.idle.clear()
        self._epoll.close()
