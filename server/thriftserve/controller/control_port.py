"""Where operators are listened to, and which of them are.

ServeSettings  --door_of-->  HostSettings of the control port, Token  |  ConfigError: anybody could come in
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from pathlib import Path

from thriftserve.errors import ConfigError
from thriftserve.service.control import ControlToken
from thriftserve.settings import HostSettings, ServeSettings
from thriftserve.supervisor.tls import tls_context

log = logging.getLogger(__name__)

_THREADS = 4
_MAX_CONNECTIONS = 256
#: A call of an operator is small; whoever may not call must not cost memory either.
_MAX_MESSAGE_BYTES = 1 << 20


def control_port_settings(settings: ServeSettings) -> HostSettings | None:
    """How the control port is served; None: it is not.

    Raises:
        ConfigError: the token or a certificate can't be used, or others than this machine's could call without any.
    """
    token_of(settings)
    if settings.control_port is None:
        return None
    _hold_guarded(settings)
    try:
        door = _settings(settings, settings.control_port)
        tls_context(door)
    except ConfigError as error:
        raise ConfigError(f"control port: {error.message.replace('tls_', 'control_tls_')}") from error
    return door


def token_of(settings: ServeSettings) -> ControlToken | None:
    """What calls must carry; None: nothing.

    Raises:
        ConfigError: the file holds none.
    """
    return None if settings.control_token_file is None else ControlToken(Path(settings.control_token_file).expanduser())


def _settings(settings: ServeSettings, port: int) -> HostSettings:
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


def _hold_guarded(settings: ServeSettings) -> None:
    if is_loopback(settings.control_host):
        return
    if not (settings.control_token_file or settings.control_tls_client_ca or settings.control_open):
        raise ConfigError(
            f"control_host is {settings.control_host!r}: whoever reaches it could replace every model; "
            "set control_token_file or control_tls_client_ca, or, where a network keeps others away, control_open"
        )
    if settings.control_token_file and not settings.control_tls_cert:
        log.warning(
            "control_host is %r without control_tls_cert: tokens travel in the clear to it", settings.control_host
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on a host; False where the name is not known."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
