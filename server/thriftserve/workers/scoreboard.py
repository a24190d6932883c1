"""What every process of a server knows of every other: counters in shared memory.

    worker: Counters --writes its own slot--> Scoreboard (anonymous mmap) --snapshot()--> any process's getServerStatus

The parent makes the board before it forks, so all its children share the pages. Each cell has one
writer, an aligned 8-byte store is whole, and a reader may be a request behind: that is all the
synchronisation there is. A slot's numbers outlive its process: whoever reaps it adds them to the past.
"""

from __future__ import annotations

import mmap
import os
import time
from enum import IntEnum
from threading import Lock

from thriftserve.status import ServerPhase, ServerSnapshot, WorkerPhase, WorkerSnapshot


class _Cell(IntEnum):
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
    DEVICE = 11  # and 12: ASCII, 16 bytes
    PAST_REQUESTS = 13
    PAST_ERRORS = 14


_SLOT_CELLS = 16
_DEVICE_BYTES = 16


class Counters:
    """One worker's own numbers. Its threads share it."""

    def __init__(self, board: Scoreboard, slot: int) -> None:
        self._cells = board.cells
        self._at = slot * _SLOT_CELLS
        self._in_flight_at = int(self._at + _Cell.IN_FLIGHT)  # added up beforehand: every request needs them
        self._requests_at = int(self._at + _Cell.REQUESTS)
        self._lock = Lock()

    def for_one_thread(self) -> None:
        """Requests run in one thread alone from now on: counting them needs no lock, and no reading back."""
        cells, in_flight, requests = self._cells, self._in_flight_at, self._requests_at
        done = cells[requests]

        def begin() -> None:
            cells[in_flight] = 1

        def end() -> None:
            nonlocal done
            done += 1
            cells[in_flight] = 0
            cells[requests] = done

        self.begin_request = begin  # type: ignore[method-assign]  # chosen once, before the first request
        self.end_request = end  # type: ignore[method-assign]  # likewise

    def _add(self, cell: _Cell, number: int) -> None:
        with self._lock:
            self._cells[self._at + cell] += number

    def begin_request(self) -> None:
        """A request is being run."""
        with self._lock:
            self._cells[self._in_flight_at] += 1

    def end_request(self) -> None:
        """It was answered."""
        with self._lock:
            self._cells[self._in_flight_at] -= 1
            self._cells[self._requests_at] += 1

    def add_error(self) -> None:
        """A request was answered with an error."""
        self._add(_Cell.ERRORS, 1)

    def add_refused(self) -> None:
        """A connection or request was turned away for a limit."""
        self._add(_Cell.REFUSED, 1)

    def connection_opened(self) -> None:
        """A connection was taken."""
        self._add(_Cell.CONNECTIONS, 1)

    def connection_closed(self) -> None:
        """A connection ended."""
        self._add(_Cell.CONNECTIONS, -1)

    def set_phase(self, phase: WorkerPhase) -> None:
        """STARTING, IDLE or DRAINING; BUSY follows from the requests in flight."""
        self._cells[self._at + _Cell.PHASE] = phase

    def set_device(self, device: str) -> None:
        """The device that the sessions run on."""
        raw = device.encode("ascii", "replace")[:_DEVICE_BYTES].ljust(_DEVICE_BYTES, b"\0")
        for place in (0, 1):
            number = int.from_bytes(raw[8 * place : 8 * place + 8], "little", signed=True)
            self._cells[self._at + _Cell.DEVICE + place] = number

    @property
    def connections(self) -> int:
        """Connections open now."""
        return self._cells[self._at + _Cell.CONNECTIONS]

    @property
    def in_flight(self) -> int:
        """Requests being run now."""
        return self._cells[self._at + _Cell.IN_FLIGHT]


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
        self._map = mmap.mmap(-1, (slots + 1) * _SLOT_CELLS * 8)
        self.cells = memoryview(self._map).cast("q")
        self._own = slots * _SLOT_CELLS

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
            if self.cells[slot * _SLOT_CELLS] == 0:
                self.enter(slot, pid, index, restarts)
                return slot
        raise RuntimeError("all slots of the scoreboard are taken")

    def slots_of_children(self, slot: int) -> range:
        """The slots that the process in `slot` may hand out to children of its own."""
        first = self.parent_slots + slot * self._children
        return range(first, first + self._children)

    def enter(self, slot: int, pid: int, index: int, restarts: int = 0, parent: int | None = None) -> None:
        """Begins a slot anew for process `pid`, a child of `parent` (None: of this process)."""
        at = slot * _SLOT_CELLS
        for cell in range(1, _SLOT_CELLS):
            self.cells[at + cell] = 0
        self.cells[at + _Cell.PARENT] = os.getpid() if parent is None else parent
        self.cells[at + _Cell.INDEX] = index
        self.cells[at + _Cell.PHASE] = WorkerPhase.STARTING
        self.cells[at + _Cell.STARTED_NS] = time.time_ns()
        self.cells[at + _Cell.RESTARTS] = restarts
        self.cells[at] = pid

    def free(self, slot: int, into: int | None = None) -> None:
        """A process has ended: adds its numbers to the past (of slot `into`; None: the server's)."""
        at = slot * _SLOT_CELLS
        past = self._own if into is None else into * _SLOT_CELLS
        cells = self.cells
        cells[past + _Cell.PAST_REQUESTS] += cells[at + _Cell.REQUESTS] + cells[at + _Cell.PAST_REQUESTS]
        cells[past + _Cell.PAST_ERRORS] += cells[at + _Cell.ERRORS] + cells[at + _Cell.PAST_ERRORS]
        cells[past + _Cell.REFUSED] += cells[at + _Cell.REFUSED]
        cells[at] = 0

    def free_children_of(self, pid: int) -> None:
        """The process that would have reaped them has ended, and they with it."""
        for slot in range(self._slots):
            at = slot * _SLOT_CELLS
            if self.cells[at] and self.cells[at + _Cell.PARENT] == pid:
                self.free(slot)

    def set_phase(self, phase: ServerPhase) -> None:
        """The server's own state."""
        self.cells[self._own + _Cell.PHASE] = phase

    @property
    def stopping(self) -> bool:
        """True where the whole server drains, not one worker of it."""
        return self.cells[self._own + _Cell.PHASE] == ServerPhase.DRAINING

    def peers(self) -> list[tuple[int, int, int]]:
        """(pid, requests in flight, connections) of every process that serves."""
        cells = self.cells
        return [
            (cells[at], cells[at + _Cell.IN_FLIGHT], cells[at + _Cell.CONNECTIONS])
            for at in range(0, self._slots * _SLOT_CELLS, _SLOT_CELLS)
            if cells[at] and cells[at + _Cell.PHASE] == WorkerPhase.IDLE
        ]

    def snapshot(self) -> ServerSnapshot:
        """Everything, as it stands; memory and CPU times are asked of the operating system."""
        used = [at for at in range(0, self._slots * _SLOT_CELLS, _SLOT_CELLS) if self.cells[at]]
        workers = sorted((self._worker(at) for at in used), key=lambda worker: (worker.index, worker.pid))
        every = [*used, self._own]
        return ServerSnapshot(
            phase=ServerPhase(self.cells[self._own + _Cell.PHASE] or ServerPhase.STARTING),
            server_type=self.server_type,
            pid=self.pid,
            uptime_s=time.time() - self._started,
            workers=tuple(workers),
            past_requests=sum(self.cells[at + _Cell.PAST_REQUESTS] for at in every),
            past_errors=sum(self.cells[at + _Cell.PAST_ERRORS] for at in every),
            refused=sum(self.cells[at + _Cell.REFUSED] for at in every),
        )

    def _worker(self, at: int) -> WorkerSnapshot:
        cell = self.cells[at : at + _SLOT_CELLS]
        phase = WorkerPhase(cell[_Cell.PHASE])
        if phase is WorkerPhase.IDLE and cell[_Cell.IN_FLIGHT]:
            phase = WorkerPhase.BUSY
        rss_bytes, cpu_s = _usage(cell[_Cell.PID])
        device = b"".join(cell[_Cell.DEVICE + k].to_bytes(8, "little", signed=True) for k in (0, 1))
        return WorkerSnapshot(
            index=cell[_Cell.INDEX],
            pid=cell[_Cell.PID],
            phase=phase,
            device=device.rstrip(b"\0").decode("ascii"),
            rss_bytes=rss_bytes,
            cpu_s=cpu_s,
            uptime_s=max(0.0, time.time() - cell[_Cell.STARTED_NS] / 1e9),
            requests=cell[_Cell.REQUESTS],
            errors=cell[_Cell.ERRORS],
            in_flight=max(0, cell[_Cell.IN_FLIGHT]),
            connections=max(0, cell[_Cell.CONNECTIONS]),
            restarts=cell[_Cell.RESTARTS],
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
