"""The socket that clients connect to: bound early, listening late.

    settings --open()--> bound (a taken port fails at once, clients are refused)
             --listen()--> by the first worker that is ready (clients are taken)

Between the two nobody can connect, so a server whose models fail to load never leaves clients hanging
on an open port.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from thriftserve.errors import BindError
from thriftserve.settings import HostSettings


class Listener:
    """A listening socket, shared by a parent and its workers."""

    def __init__(self, sock: socket.socket, backlog: int, unix_socket: str | None = None) -> None:
        self.sock = sock
        self._backlog = backlog
        self._unix_socket = unix_socket
        self._owner = os.getpid()

    @classmethod
    def open(cls, settings: HostSettings) -> Listener:
        """Binds the address that the settings name.

        Raises:
            BindError: it is taken, not ours, or not allowed.
        """
        sock = _bind_unix(settings.unix_socket) if settings.unix_socket else _bind_tcp(settings.host, settings.port)
        sock.setblocking(False)
        return cls(sock, settings.backlog, settings.unix_socket)

    @classmethod
    def open_several(cls, settings: HostSettings, count: int) -> list[Listener]:
        """Binds one TCP address `count` times: the kernel spreads the clients over them.

        Raises:
            BindError: it is taken, not ours, or not allowed; or a Unix socket is asked for, which can't be shared.
        """
        if count == 1:
            return [cls.open(settings)]
        if settings.unix_socket:
            raise BindError(f"{count} fronts can't share a Unix socket: use a TCP port, or --fronts 1")
        cls.open(settings).close()  # sharing would hide that another server of this user listens there
        listeners: list[Listener] = []
        for _ in range(count):
            port = listeners[0].port if listeners else settings.port
            sock = _bind_tcp(settings.host, port, shared=True)
            sock.setblocking(False)
            listeners.append(cls(sock, settings.backlog))
        return listeners

    @property
    def port(self) -> int:
        """The TCP port; 0 for a Unix socket."""
        return 0 if self._unix_socket else int(self.sock.getsockname()[1])

    def describe(self) -> str:
        """The address as the ready line has it: `host=… port=…` or `unix_socket=…`."""
        if self._unix_socket:
            return f"unix_socket={self._unix_socket}"
        host, port = self.sock.getsockname()[:2]
        return f"host={host} port={port}"

    def listen(self) -> None:
        """Takes clients from now on; harmless when it does already.

        Raises:
            BindError: another server bound the address too, and listened first.
        """
        try:
            self.sock.listen(self._backlog)
        except OSError as error:
            raise BindError(_bind_reason(self.describe(), error)) from None

    def close(self) -> None:
        """Closes this process's hold of it; the parent's own also removes a Unix socket's file."""
        self.sock.close()
        if self._unix_socket and os.getpid() == self._owner:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._unix_socket)


def _bind_tcp(host: str, port: int, *, shared: bool = False) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise BindError(f"host {host!r} is no address of this machine: {error.strerror}") from None
    family, kind, proto, _, address = found[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise BindError(_bind_reason(f"{host}:{port}", error)) from None
    return sock


def _bind_reason(address: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{address} is in use: another server listens there; stop it, or choose another --port (0 picks one)"
    if error.errno == errno.EACCES:
        return f"{address} may not be listened on by this user: {error.strerror}"
    return f"{address} can't be listened on: {error.strerror or error}"


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise BindError(_bind_reason(path, error)) from None
    except BindError:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Removes the socket of a server that is gone; never a file, never a living server's socket."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BindError(f"{path} exists and is no socket: choose another --unix-socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise BindError(f"{path} is in use: another server listens there")
