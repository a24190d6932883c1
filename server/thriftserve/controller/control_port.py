"""The control port: how operators are served, and which callers are let in.

ServeSettings  --control_port_settings-->  HostSettings of the port  |  ConfigError: anybody could call
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from pathlib import Path

from thriftserve.errors import ConfigError
from thriftserve.service.control import ControlToken
from thriftserve.settings import HostSettings, ServeSettings
from thriftserve.supervisor.listener import tls_context

#: Operators are few and their calls short; idle connections cost a thread only while they call.
_THREADS = 4
_MAX_CONNECTIONS = 256
#: An operator's call is small, and a caller who is not let in must not cost memory.
_MAX_MESSAGE_BYTES = 1 << 20

log = logging.getLogger(__name__)


def control_port_settings(settings: ServeSettings) -> HostSettings | None:
    """Return how to serve the control port; None: don't.

    Raises:
        ConfigError: the token or a certificate can't be used, or callers from other machines would need neither.
    """
    control_token(settings)
    if settings.control_port is None:
        return None
    _check_guarded(settings)
    try:
        host_settings = _host_settings(settings, settings.control_port)
        tls_context(host_settings)
    except ConfigError as error:
        raise ConfigError(f"control port: {error.message.replace('tls_', 'control_tls_')}") from error
    return host_settings


def control_token(settings: ServeSettings) -> ControlToken | None:
    """Return the token that calls must carry; None: none.

    Raises:
        ConfigError: the file has no token.
    """
    return None if settings.control_token_file is None else ControlToken(Path(settings.control_token_file).expanduser())


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to a host name or address; False if it can't be resolved."""
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in addresses)


def _host_settings(settings: ServeSettings, port: int) -> HostSettings:
    return HostSettings(
        server_type="TThreadPoolServer",
        host=settings.control_host,
        port=port,
        threads=_THREADS,
        transport=settings.transport,
        protocol=settings.protocol,
        max_message_bytes=_MAX_MESSAGE_BYTES,
        max_connections=_MAX_CONNECTIONS,
        max_queued=_MAX_CONNECTIONS,
        tls_cert=settings.control_tls_cert,
        tls_key=settings.control_tls_key,
        tls_client_ca=settings.control_tls_client_ca,
    )


def _check_guarded(settings: ServeSettings) -> None:
    if is_loopback(settings.control_host):
        return
    if not (settings.control_token_file or settings.control_tls_client_ca or settings.control_open):
        raise ConfigError(
            f"control_host is {settings.control_host!r}: anybody who can connect to it could replace every model; "
            "set control_token_file or control_tls_client_ca, or control_open if the network keeps others away"
        )
    if settings.control_token_file and not settings.control_tls_cert:
        log.warning("control_host is %r without control_tls_cert: tokens are sent unencrypted", settings.control_host)
