"""The gateway's process: uvicorn on a bound socket, until a signal.

    settings --bind--> socket --GatewayLoop: prepare, run, drain--> exit code

::

    serve(GatewaySettings(port=0), on_ready=print)      # in the main thread, until SIGTERM
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from thriftserve.errors import ExitCode
from thriftserve.gateway.http_protocol import limited_protocol
from thriftserve.gateway.routes import Gateway
from thriftserve.settings import HostSettings
from thriftserve.settings.gateway import GatewaySettings
from thriftserve.supervisor.listener import Listener

#: New objects before the collector looks for cycles. A body of nested lists has 50,000 objects and no cycle: looking 70
#: times costs a sixth of its parsing (10.5 against 9.0 ms for 224x224x3 numbers).
_GARBAGE_THRESHOLD = 100_000
#: The parameters' numbers in malloc.h; see mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD_BYTES = 4 * 1024 * 1024
#: Unused memory at the heap's end that the C library does not give back.
_TRIM_THRESHOLD_BYTES = 16 * 1024 * 1024


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handling."""

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
    """The gateway as the supervisor's child runs it.

    Args:
        settings: of the gateway.
        sock: bound; `prepare` makes it listen.
        on_ready: called when requests are served.
        on_drain: called when draining begins.
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
        """Build the application, and let the kernel queue connections until it runs."""
        self._sock.listen(self._settings.backlog)
        tune_memory()
        self._gateway = Gateway(self._settings)
        self._server = _Server(_config(self._gateway, self._settings), self._on_ready)

    def run(self) -> None:
        """Serve until `drain` is called, and requests in flight are answered or drain_timeout_s is over."""
        assert self._server is not None, "call prepare() first"
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._server.serve([self._sock]))
            self._gateway.close()

    def drain(self) -> None:
        """Stop accepting connections and finish requests in flight. A signal handler may call it."""
        self._on_drain()
        if self._server is not None:
            self._server.should_exit = True


def serve(settings: GatewaySettings, on_ready: Callable[[str], None]) -> ExitCode:
    """Serve HTTP until SIGTERM or SIGINT. Call it in the main thread.

    Args:
        settings: address, servers, limits.
        on_ready: called with the ready line.

    Raises:
        BindError: the address can't be bound.
    """
    listener = bind(settings)
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


def bind(settings: GatewaySettings) -> Listener:
    """Bind the settings' address; the socket does not listen yet.

    Raises:
        BindError: the address is in use, not on this machine, or not allowed.
    """
    return Listener.open(HostSettings(host=settings.host, port=settings.port, backlog=settings.backlog))


def _config(app: Gateway, settings: GatewaySettings) -> uvicorn.Config:
    return uvicorn.Config(
        with_cors(app, settings),
        http=limited_protocol(settings.read_timeout_s),
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
    """Return the application, wrapped by Starlette's CORS middleware if `cors_origin` is set."""
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


def tune_memory() -> None:
    """Set the collector's threshold, and what the C library keeps if it has mallopt. Once, when a process starts."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
