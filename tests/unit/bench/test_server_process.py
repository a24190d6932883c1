"""`ServerProcess`: small programs that stand for servers, good and bad; none of them is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from thriftserve_bench.process_tree import signal_process
from thriftserve_bench.processes import ServerFailed, ServerProcess, clean_environment

#: A server that says on its stderr, then on its stdout, what it is told to, and waits.
PROGRAM = """
import signal, sys, time
if "--deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("log line", file=sys.stderr, flush=True)
print(sys.argv[1].replace("|", chr(10)), flush=True)
if "--end" in sys.argv:
    sys.exit(5)
time.sleep(600)
"""


def server(said: str, *more: str, ready_timeout_s: float = 30.0, log: Path | None = None) -> ServerProcess:
    """A server that prints lines, which `|` separates."""
    command = [sys.executable, "-c", PROGRAM]
    return ServerProcess([said, *more], command=command, ready_timeout_s=ready_timeout_s, log=log)


def children() -> list[int]:
    """Processes that this one has started and that still run."""
    return [one.pid for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]


def test_ready_line_is_read() -> None:
    """Lines before the ready line are passed over; its values are there; the end of the block ends the process."""
    before = children()
    with server("hello|thriftserve ready host=127.0.0.1 port=4711 server_type=T pid=12") as running:
        assert (running.host, running.port, running.pid) == ("127.0.0.1", 4711, 12)
        assert running.ready["server_type"] == "T"
        assert running.log_text() == "log line\n"
        assert len(children()) == len(before) + 1
    assert children() == before
    assert running.wait() == -signal.SIGTERM


def test_started_before_its_block() -> None:
    """`start` and then `with` is one process."""
    before = children()
    running = server("x ready port=1").start()
    with running as same:
        assert same is running
        assert len(children()) == len(before) + 1
    assert children() == before


@pytest.mark.parametrize("said", ["starting", "thriftserve ready for something else", ""])
def test_ends_before_it_is_ready(said: str) -> None:
    """A server that ends first is told with its exit code, its command and its log."""
    with pytest.raises(ServerFailed, match="exit code 5 before it was ready") as failed:
        server(said, "--end").start()
    assert failed.value.exit_code == 5
    assert str(failed.value).endswith("\n  log line")


def test_not_ready_in_time() -> None:
    """A server that never says that it is ready is ended."""
    before = children()
    with pytest.raises(ServerFailed, match="not ready within 1 s") as failed:
        server("starting", ready_timeout_s=1.0).start()
    assert failed.value.exit_code is None
    assert children() == before


def test_deaf_to_sigterm() -> None:
    """A server that does not stop when told to is killed."""
    with server("x ready port=1", "--deaf") as running:
        assert running.stop(timeout_s=0.2) == -signal.SIGKILL
        assert not running.running


def test_ctrl_c_does_not_reach_it() -> None:
    """It is in a session of its own, so that a terminal's signals go to whoever started it alone."""
    with server("x ready port=1") as running:
        (child,) = [one for one in children() if "x ready port=1" in psutil.Process(one).cmdline()]
        assert os.getsid(child) == child != os.getsid(0)
        assert running.running


def test_log_can_be_kept(tmp_path: Path) -> None:
    """With a path the log is there afterwards."""
    with server("x ready port=1", log=tmp_path / "server.log"):
        pass
    assert (tmp_path / "server.log").read_text(encoding="utf-8") == "log line\n"


def test_environment_has_no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller's environment says of the server's settings does not reach it, but what is given does."""
    monkeypatch.setenv("THRIFTSERVE_PORT", "1")
    monkeypatch.setenv("OTHER", "2")
    given = clean_environment(TF_CPP_MIN_LOG_LEVEL="3")
    assert "THRIFTSERVE_PORT" not in given
    assert (given["OTHER"], given["TF_CPP_MIN_LOG_LEVEL"]) == ("2", "3")


def test_real_failure_shows_the_servers_reason(tmp_path: Path) -> None:
    """`thriftserve serve` of a model that is not there: its own exit code and words."""
    with pytest.raises(ServerFailed, match="there is no such directory") as failed:
        ServerProcess(["--model", f"a={tmp_path}/none", "--port", "0"]).start()
    assert failed.value.exit_code == 4


def test_wait_has_a_limit() -> None:
    """`wait` raises where the server goes on."""
    with server("x ready port=1") as running, pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.05)


#: Starts a child that answers no order before ten minutes are over, says its pid, and waits for it.
PARENT = """
from thriftserve_bench.processes import JsonLinesChild
child = JsonLinesChild("slow_child")
print(child.pid, flush=True)
child.ask(None)
"""
SLOW_CHILD = """
import time
from thriftserve_bench.processes import answer_json_lines
answer_json_lines(lambda order: time.sleep(600))
"""


def test_children_end_with_a_killed_benchmark(tmp_path: Path) -> None:
    """`kill -9` of the process that has the load made ends the load, in the middle of an order."""
    (tmp_path / "slow_child.py").write_text(SLOW_CHILD, encoding="utf-8")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=clean_environment(PYTHONPATH=str(tmp_path)),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    signal_process(parent.pid, signal.SIGKILL)
    parent.communicate()
    with contextlib.suppress(psutil.NoSuchProcess):
        child.wait(timeout=30)
    assert not child.is_running()
