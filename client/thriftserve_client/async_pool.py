"""Calls on an event loop, spread over several servers and connections, with retries.

    call(method, values) --> Backend (healthy, fewest calls) --> AsyncConnection (idle, or new) --> result
    a server that fails --> is avoided for a back-off, longer each time --> a call tries it again

>>> async def main():                                            # doctest: +SKIP
...     async with AsyncPool([ConnectionConfig(Address(host, 9090)) for host in HOSTS]) as pool:
...         await pool.call("ping", 1.0)
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from thriftserve_client.async_connection import AsyncConnection, ConnectTimeout
from thriftserve_client.connection import ConnectionConfig
from thriftserve_client.errors import (
    CallTimeout,
    ConnectionFailed,
    MessageTooLarge,
    ResourceExhaustedError,
    ServerError,
    UnavailableError,
)

#: Seconds that a server is avoided after its first failure, and at most.
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
#: Seconds that a call waits after it has tried every server; doubled after each round.
FIRST_PAUSE_S = 0.05
#: Rounds over all servers before a call gives up.
ROUNDS = 3
#: A connection attempt that had less time than this says nothing about the server.
MIN_CONNECT_S = 0.1

#: Errors that another server, or a later try, may not have.
Transient = ConnectionFailed | ServerError


@dataclass(eq=False)
class Backend:
    """One server: its connections and its health.

    Attributes:
        config: how to connect to it.
        in_flight: calls in progress.
        failures: consecutive times that it could not be reached or was unavailable.
        avoid_until: no call goes there before this time of the loop, unless all servers are avoided.
        reason: the last failure in words; empty after a success.
    """

    config: ConnectionConfig
    in_flight: int = 0
    failures: int = 0
    avoid_until: float = 0.0
    reason: str = ""
    idle: list[AsyncConnection] = field(default_factory=list)

    def succeeded(self) -> None:
        """Note that the server answered."""
        if self.failures:
            self.failures, self.avoid_until, self.reason = 0, 0.0, ""

    def failed(self, now: float, reason: str) -> None:
        """Note that the server did not answer or is unavailable, and avoid it for a while."""
        if now >= self.avoid_until:  # calls that fail together count once
            self.failures += 1
            self.avoid_until = now + min(FIRST_BACKOFF_S * 2 ** (self.failures - 1), MAX_BACKOFF_S)
        self.reason = reason

    def take_idle(self) -> AsyncConnection | None:
        """Return the idle connection used last that is still usable; None without one."""
        while self.idle:
            connection = self.idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return None


class AsyncPool:
    """Calls any of several servers that serve the same models. It belongs to one event loop.

    A call goes to the server with the fewest calls in progress. If that server can't be reached, breaks the connection,
    is UNAVAILABLE or has a full queue, the call is repeated on another one while there is time: every method may be
    repeated without harm.

    Args:
        configs: one or more servers, with the framed transport.
        max_connections: limit per server; further calls wait, first come first served.
    """

    def __init__(self, configs: Sequence[ConnectionConfig], *, max_connections: int = 256) -> None:
        if not configs or any(config.transport != "framed" for config in configs):
            raise ValueError("expected one or more servers with the framed transport")
        self.backends = [Backend(config) for config in configs]
        self._max_connections = max_connections
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turn = 0

    async def __aenter__(self) -> AsyncPool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all idle connections."""
        for backend in self.backends:
            while backend.idle:
                backend.idle.pop().close()

    async def call(self, method: str, timeout_s: float, *values: Any) -> Any:
        """Call a method of the contract and return its result.

        Args:
            method: its name in the IDL.
            timeout_s: limit that includes waiting for a connection, connecting and retries.
            values: its arguments, in the IDL's order.

        Raises:
            ServerError: a server replied with an error; for transient ones all servers did.
            ConnectionFailed: no server could be reached.
            CallTimeout: no reply in time.
            ProtocolMismatch, MessageTooLarge: see `errors`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        pause = FIRST_PAUSE_S
        failures: list[Transient] = []
        try:
            for round_ in range(1, ROUNDS + 1):
                failures.clear()
                tried: set[Backend] = set()
                while len(tried) < len(self.backends) and loop.time() < deadline:
                    backend = await self._choose(tried, deadline)
                    tried.add(backend)
                    try:
                        return await self._call_once(backend, method, deadline, values, len(self.backends) - len(tried))
                    except (ConnectionFailed, UnavailableError, ResourceExhaustedError) as error:
                        if isinstance(error, ResourceExhaustedError) and not error.retryable:
                            raise
                        failures.append(error)
                # Retries would only add to full queues.
                full = any(isinstance(error, ResourceExhaustedError) for error in failures)
                if full or round_ == ROUNDS or loop.time() + pause >= deadline:
                    raise _most_useful(failures, timeout_s)
                await asyncio.sleep(pause)
                pause *= 2
        finally:
            failures.clear()  # they refer to this frame: the cycle would wait for the collector
        raise AssertionError("the last round returns or raises")

    async def call_each(self, method: str, timeout_s: float, *values: Any) -> list[tuple[Backend, Any]]:
        """Call a method of every server, healthy or not; return the result or error of each."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        calls = [self._call_once(backend, method, deadline, values, 0) for backend in self.backends]
        return list(zip(self.backends, await asyncio.gather(*calls, return_exceptions=True), strict=True))

    async def ask_each(self, method: str, timeout_s: float, *values: Any) -> list[tuple[Backend, Any]]:
        """Call `call_each`, under its deprecated name."""
        warnings.warn("ask_each is deprecated: use call_each", DeprecationWarning, stacklevel=2)
        return await self.call_each(method, timeout_s, *values)

    async def _choose(self, tried: set[Backend], deadline: float) -> Backend:
        """Return the next server to try: healthy, with the fewest calls; or the first to become healthy."""
        while True:
            now = asyncio.get_running_loop().time()
            free = [
                backend
                for backend in self.backends
                if backend not in tried and backend.in_flight < self._max_connections
            ]
            if free:
                return self._best(free, now)
            await self._wait_for_connection(deadline)

    def _best(self, free: list[Backend], now: float) -> Backend:
        if len(free) == 1:
            return free[0]
        self._turn += 1
        turn = self._turn % len(free)
        ordered = free[turn:] + free[:turn]  # round robin among equally busy ones
        return min(ordered, key=lambda backend: (max(backend.avoid_until, now), backend.in_flight))

    async def _wait_for_connection(self, deadline: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self._wake_waiter()  # too late for this call: wake the next one
            if isinstance(error, TimeoutError):
                raise CallTimeout("every connection was busy for the call's whole time") from None
            raise

    async def _call_once(
        self, backend: Backend, method: str, deadline: float, values: tuple[Any, ...], others: int
    ) -> Any:
        """Call one server once; `others` is the number of servers that may be tried after it."""
        loop = asyncio.get_running_loop()
        backend.in_flight += 1
        connection = backend.take_idle()
        try:
            if connection is None:
                connection = await _open(backend, deadline, others)
            result = await connection.call(method, deadline, *values)
        except (ServerError, MessageTooLarge) as error:
            if isinstance(error, UnavailableError):
                backend.failed(loop.time(), str(error))
            else:
                backend.succeeded()
            self._return_idle(backend, connection)
            raise
        except BaseException as error:
            if isinstance(error, ConnectionFailed) and not isinstance(error, ConnectTimeout):
                backend.failed(loop.time(), str(error))
            if connection is not None:
                connection.close()
            raise
        else:
            backend.succeeded()
            self._return_idle(backend, connection)
            return result
        finally:
            backend.in_flight -= 1
            self._wake_waiter()

    def _return_idle(self, backend: Backend, connection: AsyncConnection | None) -> None:
        if connection is not None and connection.usable:
            backend.idle.append(connection)

    def _wake_waiter(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


async def _open(backend: Backend, deadline: float, others: int) -> AsyncConnection:
    """Return a new connection; if there are other servers to try, connecting gets half of the time left."""
    loop = asyncio.get_running_loop()
    left_s = max(deadline - loop.time(), 1e-3)
    limit_s = left_s / 2 if others else left_s
    try:
        return await AsyncConnection.open(backend.config, limit_s)
    except ConnectTimeout as error:
        allowed_s = min(limit_s, backend.config.connect_timeout_s or limit_s)
        # An attempt that had too little time says nothing about the server.
        if allowed_s >= MIN_CONNECT_S:
            backend.failed(loop.time(), str(error))
        if allowed_s == left_s:
            raise CallTimeout(f"{error}, the call's whole time") from None
        raise


def _most_useful(failures: list[Transient], timeout_s: float) -> Transient | CallTimeout:
    """Return the most useful of the servers' errors: full before unavailable before unreachable."""
    if not failures:
        return CallTimeout(f"the call's timeout of {timeout_s:g} s passed before a server was called")
    order = (ResourceExhaustedError, UnavailableError, ConnectionFailed)
    return min(
        reversed(failures), key=lambda error: next(rank for rank, kind in enumerate(order) if isinstance(error, kind))
    )
