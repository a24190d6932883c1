"""From a day's requests to nodes: the arithmetic, each step in words.

    page views a day  -->  requests/s at the peak  -->  with head-room  -->  (a sweep's results)  -->  workers, nodes

The rule of thumb: 80 % of a day's requests come in 40 % of the day. 5 million page views a day are 115.7 requests/s
then, and with two or three times that as head-room 231 to 347.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from thriftserve_bench.records.sweep import CLOSED, OPEN, Point, SweepRun, Variant
from thriftserve_bench.report.sweep_figures import figures, keeps_up

DAY_S = 86_400


@dataclass(frozen=True)
class Demand:
    """What is asked of a service in a day.

    Attributes:
        page_views: a day; or requests, with `requests_per_page` 1.
        requests_per_page: calls that one page view makes.
        share: part of the requests that comes at the busy time.
        of_day: part of the day that the busy time is.
    """

    page_views: float
    requests_per_page: float = 1.0
    share: float = 0.8
    of_day: float = 0.4

    @property
    def requests(self) -> float:
        """Requests a day."""
        return self.page_views * self.requests_per_page

    @property
    def peak_per_s(self) -> float:
        """Requests/s in the busy time."""
        return self.requests * self.share / (DAY_S * self.of_day)

    def steps(self, headroom: Sequence[float]) -> list[str]:
        """The arithmetic, a line a step."""
        busy, busy_s = self.requests * self.share, DAY_S * self.of_day
        lines = [f"{self.requests:,.0f} requests a day"]
        if self.requests_per_page != 1:
            lines = [f"{self.page_views:,.0f} page views a day x {self.requests_per_page:g} requests = {lines[0]}"]
        lines.append(f"{self.share:.0%} of them in {self.of_day:.0%} of the day: {busy:,.0f} in {busy_s:,.0f} s")
        lines.append(f"at the peak: {busy:,.0f} / {busy_s:,.0f} s = {self.peak_per_s:,.1f} requests/s")
        lines += [f"with head-room x{one:g}: {self.peak_per_s * one:,.1f} requests/s" for one in headroom]
        return lines


@dataclass(frozen=True)
class Held:
    """The highest rate that a server held under the p99 target, as it was measured; nothing is extrapolated."""

    variant: Variant
    payload: str
    #: Calls/s; 0: no point met the target.
    per_s: float
    p99_ms: float
    mode: str
    #: True where no higher load was measured: it may hold more.
    is_highest: bool

    @property
    def title(self) -> str:
        """The server and what it was asked."""
        return f"{self.variant.title}, {self.payload}"

    @property
    def workers(self) -> int:
        """Processes that run models on a node."""
        return max(1, self.variant.workers)

    def nodes(self, per_s: float) -> int | None:
        """How many such servers hold a rate; None where one holds none."""
        return max(1, math.ceil(per_s / self.per_s - 1e-9)) if self.per_s else None


def held(run: SweepRun, p99_ms: float) -> list[Held]:
    """For each server and payload of a sweep the rate that it held.

    The open loop is what counts. Where a server was measured in a closed loop alone, that is taken and says so: its
    callers wait for their answers, so it flatters.
    """
    groups: dict[tuple[Variant, str], list[Point]] = {}
    for point in run.points:
        groups.setdefault((point.setting.variant, point.setting.payload), []).append(point)
    return [_held(variant, payload, points, p99_ms) for (variant, payload), points in groups.items()]


def _held(variant: Variant, payload: str, points: Sequence[Point], p99_ms: float) -> Held:
    mode = OPEN if any(one.setting.mode == OPEN for one in points) else CLOSED
    ascending = sorted((one for one in points if one.setting.mode == mode), key=lambda one: one.setting.load)
    best = Held(variant, payload, 0.0, 0.0, mode, is_highest=False)
    for point in ascending:
        found = figures(point)
        if found is None or found.p99_ms > p99_ms or found.failures or found.unanswered or not keeps_up(point):
            # What is measured above a load that was too much has been lucky.
            break
        per_s = point.setting.load if mode == OPEN else found.calls_per_s
        if per_s > best.per_s:
            best = Held(variant, payload, per_s, found.p99_ms, mode, is_highest=point is ascending[-1])
    return best


def plan(run: SweepRun, p99_ms: float, rates: Sequence[float]) -> list[str]:
    """How many nodes and workers hold each rate, for each server of a sweep; the arithmetic in words."""
    told = run.machine
    lines = [f"a node as measured: {told['cpu']}, {told['cores']} cores; p99 of at most {p99_ms:g} ms"]
    for one in held(run, p99_ms):
        if not one.per_s:
            lines.append(f"{one.title}: no load that was measured met the target")
            continue
        lines.append(f"{one.title}: a node holds {one.per_s:,.1f}/s at p99 {one.p99_ms:.2f} ms{_caveat(one)}")
        for rate in rates:
            nodes = one.nodes(rate) or 0
            lines.append(
                f"  {rate:,.1f}/s / {one.per_s:,.1f}/s = {rate / one.per_s:.2f}: "
                f"{_count(nodes, 'node')}, {_count(nodes * one.workers, 'worker')}"
            )
    return lines


def _caveat(one: Held) -> str:
    said = " (closed loop: measure with --rate to be sure)" if one.mode == CLOSED else ""
    return said + (" (no higher load was measured: it may hold more)" if one.is_highest else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
