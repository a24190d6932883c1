"""The plots of a run, as files.

ExperimentRun, rows  -->  experiments, latencies, forks, predicted, timelines  -->  DIR/NAME.png, DIR/NAME.svg
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import NamedTuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thriftserve_bench.plots import GRID, log_seconds, save_all
from thriftserve_bench.records.calls import APACHE, OURS, SIDES
from thriftserve_bench.records.experiments import HUNDRED, PATTERNS, TEN, Call, ExperimentRun, Outcome
from thriftserve_bench.report.experiments import digest
from thriftserve_bench.report.experiments.table import Row
from thriftserve_bench.servers import SERVER_TYPES
from thriftserve_bench.simulator.predict import WITHIN

COLOURS = {OURS: "#0f6fb8", APACHE: "#d5660a"}
NAMES = {OURS: "ours", APACHE: "Apache"}
_TYPE_COLOURS = ("#0f6fb8", "#d5660a", "#1b8a5a", "#b0307f", "#8a6d00", "#5b50c8", "#444c58")


def write_plots(run: ExperimentRun, table_rows: Sequence[Row], directory: Path) -> list[Path]:
    """Draw every plot that the run has data for; return the files' paths."""
    return save_all(_figures(run, table_rows), directory)


def _figures(run: ExperimentRun, table_rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    for workload in dict.fromkeys(row.workload for row in table_rows):
        own = [row for row in table_rows if row.workload == workload]
        yield f"experiments-{workload}", experiments(own)
        drawn: Iterable[tuple[str, Callable[[Sequence[Row]], Figure | None]]]
        drawn = (("latencies", latencies), ("timelines", timelines))
        for name, draw in drawn:
            if (figure := draw(own)) is not None:
                yield f"{name}-{workload}", figure
    if run.fork_costs:
        yield "forks", forks(run)
    if (figure := predicted(table_rows)) is not None:
        yield "predicted", figure


def experiments(table_rows: Sequence[Row]) -> Figure:
    """Draw the time of each experiment by type: both sides, ideal, simulated."""
    figure = Figure(figsize=(10, 6.2))
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for axes, pattern in zip(panels, PATTERNS, strict=True):
        own = sorted((row for row in table_rows if row.pattern.name == pattern), key=_type_place, reverse=True)
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
    log_seconds(axes, "x")
    axes.set_yticks(list(places), [row.server_type for row in own])
    axes.grid(axis="x", **GRID)
    axes.set_axisbelow(True)
    axes.plot([row.ideal_s for row in own], places, "|", color="black", markersize=15, label="ideal")
    for side, shift in ((OURS, 0.13), (APACHE, -0.13)):
        measured = [
            (cell.elapsed_s, at + shift) for at, row in enumerate(own) if (cell := row.cell(side)) and cell.usable
        ]
        axes.plot(*_columns(measured), "o", color=COLOURS[side], markersize=6, label=NAMES[side])
    simulated = [(row.predicted_ours_s, at) for at, row in enumerate(own) if row.predicted_ours_s]
    axes.plot(*_columns(simulated), "D", mfc="none", color="#8541a8", markersize=7, label="simulated, ours")


def latencies(table_rows: Sequence[Row]) -> Figure | None:
    """Draw which part of the calls was answered after so long, for ten clients and a hundred."""
    figure = Figure(figsize=(10, 4.2))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, pattern in zip(panels, (TEN, HUNDRED), strict=True):
        own = sorted((row for row in table_rows if row.pattern == pattern), key=_type_place)
        for row in own:
            _distribution(axes, row)
        axes.set(xlabel="seconds until the answer", ylim=(0, 1))
        log_seconds(axes, "x")
        axes.grid(**GRID)
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
    """Draw fork() against the parent's resident memory; TensorFlow is marked."""
    figure = Figure(figsize=(6.4, 4))
    axes = figure.subplots()
    for cost in sorted(run.fork_costs, key=lambda cost_s: cost_s.resident_bytes):
        mib, times = cost.resident_bytes / 2**20, [cost_s * 1000 for cost_s in cost.fork_s]
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
    axes.grid(**GRID)
    axes.margins(x=0.2)
    axes.set_title("What a fork costs (large marks: medians)")
    return figure


def predicted(table_rows: Sequence[Row]) -> Figure | None:
    """Draw simulated against measured, with the band in which they should agree."""
    pairs = {
        side: [
            (cell.elapsed_s, predicted_s)
            for row in table_rows
            if (cell := row.cell(side)) and cell.usable and (predicted_s := row.predicted_s(side))
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
    log_seconds(axes, "x")
    log_seconds(axes, "y")
    axes.legend(frameon=False)
    axes.set_title("Does the explanation hold?")
    return figure


def _columns(pairs: Sequence[tuple[float | None, float | None]]) -> tuple[list[float], list[float]]:
    known = [(first, second) for first, second in pairs if first is not None and second is not None]
    return [first for first, _ in known], [second for _, second in known]


def _type_place(row: Row) -> int:
    return SERVER_TYPES.index(row.server_type) if row.server_type in SERVER_TYPES else len(SERVER_TYPES)


#: Beyond so many lanes their processes' numbers would be too small to read.
_NAMED_LANES = 12


class Bar(NamedTuple):
    """A call while it ran, in seconds."""

    call: Call
    begin_s: float
    end_s: float


def timelines(table_rows: Sequence[Row]) -> Figure | None:
    """Draw timelines of ours in the published rows of ten clients and a hundred, or None if none was measured."""
    shown = [row for row in table_rows if row.published and row.published.server_type and row.ours and row.ours.usable]
    if not shown:
        return None
    across = 2 if len(shown) > 1 else 1
    down = -(-len(shown) // across)
    figure = Figure(figsize=(5 * across, 2.6 * down))
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes, row in zip(panels, shown, strict=False):
        if row.ours:
            _draw_timeline(axes, row.ours.outcome)
            axes.set_title(f"{row.name}: {row.server_type}, {row.pattern.threads} clients: {row.ours.elapsed_s:.2f} s")
    return figure


def _draw_timeline(axes: Axes, outcome: Outcome) -> None:
    placed = lanes(outcome)
    clients = max(call.thread for call in outcome.calls) + 1
    hues = colormaps["hsv"]
    for at, (_, bars) in enumerate(placed):
        spans = [(bar.begin_s, 0.96 * (bar.end_s - bar.begin_s)) for bar in bars]
        colours = [hues(0.9 * bar.call.thread / clients) for bar in bars]
        axes.broken_barh(spans, (at - 0.42, 0.84), facecolors=colours, alpha=0.75, linewidth=0)
    if len(placed) <= _NAMED_LANES:
        axes.set_yticks(range(len(placed)), [f"process {pid}" if pid else "process unknown" for pid, _ in placed])
    else:
        axes.set_ylabel(f"{len({pid for pid, _ in placed})} processes")
        axes.set_yticks([])
    axes.set(xlabel="seconds", xlim=(0, None), ylim=(len(placed) - 0.4, -0.6))


def lanes(outcome: Outcome) -> list[tuple[int, list[Bar]]]:
    """Return bars by the process that answered, split if they overlap, in the order of their beginnings."""
    placed: list[tuple[int, list[Bar]]] = []
    by_pid = sorted(outcome.calls, key=lambda call: (call.worker_pid, call.end_s))
    for pid, calls in groupby(by_pid, key=lambda call: call.worker_pid):
        own: list[list[Bar]] = []
        for bar in _bars(list(calls), outcome):
            _place_bar(bar, own, outcome)
        placed += [(pid, lane) for lane in own]
    return sorted(placed, key=lambda lane: lane[1][0].begin_s)


def _bars(calls: Sequence[Call], outcome: Outcome) -> list[Bar]:
    """Return when calls of one process ran, as far as clients know: for their service time, until their ends.

    With one lock only one runs at a time: an answer that left later than it was ready waited for the lock again.
    """
    bars: list[Bar] = []
    for call in reversed(calls):
        end_s = min(call.end_s, bars[-1].begin_s) if bars and outcome.workload == "hold-gil" else call.end_s
        bars.append(Bar(call, max(call.start_s, end_s - outcome.service_ms / 1000), end_s))
    return bars[::-1]


def _place_bar(bar: Bar, own: list[list[Bar]], outcome: Outcome) -> None:
    # Bars are drawn from their ends backwards: neighbours may seem to overlap by what a clock is off.
    slack = max(0.003, outcome.service_ms / 1000 * 0.1)
    for lane in own:
        if lane[-1].end_s <= bar.begin_s + slack:
            lane.append(bar)
            return
    own.append([bar])
