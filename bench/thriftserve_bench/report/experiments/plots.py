"""The run as pictures in files, for a document or a slide.

ExperimentRun, rows  -->  experiments, latencies, forks, predicted, timelines  -->  DIR/NAME.png, DIR/NAME.svg
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from thriftserve_bench.records.calls import APACHE, OURS, SIDES
from thriftserve_bench.records.experiments import HUNDRED, PATTERNS, TEN, ExperimentRun
from thriftserve_bench.report.experiments import digest
from thriftserve_bench.report.experiments.table import Row
from thriftserve_bench.report.experiments.timelines import timelines
from thriftserve_bench.servers import SERVER_TYPES
from thriftserve_bench.simulator.prediction import WITHIN

COLOURS = {OURS: "#0f6fb8", APACHE: "#d5660a"}
NAMES = {OURS: "ours", APACHE: "Apache"}
_TYPE_COLOURS = ("#0f6fb8", "#d5660a", "#1b8a5a", "#b0307f", "#8a6d00", "#5b50c8", "#444c58")
_DPI = 130
#: The same picture has the same bytes: no date, no random names.
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "thriftserve",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
}


def write_plots(run: ExperimentRun, found: Sequence[Row], directory: Path) -> list[Path]:
    """Draws every plot that the run has data for; returns the files' paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with mpl.rc_context(_STYLE):
        for name, figure in _figures(run, found):
            for kind, metadata in (("png", {}), ("svg", {"Date": None})):
                path = directory / f"{name}.{kind}"
                figure.savefig(path, dpi=_DPI, metadata=metadata)
                written.append(path)
    return written


def _figures(run: ExperimentRun, found: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    for workload in dict.fromkeys(row.workload for row in found):
        own = [row for row in found if row.workload == workload]
        yield f"experiments-{workload}", experiments(own)
        drawn: Iterable[tuple[str, Callable[[Sequence[Row]], Figure | None]]]
        drawn = (("latencies", latencies), ("timelines", timelines))
        for name, draw in drawn:
            if (figure := draw(own)) is not None:
                yield f"{name}-{workload}", figure
    if run.fork_costs:
        yield "forks", forks(run)
    if (figure := predicted(found)) is not None:
        yield "predicted", figure


def experiments(found: Sequence[Row]) -> Figure:
    """Time of each experiment by type: both sides, ideal, simulated."""
    figure = Figure(figsize=(10, 6.2))
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for axes, pattern in zip(panels, PATTERNS, strict=True):
        own = sorted((row for row in found if row.pattern.name == pattern), key=_type_place, reverse=True)
        _experiment(axes, own)
        axes.set_title(digest.clients(own[0]) if own else pattern)
    for axes in panels[2:]:
        axes.set_xlabel("seconds for 100 calls")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _experiment(axes: Axes, own: Sequence[Row]) -> None:
    places = range(len(own))
    _log_seconds(axes, "x")
    axes.set_yticks(list(places), [row.server_type for row in own])
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.plot([row.ideal_s for row in own], places, "|", color="black", markersize=15, label="ideal")
    for side, shift in ((OURS, 0.13), (APACHE, -0.13)):
        measured = [
            (cell.elapsed_s, at + shift) for at, row in enumerate(own) if (cell := row.cell(side)) and cell.usable
        ]
        axes.plot(*_columns(measured), "o", color=COLOURS[side], markersize=6, label=NAMES[side])
    simulated = [(row.predicted_ours_s, at) for at, row in enumerate(own) if row.predicted_ours_s]
    axes.plot(*_columns(simulated), "D", mfc="none", color="#8541a8", markersize=7, label="simulated, ours")


def latencies(found: Sequence[Row]) -> Figure | None:
    """Which part of the calls had their answer after so long, ten clients and a hundred."""
    figure = Figure(figsize=(10, 4.2))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, pattern in zip(panels, (TEN, HUNDRED), strict=True):
        own = sorted((row for row in found if row.pattern == pattern), key=_type_place)
        for row in own:
            _distribution(axes, row)
        axes.set(xlabel="seconds until the answer", ylim=(0, 1))
        _log_seconds(axes, "x")
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.set_title(f"{pattern.threads} clients × {pattern.calls_per_thread}")
    panels[0].set_ylabel("part of the calls")
    handles, labels = panels[0].get_legend_handles_labels()
    if not handles:
        return None
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, title="solid: ours, dashed: Apache"
    )
    return figure


def _distribution(axes: Axes, row: Row) -> None:
    colour = _TYPE_COLOURS[_type_place(row) % len(_TYPE_COLOURS)]
    for side in SIDES:
        cell = row.cell(side)
        if cell is None or not cell.usable:
            continue
        took = [call.end_s - call.start_s for call in cell.outcome.calls]
        label = row.server_type if side == OURS else None
        axes.ecdf(took, color=colour, linestyle="-" if side == OURS else "--", label=label)


def forks(run: ExperimentRun) -> Figure:
    """fork() against the parent's resident memory; TensorFlow is marked."""
    figure = Figure(figsize=(6.4, 4))
    axes = figure.subplots()
    for cost in sorted(run.fork_costs, key=lambda one: one.resident_bytes):
        mib, times = cost.resident_bytes / 2**20, [one * 1000 for one in cost.fork_s]
        special = cost.filled_with == "tensorflow"
        colour = COLOURS[APACHE] if special else COLOURS[OURS]
        axes.plot([mib] * len(times), times, ".", color=colour, alpha=0.25)
        axes.plot([mib], [median(times)], "*" if special else "o", color=colour, markersize=13 if special else 6)
        if special:
            axes.annotate(
                "TensorFlow loaded",
                (mib, median(times)),
                (-10, 4),
                textcoords="offset points",
                color=colour,
                ha="right",
            )
    axes.set(xlabel="MiB resident in the parent", ylabel="ms for one fork()", xlim=(0, None), ylim=(0, None))
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.margins(x=0.2)
    axes.set_title("What a fork costs (large marks: medians)")
    return figure


def predicted(found: Sequence[Row]) -> Figure | None:
    """Simulated against measured, with the band in which they are to agree."""
    pairs = {
        side: [
            (cell.elapsed_s, told)
            for row in found
            if (cell := row.cell(side)) and cell.usable and (told := row.predicted_s(side))
        ]
        for side in SIDES
    }
    every = [value for pair in (*pairs[OURS], *pairs[APACHE]) for value in pair if value]
    if not every:
        return None
    figure = Figure(figsize=(5.4, 5))
    axes = figure.subplots()
    ends = [min(every) / 1.5, max(every) * 1.5]
    low, high = ([end * factor for end in ends] for factor in (1 - WITHIN, 1 + WITHIN))
    axes.fill_between(ends, low, high, color="#8541a8", alpha=0.15, label=f"within {WITHIN:.0%}", linewidth=0)
    for side in SIDES:
        axes.plot(*_columns(pairs[side]), "o", color=COLOURS[side], alpha=0.75, label=NAMES[side])
    axes.set(xlabel="measured, seconds", ylabel="simulated, seconds", xlim=ends, ylim=ends)
    _log_seconds(axes, "x")
    _log_seconds(axes, "y")
    axes.legend(frameon=False)
    axes.set_title("Does the explanation hold?")
    return figure


def _log_seconds(axes: Axes, name: str) -> None:
    """A logarithmic axis with plain numbers on it."""
    axis = axes.xaxis if name == "x" else axes.yaxis
    axes.set(**{f"{name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _columns(pairs: Sequence[tuple[float | None, float | None]]) -> tuple[list[float], list[float]]:
    known = [(first, second) for first, second in pairs if first is not None and second is not None]
    return [first for first, _ in known], [second for _, second in known]


def _type_place(row: Row) -> int:
    return SERVER_TYPES.index(row.server_type) if row.server_type in SERVER_TYPES else len(SERVER_TYPES)
