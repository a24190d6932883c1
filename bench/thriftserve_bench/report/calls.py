"""The table of `calls`: ours, Apache's, ratio, in every cell, and the targets that are missed.

CallsRun  -->  Comparison of each cell  -->  Markdown | terminal
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from thriftserve_bench import tables
from thriftserve_bench.records.calls import APACHE, OURS, CallsRun, Cell, MeasuredCell
from thriftserve_bench.stats import WindowFigures, window_figures
from thriftserve_bench.tables import NONE, milliseconds, number, ratio
from thriftserve_bench.workloads.payloads import PAYLOADS

#: Ours takes at most this part of Apache's server CPU for a large payload.
CPU_TARGET = 0.5

HEADINGS = (
    "server type",
    "payload",
    "clients",
    "requests/s: ours",
    "Apache",
    "ratio",
    "p50 ms: ours",
    "Apache",
    "p99 ms: ours",
    "Apache",
    "CPU µs/request: ours",
    "Apache",
    "ratio",
    "RSS MiB: ours",
    "Apache",
    "failed calls: ours",
    "Apache",
)
_KEYS = (0, 1, 2)
_LEFT = (0, 1)
#: What the terminal shows in tables below each other: columns by their place in HEADINGS.
_PARTS = {
    "requests/s: ours, Apache's, ratio — server CPU µs/request: ours, Apache's, ratio": (3, 4, 5, 10, 11, 12),
    "p50 ms: ours, Apache's — p99 ms: ours, Apache's": (6, 7, 8, 9),
    "RSS MiB: ours, Apache's — failed calls: ours, Apache's": (13, 14, 15, 16),
}


@dataclass(frozen=True)
class Comparison:
    """Both sides of a cell, or None if a side answered no call."""

    cell: Cell
    ours: WindowFigures | None
    apache: WindowFigures | None

    @property
    def rate_ratio(self) -> float | None:
        """Requests/s, ours by Apache's: above 1 is faster."""
        return self.ours.calls_per_s / self.apache.calls_per_s if self.ours and self.apache else None

    @property
    def cpu_ratio(self) -> float | None:
        """Server CPU a request, ours by Apache's: below 1 is less."""
        return self.ours.cpu_us / self.apache.cpu_us if self.ours and self.apache else None

    def misses(self) -> list[str]:
        """Return the targets that it misses, in words."""
        if self.ours is None:
            return ["ours answered no call"]
        missed = []
        if self.ours.failures:
            missed.append(f"ours failed {self.ours.failures} calls")
        if self.rate_ratio is not None and self.rate_ratio < 1:
            missed.append(f"requests/s {self.rate_ratio:.2f} of Apache's, wanted 1 or more")
        if PAYLOADS[self.cell.payload].large and self.cpu_ratio is not None and self.cpu_ratio > CPU_TARGET:
            missed.append(f"server CPU {self.cpu_ratio:.2f} of Apache's, wanted {CPU_TARGET} or less")
        return missed


def compare(measured: MeasuredCell) -> Comparison:
    """Compare both sides of a cell."""
    return Comparison(measured.cell, *(window_figures(measured.windows(side)) for side in (OURS, APACHE)))


def markdown(run: CallsRun) -> str:
    """Return the report as Markdown."""
    table = tables.markdown_rows(HEADINGS, map(_row, _comparisons(run)), _LEFT)
    title = "# Calls: each server type against Apache's class of that name"
    return f"{title}\n\n{tables.bullets(_preface(run))}\n\n{table}\n\n{verdict(run)}\n"


def show(run: CallsRun, console: Console) -> None:
    """Print the report in three tables that fit 80 columns; cells that miss a target in red."""
    for line in _preface(run):
        console.print(line, highlight=False)
    comparisons = _comparisons(run)
    rows = [_row(comparison) for comparison in comparisons]
    styles = ["red" if comparison.misses() else None for comparison in comparisons]
    for title, columns in _PARTS.items():
        places = (*_KEYS, *columns)
        tables.show_table(
            console,
            [HEADINGS[place].rpartition(": ")[2] for place in places],
            [[row[place] for place in places] for row in rows],
            left=_LEFT,
            wrap=_KEYS,
            title=title,
            style=styles.__getitem__,
        )
    console.print(verdict(run), highlight=False)


def verdict(run: CallsRun) -> str:
    """Say which cells miss a target, and by how much."""
    comparisons = _comparisons(run)
    missed = [(comparison.cell, miss) for comparison in comparisons for miss in comparison.misses()]
    if not missed:
        return f"Every target is met in all {len(comparisons)} cells."
    lines = [
        f"- {cell.server_type}, {cell.payload}, {tables.count(cell.connections, 'client')}: {miss}"
        for cell, miss in missed
    ]
    cells = len({cell for cell, _ in missed})
    return f"Targets missed in {cells} of {len(comparisons)} cells:\n\n" + "\n".join(lines)


def _comparisons(run: CallsRun) -> list[Comparison]:
    return [compare(cell) for cell in run.cells if cell.ours and cell.apache]


def _preface(run: CallsRun) -> list[str]:
    settings = run.settings
    loads = [window.load_1m for cell in run.cells for window in (*cell.ours, *cell.apache)]
    return [
        *tables.provenance(run, loads),
        f"{settings['rounds']} rounds of {settings['seconds']:g} s, ours and Apache's in turns; framed binary; "
        f"{settings['threads']} threads, {settings['workers']} processes; {_placement(settings)}",
        "rates and CPU: medians of the rounds; latencies: all calls; CPU: user + system of all the server's processes",
        *tables.cut_short(run),
    ]


def _placement(settings: dict[str, Any]) -> str:
    cores = settings["cores"]
    if not cores["load"]:
        return "not bound to cores"
    awake = ", awake" if settings.get("awake") else ""
    return f"load generator on core {cores['load']}{awake}, servers on core {cores['servers']}"


def _row(comparison: Comparison) -> list[str]:
    def pair(text: Callable[[WindowFigures], str]) -> list[str]:
        return [text(side) if side else NONE for side in (comparison.ours, comparison.apache)]

    return [
        comparison.cell.server_type,
        comparison.cell.payload,
        str(comparison.cell.connections),
        *pair(lambda side: number(side.calls_per_s)),
        ratio(comparison.rate_ratio),
        *pair(lambda side: milliseconds(side.p50_us)),
        *pair(lambda side: milliseconds(side.p99_us)),
        *pair(lambda side: number(side.cpu_us)),
        ratio(comparison.cpu_ratio),
        *pair(lambda side: f"{side.rss_mib:.0f}"),
        *pair(lambda side: str(side.failures)),
    ]
