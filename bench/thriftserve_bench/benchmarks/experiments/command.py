"""`thriftserve-bench experiments`: flags, a run, its results.

argv  -->  ExperimentSettings  -->  Experiments.measure  -->  FILE.json  -->  page and table

Ctrl-C ends the measuring and keeps what there is.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from thriftserve_bench.benchmarks.experiments.hosts import TIMED
from thriftserve_bench.benchmarks.experiments.progress import Telling
from thriftserve_bench.benchmarks.experiments.runner import Experiments, ModelNotMade
from thriftserve_bench.benchmarks.experiments.schedule import ExperimentSettings
from thriftserve_bench.processes import ChildEnded
from thriftserve_bench.records.calls import SIDES
from thriftserve_bench.records.experiments import PATTERNS, REAL_MODEL
from thriftserve_bench.report.experiments.matrix import show_matrix
from thriftserve_bench.simulator.setup import NotToBeSimulated
from thriftserve_bench.simulator.what_if import simulate_text

_DESCRIPTION = """\
The published concurrency experiments, and those that nobody published: each pattern of clients on each
server type, Apache's classes and ours. Servers are processes of their own; every call's start, end and
outcome goes into FILE, and the table, plots and page come out of it.
"""
_EPILOG = """\
workloads, MS milliseconds a call each:
  hold-gil   waits with the interpreter's lock held: two cores behave like one for every worker
  spin       computes
  sleep      waits without the lock, as for a GPU
  model      a real SavedModel, which takes what it takes
patterns:
  series     1 client, 100 calls in a row
  shared     10 threads share 1 client, 10 calls each
  ten        10 threads, a client and 10 calls each
  hundred    100 threads, a client and a call each
"""
_DEFAULTS = ExperimentSettings()
_QUICK = replace(
    _DEFAULTS,
    service_ms=15.0,
    side_by_side=3,
    probes=20,
    fork_mb=(10, 100, 400),
    fork_repeats=10,
)
_INTERRUPTED = 130


def add_to(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "experiments",
        help="the concurrency experiments: patterns of clients on every server type",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    several = "only this one; may be given several times"
    add("--quick", action="store_true", help=f"{_QUICK.service_ms:g} ms a call: everything in under a minute")
    add("--workload", choices=(*TIMED, REAL_MODEL), default=_DEFAULTS.workload, help="hold-gil by default")
    add("--service-ms", type=float, metavar="MS", help=f"what a call takes ({_DEFAULTS.service_ms:g})")
    add("--pattern", action="append", choices=tuple(PATTERNS), help=several)
    add("--server-type", action="append", choices=_DEFAULTS.server_types, help=several)
    add("--side", action="append", choices=SIDES, help=f"whose servers; {several}")
    add("--workers", type=int, default=_DEFAULTS.workers, help="of TProcessPoolServer, TBatchingServer (%(default)s)")
    add("--threads", type=int, default=_DEFAULTS.threads, help="of TThreadPoolServer, TNonblockingServer (%(default)s)")
    add(
        "--side-by-side",
        type=int,
        metavar="N",
        help="cells at once, where they wait without using a core "
        f"({_DEFAULTS.side_by_side}; {_QUICK.side_by_side} with --quick)",
    )
    add("--no-forks", action="store_true", help="leave out what forks cost")
    add("--output", type=Path, default=Path("bench-results/experiments.json"), metavar="FILE", help="(%(default)s)")
    add("--page", type=Path, metavar="DIR", help="where the page goes (page, beside FILE)")
    add("--no-page", action="store_true", help="no page, only FILE and the table")
    add("--simulate", metavar="NAME=VALUE,…", help="measure nothing: predict, as in cores=64,workers=20,service_ms=330")
    parser.set_defaults(run=run)


def settings_of(flags: argparse.Namespace) -> ExperimentSettings:
    """The settings that the flags ask for.

    Raises:
        ValueError: a number is of no use, or a flag does not go with another; the message names the flag.
    """
    base = _QUICK if flags.quick else _DEFAULTS
    numbers = {name: getattr(flags, name) for name in ("service_ms", "workers", "threads", "side_by_side")}
    told: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    for name, value in told.items():
        if not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} is {value:g}: it must be above 0")
    if flags.workload == REAL_MODEL and flags.service_ms is not None:
        raise ValueError("--service-ms does not go with --workload model: it takes what it takes")
    lists = {"patterns": flags.pattern, "server_types": flags.server_type, "sides": flags.side}
    told |= {name: tuple(dict.fromkeys(values)) for name, values in lists.items() if values}
    if flags.no_forks:
        told |= {"fork_mb": (), "fork_tensorflow": False}
    return replace(base, workload=flags.workload, **told)


def run(flags: argparse.Namespace) -> int:
    """Measures, writes and shows."""
    if flags.simulate is not None:
        return _simulate(flags.simulate)
    try:
        settings = settings_of(flags)
    except ValueError as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 2
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    experiments = Experiments(settings, flags.output, Telling(console))
    code = 0
    try:
        experiments.measure()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except (ModelNotMade, ChildEnded) as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        code = 1
    return _finish(experiments, flags, console, code)


def _simulate(spec: str) -> int:
    try:
        print(simulate_text(spec), end="")
    except NotToBeSimulated as error:
        print(f"thriftserve-bench: {error}", file=sys.stderr)
        return 2
    return 0


def _finish(experiments: Experiments, flags: argparse.Namespace, console: Console, code: int) -> int:
    run = experiments.run
    if not run.outcomes:
        console.print("nothing was measured")
        return code or 1
    run.cut_short = code != 0
    experiments.save()
    show_matrix(run, Console())
    told = f"{len(run.outcomes)} cells kept in {flags.output}   every figure: thriftserve-bench report {flags.output}"
    console.print(told, highlight=False, soft_wrap=True)
    if code == 0 and not flags.no_page:
        from thriftserve_bench.report.experiments.page import write_page  # brings matplotlib

        page = write_page(run, flags.page or flags.output.parent / "page")
        console.print(f"page: {page}", highlight=False, soft_wrap=True)
    if any(one.failure for one in run.outcomes):
        return code or 1
    return code
