"""The numbers of one process, which it writes and every process of the server reads.

a request begins, ends --Counters--> the process's row of the Scoreboard
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from thriftserve.status import WorkerPhase, WorkerRole
from thriftserve.supervisor.scoreboard import (
    DEVICE_CELLS,
    NOTE_CELLS,
    ROW_CELLS,
    BoardCell,
    Cells,
    Observe,
    Scoreboard,
    observer,
    write_text,
)

Count = Callable[[], None]


class Counters:
    """The numbers of one process. Its threads share them.

    Attributes:
        begin_request: counts a request that starts to run.
        end_request: counts a request that was answered.
        observe: counts how long a request was queued and computed (microseconds), and the rows of its run.
    """

    begin_request: Count
    end_request: Count
    observe: Observe

    def __init__(self, board: Scoreboard, row: int) -> None:
        self._cells = board.cells
        self._at = row * ROW_CELLS
        self._row = board.row(row)
        self._lock = Lock()
        # Every request calls these: the cells' indices are computed here, once.
        self._request_cells = int(self._at + BoardCell.IN_FLIGHT), int(self._at + BoardCell.REQUESTS)
        self._observe = observer(board.cells, self._at)
        self.begin_request, self.end_request = _locked_counts(self._cells, *self._request_cells, self._lock)
        self.observe = self._observe_locked

    def for_one_thread(self) -> None:
        """Count requests without a lock from now on: only one thread runs them. Call it before the first one."""
        self.begin_request, self.end_request = _unlocked_counts(self._cells, *self._request_cells)
        self.observe = self._observe

    def begin_requests(self, number: int) -> None:
        """Count requests that start to run together."""
        self._add(BoardCell.IN_FLIGHT, number)

    def end_requests(self, number: int) -> None:
        """Count requests that were answered."""
        with self._lock:
            self._cells[self._at + BoardCell.IN_FLIGHT] -= number
            self._cells[self._at + BoardCell.REQUESTS] += number

    def add_error(self) -> None:
        """Count a request that was answered with an error."""
        self._add(BoardCell.ERRORS, 1)

    def add_refused(self, number: int = 1) -> None:
        """Count connections or requests that were refused for a limit."""
        self._add(BoardCell.REFUSED, number)

    def connection_opened(self) -> None:
        """Count a connection."""
        self._add(BoardCell.CONNECTIONS, 1)

    def connection_closed(self) -> None:
        """Count a connection less."""
        self._add(BoardCell.CONNECTIONS, -1)

    def set_phase(self, phase: WorkerPhase) -> None:
        """Set the phase: STARTING, IDLE or DRAINING. BUSY follows from the requests in flight."""
        self._cells[self._at + BoardCell.PHASE] = phase

    def set_device(self, device: str) -> None:
        """Set the device that the sessions run on; at most 16 bytes."""
        write_text(self._row[DEVICE_CELLS], device)

    def set_note(self, note: str) -> None:
        """Set a remark for the status; at most 64 bytes."""
        write_text(self._row[NOTE_CELLS], note)

    def set_plan(self, number: int) -> None:
        """Set the number of the plan whose models this worker has loaded."""
        self._cells[self._at + BoardCell.PLAN] = number

    def set_role(self, role: WorkerRole) -> None:
        """Set what this process does."""
        self._cells[self._at + BoardCell.ROLE] = role

    def set_queued(self, requests: int, size: int) -> None:
        """Set how many requests, and bytes of them, wait for a worker. Only one thread may call this."""
        self._cells[self._at + BoardCell.QUEUED] = requests
        self._cells[self._at + BoardCell.QUEUED_BYTES] = size

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._cells[self._at + BoardCell.CONNECTIONS]

    @property
    def in_flight(self) -> int:
        """Requests that are running."""
        return self._cells[self._at + BoardCell.IN_FLIGHT]

    def _add(self, cell: BoardCell, number: int) -> None:
        with self._lock:
            self._cells[self._at + cell] += number

    def _observe_locked(self, queue_us: int, compute_us: int, batch_size: int) -> None:
        with self._lock:
            self._observe(queue_us, compute_us, batch_size)


def _locked_counts(cells: Cells, in_flight: int, requests: int, lock: Lock) -> tuple[Count, Count]:
    """Return what counts a request that begins and one that ends, for several threads.

    Closures, and a lock that is called instead of entered, take 0.3 us less per request than methods.
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


def _unlocked_counts(cells: Cells, in_flight: int, requests: int) -> tuple[Count, Count]:
    """Return the same for one thread."""

    def begin() -> None:
        cells[in_flight] = 1

    def end() -> None:
        cells[in_flight] = 0
        cells[requests] += 1

    return begin, end
