"""The experiments as a table of text.

FILE.json  -->  ExperimentRun  -->  rows, verdicts, findings  -->  Markdown | terminal
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from thriftserve_bench.records.calls import APACHE, OURS, SIDES
from thriftserve_bench.records.experiments import PATTERNS, ExperimentRun
from thriftserve_bench.report.experiments.consistency import findings
from thriftserve_bench.report.experiments.table import Cell, Row, cells, headline, rows
from thriftserve_bench.report.experiments.targets import Verdict, verdicts
from thriftserve_bench.simulator.prediction import WITHIN

HEADINGS = (
    "row",
    "clients",
    "server",
    "work",
    "published",
    "ideal",
    "ours",
    "Apache",
    "ours : ideal",
    "predicted",
    "on 64 cores",
    "why",
)
#: The columns that a terminal has room for.
_SHOWN = (0, 2, 5, 6, 7, 8, 9)
_NONE = "–"
#: What the run's workload stands for, wherever it is shown.
STAND_IN = (
    "hold-gil waits and holds the interpreter's lock meanwhile, without using a core: on few cores the "
    "stand-in for a machine with a core for every worker, as the published runs had."
)


def markdown(run: ExperimentRun) -> str:
    """The whole digest as Markdown: published rows with reasons, verdicts, every other row, the machine."""
    found = rows(run)
    first = headline(found, main_workload(run))
    rest = [row for row in found if row not in first]
    parts = [
        *_marks(run),
        _markdown_table(HEADINGS, [texts(row) for row in first]),
        _list(verdict_text(one) for one in verdicts(found)),
        "### Every other type\n",
        _markdown_table(HEADINGS[:-1], [texts(row)[:-1] for row in rest]),
        "### How it was measured\n",
        _list(preface(run)),
    ]
    return "\n".join(part for part in parts if part)


def show(run: ExperimentRun, console: Console) -> None:
    """The same on a terminal of 80 columns, without the reasons: a table for each pattern of clients."""
    found = rows(run)
    for _, group in groupby(sorted(found, key=_table_of), key=_table_of):
        own = list(group)
        title = f"{own[0].workload} {own[0].service_s * 1000:g} ms: {clients(own[0])}"
        table = Table(header_style="bold", title=title, title_justify="left", title_style="bold", box=SIMPLE)
        for at in _SHOWN:
            table.add_column(HEADINGS[at], justify="left" if at < 5 else "right", no_wrap=at < 5)
        for row in own:
            shown = list(texts(row))
            # Narrow: no number where nobody published one, and no second prediction.
            shown[0], shown[9] = row.name if row.published else "", seconds(row.predicted_ours_s)
            table.add_row(*(shown[at] for at in _SHOWN))
        console.print(table)
    for line in (*_marks(run), *map(verdict_text, verdicts(found)), *preface(run)):
        console.print(line, highlight=False)


def _table_of(row: Row) -> tuple[str, int]:
    return row.workload, list(PATTERNS).index(row.pattern.name)


def texts(row: Row) -> tuple[str, ...]:
    """A row's cells as text, one for each of `HEADINGS`."""
    predicted = " / ".join(seconds(row.predicted_s(side)) for side in SIDES if row.cell(side))
    return (
        row.name,
        clients(row),
        row.server_type,
        f"{row.workload} {row.service_s * 1000:g} ms",
        row.published.text if row.published else _NONE,
        seconds(row.ideal_s),
        cell_text(row.ours),
        cell_text(row.apache),
        times(row.ratio(OURS)),
        predicted if any(row.predicted_s(side) for side in SIDES) else _NONE,
        seconds(row.predicted_published_s),
        row.explanation,
    )


def clients(row: Row) -> str:
    """Who calls: 10 threads × 10 calls, a client each."""
    pattern = row.pattern
    told = f"{pattern.threads} thread{'s' * (pattern.threads > 1)} × {pattern.calls_per_thread} call"
    told += "s" * (pattern.calls_per_thread > 1)
    if pattern.threads == 1:
        return told
    return told + (", one client" if pattern.shared_client else ", a client each")


def seconds(value: float | None) -> str:
    """Seconds to three digits, or a dash."""
    if value is None:
        return _NONE
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def times(ratio: float | None) -> str:
    """A ratio to three digits, or a dash."""
    return _NONE if ratio is None else f"{ratio:.{2 if ratio < 10 else 1 if ratio < 100 else 0}f} ×"


def cell_text(cell: Cell | None) -> str:
    """The measured time, with what went wrong."""
    if cell is None:
        return _NONE
    if cell.elapsed_s is None:
        return f"not measured: {cell.outcome.failure}" if cell.outcome.failure else "not measured"
    failed = f" ({cell.failed} of {len(cell.outcome.calls)} failed)" if cell.failed else ""
    return seconds(cell.elapsed_s) + failed


def verdict_text(one: Verdict) -> str:
    """A target in one line: row, time, ratio, what was wanted, met or missed."""
    result = "met" if one.met else "missed"
    if not one.binding:
        result = f"does not bind at {one.row.service_s * 1000:g} ms"
    return (
        f"Row {one.target.row}, {one.target.server_type}: {seconds(one.elapsed_s)}, {times(one.ratio)} ideal; "
        f"wanted at 300 ms: {one.target.text}: {result}"
    )


def preface(run: ExperimentRun) -> list[str]:
    """What the run was made on and with."""
    told = run.machine
    lines = [
        f"{told.get('cpu', 'CPU unknown')}, {told.get('cores', '?')} cores, {told.get('kernel', '?')}",
        ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        f"commit {run.commit}; began {run.began}",
        "time: from the first client thread let go until the last call ended; ideal: the same if connecting, "
        "forking and switching cost nothing; "
        f"predicted: the simulator on this machine, to agree within {WITHIN:.0%}",
    ]
    if any(one.workload == "hold-gil" for one in run.outcomes):
        lines.append(STAND_IN)
    return lines


def agreement(found: Sequence[Row]) -> tuple[int, int]:
    """How many usable cells were predicted within `WITHIN`, of how many that were predicted at all."""
    pairs = [
        (cell.elapsed_s, predicted)
        for row in found
        for side in (OURS, APACHE)
        if (cell := row.cell(side)) and cell.usable and cell.elapsed_s and (predicted := row.predicted_s(side))
    ]
    return sum(abs(predicted - measured) <= WITHIN * measured for measured, predicted in pairs), len(pairs)


def warnings(run: ExperimentRun) -> list[str]:
    """What a reader must know before believing a figure."""
    told = []
    if run.cut_short:
        told.append(f"Cut short: the run was stopped before its end; {len(run.outcomes)} outcomes were kept.")
    told += [f"Inconsistent raw data in {one.cell}: {one.text}." for one in findings(run)]
    told += [f"{cell.id}: {cell.outcome.failure}." for cell in cells(run) if cell.outcome.failure]
    told += [
        f"{cell.id}: {cell.failed} of {len(cell.outcome.calls)} calls failed." for cell in cells(run) if cell.failed
    ]
    return told


def _marks(run: ExperimentRun) -> list[str]:
    return [f"**{line}**\n" for line in warnings(run)]


def main_workload(run: ExperimentRun) -> str | None:
    """The one that stands for the published runs, or the first there is."""
    names = list(dict.fromkeys(one.workload for one in run.outcomes))
    return "hold-gil" if "hold-gil" in names else next(iter(names), None)


def _markdown_table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(headings)
    return "\n".join("| " + " | ".join(one) + " |" for one in (headings, rule, *body)) + "\n"


def _list(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)
