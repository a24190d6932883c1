"""What the supervisor decides about a process: its report, whether it was healthy, when to start the next one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from thriftserve.errors import ExitCode
from thriftserve.supervisor.child import Report
from thriftserve.supervisor.worker_group import (
    BACKOFF_LAST_S,
    HEALTHY_AFTER_S,
    SPAWN_REQUEST_BYTES,
    ProcessState,
    SpawnRequest,
    Worker,
    WorkerGroup,
    WorkerSlot,
)


def slot(**fields: object) -> WorkerSlot:
    """Return a slot of a group that is never run."""
    return WorkerSlot(WorkerGroup("worker", 1, lambda _: pytest.fail("not run")), 0, **fields)  # type: ignore[arg-type]


@pytest.fixture
def reported() -> Iterator[tuple[Report, Worker]]:
    """A process's end of the report pipe, and the supervisor's view of the process."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    worker = Worker(slot(), 0, reader)
    yield Report(writer), worker
    os.close(reader)


def test_reports_arrive(reported: tuple[Report, Worker]) -> None:
    """Whatever a process reports is what its supervisor knows, until the process closes its end."""
    report, worker = reported
    assert worker.label == "worker 0 (not forked yet)"
    assert worker.read_report()  # nothing to read yet
    assert report.spawned()
    report.ready()
    report.stuck(4711, 1.5)
    report.stuck(4712, 2.0)
    report.request_reload()
    assert worker.read_report()
    assert (worker.pid, worker.state, worker.was_ready) == (os.getpid(), ProcessState.READY, True)
    assert (worker.reported_stuck, worker.reload_requested) == ([(4711, 1.5), (4712, 2.0)], True)
    report.failed(ExitCode.MODEL_LOAD, "model 'm':\n no such   file")
    report.close()
    report.ready()  # dropped
    assert worker.read_report()
    assert worker.failure == (ExitCode.MODEL_LOAD, "model 'm': no such file")
    assert not worker.read_report()


def test_a_process_that_drains_does_not_become_ready(reported: tuple[Report, Worker]) -> None:
    """A drain that begins before the process is ready lasts."""
    report, worker = reported
    worker.state = ProcessState.DRAINING
    report.ready()
    assert worker.read_report()
    assert (worker.state, worker.was_ready) == (ProcessState.DRAINING, True)
    report.close()


def test_the_pause_doubles() -> None:
    """The first failure costs 0.1 s, each further one in a row twice as much, up to a limit."""
    assert [slot(failures=n).backoff_s(BACKOFF_LAST_S) for n in (0, 1, 2, 3, 5)] == [0.1, 0.1, 0.2, 0.4, 1.6]
    assert slot(failures=50).backoff_s(BACKOFF_LAST_S) == BACKOFF_LAST_S


@pytest.mark.parametrize(
    ("fields", "answered", "ran_s", "healthy"),
    [
        ({"was_ready": False}, 0, 100, False),
        ({"was_ready": True}, 0, 1, False),
        ({"was_ready": True}, 1, 1, True),
        ({"was_ready": True, "stuck": True}, 0, 1, True),
        ({"was_ready": True}, 0, HEALTHY_AFTER_S + 1, True),
        ({"was_ready": True, "slot": slot(is_fork_server=True)}, 0, 1, True),
    ],
)
def test_healthy(fields: dict[str, object], answered: int, ran_s: float, healthy: bool) -> None:
    """A process was healthy if it was ready, and then answered, was stuck, forked, or ran for some time."""
    worker = Worker(**({"slot": slot(), "row": None, "pipe": -1} | fields))  # type: ignore[arg-type]
    worker.started = time.monotonic() - ran_s
    assert worker.was_healthy(answered) is healthy


@pytest.mark.parametrize(
    ("state", "was_ready", "pid", "code", "expected"),
    [
        (ProcessState.DRAINING, True, 7, ExitCode.OK, True),
        (ProcessState.DRAINING, True, 7, -signal.SIGTERM, False),
        (ProcessState.DRAINING, False, 7, -signal.SIGTERM, True),
        (ProcessState.DRAINING, False, None, ExitCode.INTERNAL, True),
        (ProcessState.DRAINING, False, 7, ExitCode.INTERNAL, False),
        (ProcessState.READY, True, 7, ExitCode.OK, False),
        (ProcessState.STARTING, False, None, ExitCode.INTERNAL, False),
    ],
)
def test_expected_ends(state: ProcessState, was_ready: bool, pid: int | None, code: int, expected: bool) -> None:
    """A drain ends with 0, or by the signal where there was nothing to drain yet; any other end is an error."""
    worker = Worker(slot(), None, -1, pid=pid, state=state, was_ready=was_ready)
    assert worker.ended_as_expected(code) is expected


def test_a_spawn_request_is_one_message() -> None:
    """A request comes out of its message as it went in."""
    request = SpawnRequest(index=3, restarts=2**40, row=17)
    assert len(request.pack()) == SPAWN_REQUEST_BYTES
    assert SpawnRequest.unpack(request.pack()) == request
