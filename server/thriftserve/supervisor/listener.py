"""The socket that clients connect to, and its TLS. It is bound early and listens late.

    settings --open()--> bound: a taken port fails at once, clients are refused
             --listen()--> by the first worker that is ready: clients can connect
             --tls_context()--> handshake in the thread that serves the client

In between nobody can connect, so a server whose models fail to load never leaves clients hanging on an open port.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import stat

from thriftserve.errors import BindError, ConfigError
from thriftserve.settings import HostSettings


class Listener:
    """A listening socket that a parent shares with its workers."""

    def __init__(self, sock: socket.socket, backlog: int, unix_socket: str | None = None) -> None:
        self.sock = sock
        self._backlog = backlog
        self._unix_socket = unix_socket
        self._owner = os.getpid()

    @classmethod
    def open(cls, settings: HostSettings) -> Listener:
        """Bind the address that the settings name.

        Raises:
            BindError: the address is in use, is not one of this machine, or may not be bound by this user.
        """
        sock = _bind_unix(settings.unix_socket) if settings.unix_socket else _bind_tcp(settings.host, settings.port)
        return cls(sock, settings.backlog, settings.unix_socket)

    @classmethod
    def open_shared(cls, settings: HostSettings, count: int) -> list[Listener]:
        """Bind one TCP address `count` times. The kernel spreads the clients over them (SO_REUSEPORT).

        Raises:
            BindError: as for `open`, or the settings name a Unix socket, which can't be shared.
        """
        if count == 1:
            return [cls.open(settings)]
        if settings.unix_socket:
            raise BindError(f"{count} fronts can't share a Unix socket: use a TCP port, or --fronts 1")
        cls.open(settings).close()  # a shared bind would succeed beside another server of the same user
        listeners: list[Listener] = []
        for _ in range(count):
            port = listeners[0].port if listeners else settings.port
            listeners.append(cls(_bind_tcp(settings.host, port, shared=True), settings.backlog))
        return listeners

    @property
    def port(self) -> int:
        """The TCP port; 0 for a Unix socket."""
        return 0 if self._unix_socket else int(self.sock.getsockname()[1])

    def describe(self) -> str:
        """Return the address as in the ready line: `host=… port=…` or `unix_socket=…`."""
        if self._unix_socket:
            return f"unix_socket={self._unix_socket}"
        host, port = self.sock.getsockname()[:2]
        return f"host={host} port={port}"

    def listen(self) -> None:
        """Let clients connect. Harmless if they already can.

        Raises:
            BindError: another server has bound the same address, and listened first.
        """
        try:
            self.sock.listen(self._backlog)
        except OSError as error:
            raise _bind_error(self.describe(), error) from None

    def close(self) -> None:
        """Close the socket in this process. The process that opened it also removes the file of a Unix socket."""
        self.sock.close()
        if self._unix_socket and os.getpid() == self._owner:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._unix_socket)


def tls_context(settings: HostSettings) -> ssl.SSLContext | None:
    """Return a TLS context for the files that the settings name, or None if TLS is off.

    Raises:
        ConfigError: a file does not exist or is not PEM, or the key does not belong to the certificate.
    """
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A drain shuts down reading, which looks like a truncated stream. Messages carry their own length.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        key = f" with tls_key {settings.tls_key!r}" if settings.tls_key else ""
        raise ConfigError(f"tls_cert {settings.tls_cert!r}{key} can't be used: {error}") from None
    if settings.tls_client_ca:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"tls_client_ca {settings.tls_client_ca!r} can't be used: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _bind_tcp(host: str, port: int, *, shared: bool = False) -> socket.socket:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise BindError(f"host {host!r} is not an address of this machine: {error.strerror}") from None
    family, kind, proto, _, address = addresses[0]
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
        raise _bind_error(f"{host}:{port}", error) from None
    sock.setblocking(False)
    return sock


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise _bind_error(path, error) from None
    except BindError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that has ended; never a file, and never the socket of a running server."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BindError(f"{path} exists and is not a socket: choose another --unix-socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise BindError(f"{path} is in use: another server listens there; stop it, or choose another --unix-socket")


def _bind_error(address: str, error: OSError) -> BindError:
    if error.errno == errno.EADDRINUSE:
        reason = "is in use: another server listens there; stop it, or choose another --port (0 picks one)"
    elif error.errno == errno.EACCES:
        reason = f"can't be listened on by this user: {error.strerror}"
    else:
        reason = f"can't be listened on: {error.strerror or error}"
    return BindError(f"{address} {reason}")
