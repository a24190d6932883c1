"""Groups of worker processes, and what the arbiter knows about each process.

WorkerGroup (what to run, how many) --> WorkerSlot (kept filled) --> Worker (pid, state, what it reported)
"""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from enum import Enum

from thriftserve.errors import ExitCode
from thriftserve.supervisor import child
from thriftserve.supervisor.context import WorkerContext
from thriftserve.supervisor.listener import Listener
from thriftserve.supervisor.scoreboard import Scoreboard

#: A worker that ran this long was healthy: its end restarts the back-off.
HEALTHY_AFTER_S = 10.0
BACKOFF_FIRST_S = 0.1
#: The longest pause while another worker of the group serves, and while none does.
BACKOFF_LAST_S, BACKOFF_ALONE_S = 30.0, 2.0
#: The capacity of a pipe: pipe(7).
_PIPE_BYTES = 65536
_SPAWN_REQUEST = struct.Struct("=3q")
SPAWN_REQUEST_BYTES = _SPAWN_REQUEST.size


class ProcessState(Enum):
    """The state of a supervised process."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True)
class WorkerGroup:
    """What a group of workers runs.

    Attributes:
        name: for the log.
        count: how many workers run at once.
        make_loop: called in the worker.
        listener: where clients can connect once the first worker is ready; None: nowhere. Workers of other groups
            close it.
        reloads: whether a reload replaces the workers.
        preload: imports what the workers need, in a fork server. None: the arbiter forks the workers.
        takes_sighup: whether SIGHUP is passed on to the worker, which may request a reload. Otherwise SIGHUP reloads.
        stop_first: whether a reload ends a worker before its successor starts to load.
        drain_order: when the server drains, groups of order 0 drain first, then those of order 1 and so on. Workers
            that die before it is their turn are replaced.
    """

    name: str
    count: int
    make_loop: Callable[[WorkerContext], child.Loop]
    listener: Listener | None = None
    reloads: bool = True
    preload: Callable[[], None] | None = None
    takes_sighup: bool = False
    stop_first: bool = False
    drain_order: int = 0

    def listen(self) -> None:
        """Let clients connect, if the group has a listener.

        Raises:
            BindError: another server listens on the address.
        """
        if self.listener is not None:
            self.listener.listen()

    def close_listener(self) -> None:
        """Stop clients from connecting through this process."""
        if self.listener is not None:
            self.listener.close()


@dataclass(frozen=True)
class SpawnRequest:
    """An order for a worker.

    Attributes:
        index: the slot that the worker fills, among those of its group.
        restarts: how often that slot was filled again.
        row: the worker's row of the scoreboard.
    """

    index: int
    restarts: int
    row: int

    def pack(self) -> bytes:
        """Return the request as a message."""
        return _SPAWN_REQUEST.pack(*astuple(self))

    @classmethod
    def unpack(cls, message: bytes) -> SpawnRequest:
        """Return the request of a message."""
        return cls(*_SPAWN_REQUEST.unpack(message))


def run_worker(group: WorkerGroup, request: SpawnRequest, board: Scoreboard, report: child.Report) -> int:
    """Run a worker to its end, in its own process.

    Returns:
        The exit code.
    """
    board.occupy(request.row, os.getpid(), request.index, request.restarts, parent=board.pid)
    context = WorkerContext(board, request.row, request.index, group.count, report)
    code = child.run_loop(group.make_loop(context), report, group.listen)
    context.log_summary()
    return code


@dataclass
class WorkerSlot:
    """A position in a group that the arbiter keeps filled. The fork server of a group has one, too.

    Attributes:
        worker: the process that fills it.
        successor: the process that loads in order to replace it.
        failures: how often in a row its process failed.
        restarts: how often it was filled again after a failure.
        respawn_at: when to fill it; None: when its process has ended.
        reload_due: whether its process is to be replaced.
        stopped_for_reload: whether its process drains, so that a successor can start.
    """

    group: WorkerGroup
    index: int
    is_fork_server: bool = False
    worker: Worker | None = None
    successor: Worker | None = None
    failures: int = 0
    restarts: int = 0
    respawn_at: float | None = 0.0
    reload_due: bool = False
    stopped_for_reload: bool = False

    @property
    def label(self) -> str:
        """The name in the log."""
        return f"{self.group.name} {'fork server' if self.is_fork_server else self.index}"

    @property
    def serves(self) -> bool:
        """Whether its worker is ready."""
        return self.worker is not None and self.worker.state is ProcessState.READY

    def backoff_s(self, last_s: float) -> float:
        """Return how long to wait before the next start: twice as long after each failure, up to `last_s` seconds."""
        return float(min(BACKOFF_FIRST_S * 2 ** min(16, max(0, self.failures - 1)), last_s))


@dataclass(eq=False)
class Worker:
    """A supervised process.

    Attributes:
        slot: the slot that it fills.
        row: its row of the scoreboard; None for a fork server.
        pipe: the descriptor on which its reports arrive; -1: closed.
        pid: None until a fork server has forked it and it has reported its pid.
        failure: why it can't start, as reported.
        stuck: whether it was killed because it did not finish its requests.
        reload_requested: whether it asked for a reload.
        reported_stuck: other workers that it reported as stuck: (pid, seconds).
    """

    slot: WorkerSlot
    row: int | None
    pipe: int
    pid: int | None = None
    state: ProcessState = ProcessState.STARTING
    started: float = field(default_factory=time.monotonic)
    failure: tuple[ExitCode, str] | None = None
    was_ready: bool = False
    stuck: bool = False
    reload_requested: bool = False
    reported_stuck: list[tuple[int, float]] = field(default_factory=list)
    _incomplete_line: bytes = b""

    @property
    def label(self) -> str:
        """The name in the log."""
        return f"{self.slot.label} ({f'pid {self.pid}' if self.pid else 'not forked yet'})"

    def signal(self, number: int) -> None:
        """Send a signal to the process. Does nothing before the pid is known: pid 0 would be the own process group."""
        if self.pid is not None:
            os.kill(self.pid, number)

    def was_healthy(self, answered: int) -> bool:
        """Return whether the process, which has ended, had done its work: then its slot can be filled at once.

        Args:
            answered: how many requests it had answered.
        """
        ran_s = time.monotonic() - self.started
        return self.was_ready and (answered > 0 or self.stuck or self.slot.is_fork_server or ran_s >= HEALTHY_AFTER_S)

    def ended_as_expected(self, code: int) -> bool:
        """Return whether an exit code is what a drain leads to."""
        if self.state is not ProcessState.DRAINING:
            return False
        if code == ExitCode.OK:
            return True
        return not self.was_ready and (code == -signal.SIGTERM or not self.pid)  # it had nothing to drain yet

    def read_report(self) -> bool:
        """Read what the process has reported. Return False if it has closed its end of the pipe."""
        try:
            data = os.read(self.pipe, _PIPE_BYTES)
        except BlockingIOError:  # a descendant of the process holds the other end
            return True
        *lines, self._incomplete_line = (self._incomplete_line + data).split(b"\n")
        for line in lines:
            self._apply(*line.decode(errors="replace").split(" ", 2))
        return bool(data)

    def _apply(self, word: str, first: str = "", second: str = "") -> None:
        """Apply one line that `Report` wrote."""
        if word == "spawned":
            self.pid = int(first)
        elif word == "ready":
            self.was_ready = True
            if self.state is ProcessState.STARTING:  # a drain may have begun in between
                self.state = ProcessState.READY
        elif word == "failed":
            self.failure = (ExitCode(int(first)), second)
        elif word == "reload":
            self.reload_requested = True
        elif word == "stuck":
            self.reported_stuck.append((int(first), float(second)))
