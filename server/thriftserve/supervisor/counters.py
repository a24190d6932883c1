"""A worker's own numbers, which it writes and every process of the server reads.

    a request begins, ends --Counters--> the worker's slot of the Scoreboard

Every request goes through here twice: what it costs is told beside what it does.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from thriftserve.status import WorkerPhase, WorkerRole
from thriftserve.supervisor.scoreboard import (
    DEVICE_CELLS,
    NOTE_CELLS,
    SLOT_CELLS,
    BoardCell,
    Cells,
    Scoreboard,
    observer,
    write_text,
)

Count = Callable[[], None]


class Counters:
    """One worker's own numbers. Its threads share it."""

    def __init__(self, board: Scoreboard, slot: int) -> None:
        self._cells = board.cells
        self._at = slot * SLOT_CELLS
        self._slot = board.slot(slot)
        self._in_flight_at = int(self._at + BoardCell.IN_FLIGHT)  # added up beforehand: every request needs them
        self._requests_at = int(self._at + BoardCell.REQUESTS)
        self._observe = observer(board.cells, self._at)
        self._lock = Lock()
        #: A request is being run; it was answered.
        self.begin_request, self.end_request = _counting(self._cells, self._in_flight_at, self._requests_at, self._lock)

    def for_one_thread(self) -> None:
        """Requests run in one thread alone from now on: counting them needs no lock, and no reading back."""
        self.begin_request, self.end_request = _counting_alone(self._cells, self._in_flight_at, self._requests_at)
        self.observe = self._observe  # type: ignore[method-assign, assignment]  # chosen once, before the first request

    def _add(self, cell: BoardCell, number: int) -> None:
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
        self._add(BoardCell.ERRORS, 1)

    def add_refused(self, many: int = 1) -> None:
        """So many connections or requests were turned away for a limit."""
        self._add(BoardCell.REFUSED, many)

    def connection_opened(self) -> None:
        """A connection was taken."""
        self._add(BoardCell.CONNECTIONS, 1)

    def connection_closed(self) -> None:
        """A connection ended."""
        self._add(BoardCell.CONNECTIONS, -1)

    def set_phase(self, phase: WorkerPhase) -> None:
        """STARTING, IDLE or DRAINING; BUSY follows from the requests in flight."""
        self._cells[self._at + BoardCell.PHASE] = phase

    def set_device(self, device: str) -> None:
        """The device that the sessions run on; at most 16 bytes are kept."""
        write_text(self._slot[DEVICE_CELLS], device)

    def set_note(self, note: str) -> None:
        """What else there is to say of this process; at most 64 bytes are kept."""
        write_text(self._slot[NOTE_CELLS], note)

    def set_plan(self, number: int) -> None:
        """The plan whose models this worker has loaded."""
        self._cells[self._at + BoardCell.PLAN] = number

    def set_role(self, role: WorkerRole) -> None:
        """What this process does."""
        self._cells[self._at + BoardCell.ROLE] = role

    def set_queued(self, requests: int, size: int) -> None:
        """What waits in this process for a worker now: requests, and their bytes. One thread calls it."""
        self._cells[self._at + BoardCell.QUEUED] = requests
        self._cells[self._at + BoardCell.QUEUED_BYTES] = size

    @property
    def connections(self) -> int:
        """Connections open now."""
        return self._cells[self._at + BoardCell.CONNECTIONS]

    @property
    def in_flight(self) -> int:
        """Requests being run now."""
        return self._cells[self._at + BoardCell.IN_FLIGHT]


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
