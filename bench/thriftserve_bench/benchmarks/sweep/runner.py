"""The sweep: every server started once, every point of it measured until it has settled.

SweepSettings  -->  server up  -->  connections, warm-up  -->  windows until three agree  -->  SweepRun
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime

from thriftserve_bench import machine
from thriftserve_bench.benchmarks.sweep.limit import measure_limit
from thriftserve_bench.benchmarks.sweep.plan import SweepSettings
from thriftserve_bench.benchmarks.sweep.servers import frame_for, start
from thriftserve_bench.benchmarks.sweep.settle import settled
from thriftserve_bench.load.generators import GeneratorFailed, Generators
from thriftserve_bench.machine import split_cores
from thriftserve_bench.processes import ServerFailed, ServerProcess
from thriftserve_bench.records.sweep import Point, SweepRun, Variant
from thriftserve_client.errors import ThriftServeClientError

_PACKAGES = ("thriftserve", "thrift", "numpy", "tensorflow-cpu", "tensorflow", "hdrhistogram")
_LIMIT_S = 0.5
#: Warm-up before a point's first window, as a part of a window, and at most in seconds.
_WARM_UP, _WARM_UP_S = 0.3, 0.5

#: Called with a point after each of its windows, and once more, with True, when it is over.
Tick = Callable[[Point, bool], None]


def sweep(settings: SweepSettings, keep: Callable[[SweepRun], None], tick: Tick) -> SweepRun:
    """Measures every point; one that can't be measured says why, and the others go on.

    Args:
        settings: what and for how long.
        keep: gets the run before its first window; it fills while it is measured.
        tick: hears of each window.

    Raises:
        GeneratorFailed: the load generator can't even call the sink.
    """
    generator_cores, server_cores = split_cores(settings.generators, settings.pin)
    placed = {"generators": generator_cores, "servers": sorted(server_cores)}
    run = SweepRun(
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=asdict(settings) | {"cores": placed},
        machine=machine.machine(),
        versions=machine.versions(_PACKAGES),
        commit=machine.commit(),
    )
    keep(run)
    with Generators(generator_cores, settings.timeout_s) as generators:
        run.generator = measure_limit(generators, server_cores, min(_LIMIT_S, settings.seconds))
        for variant in settings.variants():
            _measure_variant(run, variant, settings, generators, server_cores, tick)
    return run


def _measure_variant(
    run: SweepRun,
    variant: Variant,
    settings: SweepSettings,
    generators: Generators,
    server_cores: set[int],
    tick: Tick,
) -> None:
    points = [Point(setting) for setting in settings.points(variant)]
    try:
        server = start(variant, settings, server_cores)
    except ServerFailed as error:
        for point in points:
            point.failure = str(error)
            run.points.append(point)
            tick(point, True)
        return
    with server:
        for point in points:
            run.points.append(point)
            try:
                measure_point(point, server, settings, generators, tick)
            except (GeneratorFailed, ThriftServeClientError) as error:
                point.failure = f"{type(error).__name__}: {error}" + (
                    "" if server.running else f"\n{server.log_tail()}"
                )
            tick(point, True)


def measure_point(
    point: Point, server: ServerProcess, settings: SweepSettings, generators: Generators, tick: Tick
) -> None:
    """Measures windows until three in a row agree, or there have been enough.

    Raises:
        GeneratorFailed: no call was answered, or the server has ended.
        ThriftServeClientError: the model can't be asked what it takes.
    """
    setting = point.setting
    frame = frame_for(setting, server)
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
            tick(point, False)
            if point.settled:
                break
    except KeyboardInterrupt:
        # They would finish their window first, and the server, told to end, would wait for their calls.
        generators.end()
        raise
    generators.close_connections()
