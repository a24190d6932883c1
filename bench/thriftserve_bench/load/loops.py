"""How calls follow each other: the closed loop and the open one.

    closed:  reply  -->  the next call on that connection            as many callers as connections, each waits
    open:    intended times  -->  any idle connection, or the queue  calls arrive whatever the server does

A closed loop sends less to a server that stalls, and so hides the stall: one long latency for each connection, where
independent callers would all have met it. In the open loop a call's time runs from the moment at which it was to be
sent, and every arrival during the stall is counted with its wait.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np

from thriftserve_bench.load.connection import Connection, Connections

#: How long a caller of a closed loop waits for a reply before all are given up.
CALL_TIMEOUT_S = 20.0
#: A server whose connections fail this often in a row is given up for the window.
MAX_FAILURES_IN_ROW = 20
#: How long a closed loop sleeps at most.
_POLL_S = 0.05
#: Between two attempts to connect.
_REOPEN_S = 0.05
#: The open loop's first arrival counts from this long after its start.
_LEAD_NS = 1_000_000


class Calls(Protocol):
    """What is sent on connections, and what must come back: the plug-in for a protocol."""

    def frame(self, connection: Connection) -> bytes:
        """Return the next request of a connection."""

    def check(self, connection: Connection, reply: memoryview) -> None:
        """Check a complete reply.

        Raises:
            Refused: it is a well-formed error; the connection stays.
            Exception: it is not the right reply, or none at all.
        """


class GivenUp(Exception):
    """Too many calls failed in a row."""


class Refused(Exception):
    """The server answered with an error.

    Attributes:
        kind: the name of an ErrorCode.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Tally:
    """What came of the calls of a window; times in nanoseconds.

    Attributes:
        latencies: from the intended time; those of unanswered calls count with the time that they have waited.
        from_send: from the send itself.
        lags: how long calls of an open loop were sent after both their time and a connection were there.
        failures: by kind: the name of an ErrorCode or of an exception.
        reason: of the last failure.
        waited: calls of an open loop that found no idle connection.
        in_row: failures since the last answer, refusals left out.
    """

    def __init__(self) -> None:
        self.latencies: list[int] = []
        self.from_send: list[int] = []
        self.lags: list[int] = []
        self.failures: Counter[str] = Counter()
        self.reason = ""
        self.calls = self.unanswered = self.waited = 0
        self.in_row = 0

    def answered(self, connection: Connection, now_ns: int) -> None:
        """Count a call with the right reply."""
        self.latencies.append(now_ns - connection.intended_ns)
        self.from_send.append(now_ns - connection.sent_ns)
        self.calls += 1
        self.in_row = 0

    def failed(self, error: Exception) -> None:
        """Count a failed call.

        Raises:
            GivenUp: it is the last of too many in a row; refusals do not count for that.
        """
        refused = isinstance(error, Refused)
        self.failures[error.kind if isinstance(error, Refused) else type(error).__name__] += 1
        self.reason = str(error) if refused else f"{type(error).__name__}: {error}"
        self.in_row += not refused
        if self.in_row >= MAX_FAILURES_IN_ROW:
            raise GivenUp(f"given up after {self.in_row} failures in a row, the last: {self.reason}")

    def abandon(self, connections: Connections) -> None:
        """Count the calls without a reply, and replace their connections by new, idle ones."""
        now_ns = time.perf_counter_ns()
        for connection in connections.busy_connections():
            self.unanswered += 1
            self.latencies.append(now_ns - connection.intended_ns)
            connections.drop(connection)
            connections.idle.append(connections.open(connection.client))


def closed_loop(
    connections: Connections,
    calls: Calls,
    tally: Tally,
    running: Callable[[int], bool],
    drain_s: float,
    *,
    spin: bool = False,
) -> float:
    """Make at least one call on each idle connection, and the next one as soon as it has its reply.

    Args:
        connections: all of them idle.
        calls: what is sent.
        tally: counts the calls.
        running: says at a time of `time.perf_counter_ns` whether further calls are to begin.
        drain_s: how long to wait for the last replies; connections without one stay busy.
        spin: whether to poll without sleeping.

    Returns:
        Seconds until the last reply.

    Raises:
        GivenUp: too many calls failed in a row, or no reply came for CALL_TIMEOUT_S.
    """
    began = last = now = time.perf_counter_ns()
    while connections.idle:
        _begin(connections, calls, connections.idle.popleft())
    drain_until, going = 0, True
    while connections.busy:
        only = spin and len(connections) == 1
        finished = connections.poll_only() if only else connections.poll(0.0 if spin else _POLL_S)
        now = time.perf_counter_ns()
        if finished:
            last = now
        elif now - last > CALL_TIMEOUT_S * 1e9:
            tally.failed(TimeoutError(f"no reply within {CALL_TIMEOUT_S:g} s"))
            raise GivenUp(f"no reply within {CALL_TIMEOUT_S:g} s")
        if finished or not spin:  # while it spins, only a reply can end the loop
            going = running(now)
        for connection, reply in finished:
            next_connection = settle(connections, calls, tally, connection, reply, now, insist=going)
            going = running(now)
            if next_connection is not None and going:
                _begin(connections, calls, next_connection)
            elif next_connection is not None:
                connections.idle.append(next_connection)
        if not going:
            drain_until = drain_until or now + int(drain_s * 1e9)
            if now >= drain_until:
                break
    return (last - began) / 1e9


def _begin(connections: Connections, calls: Calls, connection: Connection) -> None:
    now_ns = time.perf_counter_ns()
    connections.begin(connection, calls.frame(connection), now_ns, now_ns)


def open_loop(
    connections: Connections, calls: Calls, tally: Tally, times_ns: Sequence[int], seconds: float, drain_s: float
) -> float:
    """Send each call at its time, or as soon after it as a connection is idle.

    Args:
        connections: all of them idle.
        calls: what is sent.
        tally: counts the calls; those that were never sent count as unanswered.
        times_ns: when calls are to be sent, ascending, nanoseconds from the start.
        seconds: the time in which they arrive.
        drain_s: calls without a reply so long after that are given up, sent or not.

    Returns:
        Seconds from the first reply to the last, at least `seconds`: of a server that keeps up it is the time in
        which calls arrived, however long each of them takes.

    Raises:
        GivenUp: too many calls failed in a row.
    """
    began = time.perf_counter_ns() + _LEAD_NS
    first = last = 0
    limit = began + int((seconds + drain_s) * 1e9)
    due = deque(began + time_ns for time_ns in times_ns)
    idle = connections.idle
    while (due or connections.busy) and (now := time.perf_counter_ns()) < limit:
        _send_due(connections, calls, due, now, tally)
        wait_ns = (min(due[0], limit) if due and idle else limit) - time.perf_counter_ns()
        for connection, reply in connections.poll_precisely(wait_ns / 1e9):
            last = time.perf_counter_ns()
            first = first or last
            next_connection = settle(connections, calls, tally, connection, reply, last, insist=True)
            assert next_connection is not None
            next_connection.free_ns = last
            idle.append(next_connection)
    tally.abandon(connections)
    for intended in due:
        tally.unanswered += 1
        tally.waited += 1
        tally.latencies.append(max(0, limit - intended))
    return max(seconds, (last - first) / 1e9)


def _send_due(connections: Connections, calls: Calls, due: deque[int], now: int, tally: Tally) -> None:
    """Send what is due while there are idle connections."""
    idle = connections.idle
    while due and idle and due[0] <= now:
        connection, intended = idle.popleft(), due.popleft()
        # A connection that was free only after the intended time delayed the call; the other delay is this loop's.
        tally.waited += connection.free_ns > intended
        tally.lags.append(now - max(intended, connection.free_ns))
        connections.begin(connection, calls.frame(connection), intended, now)
        now = time.perf_counter_ns()


def settle(
    connections: Connections,
    calls: Calls,
    tally: Tally,
    connection: Connection,
    reply: memoryview | Exception,
    now_ns: int,
    *,
    insist: bool,
) -> Connection | None:
    """Count what came of a call, and return the connection for the next one.

    A broken one is replaced: with `insist` until a new one is there, else by one attempt, which may leave None.

    Raises:
        GivenUp: too many calls failed in a row.
    """
    try:
        if isinstance(reply, Exception):
            raise reply
        calls.check(connection, reply)
    except Refused as error:
        tally.failed(error)
        return connection
    except Exception as error:  # broken, closed or wrong: each is a failed call, whatever its kind
        if not isinstance(reply, Exception):
            connections.drop(connection)
        tally.failed(error)
        if insist:
            return open_connection(connections, tally, connection.client)
        with suppress(OSError):
            return connections.open(connection.client)
        return None
    tally.answered(connection, now_ns)
    return connection


def open_connection(connections: Connections, tally: Tally, client: int = 0) -> Connection:
    """Connect, and count each failure until a connection is there.

    Raises:
        GivenUp: too many calls failed in a row.
    """
    while True:
        try:
            return connections.open(client)
        except OSError as error:
            tally.failed(error)
            time.sleep(_REOPEN_S)


def poisson_ns(rate: float, seconds: float, seed: int) -> list[int]:
    """Return the arrival times of an open loop's window, ascending nanoseconds from its start.

    Many independent callers together make a Poisson process: gaps are exponential with a mean of 1/rate, and the
    number of arrivals in a window has its mean as its variance.

    Args:
        rate: arrivals a second, above 0.
        seconds: length of the window.
        seed: the same seed gives the same times.
    """
    generator = np.random.default_rng(seed)
    expected = rate * seconds
    # Six standard deviations more than expected: a second draw is hardly ever needed.
    size = int(expected + 6 * expected**0.5 + 10)
    times = np.cumsum(generator.exponential(1 / rate, size))
    while times[-1] < seconds:
        times = np.concatenate([times, times[-1] + np.cumsum(generator.exponential(1 / rate, size))])
    return [int(time_ns) for time_ns in times[times < seconds] * 1e9]
