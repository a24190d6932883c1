"""Plain-text tables for the commands' output.

    headings + rows --table--> aligned lines

>>> print(table(("label", "score"), [("cat", "0.75"), ("penguin", "0.2")], right="score"))
label    score
cat       0.75
penguin    0.2
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Report:
    """The output of a command: `data` for `--json`, `text` for people."""

    data: Any
    text: str


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()) -> str:
    """Return a table, its columns two spaces apart; those in `right` are right-aligned."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    return "\n".join(_line(row, headings, widths, right) for row in (headings, *rows))


def _line(row: Sequence[str], headings: Sequence[str], widths: Sequence[int], right: Collection[str]) -> str:
    cells = zip(row, headings, widths, strict=True)
    return "  ".join(
        cell.rjust(width) if heading in right else cell.ljust(width) for cell, heading, width in cells
    ).rstrip()


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and values, the values aligned."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in rows)


def duration(seconds: float) -> str:
    """Return seconds for people: 12.3 s, 4 min 5 s, 3 h 2 min, 5 d 3 h."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{seconds:.1f} s"
    for unit, size, smaller, small in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if rounded >= size:
            return f"{rounded // size} {unit} {rounded % size // small} {smaller}"
    raise AssertionError(rounded)


def mebibytes(size: int) -> str:
    """Return bytes as MiB; a dash for 0, which means unknown."""
    return f"{size / 2**20:.0f} MiB" if size else "-"


def amount(value: float, unit: str) -> str:
    """Return a number with four digits; microseconds ("us") in a suitable unit, any other number without a unit."""
    if unit != "us":
        return f"{value:.4g}"
    for size, name in ((1e6, "s"), (1e3, "ms")):
        if value >= size:
            return f"{value / size:.4g} {name}"
    return f"{value:.4g} us"
