"""`thriftserve-bench swaps`: versions that change under load, their memory, and what is held against each answer."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path

import psutil
import pytest

from thriftserve_bench.benchmarks.swaps.benchmark import settings_of
from thriftserve_bench.benchmarks.swaps.judge import GRACE_S, judge
from thriftserve_bench.benchmarks.swaps.memory import MemorySettings, measure_memory
from thriftserve_bench.benchmarks.swaps.swapper import StateLog
from thriftserve_bench.cli import main, make_parser
from thriftserve_bench.load.version_clients import Calls
from thriftserve_bench.records.swaps import WITH, WITHOUT, Load, MemorySample, Phase, SwapMemory, SwapsRun
from thriftserve_bench.report.swaps import faults, markdown, misses
from thriftserve_bench.workloads import versions

_LOOK_EVERY_S = 0.05


def test_the_command_swaps_under_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Versions change under load: no request fails, each answer is its version's, and the file has all of it."""
    path = tmp_path / "swaps.json"
    flags = ["swaps", "--server-type", "TBatchingServer", "--workers", "1", "--clients", "1", "--rounds", "1"]
    assert main([*flags, "--seconds", "1.8", "--every", "0.6", "--output", str(path)]) == 0
    run = SwapsRun.load(path)
    (load,) = run.loads
    assert (load.failures, load.wrong, load.unavailable, load.failure) == ({}, 0, 0, "")
    without, swapped = load.phases
    assert (without.name, without.landed, without.swaps, swapped.name) == (WITHOUT, 0, [], WITH)
    assert swapped.landed == 3
    assert swapped.swaps[-1].version == 4
    assert all(entry.landed_at < entry.available_at <= entry.old_ended_at for entry in swapped.swaps)
    for phase in load.phases:
        assert (
            phase.calls == sum(count for _, count in phase.latencies_us) == sum(entry.calls for entry in phase.slices)
        )
        assert phase.calls > 10 and phase.server_cpu_s > 0
    assert run.versions["thrift"] and run.machine["cpu"] and run.commit
    capsys.readouterr()
    assert main(["report", "--markdown", str(path)]) == 0
    assert capsys.readouterr().out == markdown(run)


def test_memory_is_looked_at_once_settled(tmp_path: Path) -> None:
    """After each of the swaps asked for there is a sample of the whole tree, taken when nothing of the old is left."""
    versions.make(tmp_path / "store", 3)
    swapped: list[float] = []
    settings = MemorySettings(samples=(1, 2), workers=1)
    store, logs = tmp_path / "store", tmp_path / "logs"
    memory = measure_memory("TProcessPoolServer", settings, store, logs, lambda _, done: swapped.append(done))
    assert (memory.wrong, memory.failures, memory.failure, swapped) == (0, {}, "", [1, 2])
    assert [entry.swaps for entry in memory.samples] == [1, 2]
    first, last = memory.samples
    assert first.processes == last.processes
    assert 0 < first.alone < first.rss
    assert "version" in (tmp_path / "logs" / "TProcessPoolServer.log").read_text()


def is_client(process: psutil.Process) -> bool:
    """Whether it is one of the command's clients."""
    try:
        return "thriftserve_bench.load.version_clients" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """SIGINT and SIGTERM end server and clients, and the exit code says so."""
    flags = ["swaps", "--server-type", "TThreadPoolServer", "--clients", "2", "--rounds", "1"]
    flags += ["--seconds", "600", "--every", "600", "--output", str(tmp_path / "swaps.json")]
    command = [sys.executable, "-m", "thriftserve_bench.cli", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        family: list[psutil.Process] = []
        # The server, its fork server, controller and worker, and both clients.
        while sum(map(is_client, family)) < 2:
            assert process.poll() is None
            family = psutil.Process(process.pid).children(recursive=True)
            time.sleep(_LOOK_EVERY_S)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 130
    psutil.wait_procs(family, 10)
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def calls(*each: tuple[float, float, int]) -> Calls:
    """Calls that were begun at these seconds, took these seconds, and were answered by these versions."""
    columns = [
        array("q", column) for column in zip(*((int(a * 1e6), int(b * 1e6), c) for a, b, c in each), strict=True)
    ]
    begun, latency, version = (base64.b64encode(entry.tobytes()).decode() for entry in columns)
    return Calls(begun, latency, version)


def judged(*each: tuple[float, float, int]) -> Load:
    """The verdict on those calls of a server that swapped 1 for 2 between 10 and 12."""
    entered = {
        1: {"UNLOADING": 12.0, "ENDED": 13.0},
        2: {"START": 10.0, "LOADING": 10.0, "AVAILABLE": 12.0},
        3: {"START": 12.5, "LOADING": 12.5, "ENDED": 12.6},
    }
    load = Load("TBatchingServer", 1, [Phase(WITHOUT, 0.0, 10.0, 1.0, 0.0), Phase(WITH, 10.0, 20.0, 1.0, 0.0)])
    judge(load, [calls(*each)], entered)
    return load


def test_a_version_answers_in_its_time() -> None:
    """Old and new while workers are replaced; the old one what was asked before it was given up, or just then."""
    load = judged((1, 0.5, 1), (11, 0.5, 1), (11, 0.5, 2), (11.9, 9, 1), (12 + GRACE_S / 2, 0.1, 1), (15, 0.1, 2))
    assert (load.unavailable, load.early, load.crossed, load.examples) == (0, 1, 1, [])
    assert [entry.calls for entry in load.phases] == [1, 5]
    assert load.phases[1].latencies_us == [(100_000, 2), (500_000, 2), (9_000_000, 1)]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ((12.5, 0.1, 1), "version 1 answered a request made 0.500 s after it was given up"),
        ((12.9, 0.1, 3), "version 3 answered a request made 0.300 s after it was given up"),
        ((9.0, 0.5, 2), "version 2 answered 0.500 s before it was loaded"),
        ((9.0, 0.5, 7), "the server never said that it had it"),
    ],
)
def test_answers_out_of_their_time_are_reported(call: tuple[float, float, int], why: str) -> None:
    """A version that the server did not have yet, or no more, when it was asked, is no answer."""
    load = judged((11, 0.5, 2), call)
    assert load.unavailable == 1
    assert why in load.examples[0]
    assert why in faults(SwapsRun("", {}, {}, {}, "", [load]))[0]


def test_faults_and_misses_are_reported() -> None:
    """Failed requests, wrong values and swaps that stick are faults; latency and memory beyond their targets misses."""
    load = judged((1, 0.1, 1), (11, 0.25, 1))
    memory = SwapMemory("TBatchingServer", [MemorySample(5, 100, 1, 1, 4, True), MemorySample(100, 106, 1, 1, 4, True)])
    run = SwapsRun("", {}, {}, {}, "", [load], [memory])
    assert faults(run) == []
    assert [entry.split(": ")[1] for entry in misses(run)] == [
        "p99 with swaps 2.50 times that without, wanted 2",
        "memory grew by 6.0%, wanted 5% at most",
    ]
    load.failures, load.wrong, load.failure = {"UNAVAILABLE": 2}, 1, "version 2 did not take over"
    memory.wrong = 1
    text = "\n".join(faults(run))
    for each in ("2 of 4 requests failed", "UNAVAILABLE", "1 wrong answers", "did not take over", "after a swap"):
        assert each in text


def test_a_log_is_read_as_it_grows(tmp_path: Path) -> None:
    """Steps are taken from whole lines, the first time of each state, errors with their reason."""
    path = tmp_path / "log"
    step = {"event": "model_version_state", "model": "half", "version": 2, "state": "LOADING", "at": 5.0}
    line = f"2026-01-01 info states 1 {json.dumps(step)}\n"
    path.write_text("something else\n" + line[:40])
    log = StateLog(path)
    log.read()
    assert not log.has(2, "LOADING")
    with path.open("a") as file:
        file.write(line[40:] + line.replace("5.0", "6.0").replace('"at"', '"error_message": "no op", "at"'))
    log.read()
    assert (log.entered[2], log.errors) == ({"LOADING": 5.0}, [(2, "no op")])
    log.close()


@pytest.mark.parametrize(
    "flags",
    [["--clients", "0"], ["--seconds", "-1"], ["--every", "30"], ["--swaps", "3"], ["--memory", "--swaps", "0"]],
)
def test_useless_numbers_are_refused(flags: list[str]) -> None:
    """Numbers that would measure nothing, and flags that have no effect, are named."""
    with pytest.raises(ValueError, match=flags[-2]):
        settings_of(make_parser().parse_args(["swaps", *flags]))
