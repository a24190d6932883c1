"""Calls on an event loop, spread over several servers and connections; what may be repeated is.

call(method, args) --> Backend (least busy of those in health) --> AsyncConnection (kept, or new) --> result
a server that fails --> rests, longer each time --> one call tries it again

>>> async def main():                                            # doctest: +SKIP
...     async with AsyncPool([Dialing(Address("10.0.0.1", 9090)), Dialing(Address("10.0.0.2", 9090))]) as pool:
...         await pool.call("ping", 1.0)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from thriftserve_client.async_connection import AsyncConnection, NotInTime
from thriftserve_client.connection import Dialing
from thriftserve_client.errors import (
    CallTimeout,
    ConnectionFailed,
    MessageTooLarge,
    ResourceExhaustedError,
    ServerError,
    UnavailableError,
)

#: How long a server rests after its first failure, and at most.
FIRST_REST_S = 0.1
LONGEST_REST_S = 5.0
#: Once every server was tried, a call waits so long before it begins anew, twice as long the next time, …
FIRST_PAUSE_S = 0.05
#: Rounds over all servers before a call gives up.
ROUNDS = 3
#: A server that could not be connected to within less than this has not failed for it.
FAIR_CONNECT_S = 0.1

#: What another server may do better.
Passing = ConnectionFailed | ServerError


@dataclass(eq=False)
class Backend:
    """One server: its connections, and how it fares.

    Attributes:
        dialing: how to reach it.
        in_flight: calls under way.
        failures: how often in a row it could not be reached, or said that it is not available.
        rests_until: no call goes there before, unless every server rests; the loop's time.
        reason: the last failure in words; empty after a success.
    """

    dialing: Dialing
    in_flight: int = 0
    failures: int = 0
    rests_until: float = 0.0
    reason: str = ""
    idle: list[AsyncConnection] = field(default_factory=list)

    def succeeded(self) -> None:
        """It answered."""
        if self.failures:
            self.failures, self.rests_until, self.reason = 0, 0.0, ""

    def failed(self, now: float, reason: str) -> None:
        """It did not, or can't serve now: it rests."""
        if now >= self.rests_until:  # of many calls that fail together, one counts
            self.failures += 1
            self.rests_until = now + min(FIRST_REST_S * 2 ** (self.failures - 1), LONGEST_REST_S)
        self.reason = reason

    def take_idle(self) -> AsyncConnection | None:
        """A connection that was kept and still stands, the one used last."""
        while self.idle:
            connection = self.idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return None


class AsyncPool:
    """Calls any of several servers that serve the same models. It belongs to one event loop.

    A call goes to the server with the fewest calls under way. Where it can't be reached, breaks off or says that it
    is UNAVAILABLE, the call is repeated elsewhere, a full queue too, as long as there is time: every method may be
    repeated without harm.

    Args:
        dialings: the servers, one at least; framed transport.
        max_connections: connections to each; a call beyond waits, first come first served.
    """

    def __init__(self, dialings: Sequence[Dialing], *, max_connections: int = 256) -> None:
        if not dialings or any(one.transport != "framed" for one in dialings):
            raise ValueError("a pool takes one server or more, on the framed transport")
        self.backends = [Backend(dialing) for dialing in dialings]
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
        """Closes every connection that no call is using."""
        for backend in self.backends:
            while backend.idle:
                backend.idle.pop().close()

    async def call(self, method: str, timeout_s: float, *values: Any) -> Any:
        """Calls a method of the contract.

        Args:
            method: its name in the IDL.
            timeout_s: how long all may take: waiting for a connection, connecting, repetitions.
            values: its arguments, in the IDL's order.

        Raises:
            ServerError: a server's answer was an error, and not one to be had elsewhere.
            ConnectionFailed: no server could be reached.
            CallTimeout: no answer in time.
            ProtocolMismatch, MessageTooLarge: see there.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        pause = FIRST_PAUSE_S
        failures: list[Passing] = []
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
                # Queues that are full want fewer requests, not more.
                full = any(isinstance(one, ResourceExhaustedError) for one in failures)
                if full or round_ == ROUNDS or loop.time() + pause >= deadline:
                    raise _most_telling(failures, timeout_s)
                await asyncio.sleep(pause)
                pause *= 2
        finally:
            failures.clear()  # they know this frame: all would wait for the collector
        raise AssertionError("the last round returns or raises")

    async def ask_each(self, method: str, timeout_s: float, *values: Any) -> list[tuple[Backend, Any]]:
        """Calls a method of every server, whatever its health; for each what it returned, or its error."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        calls = [self._call_once(one, method, deadline, values, 0) for one in self.backends]
        return list(zip(self.backends, await asyncio.gather(*calls, return_exceptions=True), strict=True))

    async def _choose(self, tried: set[Backend], deadline: float) -> Backend:
        """The next server to try: in health and least busy; where all rest, the one that rests least."""
        while True:
            now = asyncio.get_running_loop().time()
            left = [one for one in self.backends if one not in tried]
            free = [one for one in left if one.in_flight < self._max_connections]
            if free:
                return self._best(free, now)
            await self._wait_for_a_place(deadline)

    def _best(self, free: list[Backend], now: float) -> Backend:
        if len(free) == 1:
            return free[0]
        self._turn += 1
        turn = self._turn % len(free)
        ordered = free[turn:] + free[:turn]  # equally busy ones take turns
        return min(ordered, key=lambda one: (one.rests_until if one.rests_until > now else 0.0, one.in_flight))

    async def _wait_for_a_place(self, deadline: float) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout_at(deadline):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self._give_place()  # it came too late for this call
            if isinstance(error, TimeoutError):
                raise CallTimeout("every connection was busy for the call's whole time") from None
            raise

    async def _call_once(
        self, backend: Backend, method: str, deadline: float, values: tuple[Any, ...], others: int
    ) -> Any:
        """One call of one server; `others` might be tried after it."""
        loop = asyncio.get_running_loop()
        backend.in_flight += 1
        connection = backend.take_idle()
        try:
            if connection is None:
                connection = await _opened(backend, deadline, others)
            result = await connection.call(method, deadline, *values)
        except (ServerError, MessageTooLarge) as error:
            if isinstance(error, UnavailableError):
                backend.failed(loop.time(), str(error))
            else:
                backend.succeeded()
            self._keep(backend, connection)
            raise
        except BaseException as error:
            if isinstance(error, ConnectionFailed) and not isinstance(error, NotInTime):
                backend.failed(loop.time(), str(error))
            if connection is not None:
                connection.close()
            raise
        else:
            backend.succeeded()
            self._keep(backend, connection)
            return result
        finally:
            backend.in_flight -= 1
            self._give_place()

    def _keep(self, backend: Backend, connection: AsyncConnection | None) -> None:
        if connection is not None and connection.usable:
            backend.idle.append(connection)

    def _give_place(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return


async def _opened(backend: Backend, deadline: float, others: int) -> AsyncConnection:
    """A new connection to a server; while there are others, it has half of the time that is left."""
    loop = asyncio.get_running_loop()
    left = max(deadline - loop.time(), 1e-3)
    limit = left / 2 if others else left
    try:
        return await AsyncConnection.open(backend.dialing, limit)
    except NotInTime as error:
        allowed = min(limit, backend.dialing.connect_timeout_s or limit)
        # A call in a hurry says nothing about the server: others would pass it over for that.
        if allowed >= FAIR_CONNECT_S:
            backend.failed(loop.time(), str(error))
        if allowed == left:
            raise CallTimeout(f"{error}, the call's whole time") from None
        raise


def _most_telling(failures: list[Passing], timeout_s: float) -> Passing | CallTimeout:
    """Of what servers answered and why others could not: that a server is full, not available, not there."""
    if not failures:
        return CallTimeout(f"the call's time, {timeout_s:g} s, was over before a server was asked")
    order = (ResourceExhaustedError, UnavailableError, ConnectionFailed)
    return min(reversed(failures), key=lambda one: next(at for at, kind in enumerate(order) if isinstance(one, kind)))
