"""The gateway as a sidecar of `thriftserve serve`, in front of that server's own port.

    ServeSettings, the server's listener, THRIFTSERVE_GATEWAY_… variables
        --> GatewaySettings, a bound socket --> WorkerGroup of one process

The supervisor treats it like any worker, and drains it before the workers that it calls.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from thriftserve.errors import ConfigError
from thriftserve.settings import HostSettings, ServeSettings, gather
from thriftserve.settings.gateway import GatewaySettings, backend_of
from thriftserve.status import WorkerPhase, WorkerRole
from thriftserve.supervisor.child import Loop
from thriftserve.supervisor.context import WorkerContext
from thriftserve.supervisor.listener import Listener
from thriftserve.supervisor.worker_group import WorkerGroup


def gateway_group(settings: ServeSettings, server: Listener) -> WorkerGroup:
    """Bind the gateway's address, and return the group of its process.

    Raises:
        ConfigError: the gateway can't call a server with these settings, or the extra `gateway` is not installed.
        BindError: the address can't be bound.
    """
    own = derive_settings(settings, server)
    listener = Listener.open(HostSettings(host=own.host, port=own.port, backlog=own.backlog))

    def make_loop(context: WorkerContext) -> Loop:
        from thriftserve.gateway.uvicorn_server import (
            GatewayLoop,  # in the child: the supervisor does not load HTTP libraries
        )

        context.set_role(WorkerRole.GATEWAY)
        return GatewayLoop(
            own,
            listener.sock,
            on_ready=lambda: context.set_phase(WorkerPhase.IDLE),
            on_drain=lambda: context.set_phase(WorkerPhase.DRAINING),
        )

    return WorkerGroup("gateway", 1, make_loop, listener, reloads=False)


def derive_settings(settings: ServeSettings, server: Listener) -> GatewaySettings:
    """Return the gateway's settings: some follow from the server's, the others come from the gateway's variables.

    Raises:
        ConfigError: the gateway can't call a server with these settings, is not installed, or a variable is wrong.
    """
    if settings.tls_cert or settings.framing != "framed":
        feature = "tls_cert" if settings.tls_cert else f"framing={settings.framing}"
        raise ConfigError(
            f"rest_port does not work with {feature}: unset one of them, or run `thriftserve gateway` separately"
        )
    if find_spec("uvicorn") is None or find_spec("orjson") is None:
        raise ConfigError(
            "rest_port is set, but the gateway is not installed: pip install '.[server,gateway]' in a checkout"
        )
    own = {
        "backend": (backend_of(server.sock.getsockname()),),
        "backend_protocol": "compact" if settings.protocol == "compact" else "binary",
        "host": settings.host,
        "port": settings.rest_port or 0,
        "backlog": settings.backlog,
        "max_body_bytes": settings.max_message_bytes,
        "drain_timeout_s": settings.drain_timeout_s,
        "log_level": settings.log_level,
        "log_format": settings.log_format,
    }
    return gather(GatewaySettings, flags=own, environ=os.environ).settings
