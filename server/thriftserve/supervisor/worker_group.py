"""Worker processes of one kind, and what the arbiter remembers of each.

WorkerGroup (what to run, how many) --> Place (kept filled) --> Worker (pid, state, what it reported)
"""

from __future__ import annotations

import os
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

# What a process is told to be a worker, whichever process forks it.

_LAYOUT = struct.Struct("=3q")
#: Length of a packed seat.
SEAT_BYTES = _LAYOUT.size


@dataclass(frozen=True)
class SpawnRequest:
    """A place to be filled.

    Attributes:
        index: the place, among its group's.
        restarts: how often it was filled anew.
        slot: where on the scoreboard its numbers go.
    """

    index: int
    restarts: int
    slot: int

    def pack(self) -> bytes:
        """As a message."""
        return _LAYOUT.pack(*astuple(self))

    @classmethod
    def unpack(cls, message: bytes) -> SpawnRequest:
        """From a message."""
        return cls(*_LAYOUT.unpack(message))


def work(group: WorkerGroup, seat: SpawnRequest, board: Scoreboard, report: child.Report) -> int:
    """Runs a worker from its loop's making to its end, in its own process.

    Returns:
        The exit code.
    """
    board.enter(seat.slot, os.getpid(), seat.index, seat.restarts, parent=board.pid)
    context = WorkerContext(board, seat.slot, seat.index, group.count, report)
    code = child.serve(group.make_loop(context), report, group.listen)
    context.log_figures()
    return code


#: A worker that lived this long was sound: its death starts the back-off anew.
SOUND_AFTER_S = 10.0
BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 30.0
_REPORT_BYTES = 65536  # all that a pipe holds


class GroupState(Enum):
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
        listener: what its first worker that is ready listens on; None: nothing. Workers of other groups
            that have another one don't keep it.
        reloads: whether SIGHUP replaces its workers.
        preload: imports what its workers need, in a nursery; None: they are forked from the arbiter itself.
        keeper: whether SIGHUP is for its worker, which knows what that changes, and asks for the reload itself.
        frees_first: whether a reload ends a worker before its successor begins to load.
        drain_order: from 0; when the server drains, its workers hear of it after all of lower orders have
            ended, and those that die before are replaced.
    """

    name: str
    count: int
    make_loop: Callable[[WorkerContext], child.Loop]
    listener: Listener | None = None
    reloads: bool = True
    preload: Callable[[], None] | None = None
    keeper: bool = False
    frees_first: bool = False
    drain_order: int = 0

    def listen(self) -> None:
        """Takes clients from now on, where it has a listener.

        Raises:
            BindError: another server was first.
        """
        if self.listener is not None:
            self.listener.listen()


@dataclass
class WorkerSlot:
    """One of a group's places: who holds it, who is to take over, how often it failed in a row.

    A group's nursery has a place of its own.
    """

    group: WorkerGroup
    index: int
    is_nursery: bool = False
    worker: Worker | None = None
    successor: Worker | None = None
    failures: int = 0
    restarts: int = 0
    respawn_at: float | None = 0.0
    reload_due: bool = False
    freed: bool = False

    @property
    def label(self) -> str:
        """How the log names it."""
        return f"{self.group.name} {'nursery' if self.is_nursery else self.index}"

    @property
    def serves(self) -> bool:
        """Whether its worker is ready."""
        return self.worker is not None and self.worker.state is GroupState.READY

    def backoff_s(self) -> float:
        """How long to wait before the next try."""
        return float(min(BACKOFF_FIRST_S * 2 ** max(0, self.failures - 1), BACKOFF_LAST_S))


@dataclass(eq=False)
class Worker:
    """A worker process.

    Attributes:
        slot: its slot on the scoreboard; None: it has none, a nursery serves nobody.
        pipe: where its reports are read; -1: closed.
        pid: None until a nursery has forked it and it has said so.
        failure: why it can't start, as it reported.
        stuck: whether it was killed for not coming to an end with its requests.
        asks_reload: whether it said that what is served has changed.
        accused: other workers that it reported as stuck: (pid, for how long, seconds).
    """

    place: WorkerSlot
    slot: int | None
    pipe: int
    pid: int | None = None
    state: GroupState = GroupState.STARTING
    started: float = field(default_factory=time.monotonic)
    failure: tuple[ExitCode, str] | None = None
    was_ready: bool = False
    stuck: bool = False
    asks_reload: bool = False
    accused: list[tuple[int, float]] = field(default_factory=list)
    _rest: bytes = b""

    @property
    def label(self) -> str:
        """How the log names it."""
        return f"{self.place.label} ({f'pid {self.pid}' if self.pid else 'not forked yet'})"

    def signal(self, number: int) -> None:
        """Send its process a signal; none is sent before it has one: pid 0 would mean this process's whole group."""
        if self.pid is not None:
            os.kill(self.pid, number)

    def was_sound(self, answered: int) -> bool:
        """Whether its end says nothing against starting another at once: it had served, with `answered` requests."""
        lived_s = time.monotonic() - self.started
        return self.was_ready and (answered > 0 or self.stuck or self.place.is_nursery or lived_s >= SOUND_AFTER_S)

    def read_report(self) -> bool:
        """Takes what the worker reported; False where its end of the pipe is closed."""
        try:
            data = os.read(self.pipe, _REPORT_BYTES)
        except BlockingIOError:  # a process that this one had forked holds the other end
            return True
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            self._take(word, rest)
        return bool(data)

    def _take(self, word: str, rest: str) -> None:
        first, _, second = rest.partition(" ")
        if word == "born":
            self.pid = int(first)
        elif word == "ready":
            self.was_ready = True
            if self.state is GroupState.STARTING:  # not where it was told to drain meanwhile
                self.state = GroupState.READY
        elif word == "failed":
            self.failure = (ExitCode(int(first)), second)
        elif word == "reload":
            self.asks_reload = True
        elif word == "stuck":
            self.accused.append((int(first), float(second)))
