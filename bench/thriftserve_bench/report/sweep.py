"""The report of `sweep`: figures of each point, what a reader must know of them, the table and the page.

SweepRun  -->  a point's last three windows  -->  PointFigures, remarks  -->  Markdown | terminal | DIR/README.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console

from thriftserve_bench import stats, tables
from thriftserve_bench.records.sweep import IN_A_ROW, OPEN, Point, SweepRun, SweepWindow
from thriftserve_bench.tables import NONE

#: A generator that used more than this part of its core, or wanted to, was what limited the rate.
BUSY_PART = 0.9
#: One call in a hundred sent later than this after it could have been sent: the generator did not keep its times.
MAX_LAG_US = 2000.0
#: Less than this part of the calls of an open loop answered in time: the server does not keep up with the rate.
ANSWERED_PART = 0.95

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


@dataclass(frozen=True)
class PointFigures:
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
    #: From Timing, or None if the answers carry none.
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


def used_windows(point: Point) -> list[SweepWindow]:
    """Return the windows that count: the last three with an answer."""
    return [window for window in point.windows if window.calls and window.elapsed_s][-IN_A_ROW:]


def point_figures(point: Point) -> PointFigures | None:
    """Return the figures of a point, or None if no call was answered."""
    windows = used_windows(point)
    if not windows:
        return None
    times = stats.merge_histograms(window.latency for window in windows)
    queue = stats.merge_histograms(window.queue for window in windows)
    compute = stats.merge_histograms(window.compute for window in windows)
    p50, p90, p99, p999, highest = (_quantile_ms(times, part) or 0.0 for part in (0.5, 0.9, 0.99, 0.999, 1.0))
    return PointFigures(
        calls_per_s=median(window.calls_per_s for window in windows),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=highest,
        cpu_us=median(window.server_cpu_s / window.calls for window in windows) * 1e6,
        client_cpu_us=median(sum(window.client_cpu_s) / window.calls for window in windows) * 1e6,
        client_busy=median(max(window.client_cpu_s) / window.elapsed_s for window in windows),
        queue_p50_ms=_quantile_ms(queue, 0.5),
        queue_p99_ms=_quantile_ms(queue, 0.99),
        compute_p50_ms=_quantile_ms(compute, 0.5),
        compute_p99_ms=_quantile_ms(compute, 0.99),
        batch_rows=median(window.mean_batch_rows for window in windows),
        rss_mib=max(window.rss_bytes for window in windows) / 2**20,
        uss_mib=max(window.uss_bytes for window in windows) / 2**20,
        calls=sum(window.calls for window in windows),
        failures=sum(window.failed for window in windows),
        unanswered=sum(window.unanswered for window in windows),
    )


def _quantile_ms(histogram: object, part: float) -> float | None:
    quantile_us = stats.quantile_us(histogram, part)
    return None if quantile_us is None else quantile_us / 1000


def bottleneck(windows: Sequence[SweepWindow], mode: str) -> str:
    """Return why the load generator, not the server, may have limited a point; empty if it did not."""
    if not windows:
        return ""
    if mode == OPEN:
        late_us = stats.quantile_us(stats.merge_histograms(window.lag for window in windows), 0.99) or 0.0
        return f"generator late: p99 {late_us / 1000:.1f} ms" if late_us > MAX_LAG_US else ""
    busy = median(max(window.client_cpu_s) / window.elapsed_s for window in windows)
    wanted = median(
        max(cpu + starved for cpu, starved in zip(window.client_cpu_s, window.client_starved_s, strict=True))
        / window.elapsed_s
        for window in windows
    )
    if busy > BUSY_PART:
        return f"generator at its limit: {busy:.0%} of a core"
    if wanted > BUSY_PART:
        return f"generator short of a core: had {busy:.0%}, wanted {wanted:.0%}"
    return ""


def keeps_up(point: Point) -> bool:
    """Return whether a server answers an open loop's calls as they arrive; True for a closed loop."""
    windows = used_windows(point)
    if point.setting.mode != OPEN or not windows:
        return bool(windows)
    arrived = sum(window.offered for window in windows)
    meant = point.setting.load * sum(window.elapsed_s for window in windows)
    # Three standard deviations of a Poisson process: so many fewer may arrive by chance.
    missing = max((1 - ANSWERED_PART) * meant, 3 * meant**0.5)
    return sum(window.calls for window in windows) >= ANSWERED_PART * arrived and meant - arrived <= missing


def remarks(point: Point) -> list[str]:
    """Return remarks that a reader needs beside a point's figures."""
    if point.failure:
        return [point.failure.splitlines()[0]]
    lines = [] if point.settled else [f"did not settle in {len(point.windows)} windows"]
    windows = used_windows(point)
    limit = bottleneck(windows, point.setting.mode)
    if limit:
        lines.append(limit)
    if not keeps_up(point):
        lines.append("server does not keep up")
    kinds: dict[str, int] = {}
    for window in windows:
        for kind, count in window.failures.items():
            kinds[kind] = kinds.get(kind, 0) + count
    lines += [f"{count} x {kind}" for kind, count in kinds.items()]
    unanswered = sum(window.unanswered for window in windows)
    if unanswered:
        lines.append(f"{unanswered} without an answer")
    return lines


def markdown(run: SweepRun) -> str:
    """Return the report as Markdown."""
    table = tables.markdown_rows(HEADINGS, map(_row, run.points), _LEFT)
    title = "# Sweep: throughput and latency against concurrency and offered rate"
    return f"{title}\n\n{tables.bullets(_preface(run))}\n\n{table}\n"


def show(run: SweepRun, console: Console) -> None:
    """Print most of the report, remarks below the table; the Markdown has every column."""
    for line in _preface(run):
        console.print(line, highlight=False)
    rows = [_row(point) for point in run.points]
    tables.show_table(
        console,
        [HEADINGS[place] for place in _SHOWN],
        [[row[place] for place in _SHOWN] for row in rows],
        left=_LEFT,
        wrap=(0,),  # only the server's name may wrap
        style=lambda number: "red" if run.points[number].failure else None,
    )
    for point in run.points:
        if remarks(point):
            console.print(f"{point.setting.title}: {'; '.join(remarks(point))}", highlight=False)


def write_page(run: SweepRun, directory: Path) -> Path:
    """Write the table and the plots (PNG and SVG) into a directory, which is created if it is missing.

    Returns:
        The page, DIR/README.md; it shows the plots as SVG.
    """
    # Brings matplotlib: only a page pays for its import.
    from thriftserve_bench.report.sweep_plots import write_plots

    drawn = [path for path in write_plots(run, directory) if path.suffix == ".svg"]
    page = directory / "README.md"
    page.write_text(markdown(run) + "".join(f"\n![{path.stem}]({path.name})\n" for path in drawn), encoding="utf-8")
    return page


def _preface(run: SweepRun) -> list[str]:
    settings = run.settings
    lines = [
        *tables.provenance(run),
        f"windows of {settings['seconds']:g} s until three agree within {settings['agree']:.0%}, "
        f"at most {settings['max_windows']}; figures from the last three",
        "CPU: user and system of all the server's processes, for each call",
        "closed loop (xN): N callers, each calls again once it is answered; open loop (N/s): Poisson arrivals, "
        "latency from the intended send time",
    ]
    if run.generator:
        lines.append(
            f"load generator alone: {run.generator['calls_per_s']:,.0f} tiny calls/s, "
            f"{run.generator['calls_per_core_s']:,.0f} for each second of its CPU "
            f"({tables.count(settings['generators'], 'process')})".replace("processs", "processes")
        )
    return lines + tables.cut_short(run)


def _row(point: Point) -> list[str]:
    setting = point.setting
    figures = point_figures(point)
    numbers = [NONE] * (len(HEADINGS) - 4) if figures is None else _numbers(figures)
    return [setting.variant.title, setting.payload, setting.load_text, *numbers, "; ".join(remarks(point))]


def _numbers(figures: PointFigures) -> list[str]:
    return [
        tables.number(figures.calls_per_s),
        *(_ms(value) for value in (figures.p50_ms, figures.p99_ms, figures.p999_ms, figures.max_ms)),
        _pair(figures.queue_p50_ms, figures.queue_p99_ms),
        _pair(figures.compute_p50_ms, figures.compute_p99_ms),
        f"{figures.cpu_us:,.0f}",
        f"{figures.client_busy:.0%}",
        f"{figures.rss_mib:,.0f}",
        f"{figures.uss_mib:,.0f}",
    ]


def _ms(value: float | None) -> str:
    """Write milliseconds with three digits at least."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _pair(first: float | None, second: float | None) -> str:
    return NONE if first is None else f"{_ms(first)} / {_ms(second)}"
