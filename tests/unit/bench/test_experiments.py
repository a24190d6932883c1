"""The experiments' runner: real servers and clients in small runs, every call recorded, whatever ends the run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from thriftserve.settings import SERVER_TYPES
from thriftserve_bench.benchmarks.experiments.forks import BALLAST, ForkCostFailed, measure
from thriftserve_bench.benchmarks.experiments.hosts import Host, HostPlan, start_all, stop_all
from thriftserve_bench.benchmarks.experiments.lanes import Lanes
from thriftserve_bench.benchmarks.experiments.schedule import Cell, ExperimentSettings, Schedule, plans
from thriftserve_bench.cli import main
from thriftserve_bench.load.pattern_clients import EMPTY, PatternClients, PatternOrder
from thriftserve_bench.records.calls import APACHE, OURS
from thriftserve_bench.records.experiments import OK, PATTERNS, SHARED, TEN, TYPES, ExperimentRun

SMALL = ("experiments", "--quick", "--no-forks", "--no-page")
_LOOK_EVERY_S = 0.05
_PATIENCE_S = 60.0


def family(pid: int) -> list[psutil.Process]:
    """The processes that a process has started, theirs too."""
    return psutil.Process(pid).children(recursive=True)


def test_every_call_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run writes and shows each cell of both sides, every call of it; then no server and no client is left."""
    file, before = tmp_path / "run.json", set(family(os.getpid()))
    flags = ("--service-ms", "2", "--pattern", "ten", "--pattern", "shared", "--output", str(file))
    assert main([*SMALL, *flags, "--server-type", "TForkingServer", "--threads", "3"]) == 0
    run = ExperimentRun.load(file)
    shown = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("TForkingServer"))
    assert not run.cut_short
    cells = {(outcome.pattern, outcome.side): outcome for outcome in run.outcomes}
    assert set(cells) == {(pattern, side) for pattern in ("ten", "shared") for side in (OURS, APACHE)}
    for outcome in run.outcomes:
        assert outcome.failure == "", outcome
        assert [call.outcome for call in outcome.calls] == [OK] * 100
        assert all(0 <= call.start_s < call.end_s for call in outcome.calls)
        assert outcome.elapsed_s == max(call.end_s for call in outcome.calls)
        assert {call.thread for call in outcome.calls} == set(range(10))
        # Each of ten connections had a child of its own; the shared one had the same child throughout.
        assert len({call.worker_pid for call in outcome.calls}) == (10 if outcome.pattern == "ten" else 1)
        assert f"{outcome.elapsed_s:.2f}" in shown
        assert (outcome.server_type, outcome.workload, outcome.service_ms, outcome.threads) == (
            "TForkingServer",
            "hold-gil",
            2.0,
            3,
        )
    assert run.settings["patterns"] == ["ten", "shared"]
    assert run.calibration["first_call_s/ours/TForkingServer"] > run.calibration["connect_s"] > 0
    assert set(family(os.getpid())) <= before


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    """Interrupted in the middle, the command keeps the cells that ended, says where, and ends its servers."""
    file = tmp_path / "run.json"
    flags = [*SMALL, "--service-ms", "20", "--side-by-side", "1", "--side", "ours", "--output", str(file)]
    types = ["--server-type", "TThreadedServer", "--server-type", "TProcessPoolServer", "--workers", "2"]
    command = subprocess.Popen(
        [sys.executable, "-m", "thriftserve_bench.cli", *flags, *types],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + _PATIENCE_S
    while not file.exists() and time.monotonic() < until:
        time.sleep(_LOOK_EVERY_S)
    servers = family(command.pid)
    command.send_signal(signal.SIGINT)
    stderr_text = command.communicate(timeout=_PATIENCE_S)[1]
    assert command.returncode == 130, stderr_text
    assert "Traceback" not in stderr_text
    assert f"raw results: {file}" in stderr_text
    run = ExperimentRun.load(file)
    assert run.cut_short
    assert 0 < len(run.outcomes) < 8
    assert all(len(outcome.calls) == 100 for outcome in run.outcomes)
    assert len(servers) >= 5  # two servers with their workers, and the clients
    assert psutil.wait_procs(servers, _PATIENCE_S)[1] == []
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--service-ms", "0"), "--service-ms is 0"),
        (("--workers", "-1"), "--workers is -1"),
        (("--side-by-side", "0"), "--side-by-side is 0"),
        (("--workload", "model", "--service-ms", "5"), "--service-ms does not go with --workload model"),
        (("--simulate", "cores=many"), "cores=many"),
    ],
)
def test_flags_of_no_use(flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Flags that make no sense are refused by name, before anything is started."""
    assert main(["experiments", *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--pattern", "eleven"), ("--server-type", "TQuickServer"), ("--side", "left")])
def test_unknown_names(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Names that are not known are refused with those that are."""
    with pytest.raises(SystemExit) as ended:
        main(["experiments", *flags])
    assert ended.value.code == 2
    assert flags[1] in capsys.readouterr().err


def test_simulate_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """`--simulate` answers at once, from the model."""
    assert main(["experiments", "--simulate", "cores=64,workers=10,service_ms=330"]) == 0
    assert "TProcessPoolServer" in capsys.readouterr().out


@pytest.mark.parametrize("shared", [False, True])
def test_a_server_that_never_answers_ends_in_time(shared: bool) -> None:
    """Calls that are not answered within the cell's time are outcomes, each of them; nothing raises or waits on."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()[:2]
        calls = PatternClients(PatternOrder(host, port, 3, 2, shared, EMPTY, 0.3)).run()
    assert [call.thread for call in calls] == [0, 0, 1, 1, 2, 2]
    assert all(call.start_s <= call.end_s for call in calls)
    assert {call.outcome.split(":")[0] for call in calls} == {"CallTimeout", "not made"}


def test_nobody_listens() -> None:
    """Connections that are refused are outcomes, too."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host, port = closed.getsockname()[:2]
    calls = PatternClients(PatternOrder(host, port, 2, 1, False, EMPTY, 5.0)).run()
    assert [call.outcome.split(":")[0] for call in calls] == ["ConnectionFailed"] * 2


def test_a_server_that_does_not_start_fails_its_cells_alone() -> None:
    """Why a server is not there stands in its outcome; the other server's cell is measured."""
    good = HostPlan(OURS, "TThreadedServer", "sleep", 1.0, 1, 1)
    bad = HostPlan(OURS, "TThreadedServer", "sleep", -1.0, 1, 1)
    hosts = {plan: Host(plan, plan.process()) for plan in (bad, good)}
    start_all(list(hosts.values()), lambda host: None)
    lanes = Lanes(1, hosts, lambda cell: None, lambda: None)
    try:
        outcomes = [outcome for _, outcome in lanes.run([[Cell(SHARED, bad)], [Cell(SHARED, good)]])]
    finally:
        lanes.close()
        stop_all(list(hosts.values()))
    assert "ms=-1" in outcomes[0].failure
    assert outcomes[0].calls == []
    assert outcomes[1].failure == ""
    assert {call.outcome for call in outcomes[1].calls} == {OK}


def test_forks_are_timed() -> None:
    """The ballast is resident when forks are timed; a fork's end comes after its beginning."""
    small, large = measure(BALLAST, 0, 3), measure(BALLAST, 60, 3)
    assert large.resident_bytes - small.resident_bytes > 50_000_000
    assert len(large.fork_s) == len(large.fork_and_exit_s) == 3
    assert all(0 < fork < both for fork, both in zip(large.fork_s, large.fork_and_exit_s, strict=True))


def test_a_ballast_that_does_not_fit() -> None:
    """Memory that is not there is named."""
    with pytest.raises(ForkCostFailed, match="ballast"):
        measure(BALLAST, 2**50, 1)


def test_cells_that_wait_run_side_by_side() -> None:
    """Only cells that leave the machine idle, one call at a time, share it; and no server has two at once."""
    settings = ExperimentSettings()
    schedule = Schedule(settings, plans(settings))
    assert schedule.cells == schedule.cells_left == len(PATTERNS) * len(schedule.plans)
    assert all(len({cell.plan for cell in group}) == 1 for group in schedule.groups)
    alone = {(cell.pattern.name, cell.plan.server_type) for cell in schedule.alone}
    processes = ("TForkingServer", "TProcessPoolServer", "TBatchingServer")
    types = [name for name in settings.server_types if name in processes]
    assert alone == {(pattern, name) for pattern in ("ten", "hundred") for name in types}
    spinning = ExperimentSettings(workload="spin")
    assert Schedule(spinning, plans(spinning)).groups == []


def test_time_left_shrinks_to_nothing() -> None:
    """What is left is the cells' own expectation, and nothing once all have ended."""
    settings = ExperimentSettings(service_ms=100.0, patterns=("ten",), server_types=("TProcessPoolServer",))
    schedule = Schedule(settings, plans(settings))
    assert schedule.total_s == pytest.approx(2 * TEN.calls * 0.1 / 10)
    for cell in schedule.alone:
        schedule.begins(cell)
        schedule.ended(cell)
    assert (schedule.left_s, schedule.cells_left) == (0.0, 0)


def test_types_of_both_sides() -> None:
    """Every server type of ours is measured, and Apache's six."""
    assert set(TYPES[OURS]) == set(SERVER_TYPES)
    assert len(TYPES[APACHE]) == 6
