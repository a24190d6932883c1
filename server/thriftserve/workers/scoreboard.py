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
from collections.abc import Callable
from threading import Lock

from thriftserve.status import ServerPhase, ServerSnapshot, WorkerPhase, WorkerRole, WorkerSnapshot
from thriftserve.workers.slot import (
    DEVICE_CELLS,
    HISTOGRAM_CELLS,
    NOTE_CELLS,
    SLOT_CELLS,
    Cell,
    Cells,
    histograms,
    observer,
    read_text,
    write_text,
)

Count = Callable[[], None]

#: How often, and how long apart, a reader tries to see no slot half added to the past.
_TRIES = 100
_PAUSE_S = 0.0001
_ZEROS = memoryview(bytes(8 * SLOT_CELLS)).cast("q")


def _counting(cells: Cells, in_flight: int, requests: int, lock: Lock) -> tuple[Count, Count]:
    """What counts a request that begins, and one that ends, for several threads.

    Every request goes through both: closures, and a lock that is called instead of entered, take half the time.
    """
    acquire, release = lock.acquire, lock.release

    def begin() -> None:
        acquire()
        cells[in_flight] += 1
        release()

    def end() -> None:
        acquire()
        cells[in_flight] -= 1
        cells[requests] += 1
        release()

    return begin, end


def _counting_alone(cells: Cells, in_flight: int, requests: int) -> tuple[Count, Count]:
    """The same for one thread."""
    done = cells[requests]

    def begin() -> None:
        cells[in_flight] = 1

    def end() -> None:
        nonlocal done
        done += 1
        cells[in_flight] = 0
        cells[requests] = done

    return begin, end


class Counters:
    """One worker's own numbers. Its threads share it."""

    def __init__(self, board: Scoreboard, slot: int) -> None:
        self._cells = board.cells
        self._at = slot * SLOT_CELLS
        self._slot = board.slot(slot)
        self._in_flight_at = int(self._at + Cell.IN_FLIGHT)  # added up beforehand: every request needs them
        self._requests_at = int(self._at + Cell.REQUESTS)
        self._observe = observer(board.cells, self._at)
        self._lock = Lock()
        #: A request is being run; it was answered.
        self.begin_request, self.end_request = _counting(self._cells, self._in_flight_at, self._requests_at, self._lock)

    def for_one_thread(self) -> None:
        """Requests run in one thread alone from now on: counting them needs no lock, and no reading back."""
        self.begin_request, self.end_request = _counting_alone(self._cells, self._in_flight_at, self._requests_at)
        self.observe = self._observe  # type: ignore[method-assign, assignment]  # chosen once, before the first request

    def _add(self, cell: Cell, number: int) -> None:
        with self._lock:
            self._cells[self._at + cell] += number

    def begin_requests(self, number: int) -> None:
        """So many requests are being run together."""
        with self._lock:
            self._cells[self._in_flight_at] += number

    def end_requests(self, number: int) -> None:
        """They were answered."""
        with self._lock:
            self._cells[self._in_flight_at] -= number
            self._cells[self._requests_at] += number

    def observe(self, queue_us: int, compute_us: int, batch_size: int) -> None:
        """A request was run: how long it had waited and how long its run took, microseconds, and the run's rows."""
        with self._lock:
            self._observe(queue_us, compute_us, batch_size)

    def add_error(self) -> None:
        """A request was answered with an error."""
        self._add(Cell.ERRORS, 1)

    def add_refused(self, many: int = 1) -> None:
        """So many connections or requests were turned away for a limit."""
        self._add(Cell.REFUSED, many)

    def connection_opened(self) -> None:
        """A connection was taken."""
        self._add(Cell.CONNECTIONS, 1)

    def connection_closed(self) -> None:
        """A connection ended."""
        self._add(Cell.CONNECTIONS, -1)

    def set_phase(self, phase: WorkerPhase) -> None:
        """STARTING, IDLE or DRAINING; BUSY follows from the requests in flight."""
        self._cells[self._at + Cell.PHASE] = phase

    def set_device(self, device: str) -> None:
        """The device that the sessions run on; at most 16 bytes are kept."""
        write_text(self._slot[DEVICE_CELLS], device)

    def set_note(self, note: str) -> None:
        """What else there is to say of this process; at most 64 bytes are kept."""
        write_text(self._slot[NOTE_CELLS], note)

    def set_plan(self, number: int) -> None:
        """The plan whose models this worker has loaded."""
        self._cells[self._at + Cell.PLAN] = number

    def set_role(self, role: WorkerRole) -> None:
        """What this process does."""
        self._cells[self._at + Cell.ROLE] = role

    def set_queued(self, requests: int, size: int) -> None:
        """What waits in this process for a worker now: requests, and their bytes. One thread calls it."""
        self._cells[self._at + Cell.QUEUED] = requests
        self._cells[self._at + Cell.QUEUED_BYTES] = size

    @property
    def connections(self) -> int:
        """Connections open now."""
        return self._cells[self._at + Cell.CONNECTIONS]

    @property
    def in_flight(self) -> int:
        """Requests being run now."""
        return self._cells[self._at + Cell.IN_FLIGHT]


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

    def take(self, pid: int, index: int, restarts: int = 0, among: range | None = None) -> int:
        """Gives a process a slot.

        Args:
            pid: the process.
            index: its place among its like.
            restarts: how often that place was filled anew.
            among: the slots that the caller hands out, and nobody else; None: the parent's own.

        Raises:
            RuntimeError: none is free.
        """
        for slot in among if among is not None else range(self.parent_slots):
            if self.cells[slot * SLOT_CELLS] == 0:
                self.enter(slot, pid, index, restarts)
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
        self.cells[at + 1 : at + SLOT_CELLS] = _ZEROS[1:]
        self.cells[at + Cell.PARENT] = os.getpid() if parent is None else parent
        self.cells[at + Cell.INDEX] = index
        self.cells[at + Cell.PHASE] = WorkerPhase.STARTING
        self.cells[at + Cell.STARTED_NS] = time.time_ns()
        self.cells[at + Cell.RESTARTS] = restarts
        self.cells[at + Cell.ROLE] = role
        self.cells[at] = pid

    def free(self, slot: int, into: int | None = None) -> None:
        """A process has ended: adds its numbers to the past (of slot `into`; None: the server's)."""
        at = slot * SLOT_CELLS
        past = self._own if into is None else into * SLOT_CELLS
        cells = self.cells
        cells[past + Cell.MOVES] += 1
        cells[past + Cell.PAST_REQUESTS] += cells[at + Cell.REQUESTS] + cells[at + Cell.PAST_REQUESTS]
        cells[past + Cell.PAST_ERRORS] += cells[at + Cell.ERRORS] + cells[at + Cell.PAST_ERRORS]
        cells[past + Cell.REFUSED] += cells[at + Cell.REFUSED]
        for cell in HISTOGRAM_CELLS:
            cells[past + cell] += cells[at + cell]
        cells[at] = 0
        cells[at + Cell.MOVES] = 0  # it may have been killed while it moved numbers of its own children
        cells[past + Cell.MOVES] += 1

    def free_children_of(self, pid: int) -> None:
        """The process that would have reaped them has ended, and they with it."""
        for slot in range(self._slots):
            at = slot * SLOT_CELLS
            if self.cells[at] and self.cells[at + Cell.PARENT] == pid:
                self.free(slot)

    def set_phase(self, phase: ServerPhase) -> None:
        """The server's own state."""
        self.cells[self._own + Cell.PHASE] = phase

    @property
    def stopping(self) -> bool:
        """True where the whole server drains, not one worker of it."""
        return self.cells[self._own + Cell.PHASE] == ServerPhase.DRAINING

    def peers(self) -> list[tuple[int, int, int]]:
        """(pid, requests in flight, connections) of every worker that serves."""
        cells = self.cells
        return [
            (cells[at], cells[at + Cell.IN_FLIGHT], cells[at + Cell.CONNECTIONS])
            for at in range(0, self._slots * SLOT_CELLS, SLOT_CELLS)
            if cells[at] and cells[at + Cell.PHASE] == WorkerPhase.IDLE and cells[at + Cell.ROLE] == WorkerRole.WORKER
        ]

    def plans(self) -> list[tuple[int, WorkerPhase, int]]:
        """(pid, phase, number of its plan) of every worker; a forking server's children are in its one worker's."""
        cells = self.cells
        return [
            (cells[at], WorkerPhase(cells[at + Cell.PHASE] or WorkerPhase.STARTING), cells[at + Cell.PLAN])
            for at in range(0, self.parent_slots * SLOT_CELLS, SLOT_CELLS)
            if cells[at] and cells[at + Cell.ROLE] == WorkerRole.WORKER
        ]

    @property
    def state_number(self) -> int:
        """Grows whenever the state of the models that is written down changes."""
        return self.cells[self._own + Cell.PLAN]

    def state_changed(self) -> None:
        """It has been written anew; one process calls it."""
        self.cells[self._own + Cell.PLAN] += 1

    def slot(self, slot: int) -> Cells:
        """The cells of one slot."""
        return self.cells[slot * SLOT_CELLS : (slot + 1) * SLOT_CELLS]

    def snapshot(self) -> ServerSnapshot:
        """Everything, as it stands; memory and CPU times are asked of the operating system."""
        *used, own = every = self._copied()
        fronts = [slot for slot in used if slot[Cell.ROLE] == WorkerRole.FRONT]
        return ServerSnapshot(
            phase=ServerPhase(own[Cell.PHASE] or ServerPhase.STARTING),
            server_type=self.server_type,
            pid=self.pid,
            uptime_s=time.time() - self._started,
            workers=tuple(sorted(map(_worker, used), key=lambda worker: (worker.role, worker.index, worker.pid))),
            past_requests=sum(slot[Cell.PAST_REQUESTS] for slot in every),
            past_errors=sum(slot[Cell.PAST_ERRORS] for slot in every),
            refused=sum(slot[Cell.REFUSED] for slot in every),
            histograms=histograms(every),
            queued=sum(slot[Cell.QUEUED] for slot in fronts) if fronts else None,
            queued_bytes=sum(slot[Cell.QUEUED_BYTES] for slot in fronts) if fronts else None,
        )

    def _copied(self) -> list[Cells]:
        """Every slot in use, and the server's own, the last; none of them half added to the past."""
        found: list[Cells] = []
        for _ in range(_TRIES):
            moves = self._moves()
            used = [slot for slot, pid in enumerate(self.cells[: self._own : SLOT_CELLS].tolist()) if pid]
            found = [memoryview(self.slot(slot).tobytes()).cast("q") for slot in (*used, self._slots)]
            if moves == self._moves() and not any(count % 2 for count in moves):
                break
            time.sleep(_PAUSE_S)
        return found

    def _moves(self) -> list[int]:
        return self.cells[Cell.MOVES :: SLOT_CELLS].tolist()


def _worker(slot: Cells) -> WorkerSnapshot:
    phase = WorkerPhase(slot[Cell.PHASE] or WorkerPhase.STARTING)  # its process is just beginning the slot
    if phase is WorkerPhase.IDLE and slot[Cell.IN_FLIGHT]:
        phase = WorkerPhase.BUSY
    rss_bytes, cpu_s = _usage(slot[Cell.PID])
    return WorkerSnapshot(
        index=slot[Cell.INDEX],
        pid=slot[Cell.PID],
        phase=phase,
        device=read_text(slot[DEVICE_CELLS]),
        rss_bytes=rss_bytes,
        cpu_s=cpu_s,
        uptime_s=max(0.0, time.time() - slot[Cell.STARTED_NS] / 1e9),
        requests=slot[Cell.REQUESTS],
        errors=slot[Cell.ERRORS],
        in_flight=max(0, slot[Cell.IN_FLIGHT]),
        connections=max(0, slot[Cell.CONNECTIONS]),
        restarts=slot[Cell.RESTARTS],
        role=WorkerRole(slot[Cell.ROLE]),
        note=read_text(slot[NOTE_CELLS]),
    )


def _usage(pid: int) -> tuple[int, float]:
    """Resident bytes and CPU seconds of a process; zeros where it is gone or psutil is not installed."""
    try:
        import psutil
    except ImportError:
        return 0, 0.0
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return process.memory_info().rss, times.user + times.system
    except psutil.Error:
        return 0, 0.0
