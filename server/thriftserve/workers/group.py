"""Worker processes of one kind, and what the arbiter remembers of each.

WorkerGroup (what to run, how many) --spawn()--> Worker (pid, state, report pipe)
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from thriftserve.errors import ExitCode
from thriftserve.workers import child
from thriftserve.workers.context import WorkerContext
from thriftserve.workers.listener import Listener
from thriftserve.workers.scoreboard import Scoreboard

#: A worker that lived this long was sound: its death starts the back-off anew.
SOUND_AFTER_S = 10.0
BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 30.0
_REPORT_BYTES = 4096


class State(Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True)
class WorkerGroup:
    """What a group of workers runs.

    Attributes:
        name: for the log.
        count: how many there are at once.
        make_loop: called in the worker.
        listener: what its first worker that is ready listens on.
        reloads: whether SIGHUP replaces its workers.
    """

    name: str
    count: int
    make_loop: Callable[[WorkerContext], child.Loop]
    listener: Listener
    reloads: bool = True


@dataclass
class Place:
    """One of a group's places: who holds it, who is to take over, how often it failed in a row."""

    group: WorkerGroup
    index: int
    worker: Worker | None = None
    successor: Worker | None = None
    failures: int = 0
    restarts: int = 0
    respawn_at: float | None = None
    reload_due: bool = False

    def backoff_s(self) -> float:
        """How long to wait before the next try."""
        return float(min(BACKOFF_FIRST_S * 2 ** max(0, self.failures - 1), BACKOFF_LAST_S))


@dataclass(eq=False)
class Worker:
    """A worker process."""

    place: Place
    pid: int
    slot: int
    pipe: int
    state: State = State.STARTING
    started: float = field(default_factory=time.monotonic)
    failure: tuple[ExitCode, str] | None = None
    was_ready: bool = False

    @property
    def label(self) -> str:
        """How the log names it."""
        return f"{self.place.group.name} {self.place.index} (pid {self.pid})"

    def read_report(self) -> bool:
        """Takes what the worker reported; False where its end of the pipe is closed."""
        try:
            data = os.read(self.pipe, _REPORT_BYTES)
        except BlockingIOError:  # a process that this one had forked holds the other end
            return True
        for line in data.decode(errors="replace").splitlines():
            word, _, rest = line.partition(" ")
            if word == "ready":
                self.state = State.READY
                self.was_ready = True
            elif word == "failed":
                code, _, message = rest.partition(" ")
                self.failure = (ExitCode(int(code)), message)
        return bool(data)


def spawn(place: Place, board: Scoreboard, selector: selectors.BaseSelector) -> Worker:
    """Forks a worker for a place and watches its pipe."""
    group = place.group
    slot = board.take(os.getpid(), place.index, place.restarts)  # the pid is the child's from its first line on
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    inherited = [key.fd for key in selector.get_map().values()]

    def main() -> int:
        for fd in (reader, *inherited):
            os.close(fd)
        board.enter(slot, os.getpid(), place.index, place.restarts, parent=board.pid)
        context = WorkerContext(board, slot, place.index, group.count)
        code = child.serve(group.make_loop(context), child.Report(writer), group.listener.listen)
        context.log_figures()
        return code

    pid = child.fork(main)
    os.close(writer)
    worker = Worker(place, pid, slot, reader)
    selector.register(reader, selectors.EVENT_READ, worker)
    return worker
