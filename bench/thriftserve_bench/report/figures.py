"""From windows to figures: what the table shows, and whether the targets are met.

Measured (windows of both sides)  -->  Figures of each side  -->  Comparison: ratios, misses
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from thriftserve_bench import stats
from thriftserve_bench.records.calls import APACHE, OURS, Cell, Measured, Window
from thriftserve_bench.workloads.payloads import PAYLOADS

#: Ours takes at most this part of Apache's server CPU for a large payload.
CPU_TARGET = 0.5


@dataclass(frozen=True)
class Figures:
    """One side of a cell. Rates and CPU are medians over the windows, latencies come from all calls together."""

    calls_per_s: float
    p50_us: float
    p99_us: float
    #: User and system, all processes of the server.
    cpu_us: float
    client_cpu_us: float
    rss_mib: float
    pss_mib: float
    calls: int
    failures: int


@dataclass(frozen=True)
class Comparison:
    """Both sides of a cell; None where a side answered no call."""

    cell: Cell
    ours: Figures | None
    apache: Figures | None

    @property
    def rate_ratio(self) -> float | None:
        """Requests/s, ours by Apache's: above 1 is faster."""
        return self.ours.calls_per_s / self.apache.calls_per_s if self.ours and self.apache else None

    @property
    def cpu_ratio(self) -> float | None:
        """Server CPU a request, ours by Apache's: below 1 is less."""
        return self.ours.cpu_us / self.apache.cpu_us if self.ours and self.apache else None

    def misses(self) -> list[str]:
        """Targets that it misses, in words."""
        if self.ours is None:
            return ["ours answered no call"]
        found = []
        if self.ours.failures:
            found.append(f"ours failed {self.ours.failures} calls")
        if self.rate_ratio is not None and self.rate_ratio < 1:
            found.append(f"requests/s {self.rate_ratio:.2f} of Apache's, wanted 1 or more")
        if PAYLOADS[self.cell.payload].large and self.cpu_ratio is not None and self.cpu_ratio > CPU_TARGET:
            found.append(f"server CPU {self.cpu_ratio:.2f} of Apache's, wanted {CPU_TARGET} or less")
        return found


def compare(measured: Measured) -> Comparison:
    """The figures of a cell."""
    return Comparison(measured.cell, figures(measured.windows(OURS)), figures(measured.windows(APACHE)))


def figures(windows: Iterable[Window]) -> Figures | None:
    """Figures of one side; None where no call was answered."""
    every = list(windows)
    good = [one for one in every if one.calls and one.elapsed_s]
    if not good:
        return None
    latencies: Counter[int] = Counter()
    for one in good:
        latencies.update(dict(one.latencies_us))
    counted = sorted(latencies.items())
    return Figures(
        calls_per_s=median(one.calls / one.elapsed_s for one in good),
        p50_us=stats.quantile(counted, 0.50),
        p99_us=stats.quantile(counted, 0.99),
        cpu_us=median(one.server_cpu_s / one.calls for one in good) * 1e6,
        client_cpu_us=median(one.client_cpu_s / one.calls for one in good) * 1e6,
        rss_mib=max(one.rss_bytes for one in good) / 2**20,
        pss_mib=max(one.pss_bytes for one in good) / 2**20,
        calls=sum(one.calls for one in every),
        failures=sum(one.failures for one in every),
    )
