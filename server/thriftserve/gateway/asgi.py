"""The gateway for ASGI servers other than its own command.

    THRIFTSERVE_GATEWAY_… variables  --app()-->  ASGI application

::

    gunicorn -k uvicorn_worker.UvicornWorker 'thriftserve.gateway.asgi:app()'
    uvicorn --factory thriftserve.gateway.asgi:app

The variables are those of `thriftserve gateway`, such as THRIFTSERVE_GATEWAY_BACKEND=10.0.0.1:9090,10.0.0.2:9090.
The settings of the socket (host, port, backlog, keep_alive_s, drain_timeout_s) have no effect: the other server has its
own. The module is separate because its path is public.
"""

from __future__ import annotations

import os
from typing import Any

from thriftserve import log
from thriftserve.gateway import uvicorn_server
from thriftserve.gateway.routes import Gateway
from thriftserve.gateway.uvicorn_server import with_cors
from thriftserve.settings import gather
from thriftserve.settings.gateway import GatewaySettings


def app() -> Any:
    """Return the application with the settings of the environment.

    Raises:
        ConfigError: a variable is wrong.
    """
    settings = gather(GatewaySettings, environ=os.environ).settings
    log.configure(settings.log_level, settings.log_format)
    uvicorn_server.tune_memory()
    return with_cors(Gateway(settings), settings)
