"""What only ours is asked: is everybody served alike, do idle connections cost, what does overload do.

a server of ours, alone  -->  fairness | idle | overload  -->  figures by name
"""

from __future__ import annotations

import resource
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TypeVar

from thriftserve_bench import process_tree
from thriftserve_bench.benchmarks.peers.running import Loads, Running, start
from thriftserve_bench.benchmarks.peers.systems import Contestant
from thriftserve_bench.load.marks import NET_WARM_UP_S
from thriftserve_bench.load.open_loop import OpenLoop
from thriftserve_bench.load.peers_load import questions
from thriftserve_bench.report.figures import figures
from thriftserve_bench.stats import quantile
from thriftserve_bench.workloads.jobs import JOBS

T = TypeVar("T")

FAIR_CLIENTS, FAIR_WORKERS = 64, 2
_ACTIVE_CLIENTS, _IDLE_ROUNDS = 8, 3
_CAPACITY_CLIENTS, _OVERLOAD = 32, 2.0
_LEAST_WAITING, _MOST_WAITING, _WAITING_S = 8, 1000, 0.5
#: Full speed is back once a short window does this part of the capacity.
_FULL_SPEED, _LOOK_S, _RECOVERY_TIMEOUT_S = 0.9, 0.3, 30.0


@dataclass(frozen=True)
class ProbeSettings:
    """Which of them, and how large."""

    fairness: bool = False
    #: Idle connections; 0: not asked for.
    idle: int = 0
    #: Seconds of twice the capacity; 0: not asked for.
    overload_s: float = 0.0
    seconds: float = 2.0

    def on(self, jobs: Sequence[str], job: str) -> ProbeSettings:
        """Those of one job: what a connection costs shows in the first, small requests; overload in the last."""
        first, last = job == jobs[0], job == jobs[-1]
        overload_s = self.overload_s if last else 0.0
        return replace(self, fairness=self.fairness and first, idle=self.idle if first else 0, overload_s=overload_s)


class Said(Protocol):
    """Who is told what is being done."""

    def say(self, text: str) -> None:
        """Tells it."""


def probe(
    one: Contestant, settings: ProbeSettings, job: str, model: Path, pool: Path, loads: Loads, progress: Said
) -> dict[str, Any]:
    """The figures of a server type of ours, by the probe's name.

    Raises:
        ServerFailed: it does not start, or ends.
    """
    found: dict[str, Any] = {}

    def on(contestant: Contestant, what: str, ask: Callable[[Running], T]) -> T:
        progress.say(f"{contestant.name}: {what}")
        running = start(contestant, job, model, pool, Path(sys.executable), loads.of(contestant))
        try:
            return ask(running)
        finally:
            running.stop()

    if settings.fairness:
        two = replace(one, flags=(*one.flags, "--workers", str(FAIR_WORKERS)))
        found["fairness"] = on(two, "fairness", lambda running: fairness(running, settings.seconds))
    if settings.idle:
        found["idle"] = on(one, "idle", lambda running: idle(running, settings.idle, settings.seconds))
    if settings.overload_s:
        waiting = queue_bound(on(one, "carried", lambda running: _rate(running, settings.seconds)))
        bounded = replace(one, flags=(*one.flags, "--max-queued", str(waiting)))
        found["overload"] = on(bounded, "overload", lambda running: overload(running, job, pool, settings, waiting))
    return found


def fairness(running: Running, seconds: float) -> dict[str, Any]:
    """Answers of the slowest and the fastest of many clients that stay connected."""
    counts = sorted(running.measure(FAIR_CLIENTS, seconds).per_client)
    return {
        "clients": len(counts),
        "slowest": counts[0],
        "median": counts[len(counts) // 2],
        "fastest": counts[-1],
        "slowest/fastest": counts[0] / max(1, counts[-1]),
        "per_client": counts,
    }


def idle(running: Running, connections: int, seconds: float) -> dict[str, Any]:
    """The active clients' median latency, without and with many connections that say nothing, in turns."""
    without, beside = [], []
    for _ in range(_IDLE_ROUNDS):
        without.append(_p50_us(running, seconds))
        with ExitStack() as stack:
            for _ in range(connections):
                stack.enter_context(socket.create_connection(("127.0.0.1", running.server.port), 10))
            beside.append(_p50_us(running, seconds))
    return {
        "connections": connections,
        "active clients": _ACTIVE_CLIENTS,
        "p50 us without": median(without),
        "p50 us with": median(beside),
        "with/without": median(beside) / median(without),
    }


def _p50_us(running: Running, seconds: float) -> float:
    found = figures([running.measure(_ACTIVE_CLIENTS, seconds)])
    return found.p50_us if found else 0.0


def raise_descriptor_limit(wanted: int) -> None:
    """Lets this process, and those it starts, have so many descriptors more.

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
    """Requests that may wait, as an operator sets it: half a second's work, within what the server's default allows.

    >>> queue_bound(170.0), queue_bound(40_000.0), queue_bound(2.0)
    (85, 1000, 8)
    """
    return int(max(_LEAST_WAITING, min(_MOST_WAITING, capacity * _WAITING_S)))


def overload(running: Running, job: str, pool: Path, settings: ProbeSettings, waiting: int) -> dict[str, Any]:
    """Twice what it carries, for a while: what is answered, what refused, what it leaves behind."""
    server = running.server
    capacity = _rate(running, settings.seconds)
    before = process_tree.memory(server.pid)
    loop = OpenLoop(server.port, JOBS[job], questions(str(pool), job, running.contestant.dialect))
    found = loop.run(capacity * _OVERLOAD, settings.overload_s)
    after = process_tree.memory(server.pid)
    back_s = _recovery_s(running, capacity)
    total = len(found.answered_ms) + len(found.refused_ms) + found.failed + found.not_sent
    answered_per_s = len(found.answered_ms) / settings.overload_s
    return {
        "capacity/s": capacity,
        "offered/s": found.rate,
        "queue bound": waiting,
        "queue bound x service time ms": 1000 * waiting / answered_per_s if answered_per_s else None,
        "answered/s": answered_per_s,
        "answered": len(found.answered_ms),
        "answered p50 ms": _quantile(found.answered_ms, 0.5),
        "answered p99 ms": _quantile(found.answered_ms, 0.99),
        "refused share": len(found.refused_ms) / max(1, total),
        "refused p99 ms": _quantile(found.refused_ms, 0.99),
        "failed": found.failed,
        "not sent": found.not_sent,
        "reason": found.reason or "none",
        "RSS MiB before": before.rss / 2**20,
        "RSS MiB after": after.rss / 2**20,
        "full speed after s": back_s,
    }


def _rate(running: Running, seconds: float) -> float:
    window = running.measure(_CAPACITY_CLIENTS, seconds)
    return window.calls / window.elapsed_s if window.elapsed_s else 0.0


def _recovery_s(running: Running, capacity: float) -> float | None:
    """Seconds until a window at full speed began, its warm-up included; None: there was none within the time-out."""
    began = time.monotonic()
    while time.monotonic() - began < _RECOVERY_TIMEOUT_S:
        looked = time.monotonic()
        if _rate(running, _LOOK_S) >= _FULL_SPEED * capacity:
            # The look itself begins after its warm-up.
            return min(looked - began + NET_WARM_UP_S, time.monotonic() - began)
    return None


def _quantile(values: list[float], part: float) -> float | None:
    counted = sorted((round(one * 1000), 1) for one in values)
    return quantile(counted, part) / 1000 if counted else None
