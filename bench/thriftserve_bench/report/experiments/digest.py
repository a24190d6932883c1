"""The experiments as a table of text.

FILE.json  -->  ExperimentRun  -->  rows, verdicts, findings  -->  Markdown | terminal
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from thriftserve_bench import tables
from thriftserve_bench.records.calls import APACHE, OURS, SIDES
from thriftserve_bench.records.experiments import PATTERNS, ExperimentRun
from thriftserve_bench.report.experiments.consistency import findings
from thriftserve_bench.report.experiments.table import Cell, Row, Verdict, cells, headline, rows, verdicts
from thriftserve_bench.simulator.predict import WITHIN

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
    """Return the whole digest as Markdown: published rows with reasons, verdicts, every other row, the machine."""
    table_rows = rows(run)
    first = headline(table_rows, main_workload(run))
    rest = [row for row in table_rows if row not in first]
    parts = [
        *_marks(run),
        tables.markdown_rows(HEADINGS, map(texts, first), range(len(HEADINGS))) + "\n",
        _list(verdict_text(judged) for judged in verdicts(table_rows)),
        "### Every other type\n",
        tables.markdown_rows(HEADINGS[:-1], [texts(row)[:-1] for row in rest], range(len(HEADINGS))) + "\n",
        "### How it was measured\n",
        _list(preface(run)),
    ]
    return "\n".join(part for part in parts if part)


def show(run: ExperimentRun, console: Console) -> None:
    """Print the digest in 80 columns, without the reasons: a table for each pattern of clients."""
    table_rows = rows(run)
    for _, group in groupby(sorted(table_rows, key=_table_of), key=_table_of):
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
    for line in (*_marks(run), *map(verdict_text, verdicts(table_rows)), *preface(run)):
        console.print(line, highlight=False)


def _table_of(row: Row) -> tuple[str, int]:
    return row.workload, list(PATTERNS).index(row.pattern.name)


def texts(row: Row) -> tuple[str, ...]:
    """Return a row's texts, one for each of `HEADINGS`."""
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
    """Describe the clients: 10 threads × 10 calls, a client each."""
    pattern = row.pattern
    text = f"{pattern.threads} thread{'s' * (pattern.threads > 1)} × {pattern.calls_per_thread} call"
    text += "s" * (pattern.calls_per_thread > 1)
    if pattern.threads == 1:
        return text
    return text + (", one client" if pattern.shared_client else ", a client each")


def seconds(value: float | None) -> str:
    """Write seconds with three digits, or a dash."""
    if value is None:
        return _NONE
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def times(ratio: float | None) -> str:
    """Write a ratio with three digits, or a dash."""
    return _NONE if ratio is None else f"{ratio:.{2 if ratio < 10 else 1 if ratio < 100 else 0}f} ×"


def cell_text(cell: Cell | None) -> str:
    """Return the measured time, with what went wrong."""
    if cell is None:
        return _NONE
    if cell.elapsed_s is None:
        return f"not measured: {cell.outcome.failure}" if cell.outcome.failure else "not measured"
    failed = f" ({cell.failed} of {len(cell.outcome.calls)} failed)" if cell.failed else ""
    return seconds(cell.elapsed_s) + failed


def verdict_text(judged: Verdict) -> str:
    """Write a verdict in one line: row, time, ratio, target, met or missed."""
    result = "met" if judged.met else "missed"
    if not judged.binding:
        result = f"does not bind at {judged.row.service_s * 1000:g} ms"
    return (
        f"Row {judged.target.row}, {judged.target.server_type}: {seconds(judged.elapsed_s)}, "
        f"{times(judged.ratio)} ideal; wanted at 300 ms: {judged.target.text}: {result}"
    )


def preface(run: ExperimentRun) -> list[str]:
    """Return the machine, the versions and the method of a run."""
    machine = run.machine
    lines = [
        f"{machine.get('cpu', 'CPU unknown')}, {machine.get('cores', '?')} cores, {machine.get('kernel', '?')}",
        ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        f"commit {run.commit}; began {run.began}",
        "time: from the first client thread released until the last call ended; ideal: the same if connecting, "
        "forking and switching cost nothing; "
        f"predicted: the simulator on this machine, to agree within {WITHIN:.0%}",
    ]
    if any(outcome.workload == "hold-gil" for outcome in run.outcomes):
        lines.append(STAND_IN)
    return lines


def agreement(table_rows: Sequence[Row]) -> tuple[int, int]:
    """Return how many usable cells were predicted within `WITHIN`, of how many that were predicted at all."""
    pairs = [
        (cell.elapsed_s, predicted)
        for row in table_rows
        for side in (OURS, APACHE)
        if (cell := row.cell(side)) and cell.usable and cell.elapsed_s and (predicted := row.predicted_s(side))
    ]
    return sum(abs(predicted - measured) <= WITHIN * measured for measured, predicted in pairs), len(pairs)


def warnings(run: ExperimentRun) -> list[str]:
    """Return what a reader must know before believing a figure."""
    lines = []
    if run.cut_short:
        lines.append(f"Cut short: the run was stopped before its end; {len(run.outcomes)} outcomes were measured.")
    lines += [f"Inconsistent raw data in {finding.cell}: {finding.text}." for finding in findings(run)]
    lines += [f"{cell.id}: {cell.outcome.failure}." for cell in cells(run) if cell.outcome.failure]
    lines += [
        f"{cell.id}: {cell.failed} of {len(cell.outcome.calls)} calls failed." for cell in cells(run) if cell.failed
    ]
    return lines


def _marks(run: ExperimentRun) -> list[str]:
    return [f"**{line}**\n" for line in warnings(run)]


def main_workload(run: ExperimentRun) -> str | None:
    """Return the workload that stands for the published runs, or the first one."""
    names = list(dict.fromkeys(outcome.workload for outcome in run.outcomes))
    return "hold-gil" if "hold-gil" in names else next(iter(names), None)


def _list(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def show_matrix(run: ExperimentRun, console: Console) -> None:
    """Print seconds of ours and of Apache's, a line a server type, a column a pattern."""
    row_of = {(row.server_type, row.pattern.name): row for row in rows(run)}
    patterns = [name for name in PATTERNS if any(pattern == name for _, pattern in row_of)]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("server type", no_wrap=True)
    for name in patterns:
        table.add_column(name, justify="right", no_wrap=True)
    for server_type in dict.fromkeys(each for each, _ in row_of):
        table.add_row(server_type, *(_matrix_cell(row_of.get((server_type, name))) for name in patterns))
    console.print("\nseconds for 100 calls: ours | Apache's", highlight=False)
    console.print(table, highlight=False)


def _matrix_cell(row: Row | None) -> str:
    if row is None:
        return ""
    return " | ".join(_matrix_seconds(row.cell(side)) for side in SIDES)


def _matrix_seconds(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return "failed" if not cell.usable else f"{cell.elapsed_s:.2f}"
