"""How far a run of the experiments is.

cells that end  -->  a bar with the time left (terminal) | a line each (anything else)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from thriftserve_bench.benchmarks.experiments.hosts import Host
from thriftserve_bench.benchmarks.experiments.schedule import Cell, Schedule
from thriftserve_bench.records.experiments import OK, Outcome

_MINUTE_S = 60.0


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE_S:.0f} min"


class Telling:
    """Says on the terminal, or in a log, what goes on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._schedule: Schedule | None = None

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def plan(self, schedule: Schedule) -> None:
        """What there is to do, before any of it is done."""
        self.say(
            f"{schedule.cells} cells on {len(schedule.plans)} servers: {duration(schedule.total_s)}, "
            "and some seconds to start and stop them"
        )

    def started(self, host: Host) -> None:
        """A server runs, or does not."""
        if host.failed:
            self.say(f"{host.plan.server_type} ({host.plan.side}) did not start: {host.failure}")

    @contextmanager
    def cells(self, schedule: Schedule) -> Iterator[Callable[[], None]]:
        """Shows the cells' progress within the block; what it yields is to be called now and then."""
        self._schedule = schedule
        if not self._console.is_terminal:
            yield lambda: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]} left"))
        with Progress(*columns, console=self._console) as bar:
            task = bar.add_task("", total=schedule.total_s, left=duration(schedule.total_s))
            yield lambda: _show(bar, task, schedule)

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """A cell has been measured."""
        assert self._schedule is not None
        done = self._schedule.cells - self._schedule.cells_left
        wrong = sum(call.outcome != OK for call in outcome.calls)
        said = outcome.failure.splitlines()[0] if outcome.failure else f"{outcome.elapsed_s:7.2f} s"
        said += f", {wrong} of {len(outcome.calls)} calls failed" if wrong else ""
        left = "" if self._console.is_terminal else f"   ({duration(self._schedule.left_s)} left)"
        name = f"{cell.pattern.name:<8}{cell.plan.server_type:<20}{cell.plan.side:<8}"
        self.say(f"{done:>3}/{self._schedule.cells}  {name}{said}{left}")


def _show(bar: Progress, task: TaskID, schedule: Schedule) -> None:
    left_s = schedule.left_s
    bar.update(
        task,
        completed=schedule.total_s - left_s,
        description=f"{schedule.cells - schedule.cells_left} of {schedule.cells} cells",
        left=duration(left_s),
    )
