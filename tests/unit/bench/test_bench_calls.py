"""The measuring of calls: hosts, load generator, figures, report, and the command that puts them together."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from thriftserve_bench import process_tree
from thriftserve_bench.benchmarks.calls import CallsSettings, servers, settings_of
from thriftserve_bench.cli import main, make_parser
from thriftserve_bench.load import loops
from thriftserve_bench.load.connection import Connections
from thriftserve_bench.load.echo_load import EchoCalls, EchoOrder, measure, open_all
from thriftserve_bench.load.loops import Tally, closed_loop
from thriftserve_bench.load.protocols import thrift_length
from thriftserve_bench.processes import ServerProcess
from thriftserve_bench.records.calls import CallsRun, Cell, MeasuredCell, Window
from thriftserve_bench.report.calls import compare, markdown
from thriftserve_bench.run_file import NotARun
from thriftserve_bench.stats import quantile, three_digits, window_figures
from thriftserve_bench.workloads.messages import LENGTH
from thriftserve_bench.workloads.payloads import echo_frame

_LOOK_EVERY_S = 0.05
QUICK = CallsSettings(rounds=1, seconds=0.05, min_calls=3, workers=2, threads=2, pin=False)


def window(calls: int = 10, elapsed_s: float = 1.0, cpu_s: float = 0.01, failures: int = 0) -> Window:
    """A window as the load generator would report it."""
    return Window(calls, failures, "", elapsed_s, [(100, calls - 1), (900, 1)], cpu_s, 0.001, 2**20, 2**20, 0.5)


def a_run(*cells: MeasuredCell) -> CallsRun:
    """A run of those cells."""
    settings = {"rounds": 1, "seconds": 0.1, "threads": 2, "workers": 2, "cores": {"load": "", "servers": ""}}
    return CallsRun(
        "2026-01-02", settings, {"cpu": "C", "cores": 2, "kernel": "L"}, {"thrift": "0.25"}, "abc", list(cells)
    )


def order(port: int, pid: int, name: str = "tiny", connections: int = 1, awake: bool = False) -> EchoOrder:
    """A short order."""
    return EchoOrder(port, pid, name, connections, QUICK.seconds, QUICK.min_calls, awake)


@pytest.mark.parametrize("server_type", QUICK.server_types)
def test_both_hosts_of_each_type_are_measured(server_type: str) -> None:
    """Ours and Apache's class of every type answer the load generator, and no process of either is left."""
    with servers(server_type, QUICK, "") as running:
        roots = [psutil.Process(server.pid) for server in running.values()]
        family = [each for root in roots for each in (root, *root.children(recursive=True))]
        for side, server in running.items():
            measured = measure(order(server.port, server.pid))
            assert measured.calls >= QUICK.min_calls, side
            assert measured.failures == 0, measured.reason
            assert sum(count for _, count in measured.latencies_us) == measured.calls
            assert measured.server_cpu_s > 0
            assert measured.rss_bytes > measured.pss_bytes > 0
    psutil.wait_procs(family, 5)
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def threaded() -> Iterator[dict[str, ServerProcess]]:
    """Both sides' TThreadedServer."""
    with servers("TThreadedServer", QUICK, "") as running:
        yield running


@pytest.mark.parametrize("connections", [1, 2])
@pytest.mark.parametrize(("name", "awake"), [("602 KB", False), ("602 KB", True), ("19 MB", True)])
def test_large_payloads_come_back_whole(
    threaded: dict[str, ServerProcess], name: str, awake: bool, connections: int
) -> None:
    """Payloads larger than every socket buffer are echoed over one connection and over several, however it waits."""
    for server in threaded.values():
        measured = measure(order(server.port, server.pid, name, connections, awake))
        assert measured.calls >= QUICK.min_calls
        assert measured.failures == 0, measured.reason


@contextlib.contextmanager
def faulty(answers: list[bytes]) -> Iterator[int]:
    """A server whose connections get one of `answers` for each question, then are closed; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_answer_all, args=(listening, answers))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _answer_all(listening: socket.socket, answers: list[bytes]) -> None:
    threads: list[threading.Thread] = []
    with contextlib.suppress(OSError):
        while True:
            sock, _ = listening.accept()
            threads.append(threading.Thread(target=_answer, args=(sock, answers)))
            threads[-1].start()
    for thread in threads:
        thread.join()


def _answer(sock: socket.socket, answers: list[bytes]) -> None:
    with contextlib.suppress(OSError), sock, sock.makefile("rb") as questions:
        for answer in answers:
            header = questions.read(LENGTH.size)
            if len(header) < LENGTH.size:
                return
            questions.read(LENGTH.unpack(header)[0])
            sock.sendall(answer)


@pytest.fixture(scope="module")
def echo(threaded: dict[str, ServerProcess]) -> bytes:
    """The reply to the tiny question, from a server that gives it."""
    server = threaded["ours"]
    with socket.create_connection((server.host, server.port)) as sock, sock.makefile("rb") as replies:
        sock.sendall(echo_frame("tiny"))
        header = replies.read(LENGTH.size)
        return header + replies.read(LENGTH.unpack(header)[0])


@pytest.mark.parametrize("connections", [1, 2])
def test_connections_that_close_are_counted_and_replaced(echo: bytes, connections: int) -> None:
    """A server that closes after three replies costs failures, not the window."""
    with faulty([echo] * 3) as port:
        # More calls than the connections have replies, however slow the machine is.
        measured = measure(
            dataclasses.replace(order(port, psutil.Process().pid, connections=connections), min_calls=12)
        )
    assert measured.failures > 0
    assert measured.calls >= 12
    assert measured.reason.startswith("Connection")


def test_a_connection_closed_after_its_last_call_is_no_failure(echo: bytes) -> None:
    """A server that closes each connection behind the reply that ends the window costs nothing, and nobody waits."""
    with faulty([echo] * 2) as port:  # the first is the call that opens a connection
        calls, tally, connections = EchoCalls("tiny"), Tally(), Connections(port, thrift_length)
        open_all(connections, calls, 8)
        closed_loop(connections, calls, tally, lambda _: tally.calls < 1, 1.0)
        connections.close()
    assert (tally.calls, dict(tally.failures)) == (8, {}), tally.reason


@pytest.mark.parametrize("connections", [1, 2])
@pytest.mark.parametrize("awake", [False, True])
def test_a_server_that_falls_silent_is_given_up(
    echo: bytes, connections: int, awake: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply that never comes costs the time-out, not the run, asleep or awake."""
    monkeypatch.setattr(loops, "CALL_TIMEOUT_S", 0.4)
    monkeypatch.setattr(loops, "MAX_FAILURES_IN_ROW", 2)
    with faulty([echo, b"", b""]) as port:
        measured = measure(order(port, psutil.Process().pid, connections=connections, awake=awake))
    assert (measured.calls, measured.failures) == (0, 1)
    assert "no reply within 0.4 s" in measured.reason


def test_a_reply_of_another_length_is_a_failure(echo: bytes) -> None:
    """A reply that is not as long as the echo is counted as a failure."""
    longer = LENGTH.pack(len(echo) - LENGTH.size + 1) + echo[LENGTH.size :] + b"x"
    with faulty([echo, echo, echo, longer]) as port:
        measured = measure(order(port, psutil.Process().pid))
    assert measured.failures > 0


def test_a_server_that_never_answers_right_is_given_up(echo: bytes) -> None:
    """Wrong contents from the first call on end the window with the reason."""
    at = echo.index(b"x") + 30
    with faulty([echo[:at] + bytes([echo[at] ^ 1]) + echo[at + 1 :]]) as port:
        measured = measure(order(port, psutil.Process().pid))
    assert measured.calls == 0
    assert "given up" in measured.reason


def test_cpu_of_children_that_ended_is_counted() -> None:
    """The CPU of a process tree keeps what its ended children took."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process_tree.cpu_s(process.pid) >= 0.3
        process.communicate(b"\n")


def test_quantiles_are_those_of_the_calls() -> None:
    """Quantiles count calls, not distinct latencies."""
    counted = [(10, 98), (20, 1), (500, 1)]
    assert [quantile(counted, part) for part in (0.5, 0.98, 0.99, 1.0)] == [10, 10, 20, 500]


@pytest.mark.parametrize(("number", "rounded"), [(0, 0), (999, 999), (1009, 1000), (12399, 12300)])
def test_latencies_keep_three_digits(number: int, rounded: int) -> None:
    """Ensures that a latency is rounded down to three digits."""
    assert three_digits(number) == rounded


def test_figures_are_medians_of_the_windows() -> None:
    """Rates and CPU are medians over the windows; a window without a call is left out."""
    measured = window_figures([window(10), window(20), window(90), window(0, 0.0, failures=2)])
    assert measured is not None
    assert (measured.calls_per_s, measured.calls, measured.failures) == (20, 120, 2)
    assert measured.cpu_us == pytest.approx(500)
    assert window_figures([window(0, 0.0)]) is None


@pytest.mark.parametrize(
    ("name", "ours", "missed"),
    [
        ("tiny", window(10, cpu_s=0.9), []),
        ("tiny", window(9), ["requests/s 0.90"]),
        ("602 KB", window(10, cpu_s=0.0051), ["server CPU 0.51"]),
        ("602 KB", window(10, cpu_s=0.005), []),
        ("602 KB", window(10, cpu_s=0.005, failures=1), ["ours failed 1 calls"]),
        ("tiny", window(0, 0.0), ["ours answered no call"]),
    ],
)
def test_targets_are_judged(name: str, ours: Window, missed: list[str]) -> None:
    """A cell misses where ours is slower, fails, or takes more than half the CPU for a large payload."""
    measured = compare(MeasuredCell(Cell("TSimpleServer", name, 1), [ours], [window(10)])).misses()
    assert len(measured) == len(missed)
    assert all(text.startswith(start) for text, start in zip(measured, missed, strict=True))


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Saving and loading a run loses nothing that the table shows."""
    run = a_run(MeasuredCell(Cell("TSimpleServer", "tiny", 1), [window(12)], [window(10)]))
    run.save(tmp_path / "deep" / "run.json")
    again = CallsRun.load(tmp_path / "deep" / "run.json")
    assert markdown(again) == markdown(run)
    assert "| TSimpleServer | tiny | 1 | 12.0 | 10.0 | 1.20 |" in markdown(again)
    assert "Every target is met in all 1 cells." in markdown(again)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": "another"}', '{"format": "thriftserve-bench calls 1"}']
)
def test_other_files_are_refused(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that holds no run is named, and report ends with 1."""
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(NotARun):
        CallsRun.load(path)
    assert main(["report", str(path)]) == 1
    assert str(path) in capsys.readouterr().err


def test_the_command_measures_writes_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`calls` leaves a file with machine, commit and every window, from which `report` makes the same table."""
    path = tmp_path / "calls.json"
    flags = ["calls", "--quick", "--server-type", "TThreadedServer", "--payload", "tiny", "--out", str(path)]
    assert main(flags) == 0
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["machine"]["cpu"] and data["versions"]["thrift"] and data["commit"]
    assert [len(cell[side]) for cell in data["cells"] for side in ("ours", "apache")] == [3] * 4
    capsys.readouterr()
    assert main(["report", "--markdown", str(path)]) == 0
    assert capsys.readouterr().out == markdown(CallsRun.load(path))


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    """SIGINT ends a long run early; the file holds the windows so far, marked, and the servers are gone."""
    path = tmp_path / "calls.json"
    flags = ["--server-type", "TThreadedServer", "--payload", "tiny", "--rounds", "10000", "--seconds", "0.05"]
    command = [sys.executable, "-m", "thriftserve_bench.cli", "calls", *flags, "--out", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        family: list[psutil.Process] = []
        # The load generator, both hosts and our host's worker; the load is busy only once windows are measured.
        while len(family) < 4 or not any("load" in " ".join(each.cmdline()) for each in family):
            family = psutil.Process(process.pid).children(recursive=True)
            time.sleep(_LOOK_EVERY_S)
        load = next(each for each in family if "thriftserve_bench.load.echo_load" in each.cmdline())
        start = load.cpu_times().user
        while load.cpu_times().user < start + 1.0:
            assert process.poll() is None
            time.sleep(_LOOK_EVERY_S)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "cut short" in shown
    assert CallsRun.load(path).cut_short
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    "flags", [["--rounds", "0"], ["--seconds", "-1"], ["--connections", "0"], ["--connections", "5"]]
)
def test_useless_numbers_are_refused(flags: list[str]) -> None:
    """Numbers that would measure nothing, or hang Apache's pools, are reported by their flag."""
    with pytest.raises(ValueError, match=flags[0]):
        settings_of(make_parser().parse_args(["calls", *flags]))
