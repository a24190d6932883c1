"""How calls follow each other: the closed loop and the open one.

    closed:  answer  -->  the next call on that line           as many callers as lines, each waits for its answer
    open:    intended times  -->  any free line, or the queue  calls arrive whatever the server does

A closed loop asks less of a server that stalls, and so hides the stall: one long latency for each line, where
callers who knew nothing of each other would all have met it. In the open loop a call's time runs from the moment
at which it was meant to be sent, and every arrival during the stall is counted with its wait.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from thriftserve_bench.load.lines import Line, Lines, Tally

#: The open loop's first arrival counts from this long after its start.
_LEAD_NS = 1_000_000


def each_once(lines: Lines, limit_s: float, tally: Tally) -> None:
    """One call on each line."""
    closed_loop(lines, 0.0, limit_s, tally)


def closed_loop(lines: Lines, seconds: float, drain_s: float, tally: Tally) -> float:
    """Asks on every line as soon as it has its answer.

    Args:
        lines: all of them idle.
        seconds: no call begins later than that.
        drain_s: what has no answer so long after that is given up.
        tally: what comes of it.

    Returns:
        Seconds until the last answer.
    """
    began = last = now = time.perf_counter_ns()
    until = began + int(seconds * 1e9)
    limit = until + int(drain_s * 1e9)
    while lines.idle:
        lines.ask(lines.idle.popleft(), now, now)
        now = time.perf_counter_ns()
    while lines.busy:
        events = lines.events((limit - now) / 1e9)
        free = lines.answered(events, tally)
        now = time.perf_counter_ns()
        if free:
            last = now
        for line in free:
            if now < until:
                lines.ask(line, now, now)
                now = time.perf_counter_ns()
            else:
                lines.idle.append(line)
        if now >= limit:
            lines.abandon(tally)
    return (last - began) / 1e9


def open_loop(lines: Lines, times_ns: Sequence[int], seconds: float, drain_s: float, tally: Tally) -> float:
    """Sends each call at its time, or as soon after it as a line is free.

    Args:
        lines: all of them idle.
        times_ns: when calls are meant to be sent, ascending, nanoseconds from the start.
        seconds: the time in which they arrive.
        drain_s: what has no answer so long after that is given up, sent or not.
        tally: what comes of it; calls that were never sent count as unanswered.

    Returns:
        Seconds from the first answer to the last, at least `seconds`: of a server that keeps up it is the time in
        which calls arrived, however long each of them takes.
    """
    began = time.perf_counter_ns() + _LEAD_NS
    first = last = 0
    limit = began + int((seconds + drain_s) * 1e9)
    due = deque(began + one for one in times_ns)
    while (due or lines.busy) and (now := time.perf_counter_ns()) < limit:
        _send_due(lines, due, now, tally)
        wait_s = (min(due[0], limit) if due and lines.idle else limit) - time.perf_counter_ns()
        free = lines.answered(lines.events_at(wait_s / 1e9), tally)
        if free:
            last = free[-1].free_ns
            first = first or last
            lines.idle.extend(free)
    _give_up(lines, due, limit, tally)
    return max(seconds, (last - first) / 1e9)


def _send_due(lines: Lines, due: deque[int], now: int, tally: Tally) -> None:
    """Sends what is due while there are free lines."""
    idle = lines.idle
    while due and idle and due[0] <= now:
        line: Line = idle.popleft()
        intended = due.popleft()
        # A line that came free only after the intended time held the call up; the rest of the delay is this loop's.
        tally.waited += line.free_ns > intended
        tally.lags.append(now - max(intended, line.free_ns))
        lines.ask(line, intended, now)
        now = time.perf_counter_ns()


def _give_up(lines: Lines, due: deque[int], limit: int, tally: Tally) -> None:
    lines.abandon(tally)
    for intended in due:
        tally.unanswered += 1
        tally.waited += 1
        tally.latencies.append(max(0, limit - intended))
