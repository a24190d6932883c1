"""The plots of a sweep.

SweepRun  -->  one figure for each payload and model: throughput, p50 and p99 of every server  -->  PNG and SVG

On the left against concurrency (closed loop), on the right against the offered rate (open loop).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from thriftserve_bench.plots import save_all
from thriftserve_bench.records.sweep import CLOSED, OPEN, Point, SweepRun, Variant
from thriftserve_bench.report.sweep import PointFigures, point_figures

_AXES = {CLOSED: "callers (closed loop)", OPEN: "offered calls/s (open loop)"}


def write_plots(run: SweepRun, directory: Path) -> list[Path]:
    """Draw every figure into `directory`, which is created if it is missing; return the files."""
    return save_all(_figures(run), directory)


def _figures(run: SweepRun) -> Iterator[tuple[str, Figure]]:
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in run.points:
        groups.setdefault((point.setting.variant.model_name, point.setting.payload), []).append(point)
    for (model, payload), points in groups.items():
        if any(point_figures(point) for point in points):
            name = "sweep-" + "".join(sign if sign.isalnum() else "_" for sign in f"{model}-{payload}")
            yield name, _draw(points, f"{model}, {payload}")


def _draw(points: list[Point], title: str) -> Figure:
    modes = [mode for mode in (CLOSED, OPEN) if any(point.setting.mode == mode for point in points)]
    figure = Figure(figsize=(6 * len(modes), 8))
    axes = figure.subplots(2, len(modes), squeeze=False)
    for column, mode in enumerate(modes):
        _column(axes[0][column], axes[1][column], [point for point in points if point.setting.mode == mode], mode)
    figure.suptitle(title)
    return figure


def _column(rate: Any, latency: Any, points: list[Point], mode: str) -> None:
    variants: dict[Variant, list[tuple[Point, PointFigures]]] = {}
    for point in points:
        figures = point_figures(point)
        if figures:
            variants.setdefault(point.setting.variant, []).append((point, figures))
    for number, (variant, measured) in enumerate(variants.items()):
        _lines(rate, latency, variant, measured, f"C{number % 10}")
    loads = [point.setting.load for point in points]
    if mode == OPEN:
        rate.plot(loads, loads, color="0.7", linestyle=":", label="all answered")
    rate.set_ylabel("answers/s")
    rate.set_ylim(bottom=0)
    latency.set_ylabel("latency ms: p50 solid, p99 dashed")
    latency.set_yscale("log")
    for axes in (rate, latency):
        axes.set_xlabel(_AXES[mode])
        axes.set_xscale("log")
        axes.set_xticks(sorted(set(loads)), [f"{load:g}" for load in sorted(set(loads))], minor=False)
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.3)
    if variants:
        rate.legend(fontsize="small")


def _lines(rate: Any, latency: Any, variant: Variant, measured: list[tuple[Point, PointFigures]], color: str) -> None:
    measured.sort(key=lambda pair: pair[0].setting.load)
    loads = [point.setting.load for point, _ in measured]
    rate.plot(loads, [figures.calls_per_s for _, figures in measured], "o-", color=color, label=variant.title)
    latency.plot(loads, [figures.p50_ms for _, figures in measured], "o-", color=color)
    latency.plot(loads, [figures.p99_ms for _, figures in measured], "o--", color=color)
    unsettled = [(point.setting.load, figures.calls_per_s) for point, figures in measured if not point.settled]
    if unsettled:
        # Hollow: the windows did not agree.
        rate.plot(*zip(*unsettled, strict=True), "o", color=color, markerfacecolor="white", linestyle="none")
