"""The gateway as a process: uvicorn on a bound socket, until it is told to end.

    settings --bind--> socket --GatewayLoop: prepare, run, drain--> exit code

::

    gateway.serve(GatewaySettings(port=0), on_ready=print)      # in the main thread, until SIGTERM
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from thriftserve.errors import ExitCode
from thriftserve.gateway.http_protocol import bounded
from thriftserve.gateway.routes import Gateway
from thriftserve.settings import HostSettings
from thriftserve.settings.gateway import GatewaySettings
from thriftserve.supervisor.listener import Listener

# How a gateway's process treats its memory: told once, when it starts.

#: Objects made before the collector looks for cycles. A body of nested lists is 50,000 of them and has none: looking
#: 70 times on the way costs a sixth of its parsing (10.5 against 9.0 ms for 224x224x3 numbers).
_GARBAGE_THRESHOLD = 100_000
#: As mallopt(3) numbers them.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 4 * 1024 * 1024
#: Of unused memory at the heap's end so much is kept.
_MOST_UNUSED_BYTES = 16 * 1024 * 1024


def settle() -> None:
    """Sets the collector's threshold, and what the C library keeps, where it is one that can be told."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _MOST_UNUSED_BYTES)


log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn's server, its signals left to others."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


class GatewayLoop:
    """The gateway as what a worker process runs.

    Args:
        settings: what it serves, and whom it calls.
        sock: bound; it listens when the loop runs.
        on_ready: called when it does.
        on_drain: called when it is told to end.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        sock: socket.socket,
        on_ready: Callable[[], None] = lambda: None,
        on_drain: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._sock = sock
        self._on_ready = on_ready
        self._on_drain = on_drain
        self._server: _Server | None = None

    def prepare(self) -> None:
        """Puts the application together, and has the kernel keep connections until it runs."""
        self._sock.listen(self._settings.backlog)
        settle()
        self._gateway = Gateway(self._settings)
        self._server = _Server(_config(self._gateway, self._settings), self._on_ready)

    def run(self) -> None:
        """Serves until `drain` was called and everything in hand is answered, or its time is over."""
        assert self._server is not None, "prepare it first"
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._server.serve([self._sock]))
            self._gateway.close()

    def drain(self) -> None:
        """Take nothing new, finish what is in hand; safe to call from a signal handler."""
        self._on_drain()
        if self._server is not None:
            self._server.should_exit = True


def serve(settings: GatewaySettings, on_ready: Callable[[str], None]) -> ExitCode:
    """Serves HTTP until SIGTERM or SIGINT. Call it in the main thread.

    Args:
        settings: address, servers, limits.
        on_ready: gets the one line that says that requests are taken.

    Raises:
        BindError: the address can't be listened on.
    """
    listener = bound(settings)
    line = f"thriftserve-gateway ready {listener.describe()} backends={','.join(settings.backends)} pid={os.getpid()}"
    loop = GatewayLoop(settings, listener.sock, lambda: on_ready(line))
    loop.prepare()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.drain())
    try:
        loop.run()
    finally:
        listener.close()
    return ExitCode.OK


def bound(settings: GatewaySettings) -> Listener:
    """A socket on the settings' address, not listening yet.

    Raises:
        BindError: it is taken, not ours, or not allowed.
    """
    return Listener.open(HostSettings(host=settings.host, port=settings.port, backlog=settings.backlog))


def _config(app: Gateway, settings: GatewaySettings) -> uvicorn.Config:
    return uvicorn.Config(
        with_cors(app, settings),
        http=bounded(settings.read_timeout_s),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=settings.backlog,
        timeout_keep_alive=int(settings.keep_alive_s),
        timeout_graceful_shutdown=int(settings.drain_timeout_s),
    )


def with_cors(app: Gateway, settings: GatewaySettings) -> Any:
    """The application, behind Starlette's CORS layer where web pages may call it."""
    if not settings.cors_origin:
        return app
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        app,
        allow_origins=list(settings.cors_origin),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Request-Id"],
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
