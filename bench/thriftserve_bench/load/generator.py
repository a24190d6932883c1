"""A load generator of the sweep: closed and open loops of one call, in a process of its own.

    python -m thriftserve_bench.load.generator [CORES]

    stdin: one order a line  -->  open | window | close  -->  stdout: one line of JSON for each; that of a window is
    preceded by "ended", at the moment of its last answer

Requests are encoded beforehand; of the answers only a sample is decoded, after the window.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from thriftserve_bench import stats
from thriftserve_bench.load.connection import Connections
from thriftserve_bench.load.loops import GivenUp, Tally, closed_loop, open_connection, open_loop, poisson_ns
from thriftserve_bench.load.predict_calls import PredictCalls
from thriftserve_bench.load.protocols import thrift_length
from thriftserve_bench.machine import core_set
from thriftserve_bench.processes import print_json_line
from thriftserve_bench.records.sweep import OPEN

ENDED = "ended"
_SCHEDSTAT = Path("/proc/self/schedstat")


@dataclass(frozen=True)
class OpenOrder:
    """Connect, and call once on each connection."""

    port: int
    #: A file with the frame to send.
    frame: str
    connections: int
    #: For that first call.
    timeout_s: float


@dataclass(frozen=True)
class WindowOrder:
    """Measure a window on the open connections."""

    mode: str
    seconds: float
    #: How long after the window its last answers may come.
    drain_s: float
    #: Calls a second of an open loop.
    rate: float
    seed: int


@dataclass(frozen=True)
class Part:
    """What one generator measured in a window; see SweepWindow."""

    calls: int
    failures: dict[str, int]
    reason: str
    unanswered: int
    waited: int
    elapsed_s: float
    latency: str
    from_send: str
    lag: str
    queue: str
    compute: str
    batch_rows: int
    timed: int
    cpu_s: float
    starved_s: float


class Generator:
    """Carries out orders, one at a time."""

    def __init__(self) -> None:
        self._connections: Connections | None = None
        self._calls = PredictCalls(b"")

    def open(self, order: OpenOrder) -> str:
        """Open the connections and call once on each; return why that failed, or nothing."""
        self.close()
        self._calls = PredictCalls(Path(order.frame).read_bytes())
        self._connections = Connections(order.port, thrift_length)
        tally = Tally()
        try:
            for _ in range(order.connections):
                self._connections.idle.append(open_connection(self._connections, tally))
            closed_loop(self._connections, self._calls, tally, lambda _: False, order.timeout_s)
            tally.abandon(self._connections)
        except (OSError, GivenUp) as error:
            return f"{type(error).__name__}: {error}"
        if not tally.calls:
            return tally.reason or f"no answer within {order.timeout_s:g} s"
        return ""

    def window(self, order: WindowOrder, ended: Callable[[], None]) -> Part:
        """Measure a window; call `ended` when its last answer is there."""
        tally, connections = Tally(), self._connections
        if connections is None:
            tally.reason = "the connections were lost in an earlier window"
            ended()
            return self._part(order, tally, 0.0, 0.0, 0.0)
        times_ns = poisson_ns(order.rate, order.seconds, order.seed) if order.mode == OPEN else []
        self._calls.take_timings()
        cpu_s, starved_s, elapsed_s = -time.process_time(), -_starved_s(), 0.0
        began_ns = time.perf_counter_ns()
        until_ns = began_ns + int(order.seconds * 1e9)
        try:
            if order.mode == OPEN:
                elapsed_s = open_loop(connections, self._calls, tally, times_ns, order.seconds, order.drain_s)
            else:
                elapsed_s = closed_loop(connections, self._calls, tally, lambda now: now < until_ns, order.drain_s)
                tally.abandon(connections)
        except (OSError, GivenUp) as error:
            self.close()
            tally.reason = f"{type(error).__name__}: {error}"
            elapsed_s = (time.perf_counter_ns() - began_ns) / 1e9
        cpu_s, starved_s = cpu_s + time.process_time(), starved_s + _starved_s()
        ended()
        return self._part(order, tally, elapsed_s, cpu_s, starved_s)

    def _part(self, order: WindowOrder, tally: Tally, elapsed_s: float, cpu_s: float, starved_s: float) -> Part:
        timings = self._calls.take_timings()
        is_open = order.mode == OPEN
        return Part(
            calls=tally.calls,
            failures=dict(tally.failures),
            reason=tally.reason,
            unanswered=tally.unanswered,
            waited=tally.waited,
            elapsed_s=elapsed_s,
            latency=_encode_ns(tally.latencies),
            from_send=_encode_ns(tally.from_send if is_open else ()),
            lag=_encode_ns(tally.lags),
            queue=_encode_us(timing.queue_us for timing in timings),
            compute=_encode_us(timing.compute_us for timing in timings),
            batch_rows=sum(timing.batch_size for timing in timings),
            timed=len(timings),
            cpu_s=cpu_s,
            starved_s=starved_s,
        )

    def close(self) -> None:
        """Close the connections."""
        if self._connections is not None:
            self._connections.close()
            self._connections = None


def _starved_s() -> float:
    """Return the seconds in which this process was runnable without a core; 0 if the kernel doesn't count them."""
    try:
        return int(_SCHEDSTAT.read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _encode_ns(times_ns: Iterable[int]) -> str:
    return stats.encode_histogram(stats.histogram_ns(times_ns))


def _encode_us(times_us: Iterable[int]) -> str:
    return stats.encode_histogram(stats.histogram_us(times_us))


def carry_out_orders(next_line: Callable[[], str]) -> None:
    """Carry out orders until there are no more."""
    generator = Generator()
    while line := next_line():
        kind, order = json.loads(line)
        if kind == "open":
            print_json_line({"failure": generator.open(OpenOrder(**order))})
        elif kind == "window":
            print_json_line(asdict(generator.window(WindowOrder(**order), lambda: print_json_line(ENDED))))
        else:
            generator.close()
            print_json_line({})
        gc.collect()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, core_set(sys.argv[1]))
    gc.disable()  # nothing here makes cycles while it measures
    carry_out_orders(sys.stdin.readline)
