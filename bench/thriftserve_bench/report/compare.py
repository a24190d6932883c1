"""`thriftserve-bench compare`: what changed between two runs of one kind, beyond noise.

    A.json, B.json  -->  Readings: each figure of each cell, one value a window  -->  Changes: better, worse
    exit code 0: no regression | 1: a regression | 2: the files can't be compared

A figure has changed if the windows of the two runs don't overlap and their medians differ by more than a
threshold. One value alone has no range: there the threshold decides.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from thriftserve_bench import stats, tables
from thriftserve_bench.benchmark import fail
from thriftserve_bench.records.calls import OURS, SIDES, CallsRun, Cell, Window
from thriftserve_bench.records.experiments import OK, ExperimentRun
from thriftserve_bench.records.sweep import SweepRun, SweepWindow
from thriftserve_bench.run_file import NotARun, format_of
from thriftserve_bench.stats import quantile

_DESCRIPTION = """\
Says what changed from A to B beyond noise: the windows of the two runs don't overlap, and their medians differ
by more than the threshold. Takes what `calls`, `experiments` and `sweep` write. Figures of Apache's classes are shown
but never count: if they moved as well, the machine did something else.
Exit code: 0 without a regression, 1 with one, 2 if the files can't be compared.
"""
_WORSE, _NOT_COMPARABLE = 1, 2

#: (cell, figure): "TForkingServer tiny x4", "calls/s".
Key = tuple[str, str]


@dataclass(frozen=True)
class Series:
    """One figure of one cell of a run: its values, one a window."""

    values: Sequence[float]
    #: Whether more is better.
    up_is_better: bool
    #: Whether it can be a regression; another server's figure only shows what the machine did.
    counts: bool = True

    @property
    def middle(self) -> float:
        """The median."""
        return median(self.values)


@dataclass
class Readings:
    """A run as `compare` sees it."""

    format: str
    #: What must be the same for figures to mean the same, by name.
    conditions: Mapping[str, object]
    series: dict[Key, Series] = field(default_factory=dict)
    #: Failed calls of each cell.
    failures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """A figure that differs beyond noise."""

    cell: str
    figure: str
    before: float
    after: float
    better: bool
    counts: bool

    @property
    def is_regression(self) -> bool:
        """Whether it is for the worse, and ours."""
        return self.counts and not self.better

    def __str__(self) -> str:
        part = f"{self.after / self.before - 1:+.1%}" if self.before else "from nothing"
        verdict = "better" if self.better else "worse"
        return f"{verdict}: {self.cell}: {self.figure} {number(self.before)} -> {number(self.after)} ({part})"


@dataclass
class Comparison:
    """What came of two runs."""

    changes: list[Change] = field(default_factory=list)
    compared: int = 0
    #: Cells of one run alone.
    only_before: list[str] = field(default_factory=list)
    only_after: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Change]:
        """The changes for the worse."""
        return [change for change in self.changes if change.is_regression]


def differences(before: Readings, after: Readings) -> list[str]:
    """Return why two runs can't be compared, a line each; empty: they can."""
    if before.format != after.format:
        return [f"format: {before.format!r} and {after.format!r}"]
    names = dict.fromkeys([*before.conditions, *after.conditions])
    return [
        f"{name}: {before.conditions.get(name)!r} and {after.conditions.get(name)!r}"
        for name in names
        if before.conditions.get(name) != after.conditions.get(name)
    ]


def compare(before: Readings, after: Readings, threshold: float) -> Comparison:
    """Return what changed from one run to the other.

    Args:
        before: a run.
        after: another of the same format.
        threshold: part by which medians must differ at least.
    """
    cells = [dict.fromkeys([cell for cell, _ in run.series] + list(run.failures)) for run in (before, after)]
    comparison = Comparison(
        only_before=[cell for cell in cells[0] if cell not in cells[1]],
        only_after=[cell for cell in cells[1] if cell not in cells[0]],
    )
    for key, old in before.series.items():
        new = after.series.get(key)
        if new is None:
            continue
        comparison.compared += 1
        if beyond_noise(old.values, new.values, threshold):
            better = (new.middle > old.middle) == old.up_is_better
            comparison.changes.append(Change(*key, old.middle, new.middle, better, old.counts))
    comparison.changes += _failing(before, after)
    return comparison


def beyond_noise(old: Sequence[float], new: Sequence[float], threshold: float) -> bool:
    """Return whether windows differ: their ranges apart, their medians by more than a part of the old one."""
    apart = min(new) > max(old) or max(new) < min(old)
    return apart and abs(median(new) - median(old)) > threshold * abs(median(old))


def _failing(before: Readings, after: Readings) -> list[Change]:
    """Return cells that had no failed call and have some, or none any more."""
    changes = []
    for cell, count in after.failures.items():
        old = before.failures.get(cell)
        if old is not None and bool(old) != bool(count):
            changes.append(Change(cell, "failed calls", old, count, better=not count, counts=True))
    return changes


def number(value: float) -> str:
    """Return a figure in four digits or so."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def read(path: Path) -> Readings:
    """Read a file of results of any kind that can be compared.

    Raises:
        NotARun: it holds none.
        OSError: it can't be read.
    """
    return _FORMATS[format_of(path, _FORMATS)](path)


def _conditions(machine: Mapping[str, Any], settings: Mapping[str, Any], *names: str) -> dict[str, object]:
    return {"cpu": machine.get("cpu"), "cores": machine.get("cores")} | {name: settings.get(name) for name in names}


def _calls(path: Path) -> Readings:
    run = CallsRun.load(path)
    conditions = _conditions(run.machine, run.settings, "workers", "threads", "pin")
    readings = Readings(run.FORMAT, conditions | {"placed": run.settings["cores"]})
    for measured in run.cells:
        for side in SIDES:
            if windows := measured.windows(side):
                _add_calls(readings, measured.cell, side, windows)
    return readings


def _add_calls(readings: Readings, cell: Cell, side: str, windows: list[Window]) -> None:
    name = f"{cell.server_type} {cell.payload} x{cell.connections} {side}"
    ours = side == OURS
    if ours:
        readings.failures[name] = sum(window.failures for window in windows)
    answered = [window for window in windows if window.calls and window.elapsed_s]
    if answered:
        cpu_us = [window.server_cpu_s / window.calls * 1e6 for window in answered]
        readings.series |= {
            (name, "calls/s"): Series([window.calls_per_s for window in answered], True, ours),
            (name, "p50 µs"): Series([quantile(window.latencies_us, 0.5) for window in answered], False, ours),
            (name, "server CPU µs/call"): Series(cpu_us, False, ours),
        }


def _experiments(path: Path) -> Readings:
    run = ExperimentRun.load(path)
    readings = Readings(run.FORMAT, _conditions(run.machine, run.settings))
    elapsed: dict[str, list[float]] = {}
    for outcome in run.outcomes:
        numbers = f"{outcome.workers}w {outcome.threads}t {outcome.workload} {outcome.service_ms:g} ms"
        cell = f"{outcome.pattern} {outcome.server_type} {numbers} {outcome.side}"
        ours = outcome.side == OURS
        if ours:
            failed = sum(call.outcome != OK for call in outcome.calls) + bool(outcome.failure)
            readings.failures[cell] = readings.failures.get(cell, 0) + failed
        if not outcome.failure:
            elapsed.setdefault(cell, []).append(outcome.elapsed_s)
            readings.series[cell, "seconds"] = Series(elapsed[cell], False, ours)
    return readings


def _sweep(path: Path) -> Readings:
    run = SweepRun.load(path)
    conditions = _conditions(run.machine, run.settings, "connections", "pin", "generators", "serve_flags")
    readings = Readings(run.FORMAT, conditions | {"placed": run.settings["cores"]})
    for point in run.points:
        cell = point.setting.title
        readings.failures[cell] = sum(window.failed + window.unanswered for window in point.windows)
        readings.failures[cell] += bool(point.failure)
        answered = [window for window in point.windows if window.calls and window.elapsed_s]
        if answered:
            readings.series |= _sweep_series(cell, answered)
    return readings


def _sweep_series(cell: str, windows: list[SweepWindow]) -> dict[Key, Series]:
    histograms = [stats.merge_histograms([window.latency]) for window in windows]

    def quantile_ms(part: float) -> list[float]:
        return [(stats.quantile_us(histogram, part) or 0.0) / 1000 for histogram in histograms]

    return {
        (cell, "calls/s"): Series([window.calls_per_s for window in windows], True),
        (cell, "p50 ms"): Series(quantile_ms(0.5), False),
        (cell, "p99 ms"): Series(quantile_ms(0.99), False),
        (cell, "server CPU µs/call"): Series([window.server_cpu_s / window.calls * 1e6 for window in windows], False),
        (cell, "USS MiB"): Series([window.uss_bytes / 2**20 for window in windows], False),
    }


_FORMATS: Mapping[str, Callable[[Path], Readings]] = {
    CallsRun.FORMAT: _calls,
    ExperimentRun.FORMAT: _experiments,
    SweepRun.FORMAT: _sweep,
}


def add_to(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "compare",
        help="what changed between two runs beyond noise",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, metavar="A.json")
    parser.add_argument("after", type=Path, metavar="B.json")
    parser.add_argument("--threshold", type=float, default=5.0, metavar="PERCENT", help="smaller changes are noise (5)")
    parser.add_argument("--anyway", action="store_true", help="compare runs whose settings or machines differ, too")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Compare two files, print what changed, and return the exit code."""
    if flags.threshold < 0:
        fail(f"--threshold is {flags.threshold:g}: it must not be negative")
        return _NOT_COMPARABLE
    try:
        before, after = read(flags.before), read(flags.after)
    except (NotARun, OSError) as error:
        fail(error)
        return _NOT_COMPARABLE
    different = differences(before, after)
    if different and not (flags.anyway and before.format == after.format):
        print("the files can't be compared (--anyway does it if only settings differ):", file=sys.stderr)
        print("\n".join(f"  {line}" for line in different), file=sys.stderr)
        return _NOT_COMPARABLE
    comparison = compare(before, after, flags.threshold / 100)
    if not comparison.compared:
        print("the files have no cell in common", file=sys.stderr)
        return _NOT_COMPARABLE
    _print(comparison, different)
    return _WORSE if comparison.regressions else 0


def _print(comparison: Comparison, different: list[str]) -> None:
    for line in different:
        print(f"differs: {line}")
    for cell in comparison.only_before:
        print(f"only in the first: {cell}")
    for cell in comparison.only_after:
        print(f"only in the second: {cell}")
    for change in comparison.changes:
        print(change)
    regressions = tables.count(len(comparison.regressions), "regression")
    changed = len(comparison.changes)
    print(f"{comparison.compared} figures compared, {changed} changed beyond noise, {regressions}")
