"""`experiments`: the concurrency experiments, patterns of clients on every server type, ours and Apache's.

    forks, machine  -->  servers up  -->  a single client at each  -->  cells side by side, then alone  -->  FILE.json

The file is written anew after each cell, so whatever ends the run, what was measured is there.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from thriftserve_bench.benchmark import Bar, Benchmark, fail, given_lists, given_numbers
from thriftserve_bench.benchmarks.experiments import calibrate
from thriftserve_bench.benchmarks.experiments.forks import fork_costs
from thriftserve_bench.benchmarks.experiments.hosts import TIMED, Host, HostPlan, start_all, stop_all
from thriftserve_bench.benchmarks.experiments.lanes import Lanes
from thriftserve_bench.benchmarks.experiments.schedule import Cell, ExperimentSettings, Schedule, plans
from thriftserve_bench.load.pattern_clients import IMAGES, MODEL, make_inputs
from thriftserve_bench.processes import ChildEnded, ProgramFailed, ServerFailed, run_module
from thriftserve_bench.records.calls import OURS, SIDES
from thriftserve_bench.records.experiments import OK, PATTERNS, REAL_MODEL, ExperimentRun, Outcome
from thriftserve_bench.simulator.setup import NotSimulated
from thriftserve_bench.simulator.what_if import simulate_text
from thriftserve_client import Client

_PACKAGES = ("thriftserve", "thrift", "numpy", "tensorflow", "tensorflow-cpu", "simpy")
_MODEL_KIND = "image_classifier"
_MODEL_CALLS = 30
_WRONG_USAGE = 2
_DEFAULTS = ExperimentSettings()
_QUICK = replace(_DEFAULTS, service_ms=15.0, side_by_side=3, probes=20, fork_mb=(10, 100, 400), fork_repeats=10)


class ExperimentsBenchmark(Benchmark[ExperimentSettings, ExperimentRun]):
    """The command `experiments`.

    Args:
        show: prints the table of a run.
        write_page: writes a run's page into a directory and returns its path.
    """

    name = "experiments"
    help = "the concurrency experiments: patterns of clients on every server type"
    description = """\
The published concurrency experiments, and unpublished ones: each pattern of clients on each server type,
Apache's classes and ours. Servers are processes of their own; every call's start, end and outcome goes into
FILE, and the table, plots and page are made from it.
"""
    epilog = """\
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
    file = "bench-results/experiments.json"
    failures = (ChildEnded, ProgramFailed, ServerFailed)

    def __init__(
        self, show: Callable[[ExperimentRun, Console], None], write_page: Callable[[ExperimentRun, Path], Path]
    ) -> None:
        super().__init__(show)
        self._write_page = write_page

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        several = "only this one; may be given several times"
        add("--quick", action="store_true", help=f"{_QUICK.service_ms:g} ms a call: everything in under a minute")
        add("--workload", choices=(*TIMED, REAL_MODEL), default=_DEFAULTS.workload, help="hold-gil by default")
        add("--service-ms", type=float, metavar="MS", help=f"what a call takes ({_DEFAULTS.service_ms:g})")
        add("--pattern", action="append", choices=tuple(PATTERNS), help=several)
        add("--server-type", action="append", choices=_DEFAULTS.server_types, help=several)
        add("--side", action="append", choices=SIDES, help=f"whose servers; {several}")
        add("--workers", type=int, help=f"of TProcessPoolServer, TBatchingServer ({_DEFAULTS.workers})")
        add("--threads", type=int, help=f"of TThreadPoolServer, TNonblockingServer ({_DEFAULTS.threads})")
        add(
            "--side-by-side",
            type=int,
            metavar="N",
            help="cells at once, if they wait without using a core "
            f"({_DEFAULTS.side_by_side}; {_QUICK.side_by_side} with --quick)",
        )
        add("--no-forks", action="store_true", help="leave out what forks cost")
        add("--page", type=Path, metavar="DIR", help="where the page goes (page, beside FILE)")
        add("--no-page", action="store_true", help="no page, only FILE and the table")
        add("--simulate", metavar="NAME=VALUE,…", help="measure nothing: predict, as in cores=64,workers=20")

    def run(self, flags: argparse.Namespace) -> int:
        if flags.simulate is None:
            return super().run(flags)
        try:
            print(simulate_text(flags.simulate), end="")
        except NotSimulated as error:
            fail(error)
            return _WRONG_USAGE
        return 0

    def settings(self, flags: argparse.Namespace) -> ExperimentSettings:
        return settings_of(flags)

    def begin(self, settings: ExperimentSettings) -> ExperimentRun:
        return ExperimentRun.begin(asdict(settings), _PACKAGES)

    def measure(self, settings: ExperimentSettings, run: ExperimentRun, flags: argparse.Namespace, bar: Bar) -> None:
        _Experiments(settings, run, flags.file, bar).measure()

    def measured(self, run: ExperimentRun) -> bool:
        return bool(run.outcomes)

    def exit_code(self, run: ExperimentRun) -> int:
        """Return 1 if a cell could not be measured."""
        return int(any(outcome.failure for outcome in run.outcomes))

    def finish(self, run: ExperimentRun, flags: argparse.Namespace, console: Console) -> None:
        if not (run.cut_short or flags.no_page):
            page = self._write_page(run, flags.page or flags.file.parent / "page")
            console.print(f"page: {page}", highlight=False, soft_wrap=True)


def settings_of(flags: argparse.Namespace) -> ExperimentSettings:
    """Return the settings that the flags ask for.

    Raises:
        ValueError: a number is of no use, or flags contradict each other; the message names the flag.
    """
    given: dict[str, Any] = given_numbers(flags, ("service_ms", "workers", "threads", "side_by_side"))
    if flags.workload == REAL_MODEL and flags.service_ms is not None:
        raise ValueError("--service-ms does not go with --workload model: it takes what it takes")
    given |= given_lists(patterns=flags.pattern, server_types=flags.server_type, sides=flags.side)
    if flags.no_forks:
        given |= {"fork_mb": (), "fork_tensorflow": False}
    return replace(_QUICK if flags.quick else _DEFAULTS, workload=flags.workload, **given)


@dataclass
class _Experiments:
    """The measuring of a run."""

    settings: ExperimentSettings
    run: ExperimentRun
    file: Path
    bar: Bar

    def measure(self) -> None:
        """Measure everything.

        Raises:
            ProgramFailed: the workload is a real model, and it can't be built.
            ServerFailed: the real model can't be served.
        """
        with ExitStack() as stack:
            model_path = None
            if self.settings.workload == REAL_MODEL:
                model_path = self._make_model(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            schedule = Schedule(self.settings, plans(self.settings, model_path))
            self.bar.log(
                f"{schedule.cells} cells on {len(schedule.plans)} servers: {duration(schedule.total_s)}, "
                "and some seconds to start and stop them"
            )
            self._measure_machine()
            hosts = [Host(plan, plan.process()) for plan in schedule.plans]
            stack.callback(stop_all, hosts)
            self.bar.log(f"starting {len(hosts)} servers")
            start_all(hosts, self._report_start)
            self.bar.log("a single client at each")
            for host in hosts:
                self.run.calibration |= calibrate.of_server(host, self.settings.probes)
            self._measure_cells(schedule, {host.plan: host for host in hosts})
            self.bar.log("stopping the servers")

    def _make_model(self, directory: Path) -> Path:
        """Build the real model, and measure how long one of its calls takes."""
        self.bar.log("building the model")
        run_module("thriftserve_bench.workloads.builders", _MODEL_KIND, str(directory))
        path = directory / _MODEL_KIND
        service_ms = _service_ms(HostPlan(OURS, "TThreadPoolServer", REAL_MODEL, 0.0, 1, 1, path))
        self.settings = replace(self.settings, service_ms=service_ms)
        self.run.settings["service_ms"] = service_ms
        return path

    def _measure_machine(self) -> None:
        settings = self.settings
        if settings.fork_mb or settings.fork_tensorflow:
            self.bar.log("timing forks")
        for cost in fork_costs(settings.fork_mb, settings.fork_repeats, settings.fork_tensorflow):
            self.run.fork_costs.append(cost)
        self.run.calibration |= calibrate.of_machine()

    def _report_start(self, host: Host) -> None:
        if host.failed:
            self.bar.log(f"{host.plan.server_type} ({host.plan.side}) did not start: {host.failure}")

    def _measure_cells(self, schedule: Schedule, hosts: dict[HostPlan, Host]) -> None:
        self.bar.expect(schedule.total_s)

        def tick() -> None:
            done = schedule.cells - schedule.cells_left
            self.bar.reach(schedule.total_s - schedule.left_s, f"{done} of {schedule.cells} cells")

        with ExitStack() as stack:
            for groups, number in ((schedule.groups, self.settings.side_by_side), ([schedule.alone], 1)):
                if not any(groups):
                    continue
                lanes = Lanes(min(number, len(groups)), hosts, schedule.begins, tick)
                stack.callback(lanes.close)
                for cell, outcome in lanes.run(groups):
                    schedule.ended(cell)
                    self.run.outcomes.append(outcome)
                    self.run.save(self.file)
                    self._report_cell(schedule, cell, outcome)
                    tick()

    def _report_cell(self, schedule: Schedule, cell: Cell, outcome: Outcome) -> None:
        done = schedule.cells - schedule.cells_left
        failed = sum(call.outcome != OK for call in outcome.calls)
        text = outcome.failure.splitlines()[0] if outcome.failure else f"{outcome.elapsed_s:7.2f} s"
        text += f", {failed} of {len(outcome.calls)} calls failed" if failed else ""
        name = f"{cell.pattern.name:<8}{cell.plan.server_type:<20}{cell.plan.side:<8}"
        self.bar.log(f"{done:>3}/{schedule.cells}  {name}{text}   ({duration(schedule.left_s)} left)")


def _service_ms(plan: HostPlan) -> float:
    """Return the milliseconds of a single client's call.

    Raises:
        ServerFailed: the server did not start.
    """
    host = Host(plan, plan.process())
    host.start()
    try:
        if host.failed:
            raise ServerFailed(f"the model could not be served: {host.failed}")
        inputs, times = make_inputs(IMAGES), []
        with Client(host.process.host, host.process.port) as client:
            for _ in range(_MODEL_CALLS):
                began = time.perf_counter()
                client.predict(MODEL, inputs)
                times.append(time.perf_counter() - began)
        return median(times) * 1000
    finally:
        host.stop()


def duration(seconds: float) -> str:
    """Write seconds as people say them: "90 s", "3 min"."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
