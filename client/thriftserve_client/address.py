"""The address of a server, and connecting to it.

Address --connect--> connected socket, after the TLS handshake
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from thriftserve_client.errors import ConnectionFailed


@dataclass(frozen=True)
class SslOptions:
    """The client's TLS options. The server's certificate is always checked.

    Attributes:
        ca_file: PEM file of the trusted authorities; None trusts those of the system.
        cert_file: PEM file of this client's certificate, for servers that require one (mutual TLS).
        key_file: PEM file of its key; None if `cert_file` has the key, too.
        server_hostname: the name in the server's certificate; None for the host of the address.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_hostname: str | None = None

    def context(self) -> ssl.SSLContext:
        """Return a TLS context with the files.

        Raises:
            ConnectionFailed: a file is missing, or has no certificate or key.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:  # also ssl.SSLError
            raise ConnectionFailed(f"{self} can't be used: {error.strerror or error}") from None
        return context


@dataclass(frozen=True)
class Address:
    """A TCP host and port, or the path of a Unix socket; with TLS if `tls` is set."""

    host: str
    port: int
    unix_socket: str | None = None
    tls: SslOptions | None = None

    def __str__(self) -> str:
        if self.unix_socket:
            return self.unix_socket
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self, timeout_s: float | None) -> socket.socket:
        """Return a connected socket.

        Raises:
            ConnectionFailed: no server listens there, the name is unknown, the handshake failed, or connecting took
                longer than `timeout_s`. The message says which.
        """
        context = self.tls.context() if self.tls else None
        try:
            sock = self._open(timeout_s)
        except TimeoutError:
            raise ConnectionFailed(f"no connection to {self} within {timeout_s:g} s") from None
        except socket.gaierror as error:
            raise ConnectionFailed(f"host {self.host!r} is unknown: {error.strerror}") from None
        except ConnectionRefusedError:
            raise ConnectionFailed(f"{self} refused the connection: does a server listen there?") from None
        except OSError as error:
            raise ConnectionFailed(f"no connection to {self}: {error.strerror or error}") from None
        return self._secure(sock, context) if context else sock

    def _open(self, timeout_s: float | None) -> socket.socket:
        if not self.unix_socket:
            sock = socket.create_connection((self.host, self.port), timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(self.unix_socket)
        except BaseException:
            sock.close()
            raise
        return sock

    def _secure(self, sock: socket.socket, context: ssl.SSLContext) -> socket.socket:
        """Return the connection under TLS; each step of the handshake has the connect time-out."""
        name = (self.tls.server_hostname if self.tls else None) or self.host
        try:
            return context.wrap_socket(sock, server_hostname=name)
        except TimeoutError:
            reason = "it did not reply in time: does it expect TLS?"
        except ssl.SSLCertVerificationError as error:
            reason = f"its certificate is not accepted: {error.verify_message}"
        except ssl.SSLError as error:
            reason = f"{error.reason or error}: does it expect TLS, and this client's certificate?"
        except OSError as error:
            reason = f"{error.strerror or error}: does it expect TLS?"
        sock.close()
        raise ConnectionFailed(f"TLS with {self} failed: {reason}")
