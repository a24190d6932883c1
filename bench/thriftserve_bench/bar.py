"""The progress bar of commands that know how many steps they have.

say, more, step  -->  what is being done, a bar, steps, the time left
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bar:
    """A bar on the terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task("", total=0)

    def say(self, text: str) -> None:
        """Tells what is being done."""
        self._progress.update(self._task, description=f"{text:<62.62}")

    def more(self, steps: int) -> None:
        """Tells that so many steps more will come."""
        total = self._progress.tasks[self._task].total or 0
        self._progress.update(self._task, total=total + steps)

    def step(self, text: str) -> None:
        """Tells that a step is done."""
        self._progress.update(self._task, advance=1, description=f"{text:<62.62}")


@contextmanager
def progress_bar(console: Console) -> Iterator[Bar]:
    """Shows a bar within the block."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield Bar(progress)
