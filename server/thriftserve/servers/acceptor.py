"""Connections off a listening socket, come what may.

    poll(listener, wake-up) --> accept until there are no more --> (socket, peer)

Descriptors that run out make the loop wait, not spin; a drain takes what the kernel had already
accepted before it stops, so that no client that was let in is turned away.
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

#: Errors that pass when others let go of what they hold.
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
#: How long to leave a listening socket alone when descriptors have run out.
PAUSE_S = 0.1
_LOG_EVERY_S = 5.0
_TCP_INFO_BYTES = 60
_U32 = Struct("@I")
_LAST_DATA_RECV_AT = 52
_ACCEPT_QUEUE_AT = 24


class OutOfDescriptors(Exception):
    """No connection can be taken until another one ends."""


def tune(sock: socket.socket) -> None:
    """Options of a listening socket that its connections inherit: no Nagle delay, dead peers noticed."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


class Acceptor:
    """Takes the connections of one listening socket."""

    def __init__(self, host: ServerContext) -> None:
        self._host = host
        self.sock = host.listener.sock
        self._logged = 0.0

    def __iter__(self) -> Iterator[tuple[socket.socket, str]]:
        """Connections with their peers' names, until the host drains."""
        host = self._host
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.register(self._host.wakeup.fd, select.POLLIN)
        while not self._host.draining:
            poll.poll()
            with contextlib.suppress(OutOfDescriptors):
                while (taken := self.take()) is not None:
                    yield taken
                    if host.draining:  # clients that connect on and on would never let it end
                        break
        yield from self.last()

    def last(self) -> list[tuple[socket.socket, str]]:
        """The connections that wait, all taken before any is served; then nobody can connect any more.

        None where this worker is only replaced: its successor listens on the same socket and takes them.
        """
        waiting = []
        with contextlib.suppress(OutOfDescriptors):
            while self._host.context.board.stopping and (taken := self.take()) is not None:
                waiting.append(taken)
        self.sock.close()
        return waiting

    def take(self, *, pause: bool = True) -> tuple[socket.socket, str] | None:
        """One connection that waits; None where none does.

        Raises:
            OutOfDescriptors: there is one, but no descriptor for it; `PAUSE_S` was waited (unless `pause` is off).
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
                if error.errno in (errno.EINVAL, errno.EBADF, errno.ENOTSOCK):
                    return None  # no longer listening
                continue  # the client gave up while it waited
            return sock, peer_name(address)

    def _log_shortage(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._logged >= _LOG_EVERY_S:
            self._logged = now
            log.error("no connection can be taken: %s; raise the limit of open files", error.strerror)


class SpareDescriptors:
    """Descriptors held in reserve, for connections that have to be taken when all others are in use."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def keep(self, many: int) -> None:
        """Has so many from now on, or as many of them as are to be had."""
        while len(self._fds) > max(0, many):
            os.close(self._fds.pop())
        with contextlib.suppress(OSError):
            while len(self._fds) < many:
                self._fds.append(os.open(os.devnull, os.O_RDONLY))


def peer_name(address: object) -> str:
    """How the log names a peer."""
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    return "unix"


def arrived_before_s(sock: socket.socket) -> float:
    """Seconds since the last data came on a TCP connection, which may have waited unread; 0 where unknown."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return 0.0
    return float(_U32.unpack_from(info, _LAST_DATA_RECV_AT)[0] / 1000)


def accept_queue_length(sock: socket.socket) -> int:
    """Connections that wait in the kernel for a listening TCP socket; 0 where unknown (Unix sockets)."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return 0
    return int(_U32.unpack_from(info, _ACCEPT_QUEUE_AT)[0])
