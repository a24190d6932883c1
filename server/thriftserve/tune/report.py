"""What the terminal shows: a line of progress while it measures, a table at the end.

Result, …  --table-->  lines, best first, the winner marked
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from thriftserve.tune.arrangement import Cell, Result, ranked

_BAR = 24
#: Rows of the table: the rest is far from the best.
_SHOWN = 15


def show_progress(done: int, total: int, cell: Cell) -> None:
    """Draws the bar over itself; where stderr is no terminal, nothing is shown."""
    if not sys.stderr.isatty():
        return
    filled = _BAR * done // max(1, total)
    at = cell.arrangement
    told = f"workers {at.workers}, runs {at.runs}, threads {at.threads}, batch {cell.rows}"
    sys.stderr.write(f"\r[{'#' * filled:{_BAR}}] {done}/{total}  {told}\x1b[K")
    sys.stderr.flush()


def end_progress() -> None:
    """Takes the bar away."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def table(results: Iterable[Result], winner: Result, objective: str) -> list[str]:
    """The best results, best first, the winner with an arrow."""
    lines = ["   workers  runs  threads  batch      rows/s   ms a run  p99 ms  measured s"]
    order = ranked(results, objective)
    shown = order[:_SHOWN] if winner in order[:_SHOWN] else [*order[: _SHOWN - 1], winner]
    for one in shown:
        at = one.cell.arrangement
        lines.append(
            f"{'->' if one is winner else '  '} {at.workers:7d} {at.runs:5d} {at.threads:8d} {one.cell.rows:6d} "
            f"{one.rows_per_s:11.1f} {one.median_ms:10.3f} {one.p99_ms:7.2f} {one.seconds:11.2f}"
        )
    if len(order) > len(shown):
        lines.append(f"   … and {len(order) - len(shown)} slower ones")
    return lines


def toml(tables: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Settings as the lines of a file."""
    return [line for name, keys in tables.items() for line in (f"[{name}]", *(f"{k} = {v}" for k, v in keys.items()))]
