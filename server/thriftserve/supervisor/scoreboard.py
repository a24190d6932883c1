"""What every process of a server knows of every other: counters in shared memory.

    worker: Counters --writes its own slot--> Scoreboard (anonymous mmap) --snapshot()--> any process's getServerStatus

The parent makes the board before it forks, so all its children share the pages. Each cell has one
writer, an aligned 8-byte store is whole, and a reader may be a request behind: that is all the
synchronisation there is. A slot's numbers outlive its process: whoever reaps it adds them to the past, and
a reader that finds somebody at it looks again, so that sums over all of it never go back.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TypeAlias

from thriftserve.status import MEASURES, Measure, ServerPhase, ServerSnapshot, WorkerPhase, WorkerRole, WorkerSnapshot
from thriftserve_client.histogram import Histogram

# What stands in a slot of the scoreboard, and where.

#: Cells of one slot, or of all of them: signed 8-byte integers.
Cells: TypeAlias = "memoryview[int]"
Observe = Callable[[int, int, int], None]


class BoardCell(IntEnum):
    """Cells of a slot, 8 bytes each."""

    PID = 0
    PARENT = 1
    INDEX = 2
    PHASE = 3
    STARTED_NS = 4
    REQUESTS = 5
    ERRORS = 6
    IN_FLIGHT = 7
    CONNECTIONS = 8
    REFUSED = 9
    RESTARTS = 10
    PAST_REQUESTS = 11
    PAST_ERRORS = 12
    ROLE = 13
    QUEUED = 14
    QUEUED_BYTES = 15
    #: Odd while numbers of a process that has ended are on their way into this slot.
    MOVES = 16
    DEVICE = 17
    NOTE = 19
    #: Of a worker: the plan whose models it has loaded. Of the server: how often its models' state has changed.
    PLAN = 27
    HISTOGRAMS = 28


#: Texts, UTF-8, filled up with zeros.
DEVICE_CELLS = slice(BoardCell.DEVICE, BoardCell.NOTE)
NOTE_CELLS = slice(BoardCell.NOTE, BoardCell.PLAN)


def _cells_of(measure: Measure) -> int:
    return len(measure.bounds) + 2  # a bucket for each bound, one above them all, the sum


SLOT_CELLS = BoardCell.HISTOGRAMS + sum(map(_cells_of, MEASURES))
#: The cells that are added to the past when a process ends: they only grow.
HISTOGRAM_CELLS = range(BoardCell.HISTOGRAMS, SLOT_CELLS)
_FIRST_CELLS = tuple(BoardCell.HISTOGRAMS + sum(map(_cells_of, MEASURES[:at])) for at in range(len(MEASURES)))
_INTEGER_BITS = 64


def observer(cells: Cells, slot_at: int) -> Observe:
    """What counts a request in the histograms of the slot that begins at a cell, for one thread at a time.

    It takes the time queued and the time computed (microseconds), and the rows of the run.
    """
    queue_at, compute_at, batch_at = ([slot_at + cell for cell in _bucket_cells(at)] for at in range(len(MEASURES)))
    queue_sum, compute_sum, batch_sum = (
        slot_at + first + _cells_of(measure) - 1 for first, measure in zip(_FIRST_CELLS, MEASURES, strict=True)
    )

    def observe(queue_us: int, compute_us: int, batch_size: int) -> None:
        # A value less one has as many bits as the power of two that bounds it has zeros.
        cells[queue_at[(queue_us - 1).bit_length()]] += 1
        cells[queue_sum] += queue_us
        cells[compute_at[(compute_us - 1).bit_length()]] += 1
        cells[compute_sum] += compute_us
        cells[batch_at[(batch_size - 1 if batch_size else 0).bit_length()]] += 1
        cells[batch_sum] += batch_size

    return observe


def _bucket_cells(at: int) -> list[int]:
    """The cell of a slot in which a measure counts a value, by the bits of that value less one."""
    powers = [bound.bit_length() - 1 for bound in MEASURES[at].bounds]
    return [_FIRST_CELLS[at] + min(max(bits - powers[0], 0), len(powers)) for bits in range(_INTEGER_BITS + 1)]


def histograms(slots: Sequence[Cells]) -> tuple[Histogram, ...]:
    """The histograms of several slots added up, one for each of `MEASURES`."""
    found = []
    for first, measure in zip(_FIRST_CELLS, MEASURES, strict=True):
        own = slice(first, first + _cells_of(measure))
        *counts, total = (sum(column) for column in zip(*(slot[own] for slot in slots), strict=True))
        found.append(Histogram(measure.name, measure.unit, measure.bounds, tuple(counts), total))
    return tuple(found)


def write_text(cells: Cells, text: str) -> None:
    """Puts a text into cells; cut where it is too long for them."""
    size = cells.nbytes
    cells.cast("B")[:] = memoryview(text.encode()[:size].ljust(size, b"\0"))


def read_text(cells: Cells) -> str:
    """The text that `write_text` put there."""
    return cells.tobytes().rstrip(b"\0").decode(errors="ignore")


#: How often, and how long apart, a reader tries to see no slot half added to the past.
_TRIES = 100
_PAUSE_S = 0.0001
_ZEROS = memoryview(bytes(8 * SLOT_CELLS)).cast("q")
#: In the PID cell of a slot whose process is still to be made. It fits no pid_t: nobody could be signalled by it.
_RESERVED = 2**62


class Scoreboard:
    """A table of slots in memory that all processes of a server share.

    Args:
        server_type: what `snapshot` reports as the server type.
        parent_slots: how many children the parent may have at once.
        children: how many children each of those may have at once.
    """

    def __init__(self, server_type: str, parent_slots: int, children: int = 0) -> None:
        self.server_type = server_type
        self.pid = os.getpid()
        self.parent_slots = parent_slots
        self._children = children
        self._slots = slots = parent_slots * (1 + children)
        self._started = time.time()
        # One slot more, the last: the server's own phase and past.
        self._map = mmap.mmap(-1, (slots + 1) * SLOT_CELLS * 8)
        self.cells = memoryview(self._map).cast("q")
        self._own = slots * SLOT_CELLS

    def reserve(self, index: int, restarts: int = 0, among: range | None = None) -> int:
        """Take a free slot for a process that is still to be made; it has no row in the status until it enters it.

        Args:
            index: the process's place among its like.
            restarts: how often that place was filled anew.
            among: the slots that the caller hands out, and nobody else; None: the parent's own.

        Raises:
            RuntimeError: none is free.
        """
        for slot in among if among is not None else range(self.parent_slots):
            if self.cells[slot * SLOT_CELLS] == 0:
                self.enter(slot, _RESERVED, index, restarts)
                return slot
        raise RuntimeError("all slots of the scoreboard are taken")

    def slots_of_children(self, slot: int) -> range:
        """The slots that the process in `slot` may hand out to children of its own."""
        first = self.parent_slots + slot * self._children
        return range(first, first + self._children)

    def enter(
        self,
        slot: int,
        pid: int,
        index: int,
        restarts: int = 0,
        parent: int | None = None,
        role: WorkerRole = WorkerRole.WORKER,
    ) -> None:
        """Begins a slot anew for process `pid`, a child of `parent` (None: of this process)."""
        at = slot * SLOT_CELLS
        self.cells[at + 1 : at + SLOT_CELLS] = _ZEROS[1:]  # PID comes last: until then nobody reads the others
        self.cells[at + BoardCell.PARENT] = os.getpid() if parent is None else parent
        self.cells[at + BoardCell.INDEX] = index
        self.cells[at + BoardCell.PHASE] = WorkerPhase.STARTING
        self.cells[at + BoardCell.STARTED_NS] = time.time_ns()
        self.cells[at + BoardCell.RESTARTS] = restarts
        self.cells[at + BoardCell.ROLE] = role
        self.cells[at] = pid

    def free(self, slot: int, into: int | None = None) -> None:
        """A process has ended: adds its numbers to the past (of slot `into`; None: the server's)."""
        at = slot * SLOT_CELLS
        past = self._own if into is None else into * SLOT_CELLS
        cells = self.cells
        cells[past + BoardCell.MOVES] += 1
        cells[past + BoardCell.PAST_REQUESTS] += cells[at + BoardCell.REQUESTS] + cells[at + BoardCell.PAST_REQUESTS]
        cells[past + BoardCell.PAST_ERRORS] += cells[at + BoardCell.ERRORS] + cells[at + BoardCell.PAST_ERRORS]
        cells[past + BoardCell.REFUSED] += cells[at + BoardCell.REFUSED]
        for cell in HISTOGRAM_CELLS:
            cells[past + cell] += cells[at + cell]
        cells[at] = 0
        cells[at + BoardCell.MOVES] = 0  # it may have been killed while it moved numbers of its own children
        cells[past + BoardCell.MOVES] += 1

    def free_children_of(self, pid: int) -> None:
        """The process that would have reaped them has ended, and they with it."""
        for slot in range(self._slots):
            at = slot * SLOT_CELLS
            if self.cells[at] and self.cells[at + BoardCell.PARENT] == pid:
                self.free(slot)

    def set_phase(self, phase: ServerPhase) -> None:
        """The server's own state."""
        self.cells[self._own + BoardCell.PHASE] = phase

    @property
    def stopping(self) -> bool:
        """True where the whole server drains, not one worker of it."""
        return self.cells[self._own + BoardCell.PHASE] == ServerPhase.DRAINING

    def peers(self) -> list[tuple[int, int, int]]:
        """(pid, requests in flight, connections) of every worker that serves."""
        cells = self.cells
        return [
            (cells[at], cells[at + BoardCell.IN_FLIGHT], cells[at + BoardCell.CONNECTIONS])
            for at in range(0, self._slots * SLOT_CELLS, SLOT_CELLS)
            if cells[at]
            and cells[at + BoardCell.PHASE] == WorkerPhase.IDLE
            and cells[at + BoardCell.ROLE] == WorkerRole.WORKER
        ]

    def plans(self) -> list[tuple[WorkerPhase, int]]:
        """(phase, number of its plan) of every worker, those that are still to be made included (STARTING).

        A forking server's children are in its one worker's.
        """
        cells = self.cells
        return [
            (WorkerPhase(cells[at + BoardCell.PHASE] or WorkerPhase.STARTING), cells[at + BoardCell.PLAN])
            for at in range(0, self.parent_slots * SLOT_CELLS, SLOT_CELLS)
            if cells[at] and cells[at + BoardCell.ROLE] == WorkerRole.WORKER
        ]

    @property
    def state_number(self) -> int:
        """Grows whenever the state of the models that is written down changes."""
        return self.cells[self._own + BoardCell.PLAN]

    def state_changed(self) -> None:
        """It has been written anew; one process calls it."""
        self.cells[self._own + BoardCell.PLAN] += 1

    def slot(self, slot: int) -> Cells:
        """The cells of one slot."""
        return self.cells[slot * SLOT_CELLS : (slot + 1) * SLOT_CELLS]

    def snapshot(self) -> ServerSnapshot:
        """Everything, as it stands; memory and CPU times are asked of the operating system."""
        *used, own = every = self._copied()
        fronts = [slot for slot in used if slot[BoardCell.ROLE] == WorkerRole.FRONT]
        return ServerSnapshot(
            phase=ServerPhase(own[BoardCell.PHASE] or ServerPhase.STARTING),
            server_type=self.server_type,
            pid=self.pid,
            uptime_s=time.time() - self._started,
            workers=tuple(sorted(map(_worker, used), key=lambda worker: (worker.role, worker.index, worker.pid))),
            past_requests=sum(slot[BoardCell.PAST_REQUESTS] for slot in every),
            past_errors=sum(slot[BoardCell.PAST_ERRORS] for slot in every),
            refused=sum(slot[BoardCell.REFUSED] for slot in every),
            histograms=histograms(every),
            queued=sum(slot[BoardCell.QUEUED] for slot in fronts) if fronts else None,
            queued_bytes=sum(slot[BoardCell.QUEUED_BYTES] for slot in fronts) if fronts else None,
        )

    def _copied(self) -> list[Cells]:
        """The slots of all processes, and the server's own, the last; none of them half added to the past."""
        found: list[Cells] = []
        for _ in range(_TRIES):
            moves = self._moves()
            used = [slot for slot, pid in enumerate(self.cells[: self._own : SLOT_CELLS].tolist()) if pid]
            found = [memoryview(self.slot(slot).tobytes()).cast("q") for slot in (*used, self._slots)]
            if moves == self._moves() and not any(count % 2 for count in moves):
                break
            time.sleep(_PAUSE_S)
        # A slot may have been freed, or taken for the next process, since it was seen in use.
        return [*(slot for slot in found[:-1] if slot[BoardCell.PID] not in (0, _RESERVED)), found[-1]]

    def _moves(self) -> list[int]:
        return self.cells[BoardCell.MOVES :: SLOT_CELLS].tolist()


def _worker(slot: Cells) -> WorkerSnapshot:
    phase = WorkerPhase(slot[BoardCell.PHASE] or WorkerPhase.STARTING)  # its process is just beginning the slot
    if phase is WorkerPhase.IDLE and slot[BoardCell.IN_FLIGHT]:
        phase = WorkerPhase.BUSY
    pid = slot[BoardCell.PID]
    rss_bytes, cpu_s = _usage(pid)
    return WorkerSnapshot(
        index=slot[BoardCell.INDEX],
        pid=pid,
        phase=phase,
        device=read_text(slot[DEVICE_CELLS]),
        rss_bytes=rss_bytes,
        cpu_s=cpu_s,
        uptime_s=max(0.0, time.time() - slot[BoardCell.STARTED_NS] / 1e9),
        requests=slot[BoardCell.REQUESTS],
        errors=slot[BoardCell.ERRORS],
        in_flight=max(0, slot[BoardCell.IN_FLIGHT]),
        connections=max(0, slot[BoardCell.CONNECTIONS]),
        restarts=slot[BoardCell.RESTARTS],
        role=WorkerRole(slot[BoardCell.ROLE]),
        note=read_text(slot[NOTE_CELLS]),
    )


def _usage(pid: int) -> tuple[int, float]:
    """Resident bytes and CPU seconds of a process; zeros where it is gone, or no descriptor is left to read them."""
    try:
        import psutil
    except ImportError:
        return 0, 0.0
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return process.memory_info().rss, times.user + times.system
    except (psutil.Error, OSError):
        return 0, 0.0
