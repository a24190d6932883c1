"""`thriftserve-bench sweep`: progress, files.

argv  -->  SweepSettings  -->  sweep, a bar with the time left  -->  FILE.json and the table

Ctrl-C ends the measuring and keeps what there is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from thriftserve_bench.benchmarks.sweep.flags import add_flags, settings_of
from thriftserve_bench.benchmarks.sweep.plan import SweepSettings
from thriftserve_bench.benchmarks.sweep.runner import sweep
from thriftserve_bench.benchmarks.sweep.settle import rate
from thriftserve_bench.load.generators import GeneratorFailed
from thriftserve_bench.records.sweep import Point, SweepRun
from thriftserve_bench.report.sweep import show
from thriftserve_bench.report.sweep_page import write_page

_DESCRIPTION = """\
Throughput and latency against concurrency (closed loop) and against offered rate (open loop: Poisson arrivals,
latency from the intended send time, so that a server that stalls can't hide it), for every combination of the
server types, workers, threads, models and payloads given. Each point is measured until three windows in a row
agree, or says that it did not settle. Every window goes into FILE; `thriftserve-bench report FILE` makes the table
again, and with --page DIR the plots.
"""
_EPILOG = """\
a first look (half a minute):   thriftserve-bench sweep --quick
two types, one rate after another:
    thriftserve-bench sweep --server-type TThreadPoolServer --server-type TProcessPoolServer --rate 1000,2000,4000
a Python model that waits 5 ms, 1 to 64 callers:
    thriftserve-bench sweep --model 'sleep=python:thriftserve_bench.workloads:Sleep?ms=5' --concurrency 1,4,16,64
a small TensorFlow model, built for it:
    thriftserve-bench sweep --model-kind half_plus_two --server-type TProcessPoolServer --workers 1,2
"""
_INTERRUPTED = 130


def add_to(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "sweep",
        help="throughput and latency against concurrency and offered rate",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser)
    parser.add_argument("--out", type=Path, default=Path("sweep.json"), metavar="FILE", help="raw results (sweep.json)")
    parser.add_argument("--page", type=Path, metavar="DIR", help="write the table and plots there, too")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Measures, writes and shows; 1 where a point could not be measured."""
    with tempfile.TemporaryDirectory(prefix="thriftserve-bench-") as scratch:
        try:
            settings = settings_of(flags, Path(scratch))
        except ValueError as error:
            print(f"thriftserve-bench: {error}", file=sys.stderr)
            return 2
        return _run(settings, flags.out, flags.page)


def _run(settings: SweepSettings, out: Path, page: Path | None) -> int:
    console = Console(stderr=True)
    kept: list[SweepRun] = []
    code = 0
    try:
        _measure(settings, console, kept)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except GeneratorFailed as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        code = 1
    if not kept or not kept[0].points:
        console.print("nothing was measured")
        return code or 1
    found = kept[0]
    found.cut_short = code != 0
    found.save(out)
    show(found, Console())
    for point in found.points:
        if point.failure:
            print(f"thriftserve-bench: {point.setting.title}: {point.failure}", file=sys.stderr)
            code = code or 1
    console.print(f"raw results: {out}   the table again: thriftserve-bench report {out}", highlight=False)
    if page is not None:
        console.print(f"page: {write_page(found, page)}", highlight=False)
    return code


def _measure(settings: SweepSettings, console: Console, kept: list[SweepRun]) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("the load generator by itself", total=settings.total)

        def tick(point: Point, over: bool) -> None:
            told = f"{rate(point.windows[-1]):,.0f}/s, window {len(point.windows)}" if point.windows else "failed"
            progress.update(task, advance=1 if over else 0, description=f"{point.setting.title} {told}")

        sweep(settings, kept.append, tick)
