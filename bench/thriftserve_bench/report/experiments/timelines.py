"""Who ran when: a lane for each process that served, a bar for each call while it ran.

rows  -->  lanes of the published rows  -->  Figure
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thriftserve_bench.records.experiments import Call, Outcome
from thriftserve_bench.report.experiments.table import Row

#: Beyond so many lanes their processes' numbers would be too small to read.
_NAMED_LANES = 12


class Bar(NamedTuple):
    """A call while it ran, in seconds."""

    call: Call
    begin_s: float
    end_s: float


def timelines(found: Sequence[Row]) -> Figure | None:
    """Timelines of ours in the published rows of ten clients and a hundred; None where none was measured."""
    shown = [row for row in found if row.published and row.published.server_type and row.ours and row.ours.usable]
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
            _draw(axes, row.ours.outcome)
            axes.set_title(f"{row.name}: {row.server_type}, {row.pattern.threads} clients: {row.ours.elapsed_s:.2f} s")
    return figure


def _draw(axes: Axes, outcome: Outcome) -> None:
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
    """Bars by the process that answered, split where they overlap; in the order in which the lanes began."""
    found: list[tuple[int, list[Bar]]] = []
    by_pid = sorted(outcome.calls, key=lambda call: (call.worker_pid, call.end_s))
    for pid, calls in groupby(by_pid, key=lambda call: call.worker_pid):
        own: list[list[Bar]] = []
        for bar in _bars(list(calls), outcome):
            _place(bar, own, outcome)
        found += [(pid, lane) for lane in own]
    return sorted(found, key=lambda lane: lane[1][0].begin_s)


def _bars(calls: Sequence[Call], outcome: Outcome) -> list[Bar]:
    """When calls of one process ran, as far as their clients can know: for their service time, until their ends.

    With one lock only one runs at a time: an answer that left later than it was ready waited for the lock again.
    """
    found: list[Bar] = []
    for call in reversed(calls):
        end_s = min(call.end_s, found[-1].begin_s) if found and outcome.workload == "hold-gil" else call.end_s
        found.append(Bar(call, max(call.start_s, end_s - outcome.service_ms / 1000), end_s))
    return found[::-1]


def _place(bar: Bar, own: list[list[Bar]], outcome: Outcome) -> None:
    # Bars are drawn from their ends backwards: neighbours may seem to overlap by what a clock is off.
    slack = max(0.003, outcome.service_ms / 1000 * 0.1)
    for lane in own:
        if lane[-1].end_s <= bar.begin_s + slack:
            lane.append(bar)
            return
    own.append([bar])
