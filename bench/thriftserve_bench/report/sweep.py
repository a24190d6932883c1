"""The table of a sweep, one row a point.

FILE.json  -->  SweepRun  -->  Figures of each point  -->  Markdown | terminal
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from thriftserve_bench.records.sweep import CLOSED, Point, SweepRun
from thriftserve_bench.report.sweep_figures import Figures, figures, remarks

HEADINGS = (
    "server",
    "payload",
    "load",
    "calls/s",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "max ms",
    "queue p50/p99 ms",
    "compute p50/p99 ms",
    "CPU µs",
    "client core",
    "RSS MiB",
    "USS MiB",
    "remarks",
)
_LEFT = (0, 1, 2, len(HEADINGS) - 1)
#: What a terminal has room for.
_SHOWN = (0, 1, 2, 3, 4, 5, 7, 10)
_NONE = "–"


def table(run: SweepRun) -> str:
    """The whole report as Markdown."""
    rule = ["---" if at in _LEFT else "---:" for at in range(len(HEADINGS))]
    rows = "\n".join("| " + " | ".join(row) + " |" for row in (HEADINGS, rule, *map(_row, run.points)))
    lines = "\n".join(f"- {line}" for line in preface(run))
    return f"# Sweep: throughput and latency against concurrency and offered rate\n\n{lines}\n\n{rows}\n"


def show(run: SweepRun, console: Console) -> None:
    """The most of it on a terminal, remarks below the table; the Markdown has every column."""
    drawn = Table(header_style="bold", box=SIMPLE, padding=(0, 1, 0, 0))
    for at in _SHOWN:
        # Only the server's name may wrap.
        drawn.add_column(HEADINGS[at], justify="left" if at in _LEFT else "right", no_wrap=at > 0)
    for point in run.points:
        row = _row(point)
        drawn.add_row(*(row[at] for at in _SHOWN), style="red" if point.failure else None)
    for line in preface(run):
        console.print(line, highlight=False)
    console.print(drawn)
    for point in run.points:
        if remarks(point):
            console.print(f"{point.setting.title}: {'; '.join(remarks(point))}", highlight=False)


def preface(run: SweepRun) -> list[str]:
    """What the figures were measured on and how."""
    told, settings = run.machine, run.settings
    lines = [
        f"{told['cpu']}, {told['cores']} cores, {told['kernel']}; "
        + ", ".join(f"{name} {version}" for name, version in run.versions.items())
        + f"; commit {run.commit}; began {run.began}",
        f"windows of {settings['seconds']:g} s until three agree within {settings['agree']:.0%}, "
        f"at most {settings['max_windows']}; figures from the last three",
        "CPU: user and system of all the server's processes, for each call",
        "closed loop (xN): N callers, each asks again once it is answered; open loop (N/s): Poisson arrivals, "
        "latency from the intended send time",
    ]
    if run.generator:
        lines.append(
            f"load generator alone: {run.generator['calls_per_s']:,.0f} tiny calls/s, "
            f"{run.generator['calls_per_core_s']:,.0f} for each second of its CPU ({settings['generators']} process"
            + ("es)" if settings["generators"] > 1 else ")")
        )
    if run.cut_short:
        lines.append("stopped before its end")
    return lines


def _row(point: Point) -> list[str]:
    setting = point.setting
    load = f"x{setting.connections}" if setting.mode == CLOSED else f"{setting.load:g}/s"
    found = figures(point)
    numbers = [_NONE] * (len(HEADINGS) - 4) if found is None else _numbers(found)
    return [setting.variant.title, setting.payload, load, *numbers, "; ".join(remarks(point))]


def _numbers(found: Figures) -> list[str]:
    return [
        f"{found.calls_per_s:,.0f}" if found.calls_per_s >= 100 else f"{found.calls_per_s:.1f}",
        *(milliseconds(one) for one in (found.p50_ms, found.p99_ms, found.p999_ms, found.max_ms)),
        _pair(found.queue_p50_ms, found.queue_p99_ms),
        _pair(found.compute_p50_ms, found.compute_p99_ms),
        f"{found.cpu_us:,.0f}",
        f"{found.client_busy:.0%}",
        f"{found.rss_mib:,.0f}",
        f"{found.uss_mib:,.0f}",
    ]


def milliseconds(value: float | None) -> str:
    """Three digits at least."""
    if value is None:
        return _NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _pair(first: float | None, second: float | None) -> str:
    values: Sequence[float | None] = (first, second)
    return _NONE if first is None else " / ".join(map(milliseconds, values))
