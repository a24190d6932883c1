"""Tables of results, as Markdown and on the terminal, and how their numbers are written.

rows of texts  -->  Markdown | rich table
run            -->  lines on machine, versions, commit
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from thriftserve_bench.run_file import Run

NONE = "–"


def markdown_rows(headings: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Return a Markdown table of texts; `left` has the numbers of the columns that are aligned left."""
    rule = ["---" if place in left else "---:" for place in range(len(headings))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (headings, rule, *rows))


def show_table(
    console: Console,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    wrap: Collection[int] = (),
    title: str | None = None,
    style: Callable[[int], str | None] = lambda _: None,
) -> None:
    """Print a table.

    Args:
        console: the terminal.
        headings: of the columns.
        rows: texts.
        left: numbers of the columns that are aligned left.
        wrap: numbers of the columns whose texts may wrap.
        title: of the table.
        style: of the row with a number.
    """
    table = Table(header_style="bold", box=SIMPLE, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place in left else "right", no_wrap=place not in wrap)
    for number, row in enumerate(rows):
        table.add_row(*row, style=style(number))
    console.print(table)


def show_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines that are to be read, not coloured; long ones are left to the terminal."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def bullets(lines: Iterable[str]) -> str:
    """Return lines as a Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def provenance(run: Run, loads: Sequence[float] = ()) -> list[str]:
    """Return what stands above every table: machine, versions, commit.

    Args:
        run: the run.
        loads: the machine's load averages while it was measured.
    """
    machine = run.machine
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}"
    if loads:
        where += f"; load average {min(loads):.1f} to {max(loads):.1f} meanwhile"
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return [where, f"{versions}; commit {run.commit}; {run.began}"]


def cut_short(run: Run) -> list[str]:
    """Return the line of a run that was stopped before its end."""
    return ["cut short: the run was stopped before its end"] if run.cut_short else []


def number(value: float | None) -> str:
    """Write a number with three digits or more."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def ratio(value: float | None) -> str:
    """Write a ratio with two decimals."""
    return NONE if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    """Write a part as per cent."""
    return NONE if value is None else f"{value:.0%}"


def milliseconds(micros: float) -> str:
    """Write microseconds as milliseconds."""
    return f"{micros / 1000:.3f}" if micros < 10_000 else f"{micros / 1000:.1f}"


def count(value: int, noun: str) -> str:
    """Write a number of things: "1 client", "2 clients"."""
    return f"{value} {noun}" + ("" if value == 1 else "s")
