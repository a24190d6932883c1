"""The command `thriftserve gateway`.

    argv, environment, TOML file --> GatewaySettings --> uvicorn_server.serve --> exit code

The HTTP libraries belong to the extra `gateway`: `run` imports them, so that the command line works without them.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from thriftserve import log
from thriftserve.errors import ConfigError, ExitCode
from thriftserve.settings import Effective, gather
from thriftserve.settings.gateway import GatewaySettings
from thriftserve.settings.sources import add_flags, given_flags

_ABOUT = """\
Serve the models of one or more thriftserve servers over HTTP: TensorFlow Serving's REST API, the Open Inference
Protocol, images. When the gateway is ready, it prints one line on stdout:

  thriftserve-gateway ready host=127.0.0.1 port=8501 backends=127.0.0.1:9090 pid=4711

Logs go to stderr. SIGTERM and SIGINT finish the requests in flight, then end the process.
"""

_EXAMPLES = """\
examples:
  for a server on this machine:
    thriftserve gateway --backend 127.0.0.1:9090 --port 8501
    curl -d '{"instances": [1.0, 2.0, 5.0]}' http://127.0.0.1:8501/v1/models/half_plus_two:predict

  for two servers, open to all hosts:
    thriftserve gateway --backend 10.0.0.1:9090,10.0.0.2:9090 --host 0.0.0.0

Each setting is also a key of the TOML file and a THRIFTSERVE_GATEWAY_<NAME> variable. All settings:
docs/reference/settings.md. All routes: docs/reference/http.md.
"""


def add_to(commands: Any) -> argparse.ArgumentParser:
    """Add the command `gateway` to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "gateway",
        help="serve the models of running servers over HTTP",
        usage="thriftserve gateway --backend HOST:PORT[,HOST:PORT...] [options]",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser, GatewaySettings)
    return parser


def settings_of(given: argparse.Namespace) -> Effective[GatewaySettings]:
    """Return the effective settings.

    Raises:
        ConfigError: a setting is wrong.
    """
    return gather(
        GatewaySettings, flags=given_flags(given, GatewaySettings), environ=dict(os.environ), config=given.config
    )


def run(settings: GatewaySettings) -> ExitCode:
    """Serve until a signal.

    Raises:
        StartError: the gateway can't start.
    """
    log.configure(settings.log_level, settings.log_format)
    try:
        from thriftserve.gateway import uvicorn_server
    except ImportError as error:
        raise ConfigError(
            f"the gateway needs {error.name}: pip install '.[gateway]' in a checkout of thriftserve"
        ) from None
    return uvicorn_server.serve(settings, log.announce)
