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
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from thriftserve.errors import ExitCode
from thriftserve.gateway.routes import Gateway
from thriftserve.settings import HostSettings
from thriftserve.settings.gateway import GatewaySettings
from thriftserve.supervisor.listener import Listener

# uvicorn's HTTP with bounds for a request's head, which it has not: size and time.

#: Request line and headers together.
MAX_HEAD_BYTES = 64 * 1024
#: Of a body so much is gathered before the application is woken for it: the whole of most.
MAX_PIECE_BYTES = 4 * 1024 * 1024
_TOO_LARGE = b"the request's head is larger than %d bytes, the limit" % MAX_HEAD_BYTES
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(_TOO_LARGE), _TOO_LARGE)
)


class Bounded(HttpToolsProtocol):
    """One connection."""

    #: How long a client may take from its first byte, or from connecting, until the head of its request is whole.
    head_timeout_s = 30.0

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._in_head = True
        self._head_bytes = 0
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as theirs is
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_REFUSAL)
            self.transport.close()

    # What the parser calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._late is None:
            self._watch()

    def on_headers_complete(self) -> None:
        self._unwatch()
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > MAX_PIECE_BYTES:
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0

    def _watch(self) -> None:
        self._late = self.loop.call_later(self.head_timeout_s, self._expire)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _expire(self) -> None:
        cycle: Any = self.cycle  # None before the first request, whatever its annotation says
        if cycle is not None and not cycle.response_complete:
            self._watch()  # an earlier request of this connection is still being answered
        else:
            self.transport.close()


def bounded(head_timeout_s: float) -> type[Bounded]:
    """The protocol with this time-out."""
    return type("Bounded", (Bounded,), {"head_timeout_s": head_timeout_s})


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
