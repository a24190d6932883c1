"""The table of a run: ours, Apache's, ratio, in every cell.

FILE.json  -->  Run  -->  Comparison for each cell  -->  Markdown | terminal
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from thriftserve_bench.records.calls import Run
from thriftserve_bench.report.figures import Comparison, Figures, compare

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
_KEYS = 3
_LEFT = 2
#: What the terminal shows under each other: columns by their place in HEADINGS.
_PARTS = {
    "requests/s: ours, Apache's, ratio — server CPU µs/request: ours, Apache's, ratio": (3, 4, 5, 10, 11, 12),
    "p50 ms: ours, Apache's — p99 ms: ours, Apache's": (6, 7, 8, 9),
    "RSS MiB: ours, Apache's — failed calls: ours, Apache's": (13, 14, 15, 16),
}
_NONE = "–"


def markdown(run: Run) -> str:
    """The whole report as Markdown."""
    rows = [_row(one) for one in _comparisons(run)]
    rule = ["---"] * _LEFT + ["---:"] * (len(HEADINGS) - _LEFT)
    table = "\n".join("| " + " | ".join(row) + " |" for row in (HEADINGS, rule, *rows))
    lines = "\n".join(f"- {line}" for line in _preface(run))
    return f"# Calls: each server type against Apache's class of that name\n\n{lines}\n\n{table}\n\n{verdict(run)}\n"


def show(run: Run, console: Console) -> None:
    """The same on a terminal, in three tables that fit 80 columns; cells that miss a target in red."""
    for line in _preface(run):
        console.print(line, highlight=False)
    for title, columns in _PARTS.items():
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
        for at in (*range(_KEYS), *columns):
            table.add_column(HEADINGS[at].rpartition(": ")[2], justify="left" if at < _LEFT else "right")
        for one in _comparisons(run):
            row = _row(one)
            table.add_row(*(row[at] for at in (*range(_KEYS), *columns)), style="red" if one.misses() else None)
        console.print(table)
    console.print(verdict(run), highlight=False)


def verdict(run: Run) -> str:
    """Which cells miss a target, and by how much."""
    comparisons = _comparisons(run)
    missed = [(one, miss) for one in comparisons for miss in one.misses()]
    if not missed:
        return f"Every target is met in all {len(comparisons)} cells."
    lines = [
        f"- {one.cell.server_type}, {one.cell.payload}, {_clients(one.cell.connections)}: {miss}"
        for one, miss in missed
    ]
    return f"Targets missed in {len({one.cell for one, _ in missed})} of {len(comparisons)} cells:\n\n" + "\n".join(
        lines
    )


def _comparisons(run: Run) -> list[Comparison]:
    return [compare(one) for one in run.cells if one.ours and one.apache]


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _preface(run: Run) -> list[str]:
    told, settings = run.machine, run.settings
    loads = [window.load_1m for cell in run.cells for window in (*cell.ours, *cell.apache)]
    lines = [
        f"{told['cpu']}, {told['cores']} cores, {told['kernel']}; "
        f"load average {min(loads, default=0):.1f} to {max(loads, default=0):.1f} meanwhile",
        ", ".join(f"{name} {version}" for name, version in run.versions.items())
        + f"; commit {run.commit}; {run.began}",
        f"{settings['rounds']} rounds of {settings['seconds']:g} s, ours and Apache's in turns; framed binary; "
        f"{settings['threads']} threads, {settings['workers']} processes; {_where(settings)}",
        "rates and CPU: medians of the rounds; latencies: all calls; CPU: user + system of all the server's processes",
    ]
    if run.cut_short:
        lines.append("cut short: the run was stopped before its end")
    return lines


def _where(settings: dict[str, Any]) -> str:
    cores = settings["cores"]
    if not cores["load"]:
        return "not bound to cores"
    awake = ", awake" if settings.get("awake") else ""
    return f"load generator on core {cores['load']}{awake}, servers on core {cores['servers']}"


def _row(one: Comparison) -> Sequence[str]:
    ours, apache = one.ours, one.apache
    return (
        one.cell.server_type,
        one.cell.payload,
        str(one.cell.connections),
        *_pair(ours, apache, lambda side: _number(side.calls_per_s)),
        _ratio(one.rate_ratio),
        *_pair(ours, apache, lambda side: _ms(side.p50_us)),
        *_pair(ours, apache, lambda side: _ms(side.p99_us)),
        *_pair(ours, apache, lambda side: _number(side.cpu_us)),
        _ratio(one.cpu_ratio),
        *_pair(ours, apache, lambda side: f"{side.rss_mib:.0f}"),
        *_pair(ours, apache, lambda side: str(side.failures)),
    )


def _pair(ours: Figures | None, apache: Figures | None, text: Callable[[Figures], str]) -> list[str]:
    return [text(side) if side else _NONE for side in (ours, apache)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratio(ratio: float | None) -> str:
    return _NONE if ratio is None else f"{ratio:.2f}"


def _ms(micros: float) -> str:
    return f"{micros / 1000:.3f}" if micros < 10_000 else f"{micros / 1000:.1f}"
