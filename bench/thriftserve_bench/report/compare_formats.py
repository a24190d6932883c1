"""Every kind of results as `compare` reads it.

FILE.json  --its "format"-->  calls | experiments | sweep  -->  Readings
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thriftserve_bench import stats
from thriftserve_bench.benchmarks.sweep.settle import rate
from thriftserve_bench.records import calls
from thriftserve_bench.records import experiments as experiments
from thriftserve_bench.records import sweep as sweeps
from thriftserve_bench.report.compare import Readings, Series
from thriftserve_bench.run_file import NotARun, format_of
from thriftserve_bench.stats import quantile


class NotComparable(Exception):
    """A file holds no results that can be compared."""


def read(path: Path) -> Readings:
    """Reads a file of results of any kind.

    Raises:
        NotComparable: it holds none.
        OSError: it can't be read.
    """
    try:
        return _FORMATS[format_of(path, list(_FORMATS))](path)
    except NotARun as error:
        raise NotComparable(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise NotComparable(f"{path}: no results of thriftserve-bench ({type(error).__name__}: {error})") from error


def _conditions(machine: Mapping[str, Any], settings: Mapping[str, Any], *names: str) -> dict[str, object]:
    return {"cpu": machine.get("cpu"), "cores": machine.get("cores")} | {name: settings.get(name) for name in names}


def _calls(path: Path) -> Readings:
    run = calls.load_run(path)
    readings = Readings(
        run.format,
        _conditions(run.machine, run.settings, "workers", "threads", "pin") | {"placed": run.settings["cores"]},
    )
    for measured in run.cells:
        for side in calls.SIDES:
            every = measured.windows(side)
            if every:
                _add_calls(readings, measured.cell, side, every)
    return readings


def _add_calls(readings: Readings, cell: calls.Cell, side: str, every: list[calls.Window]) -> None:
    name = f"{cell.server_type} {cell.payload} x{cell.connections} {side}"
    ours = side == calls.OURS
    if ours:
        readings.failures[name] = sum(one.failures for one in every)
    good = [one for one in every if one.calls and one.elapsed_s]
    if good:
        readings.series |= {
            (name, "calls/s"): Series([one.calls / one.elapsed_s for one in good], True, ours),
            (name, "p50 µs"): Series([quantile(one.latencies_us, 0.5) for one in good], False, ours),
            (name, "server CPU µs/call"): Series([one.server_cpu_s / one.calls * 1e6 for one in good], False, ours),
        }


def _experiments(path: Path) -> Readings:
    run = experiments.load_experiments(path)
    readings = Readings(run.format, _conditions(run.machine, run.settings))
    elapsed: dict[str, list[float]] = {}
    for one in run.outcomes:
        numbers = f"{one.workers}w {one.threads}t {one.workload} {one.service_ms:g} ms"
        cell = f"{one.pattern} {one.server_type} {numbers} {one.side}"
        ours = one.side == experiments.OURS
        if ours:
            failed = sum(call.outcome != "ok" for call in one.calls) + bool(one.failure)
            readings.failures[cell] = readings.failures.get(cell, 0) + failed
        if one.failure:
            continue
        elapsed.setdefault(cell, []).append(one.elapsed_s)
        readings.series[cell, "seconds"] = Series(elapsed[cell], False, ours)
    return readings


def _sweep(path: Path) -> Readings:
    run = sweeps.load_sweep(path)
    names = ("connections", "pin", "generators", "serve_flags")
    readings = Readings(run.format, _conditions(run.machine, run.settings, *names) | {"placed": run.settings["cores"]})
    for point in run.points:
        cell = point.setting.title
        lost = sum(sum(one.failures.values()) + one.unanswered for one in point.windows)
        readings.failures[cell] = lost + bool(point.failure)
        good = [one for one in point.windows if one.calls and one.elapsed_s]
        if good:
            readings.series |= _figures(cell, good)
    return readings


def _figures(cell: str, windows: list[sweeps.SweepWindow]) -> dict[tuple[str, str], Series]:
    times = [stats.merge_histograms([one.latency]) for one in windows]
    return {
        (cell, "calls/s"): Series([rate(one) for one in windows], True),
        (cell, "p50 ms"): Series([(stats.quantile_us(one, 0.5) or 0.0) / 1000 for one in times], False),
        (cell, "p99 ms"): Series([(stats.quantile_us(one, 0.99) or 0.0) / 1000 for one in times], False),
        (cell, "server CPU µs/call"): Series([one.server_cpu_s / one.calls * 1e6 for one in windows], False),
        (cell, "USS MiB"): Series([one.uss_bytes / 2**20 for one in windows], False),
    }


_FORMATS: Mapping[str, Callable[[Path], Readings]] = {
    calls.FORMAT: _calls,
    experiments.FORMAT: _experiments,
    sweeps.FORMAT: _sweep,
}
