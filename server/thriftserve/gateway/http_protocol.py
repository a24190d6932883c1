"""uvicorn's HTTP protocol with two limits that it lacks: size and time of a request's head.

The module must not import the metrics: gunicorn's configuration file imports it before it sets
PROMETHEUS_MULTIPROC_DIR, and prometheus_client reads that variable once, when it is imported.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Request line and headers together.
MAX_HEAD_BYTES = 64 * 1024
#: Bytes of a body that are collected before the application is woken: all of most bodies.
MAX_PIECE_BYTES = 4 * 1024 * 1024
_TOO_LARGE = b"the request's head is larger than the limit of %d bytes" % MAX_HEAD_BYTES
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(_TOO_LARGE), _TOO_LARGE)
)


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection, with limits on its requests' heads."""

    #: Seconds from connecting, or from a request's first byte, until its head must be complete.
    head_timeout_s = 30.0

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as theirs is
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_REFUSAL)
            self.transport.close()

    # Called by the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._start_timer()

    def on_headers_complete(self) -> None:
        self._stop_timer()
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

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._expire)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _expire(self) -> None:
        cycle: Any = self.cycle  # None before the first request, whatever its annotation says
        if cycle is not None and not cycle.response_complete:
            self._start_timer()  # an earlier request of the connection is not answered yet
        else:
            self.transport.close()


def limited_protocol(head_timeout_s: float) -> type[LimitedHttpProtocol]:
    """Return the protocol class with this time-out."""
    return type("LimitedHttpProtocol", (LimitedHttpProtocol,), {"head_timeout_s": head_timeout_s})
