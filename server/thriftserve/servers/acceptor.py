"""Accepting connections from a listening socket, whatever happens.

    poll(listener, wake-up) --> accept until nothing is pending --> (socket, peer)

If descriptors run out, the loop pauses instead of spinning. A drain accepts what the kernel has already let in before
it stops, so that no connected client is turned away.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import time
from collections.abc import Iterator
from struct import Struct

from thriftserve.servers.context import ServerContext

log = logging.getLogger(__name__)

#: Errors that pass when other connections end.
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NOT_LISTENING = (errno.EINVAL, errno.EBADF, errno.ENOTSOCK)
#: How long accepting pauses when descriptors have run out.
PAUSE_S = 0.1
_LOG_EVERY_S = 5.0
#: Offsets into struct tcp_info of <linux/tcp.h>. Of a listening socket, tcpi_unacked is the length of its queue.
_TCP_INFO_BYTES = 60
_TCPI_UNACKED = 24
_TCPI_LAST_DATA_RECV = 52
_U32 = Struct("@I")


class OutOfDescriptors(Exception):
    """No connection can be accepted until another one ends."""


def tune(sock: socket.socket) -> None:
    """Set options of a listening socket that its connections inherit: no Nagle delay, dead peers are noticed."""
    if not is_tcp(sock):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


class Acceptor:
    """Accepts the connections of one listening socket."""

    def __init__(self, server: ServerContext) -> None:
        self._server = server
        self.sock = server.listener.sock
        self._logged_at = 0.0

    def __iter__(self) -> Iterator[tuple[socket.socket, str]]:
        """Yield connections and the names of their peers, until the server drains."""
        server = self._server
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.register(server.wakeup.fd, select.POLLIN)
        while not self._server.draining:
            poll.poll()
            with contextlib.suppress(OutOfDescriptors):
                while (accepted := self.accept()) is not None:
                    yield accepted
                    if server.draining:  # clients that connect again and again would keep the loop going
                        break
        yield from self.accept_pending()

    def accept_pending(self) -> list[tuple[socket.socket, str]]:
        """Accept all pending connections and close the listener. Returns [] if only this worker is being replaced.

        Accept them all before serving one: then no client can connect any more.
        """
        pending = []
        with contextlib.suppress(OutOfDescriptors):
            while self._server.context.board.stopping and (accepted := self.accept()) is not None:
                pending.append(accepted)
        self.sock.close()
        return pending

    def accept(self, *, pause: bool = True) -> tuple[socket.socket, str] | None:
        """Accept one connection: its socket and the peer's name, or None if none is pending.

        Args:
            pause: sleep for `PAUSE_S` before raising OutOfDescriptors.

        Raises:
            OutOfDescriptors: a connection is pending, but there is no descriptor for it.
        """
        while True:
            try:
                sock, address = self.sock.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    self._log_shortage(error)
                    if pause:
                        time.sleep(PAUSE_S)
                    raise OutOfDescriptors from None
                if error.errno in _NOT_LISTENING:
                    return None
                continue  # the client gave up while it was pending
            return sock, peer_name(address)

    def _log_shortage(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            log.error("can't accept connections: %s; raise the limit of open files", error.strerror)


class SpareDescriptors:
    """Descriptors in reserve, for connections that have to be accepted when all others are in use."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def resize(self, count: int) -> None:
        """Hold `count` descriptors, or as many of them as the system gives."""
        while len(self._fds) > max(0, count):
            os.close(self._fds.pop())
        with contextlib.suppress(OSError):
            while len(self._fds) < count:
                self._fds.append(os.open(os.devnull, os.O_RDONLY))


def is_tcp(sock: socket.socket) -> bool:
    """Return whether a socket is a TCP socket, of IPv4 or IPv6."""
    return sock.family in (socket.AF_INET, socket.AF_INET6)


def peer_name(address: object) -> str:
    """Return the name of a peer in the log."""
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    return "unix"


def arrived_before_s(sock: socket.socket) -> float:
    """Return how long ago the last data arrived on a TCP connection, seconds: it may have waited unread. 0: unknown."""
    return _tcp_info(sock, _TCPI_LAST_DATA_RECV) / 1000


def accept_queue_length(sock: socket.socket) -> int:
    """Return how many connections of a listening TCP socket are pending. 0 if unknown, as for Unix sockets."""
    return _tcp_info(sock, _TCPI_UNACKED)


def _tcp_info(sock: socket.socket, offset: int) -> int:
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return 0
    return int(_U32.unpack_from(info, offset)[0])
