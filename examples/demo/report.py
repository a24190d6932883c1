"""What the demo prints at its end.

held-out digits, answers  -->  galleries, accuracy, speed, the commands to try next
"""

from __future__ import annotations

import os
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.digits import Array, Digits
from demo.options import Options
from demo.sending import Answer, Sent

#: The demo has failed below this share of right answers.
EXPECTED_ACCURACY = 0.97
#: Where `make serve` listens, and the commands look for it.
SERVE_PORT = 9090
#: Columns of 8 characters, with their margins and the first column, fit 80.
COLUMNS = 6
#: Upper and lower pixel of a character, ink or paper, where there is no colour.
_HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
#: More than this of 255 counts as ink there.
_INK = 110


def accuracy(digits: Digits, sent: Sent) -> float:
    """Return share of the digits whose first answer was right, 0 to 1."""
    return _right(digits, sent) / len(digits.truth)


def _right(digits: Digits, sent: Sent) -> int:
    return sum(answer.label == str(truth) for answer, truth in zip(sent.answers, digits.truth, strict=False))


def show(console: Console, options: Options, digits: Digits, sent: Sent) -> None:
    """Print what came back: some answers, the least certain ones, accuracy and speed."""
    answers = sent.answers[: len(digits.truth)]
    some = _one_of_each(digits)[:COLUMNS]
    doubtful = sorted(range(len(answers)), key=lambda place: _certainty(digits, sent, place))[:COLUMNS]
    console.print()
    console.print(gallery("Some answers", digits, answers, some, console))
    console.print(gallery("The mistakes, then the least certain answers", digits, answers, doubtful, console))
    console.print(_figures(options, digits, sent))


def _one_of_each(digits: Digits) -> list[int]:
    """Return places of the first 0, the first 1, …."""
    truth = digits.truth.tolist()
    return [truth.index(digit) for digit in sorted(set(truth))]


def _certainty(digits: Digits, sent: Sent, place: int) -> tuple[bool, float]:
    answer = sent.answers[place]
    return answer.label == str(digits.truth[place]), answer.score


def _figures(options: Options, digits: Digits, sent: Sent) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(style="bold", justify="right", no_wrap=True)
    table.add_column()
    right, count, all_sent = _right(digits, sent), len(digits.truth), len(sent.answers)
    connections = min(options.clients, all_sent)
    table.add_row("accuracy", f"{right / count:.1%}", f"{right} of {count} digits that it had never seen")
    table.add_row(
        "requests/s",
        f"{all_sent / sent.seconds:,.0f}",
        f"{all_sent:,} in {sent.seconds:.2f} s over {connections} connections to {options.server_type}",
    )
    later = [answer.seconds * 1000 for answer in sent.answers if not answer.first]
    if len(later) > 1:
        table.add_row("latency", f"{statistics.median(later):.1f} ms", f"median; 99 % within {_p99(later):.1f} ms")
    first = max(answer.seconds * 1000 for answer in sent.answers if answer.first)
    table.add_row("first answer", f"{first:,.0f} ms", _FIRST.get(options.server_type, "at most"))
    return table


#: What the first answer of a connection waits for, where that is more than the connection.
_FIRST = {
    "TSimpleServer": "at most: the others wait for one connection to end",
    "TForkingServer": "at most: each connection's process loads the model",
}


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[-1]


def gallery(title: str, digits: Digits, answers: Sequence[Answer], shown: Sequence[int], console: Console) -> Table:
    """Return A table of the digits at the places `shown`.

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
    """Return A scan UINT8 [8,8] as four lines of eight characters, each the upper and the lower of two pixels."""
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


def commands(options: Options, image: Path, port: int | None) -> list[tuple[str, str]]:
    """Return commands to try next, each with what it does.

    Args:
        options: of this run.
        image: a file to classify.
        port: of the server that runs; None: none runs, and the first command starts one.
    """
    client = f"{_script('thriftserve-client')} --port {port or SERVE_PORT}"
    by_make = "MAKELEVEL" in os.environ and options.directory == Path(".demo")
    again = [] if options.directory == Path(".demo") else ["--directory", str(options.directory)]
    run = shlex.join([_relative(sys.executable), _relative(str(Path(__file__).parent)), *again])
    other = "TProcessPoolServer" if options.server_type != "TProcessPoolServer" else "TNonblockingServer"
    start = "make serve" if by_make else f"{run} --serve --port {SERVE_PORT}"
    serve = [("serve the model until Ctrl-C; then, in another terminal:", start)] if port is None else []
    return [
        *serve,
        ("what does this file show?", f"{client} classify digits {shlex.quote(str(image))} --top-k 3"),
        ("what the model takes and gives", f"{client} metadata digits"),
        ("the server, its worker processes, their memory", f"{client} status"),
        (
            "the same on another server type",
            f"SERVER_TYPE={other} make demo" if by_make else f"{run} --server-type {other}",
        ),
    ]


def show_commands(console: Console, commands_shown: list[tuple[str, str]]) -> None:
    """Print them, each on a line of its own that is never wrapped: they are there to be copied."""
    console.print("\nTry next", style="bold")
    for purpose, command in commands_shown:
        console.print(f"  # {purpose}", style="dim", highlight=False, soft_wrap=True)
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def _script(name: str) -> str:
    return shlex.quote(_relative(str(Path(sys.executable).with_name(name))))


def _relative(path: str) -> str:
    """Return A path below the current directory as it would be typed there."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
