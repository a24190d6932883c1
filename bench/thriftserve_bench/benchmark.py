"""What every measuring command does: flags, measuring, Ctrl-C, the file, the table.

argv  -->  flags  --settings-->  S  --begin-->  R  --measure-->  R, filled  -->  FILE.json and the table

Ctrl-C, or a server that fails, ends the measuring; what was measured until then is written and shown.
"""

from __future__ import annotations

import argparse
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from thriftserve_bench.processes import ChildEnded, ProgramFailed, ServerFailed
from thriftserve_bench.run_file import Run

Settings = TypeVar("Settings")
RunT = TypeVar("RunT", bound=Run)

PROGRAM = "thriftserve-bench"
INTERRUPTED = 130
_WRONG_USAGE = 2


def fail(error: object) -> None:
    """Print why a command failed."""
    print(f"{PROGRAM}: {error}", file=sys.stderr)


def words(text: str) -> tuple[str, ...]:
    """Parse "a,b": words, each once."""
    return tuple(dict.fromkeys(word for word in text.split(",") if word))


def integers(text: str) -> tuple[int, ...]:
    """Parse "1,2,4": numbers above 0."""
    return tuple(_positive(int(word), text) for word in text.split(",") if word)


def floats(text: str) -> tuple[float, ...]:
    """Parse "100,2500.5": numbers above 0."""
    return tuple(_positive(float(word), text) for word in text.split(",") if word)


def _positive(number: Any, text: str) -> Any:
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: every number must be above 0")
    return number


def flag_of(name: str) -> str:
    """Return the flag of a setting: "--min-calls"."""
    return f"--{name.replace('_', '-')}"


def given_numbers(flags: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return the numbers that were given, by their settings.

    Raises:
        ValueError: one is not above 0; the message names the flag.
    """
    given = {name: value for name in names if (value := getattr(flags, name)) is not None}
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"{flag_of(name)} is {value:g}: it must be above 0")
    return given


def given_lists(**lists: Sequence[Any] | None) -> dict[str, tuple[Any, ...]]:
    """Return the lists that were given, each item once."""
    return {name: tuple(dict.fromkeys(values)) for name, values in lists.items() if values}


class Bar:
    """A progress bar on the terminal, for measuring whose number of steps is known."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task("", total=0)

    def say(self, text: str) -> None:
        """Show what is being done."""
        self._progress.update(self._task, description=f"{text:<62.62}")

    def expect(self, steps: float) -> None:
        """Announce more steps."""
        total = self._progress.tasks[self._task].total or 0
        self._progress.update(self._task, total=total + steps)

    def step(self, text: str) -> None:
        """Show that a step is done."""
        self._progress.update(self._task, advance=1, description=f"{text:<62.62}")

    def log(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def reach(self, done: float, text: str) -> None:
        """Show how much of everything is done."""
        self._progress.update(self._task, completed=done, description=f"{text:<62.62}")


@contextmanager
def progress_bar(console: Console) -> Iterator[Bar]:
    """Show a bar for the block."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield Bar(progress)


class Benchmark(ABC, Generic[Settings, RunT]):
    """A measuring command. A subclass says what is measured; this class says what becomes of it.

    Args:
        show: prints the table of a run.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    description: ClassVar[str]
    epilog: ClassVar[str] = ""
    #: Flag and default of the file for raw results.
    file_flag: ClassVar[str] = "--output"
    file: ClassVar[str]
    #: Errors that end the measuring as Ctrl-C does.
    failures: ClassVar[tuple[type[Exception], ...]] = (ServerFailed, ChildEnded, ProgramFailed)

    def __init__(self, show: Callable[[RunT, Console], None]) -> None:
        self._show = show

    def add_to(self, commands: Any) -> None:
        """Add the command to the parser's sub-commands."""
        parser = commands.add_parser(
            self.name,
            help=self.help,
            description=self.description,
            epilog=self.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_flags(parser)
        parser.add_argument(
            self.file_flag,
            dest="file",
            type=Path,
            default=Path(self.file),
            metavar="FILE",
            help="raw results (%(default)s)",
        )
        parser.set_defaults(run=self.run)

    @abstractmethod
    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own flags."""

    @abstractmethod
    def settings(self, flags: argparse.Namespace) -> Settings:
        """Return the settings that the flags ask for.

        Raises:
            ValueError: a value is of no use, or flags contradict each other; the message names the flag.
        """

    @abstractmethod
    def begin(self, settings: Settings) -> RunT:
        """Return a run that has measured nothing yet."""

    @abstractmethod
    def measure(self, settings: Settings, run: RunT, flags: argparse.Namespace, bar: Bar) -> None:
        """Measure everything into `run`, which fills meanwhile; one of `failures` may end it."""

    @abstractmethod
    def measured(self, run: RunT) -> bool:
        """Return whether the run has something to show."""

    def skipped(self, run: RunT) -> Mapping[str, str]:
        """Return why parts of the run were left out, by their names."""
        del run
        return {}

    def exit_code(self, run: RunT) -> int:
        """Return the exit code of a run that went to its end."""
        del run
        return 0

    def finish(self, run: RunT, flags: argparse.Namespace, console: Console) -> None:
        """Do what is left to do once the table has been shown."""

    def run(self, flags: argparse.Namespace) -> int:
        """Measure, write and show; return the exit code."""
        try:
            settings = self.settings(flags)
        except ValueError as error:
            fail(error)
            return _WRONG_USAGE
        console = Console(stderr=True)
        run = self.begin(settings)
        code = self._measure(settings, run, flags, console)
        for name, reason in self.skipped(run).items():
            console.print(f"left out: {name}: {reason.splitlines()[0]}", highlight=False, markup=False)
        if not self.measured(run):
            console.print("nothing was measured")
            return code or 1
        run.cut_short = code != 0
        run.save(flags.file)
        self._show(run, Console())
        again = f"raw results: {flags.file}   the table again: {PROGRAM} report {flags.file}"
        console.print(again, highlight=False, soft_wrap=True)
        self.finish(run, flags, console)
        return code or self.exit_code(run)

    def _measure(self, settings: Settings, run: RunT, flags: argparse.Namespace, console: Console) -> int:
        try:
            with progress_bar(console) as bar:
                self.measure(settings, run, flags, bar)
        except KeyboardInterrupt:
            return INTERRUPTED
        except self.failures as error:
            fail(error)
            return 1
        return 0
