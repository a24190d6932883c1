"""`sweep`: throughput and latency against concurrency and offered rate.

settings  -->  each server up  -->  each point: connections, warm-up, windows until three agree  -->  SweepRun
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from thriftserve_bench import stats
from thriftserve_bench.benchmark import Bar, Benchmark, fail
from thriftserve_bench.benchmarks.sweep.settings import SweepSettings, add_flags, settings_of
from thriftserve_bench.load.generators import GeneratorFailed, Generators
from thriftserve_bench.machine import running_on, split_cores
from thriftserve_bench.processes import ChildEnded, ServerFailed, ServerProcess, clean_environment
from thriftserve_bench.records.sweep import CLOSED, ECHO, IN_A_ROW, Point, Setting, SweepRun, SweepWindow, Variant
from thriftserve_bench.workloads.payloads import echo_frame, model_frame
from thriftserve_client.errors import ThriftServeClientError

_PACKAGES = ("thriftserve", "thrift", "numpy", "tensorflow-cpu", "tensorflow", "hdrhistogram")
#: Warm-up before a point's first window, as a part of a window, and at most in seconds.
_WARM_UP, _WARM_UP_S = 0.3, 0.5
#: The load generators' limit: connections (enough that neither side waits for the other), windows, their length.
_LIMIT_CONNECTIONS, _LIMIT_WINDOWS, _LIMIT_S = 32, 3, 0.5


class SweepBenchmark(Benchmark[SweepSettings, SweepRun]):
    """The command `sweep`.

    Args:
        show: prints the table of a run.
        write_page: writes a run's page into a directory and returns its path.
    """

    name = "sweep"
    help = "throughput and latency against concurrency and offered rate"
    description = """\
Throughput and latency against concurrency (closed loop) and against offered rate (open loop: Poisson arrivals,
latency from the intended send time, so that a server that stalls can't hide it), for every combination of the
server types, workers, threads, models and payloads given. Each point is measured until three windows in a row
agree, or says that it did not settle. Every window goes into FILE; `thriftserve-bench report FILE` makes the table
again, and with --page DIR the plots.
"""
    epilog = """\
a first look (half a minute):   thriftserve-bench sweep --quick
two types, one rate after another:
    thriftserve-bench sweep --server-type TThreadPoolServer --server-type TProcessPoolServer --rate 1000,2000,4000
a Python model that waits 5 ms, 1 to 64 callers:
    thriftserve-bench sweep --model 'sleep=python:thriftserve_bench.workloads:Sleep?ms=5' --concurrency 1,4,16,64
a small TensorFlow model, built for it:
    thriftserve-bench sweep --model-kind half_plus_two --server-type TProcessPoolServer --workers 1,2
"""
    file_flag = "--out"
    file = "sweep.json"
    failures = (GeneratorFailed, ChildEnded, ServerFailed)

    def __init__(self, show: Callable[[SweepRun, Console], None], write_page: Callable[[SweepRun, Path], Path]) -> None:
        super().__init__(show)
        self._write_page = write_page

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        add_flags(parser)
        parser.add_argument("--page", type=Path, metavar="DIR", help="write the table and plots there, too")

    def run(self, flags: argparse.Namespace) -> int:
        with tempfile.TemporaryDirectory(prefix="thriftserve-bench-") as scratch:
            flags.scratch = Path(scratch)
            return super().run(flags)

    def settings(self, flags: argparse.Namespace) -> SweepSettings:
        return settings_of(flags, flags.scratch)

    def begin(self, settings: SweepSettings) -> SweepRun:
        generators, servers = split_cores(settings.generators, settings.pin)
        cores = {"generators": generators, "servers": sorted(servers)}
        return SweepRun.begin(asdict(settings) | {"cores": cores}, _PACKAGES)

    def measure(self, settings: SweepSettings, run: SweepRun, flags: argparse.Namespace, bar: Bar) -> None:
        cores = run.settings["cores"]
        servers = set(cores["servers"])
        bar.expect(settings.total)
        bar.say("the load generator by itself")
        with Generators(cores["generators"], settings.timeout_s) as generators:
            run.generator = _measure_limit(generators, servers, min(_LIMIT_S, settings.seconds))
            for variant in settings.variants():
                _measure_variant(run, variant, settings, generators, servers, bar)

    def measured(self, run: SweepRun) -> bool:
        return bool(run.points)

    def exit_code(self, run: SweepRun) -> int:
        """Return 1 if a point could not be measured."""
        return int(any(point.failure for point in run.points))

    def finish(self, run: SweepRun, flags: argparse.Namespace, console: Console) -> None:
        for point in run.points:
            if point.failure:
                fail(f"{point.setting.title}: {point.failure}")
        if flags.page is not None:
            console.print(f"page: {self._write_page(run, flags.page)}", highlight=False)


def _measure_limit(generators: Generators, cores: set[int], seconds: float) -> dict[str, float]:
    """Measure what the load generators can do: tiny calls against a server that does nothing, the best window.

    Returns:
        calls_per_s: with the null server as it is, which may be slower than the generators.
        calls_per_core_s: calls for each second of CPU that the generators used.
    """
    count = _LIMIT_CONNECTIONS
    setting = Setting(Variant("null", 0, 0), "tiny", CLOSED, float(count), count)
    server = ServerProcess([], command=[sys.executable, "-m", "thriftserve_bench.servers.null_server"])
    with running_on(cores):
        server.start()
    with server:
        generators.open(server.port, echo_frame("tiny"), count)
        windows = [generators.window(setting, seconds, seed, server.pid) for seed in range(_LIMIT_WINDOWS)]
        generators.close_connections()
    return {
        "calls_per_s": max(window.calls_per_s for window in windows),
        "calls_per_core_s": max(window.calls / sum(window.client_cpu_s) for window in windows),
    }


def _measure_variant(
    run: SweepRun, variant: Variant, settings: SweepSettings, generators: Generators, cores: set[int], bar: Bar
) -> None:
    points = [Point(setting) for setting in settings.points(variant)]
    try:
        server = _start(variant, settings, cores)
    except ServerFailed as error:
        for point in points:
            point.failure = str(error)
            run.points.append(point)
            bar.step(f"{point.setting.title} failed")
        return
    with server:
        for point in points:
            run.points.append(point)
            try:
                _measure_point(point, server, settings, generators, bar)
            except (GeneratorFailed, ChildEnded, ThriftServeClientError) as error:
                log = "" if server.running else f"\n{server.log_tail()}"
                point.failure = f"{type(error).__name__}: {error}{log}"
            bar.step(f"{point.setting.title} {'failed' if point.failure else 'measured'}")


def _start(variant: Variant, settings: SweepSettings, cores: set[int]) -> ServerProcess:
    """Start a server on its cores; a `with` block ends it.

    Raises:
        ServerFailed: it did not become ready.
    """
    numbers = ["--max-message-bytes", str(settings.max_message_bytes)]
    if variant.workers:
        numbers += ["--workers", str(variant.workers)]
    if variant.threads:
        numbers += ["--threads", str(variant.threads)]
    if variant.model == ECHO:
        command = [sys.executable, "-m", "thriftserve_bench.servers.our_host", variant.server_type]
        server = ServerProcess(numbers, command=command)
    else:
        flags = ["--model", variant.model, "--port", "0", "--server-type", variant.server_type]
        environment = clean_environment(**settings.environment)
        server = ServerProcess([*flags, *numbers, *settings.serve_flags], env=environment)
    with running_on(cores):
        return server.start()


def _measure_point(
    point: Point, server: ServerProcess, settings: SweepSettings, generators: Generators, bar: Bar
) -> None:
    """Measure windows until three in a row agree, or there have been enough.

    Raises:
        GeneratorFailed: no call was answered, or the server has ended.
        ThriftServeClientError: the model's metadata is missing, or it refuses the inputs.
    """
    setting = point.setting
    model = setting.variant.model_name
    is_echo = setting.variant.model == ECHO
    frame = echo_frame(setting.payload) if is_echo else model_frame(server.host, server.port, model, setting.payload)
    point.request_bytes = len(frame)
    generators.open(server.port, frame, setting.connections)
    try:
        generators.window(setting, min(_WARM_UP * settings.seconds, _WARM_UP_S), settings.seed, server.pid)
        for number in range(1, settings.max_windows + 1):
            window = generators.window(setting, settings.seconds, settings.seed + number, server.pid)
            if not window.calls:
                raise GeneratorFailed(window.reason or "no call was answered")
            point.windows.append(window)
            point.settled = settled(point.windows, setting.mode, settings.agree)
            bar.say(f"{setting.title} {window.calls_per_s:,.0f}/s, window {number}")
            if point.settled:
                break
    except KeyboardInterrupt:
        # They would finish their window first, and the server, which is then stopped, would wait for their calls.
        generators.end()
        raise
    generators.close_connections()


def settled(windows: Sequence[SweepWindow], mode: str, within: float) -> bool:
    """Return whether the last three windows agree on the rate and on the median latency.

    In an open loop the rate is what arrives, which differs by chance: there it is the part that was answered.
    """
    last = windows[-IN_A_ROW:]
    if len(last) < IN_A_ROW or not all(window.calls for window in last):
        return False
    rates = [window.calls_per_s if mode == CLOSED else window.calls / window.offered for window in last]
    medians = [stats.quantile_us(stats.merge_histograms([window.latency]), 0.5) or 0.0 for window in last]
    return stats.agree(rates, within) and stats.agree(medians, within)
