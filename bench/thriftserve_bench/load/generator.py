"""A load generator: a process of its own, the same for every server.

    python -m thriftserve_bench.load.generator [CORES]

    stdin: one order a line  -->  open | window | close  -->  stdout: one line of JSON for each; a window's has "ended"
    before it, at the moment at which its last answer was there

Questions are encoded beforehand; of the answers only a sample is decoded, and that after the window.
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
from typing import Any

from thriftserve_bench import stats
from thriftserve_bench.load.arrivals import poisson_ns
from thriftserve_bench.load.calls_loops import GivenUp
from thriftserve_bench.load.lines import Lines, Tally
from thriftserve_bench.load.predict_call import FrameQuestion, timing_of
from thriftserve_bench.load.sweep_loops import closed_loop, each_once, open_loop
from thriftserve_bench.machine import core_set
from thriftserve_bench.records.sweep import OPEN

ENDED = "ended"
_CONNECT_TIMEOUT_S = 10.0
_SCHEDSTAT = Path("/proc/self/schedstat")


@dataclass(frozen=True)
class OpenOrder:
    """Connects, and calls once on each connection."""

    port: int
    #: A file with the frame to send.
    frame: str
    connections: int
    #: For that first call, and how long after a window its last answers may come.
    timeout_s: float


@dataclass(frozen=True)
class WindowOrder:
    """Measures a window on the open connections."""

    mode: str
    seconds: float
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
        self._lines: Lines | None = None

    def open(self, order: OpenOrder) -> str:
        """Opens the connections and calls once on each; returns why that failed, or nothing."""
        self.close()
        self._lines = Lines(order.port, FrameQuestion(Path(order.frame).read_bytes()), _CONNECT_TIMEOUT_S)
        tally = Tally()
        try:
            self._lines.open(order.connections)
            each_once(self._lines, order.timeout_s, tally)
        except (OSError, GivenUp) as error:
            return f"{type(error).__name__}: {error}"
        if not tally.calls:
            return tally.reason or f"no answer within {order.timeout_s:g} s"
        return ""

    def window(self, order: WindowOrder, ended: Callable[[], None]) -> Part:
        """Measures one window; `ended` is called when its last answer is there."""
        tally = Tally()
        lines = self._lines
        if lines is None:
            tally.reason = "the connections were lost in an earlier window"
            ended()
            return _part(order, tally, 0.0, 0.0, 0.0)
        times_ns = poisson_ns(order.rate, order.seconds, order.seed) if order.mode == OPEN else []
        cpu_s, starved_s, elapsed_s = -time.process_time(), -_starved_s(), 0.0
        began = time.perf_counter()
        try:
            if order.mode == OPEN:
                elapsed_s = open_loop(lines, times_ns, order.seconds, order.drain_s, tally)
            else:
                elapsed_s = closed_loop(lines, order.seconds, order.drain_s, tally)
        except (OSError, GivenUp) as error:
            self.close()
            tally.reason = f"{type(error).__name__}: {error}"
            elapsed_s = time.perf_counter() - began
        cpu_s, starved_s = cpu_s + time.process_time(), starved_s + _starved_s()
        ended()
        return _part(order, tally, elapsed_s, cpu_s, starved_s)

    def close(self) -> None:
        """Closes the connections."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None


def _starved_s() -> float:
    """Seconds in which this process could have run, but had no core; 0 where the kernel doesn't count them."""
    try:
        return int(_SCHEDSTAT.read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _part(order: WindowOrder, tally: Tally, elapsed_s: float, cpu_s: float, starved_s: float) -> Part:
    timings = [found for message in tally.samples if (found := timing_of(message)) is not None]
    is_open = order.mode == OPEN
    return Part(
        calls=tally.calls,
        failures=dict(tally.failures),
        reason=tally.reason,
        unanswered=tally.unanswered,
        waited=tally.waited,
        elapsed_s=elapsed_s,
        latency=_text(tally.latencies),
        from_send=_text(tally.from_send if is_open else ()),
        lag=_text(tally.lags),
        queue=stats.encode_histogram(stats.histogram_us(one.queue_us for one in timings)),
        compute=stats.encode_histogram(stats.histogram_us(one.compute_us for one in timings)),
        batch_rows=sum(one.batch_size for one in timings),
        timed=len(timings),
        cpu_s=cpu_s,
        starved_s=starved_s,
    )


def _text(times_ns: Iterable[int]) -> str:
    return stats.encode_histogram(stats.histogram_ns(times_ns))


def serve_orders(next_line: Callable[[], str]) -> None:
    """Carries out orders until there are no more."""
    generator = Generator()
    while line := next_line():
        kind, order = json.loads(line)
        if kind == "open":
            _say({"failure": generator.open(OpenOrder(**order))})
        elif kind == "window":
            _say(asdict(generator.window(WindowOrder(**order), lambda: _say(ENDED))))
        else:
            generator.close()
            _say({})
        gc.collect()


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, core_set(sys.argv[1]))
    gc.disable()  # nothing here makes cycles while it measures
    serve_orders(sys.stdin.readline)
