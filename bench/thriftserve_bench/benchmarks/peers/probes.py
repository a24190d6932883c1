"""What `peers` measures of ours alone: fairness, the cost of idle connections, overload.

a server of ours, alone  -->  fairness | idle | overload  -->  figures by name
"""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from thriftserve_bench import process_tree
from thriftserve_bench.benchmark import Bar
from thriftserve_bench.benchmarks.peers.running import LoadGenerators, RunningSystem, start
from thriftserve_bench.benchmarks.peers.systems import System
from thriftserve_bench.load.job_load import NET_WARM_UP_S, encoded_samples
from thriftserve_bench.load.overload import OverloadLoop
from thriftserve_bench.stats import quantile, window_figures
from thriftserve_bench.workloads.jobs import JOBS

T = TypeVar("T")

FAIR_CLIENTS, FAIR_WORKERS = 64, 2
_ACTIVE_CLIENTS, _IDLE_ROUNDS = 8, 3
_CAPACITY_CLIENTS, _OVERLOAD = 32, 2.0
_MIN_QUEUED, _MAX_QUEUED, _QUEUED_S = 8, 1000, 0.5
#: Full speed is back once a short window does this part of the capacity.
_FULL_SPEED, _SHORT_S, _RECOVERY_TIMEOUT_S = 0.9, 0.3, 30.0


@dataclass(frozen=True)
class ProbeSettings:
    """Which probes, and how large."""

    fairness: bool = False
    #: Idle connections; 0: none.
    idle: int = 0
    #: Seconds of twice the capacity; 0: none.
    overload_s: float = 0.0
    seconds: float = 2.0

    def of_job(self, jobs: Sequence[str], job: str) -> ProbeSettings:
        """Return those of one job: a connection's cost shows in the first, small requests; overload in the last."""
        first, last = job == jobs[0], job == jobs[-1]
        overload_s = self.overload_s if last else 0.0
        return replace(self, fairness=self.fairness and first, idle=self.idle if first else 0, overload_s=overload_s)


def probe(
    system: System, settings: ProbeSettings, job: str, model: Path, samples: Path, loads: LoadGenerators, bar: Bar
) -> dict[str, Any]:
    """Return the figures of a server type of ours, by the probe's name.

    Raises:
        ServerFailed: it does not start, or ends.
    """
    figures: dict[str, Any] = {}

    def measure(started: System, title: str, measure_on: Callable[[RunningSystem], T]) -> T:
        bar.say(f"{started.name}: {title}")
        running = start(started, job, model, samples, loads)
        try:
            return measure_on(running)
        finally:
            running.stop()

    if settings.fairness:
        two = replace(system, flags=(*system.flags, "--workers", str(FAIR_WORKERS)))
        figures["fairness"] = measure(two, "fairness", lambda running: fairness(running, settings.seconds))
    if settings.idle:
        figures["idle"] = measure(system, "idle", lambda running: idle(running, settings.idle, settings.seconds))
    if settings.overload_s:
        bound = queue_bound(measure(system, "capacity", lambda running: _rate(running, settings.seconds)))
        bounded = replace(system, flags=(*system.flags, "--max-queued", str(bound)))
        figures["overload"] = measure(
            bounded, "overload", lambda running: overload(running, job, samples, settings, bound)
        )
    return figures


def fairness(running: RunningSystem, seconds: float) -> dict[str, Any]:
    """Return the answers of the slowest and the fastest of many clients that stay connected."""
    counts = sorted(running.measure(FAIR_CLIENTS, seconds).per_client)
    return {
        "clients": len(counts),
        "slowest": counts[0],
        "median": counts[len(counts) // 2],
        "fastest": counts[-1],
        "slowest/fastest": counts[0] / max(1, counts[-1]),
        "per_client": counts,
    }


def idle(running: RunningSystem, connections: int, seconds: float) -> dict[str, Any]:
    """Return the active clients' median latency, without and with many connections that say nothing, in turns."""
    without, with_idle = [], []
    for _ in range(_IDLE_ROUNDS):
        without.append(_p50_us(running, seconds))
        with ExitStack() as stack:
            for _ in range(connections):
                stack.enter_context(socket.create_connection(("127.0.0.1", running.server.port), 10))
            with_idle.append(_p50_us(running, seconds))
    return {
        "connections": connections,
        "active clients": _ACTIVE_CLIENTS,
        "p50 us without": median(without),
        "p50 us with": median(with_idle),
        "with/without": median(with_idle) / median(without),
    }


def _p50_us(running: RunningSystem, seconds: float) -> float:
    figures = window_figures([running.measure(_ACTIVE_CLIENTS, seconds)])
    return figures.p50_us if figures else 0.0


def raise_descriptor_limit(wanted: int) -> None:
    """Raise the limit of descriptors for this process and its children by so many.

    Raises:
        OSError: the machine's limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + 512
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OSError(f"{needed} descriptors are needed and {hard} allowed: raise the limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def queue_bound(capacity: float) -> int:
    """Return a bound of the queue as an operator sets it: half a second's work, within the server's default.

    >>> queue_bound(170.0), queue_bound(40_000.0), queue_bound(2.0)
    (85, 1000, 8)
    """
    return int(max(_MIN_QUEUED, min(_MAX_QUEUED, capacity * _QUEUED_S)))


def overload(running: RunningSystem, job: str, samples: Path, settings: ProbeSettings, bound: int) -> dict[str, Any]:
    """Send twice the capacity for a while; return what is answered, what is refused, and what remains afterwards."""
    server = running.server
    capacity = _rate(running, settings.seconds)
    before = process_tree.memory(server.pid)
    loop = OverloadLoop(server.port, JOBS[job], encoded_samples(str(samples), job, running.system.protocol))
    arrivals = loop.run(capacity * _OVERLOAD, settings.overload_s)
    after = process_tree.memory(server.pid)
    back_s = _recovery_s(running, capacity)
    total = len(arrivals.answered_ms) + len(arrivals.refused_ms) + arrivals.failed + arrivals.not_sent
    answered_per_s = len(arrivals.answered_ms) / settings.overload_s
    return {
        "capacity/s": capacity,
        "offered/s": arrivals.rate,
        "queue bound": bound,
        "queue bound x service time ms": 1000 * bound / answered_per_s if answered_per_s else None,
        "answered/s": answered_per_s,
        "answered": len(arrivals.answered_ms),
        "answered p50 ms": _quantile(arrivals.answered_ms, 0.5),
        "answered p99 ms": _quantile(arrivals.answered_ms, 0.99),
        "refused share": len(arrivals.refused_ms) / max(1, total),
        "refused p99 ms": _quantile(arrivals.refused_ms, 0.99),
        "failed": arrivals.failed,
        "not sent": arrivals.not_sent,
        "reason": arrivals.reason or "none",
        "RSS MiB before": before.rss / 2**20,
        "RSS MiB after": after.rss / 2**20,
        "full speed after s": back_s,
    }


def _rate(running: RunningSystem, seconds: float) -> float:
    return running.measure(_CAPACITY_CLIENTS, seconds).calls_per_s


def _recovery_s(running: RunningSystem, capacity: float) -> float | None:
    """Return the seconds until a window at full speed began, or None if none did within the time-out."""
    began = time.monotonic()
    while time.monotonic() - began < _RECOVERY_TIMEOUT_S:
        window_began = time.monotonic()
        if _rate(running, _SHORT_S) >= _FULL_SPEED * capacity:
            # The window itself begins after its warm-up.
            return min(window_began - began + NET_WARM_UP_S, time.monotonic() - began)
    return None


def _quantile(values: list[float], part: float) -> float | None:
    counted = sorted((round(value * 1000), 1) for value in values)
    return quantile(counted, part) / 1000 if counted else None
