"""What was measured, on one screen: a line a server type, a column a pattern.

ExperimentRun  -->  rows  -->  "3.03 | 3.01", seconds of ours and of Apache's class
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from thriftserve_bench.records.calls import SIDES
from thriftserve_bench.records.experiments import PATTERNS, ExperimentRun
from thriftserve_bench.report.experiments.table import Cell, Row, rows


def show_matrix(run: ExperimentRun, console: Console) -> None:
    """Prints it."""
    found = {(row.server_type, row.pattern.name): row for row in rows(run)}
    patterns = [name for name in PATTERNS if any(pattern == name for _, pattern in found)]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("server type", no_wrap=True)
    for name in patterns:
        table.add_column(name, justify="right", no_wrap=True)
    for server_type in dict.fromkeys(each for each, _ in found):
        table.add_row(server_type, *(_text(found.get((server_type, name))) for name in patterns))
    console.print("\nseconds for 100 calls: ours | Apache's", highlight=False)
    console.print(table, highlight=False)


def _text(row: Row | None) -> str:
    if row is None:
        return ""
    return " | ".join(_seconds(row.cell(side)) for side in SIDES)


def _seconds(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return "failed" if not cell.usable else f"{cell.elapsed_s:.2f}"
