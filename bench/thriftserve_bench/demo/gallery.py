"""Digits drawn in a terminal, each above what the server said of it.

scans, answers  -->  a table with one column a digit
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thriftserve_bench.demo.digits import Array, Digits
from thriftserve_bench.demo.sending import Answer

#: Columns of 8 characters, with their margins and the first column, fit 80.
COLUMNS = 6
#: Upper and lower pixel of a character, ink or paper, where there is no colour.
_HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
#: More than this of 255 counts as ink there.
_INK = 110


def gallery(title: str, digits: Digits, answers: Sequence[Answer], shown: Sequence[int], console: Console) -> Table:
    """A table of the digits at the places `shown`.

    Args:
        title: stands above it.
        digits: all that were sent.
        answers: one for each of them.
        shown: which ones; at most COLUMNS fit 80 characters.
        console: what it will be printed on: with colour, or without.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(justify="right", style="dim")
    for _ in shown:
        table.add_column(justify="center")
    if not console.options.ascii_only:
        table.add_row("image", *(_drawn(digits.scans[place], console) for place in shown))
    table.add_row("number", *(f"{digits.places[place]:04d}" for place in shown))
    table.add_row("written", *(str(digits.truth[place]) for place in shown))
    table.add_row("answer", *(_judged(answers[place], str(digits.truth[place])) for place in shown))
    table.add_row("score", *(f"{answers[place].score:.1%}" for place in shown))
    return table


def _judged(answer: Answer, truth: str) -> Text:
    right = answer.label == truth
    return Text(answer.label if right else f"{answer.label} wrong", style="green" if right else "bold red")


def _drawn(scan: Array, console: Console) -> Text:
    """A scan UINT8 [8,8] as four lines of eight characters, each the upper and the lower of two pixels."""
    text = Text()
    for upper, lower in zip(scan[::2], scan[1::2], strict=True):
        for high, low in zip(upper, lower, strict=True):
            if console.color_system is None:
                text.append(_HALVES[bool(high > _INK), bool(low > _INK)])
            else:
                text.append("▀", style=f"{_grey(high)} on {_grey(low)}")
        text.append("\n")
    text.rstrip()
    return text


def _grey(level: Any) -> str:
    return f"#{int(level):02x}{int(level):02x}{int(level):02x}"
