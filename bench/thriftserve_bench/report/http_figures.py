"""From the windows of `http` to its figures, and whether the targets are met.

HttpRun  -->  Figures of each stack in a cell, Pair: ratio  |  milliseconds of each kind of body  -->  misses
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from thriftserve_bench.benchmarks.http.bodies import LISTS, STANDARD
from thriftserve_bench.benchmarks.http.stacks import OURS, PUBLISHED
from thriftserve_bench.records.http import AbWindow, Body, HttpRun

#: Ours does at least so many times the published stack's requests/s.
RATE_TARGET = 3.0
#: An image that is not text costs the gateway less, milliseconds of CPU.
IMAGE_TARGET_MS = 1.0
#: Bodies that this is for.
IMAGES = ("application/octet-stream", "image/jpeg")
#: JSON lists cost it less than so much of the standard library's json.
LISTS_TARGET = 0.5


@dataclass(frozen=True)
class Figures:
    """One stack at one concurrency: medians of the rounds; memory: the most."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float
    client_cpu_us: float
    pss_mib: float
    alone_mib: float
    failed: int


@dataclass(frozen=True)
class Pair:
    """Both stacks at one concurrency; None where one was not measured."""

    concurrency: int
    kept: bool
    ours: Figures | None
    published: Figures | None

    @property
    def ratio(self) -> float | None:
        """Requests/s, ours by the published stack's."""
        return self.ours.requests_per_s / self.published.requests_per_s if self.ours and self.published else None

    def misses(self) -> list[str]:
        """Targets that it misses, in words."""
        where = f"{self.concurrency} at a time{', connections kept' if self.kept else ''}"
        found = []
        if self.ours is not None and self.ours.failed:
            found.append(f"{where}: ours failed {self.ours.failed} requests")
        if self.ratio is not None and self.ratio < RATE_TARGET:
            found.append(f"{where}: {self.ratio:.2f} times the published stack's rate, wanted {RATE_TARGET:g}")
        return found


def figures(windows: Sequence[AbWindow]) -> Figures | None:
    """Of one stack in a cell; None where nothing was answered."""
    good = [one for one in windows if one.requests and one.elapsed_s]
    if not good:
        return None
    return Figures(
        requests_per_s=median((one.requests - one.failed) / one.elapsed_s for one in good),
        p50_ms=median(one.percentiles_ms[50] for one in good),
        p99_ms=median(one.percentiles_ms[99] for one in good),
        server_cpu_us=median(one.server_cpu_s / one.requests for one in good) * 1e6,
        client_cpu_us=median(one.client_cpu_s / one.requests for one in good) * 1e6,
        pss_mib=max(one.pss_bytes for one in good) / 2**20,
        alone_mib=max(one.alone_bytes for one in good) / 2**20,
        failed=sum(one.failed for one in windows),
    )


def pairs(run: HttpRun) -> list[Pair]:
    """Every cell, in the order of the run."""
    found = []
    for many, kept in dict.fromkeys((one.concurrency, one.keep_alive) for one in run.cells):
        sides = {
            one.stack: figures(one.windows) for one in run.cells if (one.concurrency, one.keep_alive) == (many, kept)
        }
        found.append(Pair(many, kept, sides.get(OURS), sides.get(PUBLISHED)))
    return found


def cpu_ms(body: Body) -> float | None:
    """CPU of a request, milliseconds: the median of the rounds; None where there was none."""
    good = [one.cpu_s / one.requests for one in body.windows if one.requests]
    return median(good) * 1e3 if good else None


def body_misses(run: HttpRun) -> list[str]:
    """Targets that bodies miss, in words."""
    found = []
    costs = {one.name: cpu_ms(one) for one in run.bodies}
    for name in IMAGES:
        cost = costs.get(name)
        if cost is not None and cost >= IMAGE_TARGET_MS:
            found.append(f"{name}: {cost:.2f} ms of the gateway's CPU, wanted less than {IMAGE_TARGET_MS:g}")
    lists, standard = costs.get(LISTS), costs.get(STANDARD)
    if lists is not None and standard is not None and lists >= LISTS_TARGET * standard:
        found.append(f"{LISTS}: {lists / standard:.2f} of {STANDARD}, wanted less than {LISTS_TARGET:g}")
    return found
