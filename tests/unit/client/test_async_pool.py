"""The asynchronous pool: where a call goes when servers fail, how long it tries, and what it says in the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from client_service import hanging_up, scripted, serving
from thriftserve_client import (
    CallTimeout,
    ConnectionFailed,
    ErrorCode,
    ResourceExhaustedError,
    ThriftServeClientError,
    UnavailableError,
    async_pool,
)
from thriftserve_client.address import Address
from thriftserve_client.async_pool import AsyncPool
from thriftserve_client.connection import ConnectionConfig
from thriftserve_idl import ttypes

#: Nobody listens there: a port that only root may bind.
NOBODY = 1


def pool_of(*ports: int, connect_timeout_s: float = 5.0) -> AsyncPool:
    return AsyncPool(
        [ConnectionConfig(Address("127.0.0.1", port), connect_timeout_s=connect_timeout_s) for port in ports]
    )


def pings(pool: AsyncPool, number: int = 1, timeout_s: float = 30.0) -> None:
    """So many calls, one after the other."""

    async def run() -> None:
        async with pool:
            for _ in range(number):
                await pool.call("ping", timeout_s)

    asyncio.run(run())


@contextlib.contextmanager
def failing(code: ErrorCode, *, retryable: bool = True) -> Iterator[int]:
    """The port of a server that answers every ping with an error."""

    def fail() -> Any:
        raise ttypes.PredictError(code, "as you wished", retryable)

    with serving() as service:
        service.handler.ping = fail  # type: ignore[method-assign]  # it misbehaves
        yield service.port


@contextlib.contextmanager
def hole() -> Iterator[int]:
    """A port that never completes a connection: its queue of them is full, and nobody takes one."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_an_untried_server_is_tried_however_little_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no time is left for a pause and another round, the round that was begun still goes to every server."""
    monkeypatch.setattr(async_pool, "FIRST_PAUSE_S", 3600.0)
    with serving() as good, scripted(hanging_up) as broken:
        for ports in ((NOBODY, broken, good.port), (good.port, broken, NOBODY)):
            pings(pool_of(*ports), 9)


@pytest.mark.parametrize(
    ("code", "error"),
    [(ErrorCode.RESOURCE_EXHAUSTED, ResourceExhaustedError), (ErrorCode.UNAVAILABLE, UnavailableError)],
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_end_tells_the_most(code: ErrorCode, error: type[ThriftServeClientError], turned: bool) -> None:
    """That a server is full or not available is told, not that another one is not there, whichever was tried last."""
    with failing(code) as port:
        ports = (port, NOBODY) if turned else (NOBODY, port)
        for _ in range(2):
            with pytest.raises(error, match="as you wished"):
                pings(pool_of(*ports))


def test_full_for_good_is_told_at_once() -> None:
    """What would not fit into any queue is not sent to another server."""
    with failing(ErrorCode.RESOURCE_EXHAUSTED, retryable=False) as port, serving() as other:
        pool = pool_of(port, other.port)
        pool.backends[1].in_flight = 1  # so that the first is asked first
        with pytest.raises(ResourceExhaustedError, match="as you wished"):
            pings(pool)


def test_nobody_there() -> None:
    """Where no server listens, the error says so."""
    with pytest.raises(ConnectionFailed, match="refused"):
        pings(pool_of(NOBODY))


def test_a_server_that_can_not_be_connected_to_leaves_time_for_another() -> None:
    """A connection that does not come about costs a call half of its time, and then it goes elsewhere."""
    with hole() as nowhere, serving() as good:
        pool = pool_of(nowhere, good.port, connect_timeout_s=60.0)
        pool.backends[1].in_flight = 1
        pings(pool, timeout_s=4.0)
        assert pool.backends[0].failures == 1


@pytest.mark.parametrize(("timeout_s", "failures"), [(0.01, 0), (0.3, 1)])
def test_a_call_in_a_hurry_is_late_and_no_server_rests_for_it(timeout_s: float, failures: int) -> None:
    """Where the call's own time was over before a connection came about, that is a time-out of the call."""
    with hole() as nowhere:
        pool = pool_of(nowhere)
        with pytest.raises(CallTimeout, match="whole time"):
            pings(pool, timeout_s=timeout_s)
        assert pool.backends[0].failures == failures
