"""From windows to figures: what the table, the plots, `capacity` and `compare` go by.

Point  -->  its last three windows, the settled ones where it settled  -->  Figures, and what is to be said about them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from thriftserve_bench import stats
from thriftserve_bench.benchmarks.sweep.settle import IN_A_ROW, offered, rate
from thriftserve_bench.records.sweep import OPEN, Point, SweepWindow

#: A generator that used more than this part of its core, or wanted to, was what limited the rate.
BUSY_PART = 0.9
#: One call in a hundred sent later than this after it could have been sent: the generator did not keep its times.
MAX_LAG_US = 2000.0
#: Less than this part of the calls of an open loop answered in time: the server does not keep up with the rate.
KEPT_UP = 0.95


@dataclass(frozen=True)
class Figures:
    """A point in numbers. Rates and CPU are medians over windows, latencies come from all their calls together."""

    calls_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    #: Server's, user and system, all its processes.
    cpu_us: float
    client_cpu_us: float
    #: The busiest generator's CPU as a part of a core.
    client_busy: float
    #: From Timing; None where the answers carry none.
    queue_p50_ms: float | None
    queue_p99_ms: float | None
    compute_p50_ms: float | None
    compute_p99_ms: float | None
    batch_rows: float
    rss_mib: float
    uss_mib: float
    calls: int
    failures: int
    unanswered: int


def used(point: Point) -> list[SweepWindow]:
    """The windows that count: the last three with an answer."""
    return [one for one in point.windows if one.calls and one.elapsed_s][-IN_A_ROW:]


def figures(point: Point) -> Figures | None:
    """The figures of a point; None where no call was answered."""
    windows = used(point)
    if not windows:
        return None
    times = stats.merge_histograms(one.latency for one in windows)
    queue = stats.merge_histograms(one.queue for one in windows)
    compute = stats.merge_histograms(one.compute for one in windows)
    p50, p90, p99, p999, highest = (_ms(times, part) or 0.0 for part in (0.5, 0.9, 0.99, 0.999, 1.0))
    return Figures(
        calls_per_s=median(rate(one) for one in windows),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=highest,
        cpu_us=median(one.server_cpu_s / one.calls for one in windows) * 1e6,
        client_cpu_us=median(sum(one.client_cpu_s) / one.calls for one in windows) * 1e6,
        client_busy=median(max(one.client_cpu_s) / one.elapsed_s for one in windows),
        queue_p50_ms=_ms(queue, 0.5),
        queue_p99_ms=_ms(queue, 0.99),
        compute_p50_ms=_ms(compute, 0.5),
        compute_p99_ms=_ms(compute, 0.99),
        batch_rows=median(one.mean_batch_rows for one in windows),
        rss_mib=max(one.rss_bytes for one in windows) / 2**20,
        uss_mib=max(one.uss_bytes for one in windows) / 2**20,
        calls=sum(one.calls for one in windows),
        failures=sum(sum(one.failures.values()) for one in windows),
        unanswered=sum(one.unanswered for one in windows),
    )


def _ms(histogram: object, part: float) -> float | None:
    found = stats.quantile_us(histogram, part)
    return None if found is None else found / 1000


def bottleneck(windows: Sequence[SweepWindow], mode: str) -> str:
    """Why the load generator, not the server, may have limited a point; empty where it did not."""
    if not windows:
        return ""
    if mode == OPEN:
        late_us = stats.quantile_us(stats.merge_histograms(one.lag for one in windows), 0.99) or 0.0
        return f"generator late: p99 {late_us / 1000:.1f} ms" if late_us > MAX_LAG_US else ""
    busy = median(max(one.client_cpu_s) / one.elapsed_s for one in windows)
    wanted = median(
        max(cpu + starved for cpu, starved in zip(one.client_cpu_s, one.client_starved_s, strict=True)) / one.elapsed_s
        for one in windows
    )
    if busy > BUSY_PART:
        return f"generator at its limit: {busy:.0%} of a core"
    if wanted > BUSY_PART:
        return f"generator short of a core: had {busy:.0%}, wanted {wanted:.0%}"
    return ""


def keeps_up(point: Point) -> bool:
    """Whether a server answers an open loop's calls as they arrive; true for a closed loop, which never asks more."""
    windows = used(point)
    if point.setting.mode != OPEN or not windows:
        return bool(windows)
    arrived = sum(offered(one) for one in windows)
    meant = point.setting.load * sum(one.elapsed_s for one in windows)
    # Three standard deviations of a Poisson process: so many fewer may arrive by chance.
    missing = max((1 - KEPT_UP) * meant, 3 * meant**0.5)
    return sum(one.calls for one in windows) >= KEPT_UP * arrived and meant - arrived <= missing


def remarks(point: Point) -> list[str]:
    """What a reader has to know about a point's figures."""
    if point.failure:
        return [point.failure.splitlines()[0]]
    found = [] if point.settled else [f"did not settle in {len(point.windows)} windows"]
    windows = used(point)
    limit = bottleneck(windows, point.setting.mode)
    if limit:
        found.append(limit)
    if not keeps_up(point):
        found.append("server does not keep up")
    kinds: dict[str, int] = {}
    for one in windows:
        for kind, count in one.failures.items():
            kinds[kind] = kinds.get(kind, 0) + count
    found += [f"{count} x {kind}" for kind, count in kinds.items()]
    unanswered = sum(one.unanswered for one in windows)
    if unanswered:
        found.append(f"{unanswered} without an answer")
    return found
