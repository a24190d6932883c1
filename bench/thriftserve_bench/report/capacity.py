"""From a day's requests to nodes: the arithmetic, each step in words.

    page views a day  -->  requests/s at the peak  -->  with head-room  -->  (a sweep's results)  -->  workers, nodes

The rule of thumb: 80 % of a day's requests come in 40 % of the day. 5 million page views a day are 115.7 requests/s
then, and with two or three times that as head-room 231 to 347.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thriftserve_bench import tables
from thriftserve_bench.benchmark import fail, flag_of, floats
from thriftserve_bench.records.sweep import CLOSED, OPEN, Point, SweepRun, Variant
from thriftserve_bench.report.sweep import keeps_up, point_figures
from thriftserve_bench.run_file import NotARun

DAY_S = 86_400
_DESCRIPTION = """\
From page views or requests a day to requests/s at the peak, and, with the results of a sweep, to the nodes and
workers that hold that rate under a p99 target. Every step of the arithmetic is printed.
"""
_EPILOG = """\
thriftserve-bench capacity --page-views-per-day 5000000
thriftserve-bench capacity --requests-per-day 2e7 --headroom 2 --sweep sweep.json --p99-ms 50
"""


@dataclass(frozen=True)
class Demand:
    """The requests of a service in a day.

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
        """Return the arithmetic, a line a step."""
        busy, busy_s = self.requests * self.share, DAY_S * self.of_day
        lines = [f"{self.requests:,.0f} requests a day"]
        if self.requests_per_page != 1:
            lines = [f"{self.page_views:,.0f} page views a day x {self.requests_per_page:g} requests = {lines[0]}"]
        lines.append(f"{self.share:.0%} of them in {self.of_day:.0%} of the day: {busy:,.0f} in {busy_s:,.0f} s")
        lines.append(f"at the peak: {busy:,.0f} / {busy_s:,.0f} s = {self.peak_per_s:,.1f} requests/s")
        lines += [f"with head-room x{factor:g}: {self.peak_per_s * factor:,.1f} requests/s" for factor in headroom]
        return lines


@dataclass(frozen=True)
class SustainedRate:
    """The highest rate of a server under the p99 target, as it was measured; nothing is extrapolated."""

    variant: Variant
    payload: str
    #: Calls/s; 0: no point met the target.
    per_s: float
    p99_ms: float
    mode: str
    #: True if no higher load was measured: it may hold more.
    is_highest: bool

    @property
    def title(self) -> str:
        """The server and its payload."""
        return f"{self.variant.title}, {self.payload}"

    @property
    def workers(self) -> int:
        """Processes that run models on a node."""
        return max(1, self.variant.workers)

    def nodes(self, per_s: float) -> int | None:
        """Return how many such servers hold a rate, or None if one holds none."""
        return max(1, math.ceil(per_s / self.per_s - 1e-9)) if self.per_s else None


def sustained_rates(run: SweepRun, p99_ms: float) -> list[SustainedRate]:
    """Return for each server and payload of a sweep the rate that it held.

    The open loop counts. If a server was measured in a closed loop alone, that is used with a warning: its callers
    wait for their answers, which flatters it.
    """
    groups: dict[tuple[Variant, str], list[Point]] = {}
    for point in run.points:
        groups.setdefault((point.setting.variant, point.setting.payload), []).append(point)
    return [_sustained_rate(variant, payload, points, p99_ms) for (variant, payload), points in groups.items()]


def _sustained_rate(variant: Variant, payload: str, points: Sequence[Point], p99_ms: float) -> SustainedRate:
    mode = OPEN if any(point.setting.mode == OPEN for point in points) else CLOSED
    ascending = sorted((point for point in points if point.setting.mode == mode), key=lambda point: point.setting.load)
    best = SustainedRate(variant, payload, 0.0, 0.0, mode, is_highest=False)
    for point in ascending:
        figures = point_figures(point)
        if figures is None or figures.p99_ms > p99_ms or figures.failures or figures.unanswered or not keeps_up(point):
            # A higher load that meets the target again was lucky.
            break
        per_s = point.setting.load if mode == OPEN else figures.calls_per_s
        if per_s > best.per_s:
            best = SustainedRate(variant, payload, per_s, figures.p99_ms, mode, is_highest=point is ascending[-1])
    return best


def plan(run: SweepRun, p99_ms: float, rates: Sequence[float]) -> list[str]:
    """Say how many nodes and workers sustain each rate, for each server of a sweep; the arithmetic in words."""
    machine = run.machine
    lines = [f"a node as measured: {machine['cpu']}, {machine['cores']} cores; p99 of at most {p99_ms:g} ms"]
    for sustained in sustained_rates(run, p99_ms):
        per_s = sustained.per_s
        if not per_s:
            lines.append(f"{sustained.title}: no load that was measured met the target")
            continue
        caveat = " (closed loop: measure with --rate to be sure)" if sustained.mode == CLOSED else ""
        caveat += " (no higher load was measured: it may hold more)" if sustained.is_highest else ""
        lines.append(f"{sustained.title}: a node holds {per_s:,.1f}/s at p99 {sustained.p99_ms:.2f} ms{caveat}")
        for rate in rates:
            nodes = sustained.nodes(rate) or 0
            lines.append(
                f"  {rate:,.1f}/s / {per_s:,.1f}/s = {rate / per_s:.2f}: "
                f"{tables.count(nodes, 'node')}, {tables.count(nodes * sustained.workers, 'worker')}"
            )
    return lines


def add_to(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "capacity",
        help="from a day's page views to requests/s, workers and nodes",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demand = parser.add_mutually_exclusive_group(required=True)
    demand.add_argument("--page-views-per-day", type=float, metavar="N")
    demand.add_argument("--requests-per-day", type=float, metavar="N")
    parser.add_argument("--requests-per-page", type=float, default=1.0, metavar="N", help="of a page view (1)")
    parser.add_argument("--share", type=float, default=0.8, help="part of the requests at the busy time (0.8)")
    parser.add_argument("--of-day", type=float, default=0.4, help="part of the day that is the busy time (0.4)")
    parser.add_argument("--headroom", type=floats, default=(2.0, 3.0), metavar="X,…", help="times the peak (2,3)")
    parser.add_argument("--sweep", type=Path, metavar="FILE", help="what `thriftserve-bench sweep` wrote")
    parser.add_argument("--p99-ms", type=float, default=50.0, help="target that a node has to keep (50)")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Print the steps; return 1 if the sweep can't be read, 2 if a number is of no use."""
    if wrong := _wrong_number(flags):
        fail(wrong)
        return 2
    by_pages = flags.page_views_per_day is not None
    demand = Demand(
        flags.page_views_per_day if by_pages else flags.requests_per_day,
        flags.requests_per_page if by_pages else 1.0,
        flags.share,
        flags.of_day,
    )
    try:
        sweep = SweepRun.load(flags.sweep) if flags.sweep else None
    except (NotARun, OSError) as error:
        fail(error)
        return 1
    print("\n".join(demand.steps(flags.headroom)))
    if sweep is not None:
        rates = [demand.peak_per_s, *(demand.peak_per_s * factor for factor in flags.headroom)]
        print("", *plan(sweep, flags.p99_ms, rates), sep="\n")
    return 0


def _wrong_number(flags: argparse.Namespace) -> str:
    """Say what is wrong with the numbers; empty: nothing."""
    for name in ("page_views_per_day", "requests_per_day", "requests_per_page", "p99_ms"):
        value = getattr(flags, name)
        if value is not None and not value > 0:
            return f"{flag_of(name)} is {value:g}: it must be above 0"
    for name in ("share", "of_day"):
        if not 0 < getattr(flags, name) <= 1:
            return f"{flag_of(name)} is {getattr(flags, name):g}: it must be above 0 and at most 1"
    return ""
