"""Whoever signals a pid that was read somewhere reaches one process, and never the caller's own group."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from documents import ROOT
from thriftserve.status import WorkerRole
from thriftserve.supervisor.worker_group import Worker, WorkerGroup, WorkerSlot
from thriftserve_bench.process_tree import signal_group, signal_process
from thriftserve_client import decode
from thriftserve_idl.ttypes import ServerState, ServerStatus, WorkerState, WorkerStatus

#: Where a pid is checked before it is signalled.
CHECKED = ROOT / "bench/thriftserve_bench/process_tree.py"
SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.mark.parametrize(
    "pid",
    [0, -1, 1, -12345, pytest.param(os.getpid(), id="own"), pytest.param(os.getppid(), id="parent")],
)
def test_a_pid_that_is_no_single_other_process_is_refused(pid: int) -> None:
    """0 is the caller's own group, -1 everybody, a negative pid a group; nor is the caller or its parent signalled."""
    with pytest.raises(ValueError, match=f"signal 0 to pid {pid}: expected a process other than"):
        signal_process(pid, 0)


@pytest.mark.parametrize("group", [0, -1, 1, pytest.param(os.getpgrp(), id="own")])
def test_a_group_that_is_not_another_is_refused(group: int) -> None:
    """0 is the caller's own group."""
    with pytest.raises(ValueError, match=f"process group {group}: expected one that this process is not in"):
        signal_group(group, 0)


def test_another_process_is_signalled() -> None:
    """A child is, by its pid or by its group."""
    for send in (signal_process, signal_group):
        with subprocess.Popen(SLEEPER, start_new_session=True) as child:
            send(child.pid, signal.SIGTERM)
            assert child.wait(30) == -signal.SIGTERM


def test_a_worker_without_a_process_is_not_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that its fork server has not forked yet has no pid, and a signal to it goes nowhere."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    worker = Worker(WorkerSlot(WorkerGroup("worker", 1, lambda _: pytest.fail("not run")), 0), None, -1)
    worker.signal(signal.SIGHUP)
    assert sent == []
    worker.pid = 4711
    worker.signal(signal.SIGHUP)
    assert sent == [(4711, signal.SIGHUP)]


def test_a_row_without_a_pid_is_no_worker() -> None:
    """A status of an older server, which gives a worker that is still to be made pid 0, is read without that row."""
    rows = [
        WorkerStatus(index, pid, WorkerState.IDLE, "cpu", 0, 0.0, 0.0, 0, 0, 0, 0, 0, WorkerRole.WORKER.name.lower())
        for index, pid in enumerate((4711, 0, -1))
    ]
    status = ServerStatus(ServerState.SERVING, "TBatchingServer", 1.0, "0", 4710, rows, [], 0, 0, 0)
    assert [one.pid for one in decode.server_status(status).workers] == [4711]


def unchecked(source: str) -> Iterator[int]:
    """The lines on which a process is signalled by its bare pid; who signals itself, or sends 0, harms nobody."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (node.lineno for one in node.names if one.name in ("kill", "killpg"))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.kill", "os.killpg"):
            target, number = map(ast.unparse, node.args)
            if target != "os.getpid()" and number != "0":
                yield node.lineno


def test_tests_and_benchmarks_check_what_they_signal() -> None:
    """No test and no benchmark signals a bare pid: the status, a log or a file may hold one that means everybody."""
    files = [path for folder in ("tests", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert CHECKED in files
    told = {str(path.relative_to(ROOT)): list(unchecked(Path(path).read_text("utf-8"))) for path in files}
    assert list(filter(told.get, told)) == [str(CHECKED.relative_to(ROOT))]


def test_what_is_not_checked_is_found() -> None:
    """A bare kill is found however it is written; those that can't go astray are not."""
    assert list(unchecked("import os\nos.kill(pid, 9)\nos.killpg(group, signal.SIGTERM)\n")) == [2, 3]
    assert list(unchecked("from os import kill\n")) == [1]
    assert list(unchecked("os.kill(os.getpid(), 9)\nos.kill(pid, 0)\nsignal_process(pid, 9)\n")) == []
