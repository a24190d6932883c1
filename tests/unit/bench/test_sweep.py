"""The sweep: its load generator against real servers, its judgement on windows made for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import mean, pvariance

import psutil
import pytest

import sweep_windows
from thriftserve_bench import cli, stats
from thriftserve_bench.benchmarks.sweep.benchmark import settled
from thriftserve_bench.benchmarks.sweep.settings import SweepSettings
from thriftserve_bench.load.generator import Generator, OpenOrder, WindowOrder
from thriftserve_bench.load.generators import GeneratorFailed, Generators, divide
from thriftserve_bench.load.loops import poisson_ns
from thriftserve_bench.processes import ServerProcess
from thriftserve_bench.records.sweep import CLOSED, OPEN, Point, Setting, SweepRun, SweepWindow, Variant
from thriftserve_bench.report.sweep import bottleneck, keeps_up, point_figures, remarks
from thriftserve_bench.stats import agree
from thriftserve_bench.workloads.payloads import echo_frame, inputs_for
from thriftserve_client.results import TensorInfo
from thriftserve_idl.ttypes import DataType

NULL_SERVER = [sys.executable, "-m", "thriftserve_bench.servers.null_server"]
QUICK = ["--seconds", "0.2", "--max-windows", "3", "--no-pin"]
ECHO = Variant("TThreadPoolServer", 0, 10)


def window(calls: int = 100, p50_us: int = 1000, **changed: object) -> SweepWindow:
    """A window in which each call took `p50_us`."""
    return sweep_windows.window([p50_us] * calls, **changed)


def point(mode: str, load: float, *windows: SweepWindow) -> Point:
    """A point of the echo service."""
    return Point(Setting(ECHO, "tiny", mode, load, 4), windows=list(windows), settled=True)


def test_arrivals_are_a_poisson_process() -> None:
    """Numbers of arrivals have the rate as mean and as variance, gaps are memoryless, a seed fixes all of it."""
    windows = [poisson_ns(50.0, 1.0, seed) for seed in range(400)]
    counts = [len(times) for times in windows]
    assert abs(mean(counts) - 50) < 5 * (50 / 400) ** 0.5
    assert 0.7 < pvariance(counts) / 50 < 1.3
    gaps = [after - before for times in windows for before, after in pairwise(times)]
    # An exponential distribution's standard deviation is its mean.
    assert 0.9 < pvariance(gaps) ** 0.5 / mean(gaps) < 1.1
    assert all(times == sorted(times) and times[-1] < 1e9 for times in windows)
    assert poisson_ns(50.0, 1.0, 7) == windows[7] != windows[8]


def test_windows_settle() -> None:
    """Three in a row within ten per cent of each other have settled; earlier ones don't matter, later ones do."""
    assert agree([100, 105, 110], 0.10)
    assert not agree([100, 105, 112], 0.10)
    steady = [window(100), window(104), window(108)]
    assert not settled(steady[:2], CLOSED, 0.10)
    assert settled(steady, CLOSED, 0.10)
    assert settled([window(10), *steady], CLOSED, 0.10)
    assert not settled([*steady, window(150)], CLOSED, 0.10)


def test_windows_that_do_not_settle() -> None:
    """The median latency has to agree, too; windows without an answer agree on nothing."""
    assert not settled([window(100), window(100), window(100, p50_us=1200)], CLOSED, 0.10)
    assert not settled([window(0)] * 3, CLOSED, 0.10)
    unsettled = point(CLOSED, 4.0, window(100), window(200), window(100))
    unsettled.settled = False
    assert remarks(unsettled) == ["did not settle in 3 windows"]


def test_open_loops_settle_by_what_was_answered() -> None:
    """How many calls arrive is chance; what part of them is answered is the server's doing."""
    assert settled([window(80), window(100), window(120)], OPEN, 0.10)
    assert not settled([window(100), window(100), window(60, unanswered=40)], OPEN, 0.10)


def test_generator_says_when_it_was_the_limit() -> None:
    """In a closed loop by its CPU, or what it wanted of it; in an open one by calls that it sent late."""
    assert not bottleneck([window()], CLOSED)
    assert "at its limit" in bottleneck([window(client_cpu_s=[0.2, 0.95], client_starved_s=[0.0, 0.0])], CLOSED)
    assert "short of a core" in bottleneck([window(client_cpu_s=[0.5], client_starved_s=[0.45])], CLOSED)
    late = stats.encode_histogram(stats.histogram_us([10] * 90 + [5000] * 10))
    assert "late" in bottleneck([window(lag=late)], OPEN)
    assert not bottleneck([window(lag=stats.encode_histogram(stats.histogram_us([10] * 1000)))], OPEN)


def test_server_that_does_not_keep_up_is_reported() -> None:
    """Fewer answers than calls, or answers that take longer to come than calls to arrive; chance is no reason."""
    assert keeps_up(point(OPEN, 100.0, window(100)))
    assert keeps_up(point(OPEN, 100.0, window(85)))
    assert not keeps_up(point(OPEN, 100.0, window(100, elapsed_s=2.0)))
    assert not keeps_up(point(OPEN, 100.0, window(80, unanswered=20)))


def test_inputs_fit_what_a_model_declares() -> None:
    """The largest input grows to the payload along its free dimensions; fixed ones stay, others are 1."""

    def shapes(size: int, **declared: tuple[DataType, tuple[int | None, ...] | None]) -> dict[str, tuple[int, ...]]:
        infos = {name: TensorInfo(name, dtype, shape) for name, (dtype, shape) in declared.items()}
        return {name: array.shape for name, array in inputs_for(infos, size).items()}

    assert shapes(12, x=(DataType.FLOAT, (None,))) == {"x": (3,)}
    assert shapes(30000, x=(DataType.UINT8, (1, None, None, 3))) == {"x": (1, 100, 100, 3)}
    assert shapes(12, x=(DataType.FLOAT, (1, 320, 320, 3))) == {"x": (1, 320, 320, 3)}
    assert shapes(40, words=(DataType.STRING, (None, None)), n=(DataType.INT32, (None,))) == {
        "words": (1, 10),
        "n": (1,),
    }
    assert shapes(8, x=(DataType.FLOAT, None)) == {"x": (2,)}
    assert shapes(8) == {}


def test_connections_are_shared_out() -> None:
    """Evenly, and no generator is left with none."""
    assert divide(7, 3) == [3, 2, 2]
    assert divide(1, 3) == [1]


def stalled(mode: str, load: float) -> SweepWindow:
    """A window with a null server that stands still for half a second after its 50th answer, on one connection."""
    setting = Setting(Variant("null", 0, 0), "tiny", mode, load, 1)
    command = [*NULL_SERVER, "--stall-after", "50", "--stall-s", "0.5"]
    with ServerProcess([], command=command) as null_server, Generators([""], 20.0) as generators:
        generators.open(null_server.port, echo_frame("tiny"), 1)
        return generators.window(setting, 1.0, 3, null_server.pid)


def test_a_stall_is_seen_by_every_call_that_was_meant_to_be_sent() -> None:
    """Open loop: a stall of 0.5 s in 1 s is in half of the latencies; counted from the send it would be one call."""
    measured = stalled(OPEN, 200.0)
    intended, sent = stats.merge_histograms([measured.latency]), stats.merge_histograms([measured.from_send])
    assert measured.calls == intended.get_total_count() == sent.get_total_count() == measured.offered
    # Of some 200 calls half fall into the stall, evenly: a quarter of all waits for 0.25 s and more.
    late = stats.quantile_us(intended, 0.85)
    from_send = stats.quantile_us(sent, 0.85)
    assert late is not None and from_send is not None
    assert late > 150_000
    assert from_send < late / 2
    assert (stats.quantile_us(intended, 1.0) or 0) > 490_000
    assert measured.waited > 20


def test_a_closed_loop_hides_the_stall() -> None:
    """The same stall is one call of thousands there, which is why there is an open loop."""
    measured = stats.merge_histograms([stalled(CLOSED, 1.0).latency])
    assert (stats.quantile_us(measured, 1.0) or 0) > 490_000
    assert (stats.quantile_us(measured, 0.9) or 0) < 150_000


def test_sweep_of_a_real_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Closed and open loops of two generators on two types: calls counted, CPU and memory measured, files written."""
    out, page = tmp_path / "sweep.json", tmp_path / "page"
    flags = ["--server-type", "TBatchingServer", "--server-type", "TSimpleServer", "--generators", "2"]
    load = ["--concurrency", "3", "--rate", "300"]
    assert cli.main(["sweep", *QUICK, *flags, *load, "--out", str(out), "--page", str(page)]) == 0
    run = SweepRun.load(out)
    assert [entry.setting.title for entry in run.points] == [
        "TBatchingServer 2w tiny x3",
        "TBatchingServer 2w tiny 300/s",
        "TSimpleServer tiny x1",
        "TSimpleServer tiny 300/s",
    ]
    for entry in run.points:
        figures = point_figures(entry)
        assert figures is not None and figures.cpu_us > 0 and figures.rss_mib > figures.uss_mib > 0
        assert not any(part.failures for part in entry.windows)
        for part in entry.windows:
            assert part.calls == stats.merge_histograms([part.latency]).get_total_count() - part.unanswered
            assert len(part.client_cpu_s) == (2 if entry.setting.connections > 1 else 1)
    assert run.generator["calls_per_core_s"] > 0
    assert not run.cut_short
    shown = capsys.readouterr().out
    assert "300/s" in shown
    assert cli.main(["report", str(out)]) == 0
    assert capsys.readouterr().out == shown
    text = (page / "README.md").read_text(encoding="utf-8")
    assert text.count("TBatchingServer 2w") == 2
    assert {entry.name for entry in page.iterdir()} == {"README.md", "sweep-echo_tiny.png", "sweep-echo_tiny.svg"}


def test_sweep_of_a_model_tells_queue_and_compute(tmp_path: Path) -> None:
    """A model that waits 20 ms on a server that takes one call at a time: Timing says so, and overload is reported."""
    out = tmp_path / "sweep.json"
    model = "sleep=python:thriftserve_bench.workloads:Sleep?ms=20"
    flags = ["--model", model, "--server-type", "TSimpleServer", "--concurrency", "1", "--rate", "300"]
    assert cli.main(["sweep", *QUICK, *flags, "--payload-bytes", "4096", "--out", str(out)]) == 0
    closed, opened = SweepRun.load(out).points
    figures = point_figures(closed)
    assert figures is not None and figures.compute_p50_ms is not None
    assert figures.compute_p50_ms >= 19.9
    assert figures.p50_ms >= figures.compute_p50_ms * 0.99
    assert closed.request_bytes > 4096
    assert "server does not keep up" in remarks(opened)


def test_point_that_cannot_be_measured_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that does not start: the others are measured, the exit code is 1."""
    out = tmp_path / "sweep.json"
    models = [
        "--model",
        "none=python:no_such_module:Class",
        "--model",
        "s=python:thriftserve_bench.workloads:Sleep?ms=1",
    ]
    assert cli.main(["sweep", *QUICK, *models, "--concurrency", "1", "--out", str(out)]) == 1
    failed, measured = SweepRun.load(out).points
    assert "no_such_module" in failed.failure
    assert point_figures(measured) is not None
    assert "no_such_module" in capsys.readouterr().err


def test_generators_tell_that_nobody_listens() -> None:
    """No server: an error that says so, not a window of nothing."""
    with ServerProcess([], command=NULL_SERVER) as null_server:
        port = null_server.port
    with Generators([""], 5.0) as generators, pytest.raises(GeneratorFailed, match="refused"):
        generators.open(port, echo_frame("tiny"), 2)


def test_server_that_dies_is_reported() -> None:
    """Connections that break and can't be made again end the window at once, and every later one."""
    setting = WindowOrder(CLOSED, 30.0, 30.0, 0.0, 1)
    generator = Generator()
    ended: list[bool] = []
    with tempfile.NamedTemporaryFile() as frame, ServerProcess([], command=NULL_SERVER) as null_server:
        frame.write(echo_frame("tiny"))
        frame.flush()
        assert generator.open(OpenOrder(null_server.port, frame.name, 3, 20.0)) == ""
        null_server.kill()
        for _ in range(2):
            part = generator.window(setting, lambda: ended.append(True))
            assert part.calls == 0
            assert part.reason
    assert len(ended) == 2


def test_interrupt_keeps_what_was_measured(tmp_path: Path) -> None:
    """Ctrl-C: exit code 130, a file that says it was cut short, and no process left behind."""
    out = tmp_path / "sweep.json"
    command = [sys.executable, "-m", "thriftserve_bench.cli", "sweep", "--seconds", "60", "--out", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    family: list[psutil.Process] = []
    try:
        family = wait_for_calls(running.pid)
        running.send_signal(signal.SIGINT)
        assert running.wait(40) == 130
        _, alive = psutil.wait_procs(family, 20)
        assert not alive
    finally:
        running.kill()
        running.wait()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    run = SweepRun.load(out)
    assert run.cut_short
    assert run.points


def wait_for_calls(pid: int) -> list[psutil.Process]:
    """Waits until a sweep is in the middle of its first window; its processes then."""
    until = time.monotonic() + 60
    began_s: float | None = None
    while time.monotonic() < until:
        family = psutil.Process(pid).children(recursive=True)
        for process in family:
            try:
                if not any("our_host" in part for part in process.cmdline()):
                    continue
                called = any(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections())
                spent_s = process.cpu_times().user + process.cpu_times().system
            except psutil.NoSuchProcess:
                continue
            if called and began_s is None:
                began_s = spent_s
            # The warm-up takes half a second: the server can't have worked that long in it.
            if began_s is not None and spent_s > began_s + 0.6:
                return family
        time.sleep(0.02)
    raise AssertionError("no call was made")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seconds", "0"], "--seconds"),
        (["--model", "x"], "NAME=SOURCE"),
        (["--serve-flag=--x"], "--model"),
        (["--payload-bytes", "0"], "--payload-bytes"),
    ],
)
def test_flags_of_no_use(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and the flag's name, before anything is started."""
    assert cli.main(["sweep", *flags]) == 2
    assert said in capsys.readouterr().err


def test_numbers_that_a_type_has_no_use_for_multiply_nothing() -> None:
    """Workers belong to servers of several processes, threads to pools of threads."""
    settings = SweepSettings(
        ("TProcessPoolServer", "TForkingServer", "TThreadPoolServer", "TBatchingServer"), workers=(1, 2), threads=(4, 8)
    )
    assert [variant.title for variant in settings.variants()] == [
        "TProcessPoolServer 1w",
        "TProcessPoolServer 2w",
        "TForkingServer",
        "TThreadPoolServer 4t",
        "TThreadPoolServer 8t",
        "TBatchingServer 1w",
        "TBatchingServer 2w",
    ]
