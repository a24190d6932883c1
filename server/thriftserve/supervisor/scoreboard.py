"""The scoreboard: shared memory with one row for each process of a server.

    worker: Counters --writes its own row--> Scoreboard (anonymous mmap) --snapshot()--> any process's getServerStatus

The parent creates the board before it forks, so all its children share the pages. Each cell has one writer, an
aligned 8-byte store is atomic, and a reader may be a request behind: no other synchronisation is needed.

The numbers of a row outlive its process. Whoever reaps the process adds them to the past of another row. A reader that
meets such a transfer reads again, so that sums over all rows never go back.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from threading import Lock
from typing import NamedTuple, TypeAlias

from thriftserve.status import MEASURES, Measure, ServerPhase, ServerSnapshot, WorkerPhase, WorkerRole, WorkerSnapshot
from thriftserve_client.histogram import Histogram

#: The cells of one row, or of all rows: signed 8-byte integers.
Cells: TypeAlias = "memoryview[int]"
#: Counts one request: microseconds queued, microseconds computed, rows of its run.
Observe = Callable[[int, int, int], None]
#: Counts one request that begins or ends.
Count = Callable[[], None]


class BoardCell(IntEnum):
    """The cells of a row, 8 bytes each."""

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
    #: Odd while the numbers of an ended process are being added to this row.
    TRANSFERS = 16
    DEVICE = 17
    NOTE = 19
    #: Of a worker: the number of the plan that it has loaded. Of the server's own row: the revision of the model state.
    PLAN = 27
    HISTOGRAMS = 28


#: Cells that hold a text: UTF-8, padded with zeros.
_DEVICE_CELLS = slice(BoardCell.DEVICE, BoardCell.NOTE)
_NOTE_CELLS = slice(BoardCell.NOTE, BoardCell.PLAN)


def _cell_count(measure: Measure) -> int:
    return len(measure.bounds) + 2  # a bucket for each bound, one above them all, the sum


_HISTOGRAM_AT = tuple(BoardCell.HISTOGRAMS + sum(map(_cell_count, MEASURES[:at])) for at in range(len(MEASURES)))
ROW_CELLS = _HISTOGRAM_AT[-1] + _cell_count(MEASURES[-1])
_ROW_BYTES = 8 * ROW_CELLS
_ZEROS = memoryview(bytes(_ROW_BYTES)).cast("q")
#: The PID of a row whose process does not exist yet. It fits no pid_t, so nobody can be signalled by it.
_RESERVED = 2**62
#: How often, and how long apart, a reader tries to read without meeting a transfer, which takes some 20 us (measured).
_READ_TRIES = 100
_READ_PAUSE_S = 0.0001


class Peer(NamedTuple):
    """A worker as other workers see it."""

    pid: int
    in_flight: int
    connections: int


class Scoreboard:
    """A table of rows in memory that all processes of a server share.

    Any process may read. A row is written by its process, and by the process that reserves and frees it.

    Args:
        server_type: what `snapshot` reports as the server type.
        rows: how many children the parent may have at once.
        children: how many children each of those may have at once.
    """

    def __init__(self, server_type: str, rows: int, children: int = 0) -> None:
        self.server_type = server_type
        self.pid = os.getpid()
        self._parent_rows = rows
        self._children = children
        self._rows = rows * (1 + children)
        self._started = time.time()
        # The last row is the server's own: its phase, and the past of all ended processes.
        self._map = mmap.mmap(-1, (self._rows + 1) * _ROW_BYTES)
        self.cells: Cells = memoryview(self._map).cast("q")
        self._own = self._rows * ROW_CELLS

    def reserve(self, index: int, restarts: int = 0, among: range | None = None) -> int:
        """Reserve a free row for a process that does not exist yet. The status shows it from `occupy` on.

        Args:
            index: the number of the process in its group.
            restarts: how often that process was replaced.
            among: the rows that only the caller reserves. None: the parent's own.

        Raises:
            RuntimeError: no row is free.
        """
        for row in among if among is not None else range(self._parent_rows):
            if self.cells[row * ROW_CELLS] == 0:
                self.occupy(row, _RESERVED, index, restarts)
                return row
        raise RuntimeError("all rows of the scoreboard are in use")

    def rows_of_children(self, row: int) -> range:
        """Return the rows that the process in `row` may reserve for its own children."""
        first = self._parent_rows + row * self._children
        return range(first, first + self._children)

    def occupy(
        self,
        row: int,
        pid: int,
        index: int,
        restarts: int = 0,
        parent: int | None = None,
        role: WorkerRole = WorkerRole.WORKER,
    ) -> None:
        """Start a row at zero for process `pid`, a child of `parent` (None: of this process)."""
        at = row * ROW_CELLS
        self.cells[at + 1 : at + ROW_CELLS] = _ZEROS[1:]  # PID comes last: until then nobody reads the others
        self.cells[at + BoardCell.PARENT] = os.getpid() if parent is None else parent
        self.cells[at + BoardCell.INDEX] = index
        self.cells[at + BoardCell.PHASE] = WorkerPhase.STARTING
        self.cells[at + BoardCell.STARTED_NS] = time.time_ns()
        self.cells[at + BoardCell.RESTARTS] = restarts
        self.cells[at + BoardCell.ROLE] = role
        self.cells[at + BoardCell.PID] = pid

    def free(self, row: int, into: int | None = None) -> None:
        """Free the row of an ended process, and add its numbers to the past of row `into` (None: the server's)."""
        at = row * ROW_CELLS
        past = self._own if into is None else into * ROW_CELLS
        cells = self.cells
        cells[past + BoardCell.TRANSFERS] += 1
        cells[past + BoardCell.PAST_REQUESTS] += cells[at + BoardCell.REQUESTS] + cells[at + BoardCell.PAST_REQUESTS]
        cells[past + BoardCell.PAST_ERRORS] += cells[at + BoardCell.ERRORS] + cells[at + BoardCell.PAST_ERRORS]
        cells[past + BoardCell.REFUSED] += cells[at + BoardCell.REFUSED]
        for cell in range(BoardCell.HISTOGRAMS, ROW_CELLS):
            cells[past + cell] += cells[at + cell]
        cells[at + BoardCell.PID] = 0
        cells[at + BoardCell.TRANSFERS] = 0  # the process may have been killed during a transfer into its row
        cells[past + BoardCell.TRANSFERS] += 1

    def free_children_of(self, pid: int) -> None:
        """Free the rows of an ended process's children. They ended with it, and it can't reap them any more."""
        for row in range(self._rows):
            at = row * ROW_CELLS
            if self.cells[at] and self.cells[at + BoardCell.PARENT] == pid:
                self.free(row)

    def set_phase(self, phase: ServerPhase) -> None:
        """Set the phase of the server."""
        self.cells[self._own + BoardCell.PHASE] = phase

    @property
    def stopping(self) -> bool:
        """Whether the whole server drains, not only one worker."""
        return self.cells[self._own + BoardCell.PHASE] == ServerPhase.DRAINING

    @property
    def state_revision(self) -> int:
        """The revision of the models' state on disk: grows whenever the state is written."""
        return self.cells[self._own + BoardCell.PLAN]

    def bump_state_revision(self) -> None:
        """Tell every process that the models' state on disk has changed. Only one process may call this."""
        self.cells[self._own + BoardCell.PLAN] += 1

    def peers(self) -> list[Peer]:
        """Return every worker that serves."""
        cells = self.cells
        return [
            Peer(cells[at], cells[at + BoardCell.IN_FLIGHT], cells[at + BoardCell.CONNECTIONS])
            for at in range(0, self._own, ROW_CELLS)
            if cells[at]
            and cells[at + BoardCell.PHASE] == WorkerPhase.IDLE
            and cells[at + BoardCell.ROLE] == WorkerRole.WORKER
        ]

    def plans(self) -> list[tuple[WorkerPhase, int]]:
        """Return (phase, number of the loaded plan) of every worker; a reserved row counts as STARTING.

        The children of a forking server are part of its one worker.
        """
        cells = self.cells
        return [
            (WorkerPhase(cells[at + BoardCell.PHASE] or WorkerPhase.STARTING), cells[at + BoardCell.PLAN])
            for at in range(0, self._parent_rows * ROW_CELLS, ROW_CELLS)
            if cells[at] and cells[at + BoardCell.ROLE] == WorkerRole.WORKER
        ]

    def row(self, row: int) -> Cells:
        """Return the cells of a row."""
        return self.cells[row * ROW_CELLS : (row + 1) * ROW_CELLS]

    def snapshot(self) -> ServerSnapshot:
        """Return the state of the whole server now. Memory and CPU times come from the operating system."""
        *processes, own = rows = self._consistent_rows()
        fronts = [row for row in processes if row[BoardCell.ROLE] == WorkerRole.FRONT]
        return ServerSnapshot(
            phase=ServerPhase(own[BoardCell.PHASE] or ServerPhase.STARTING),
            server_type=self.server_type,
            pid=self.pid,
            uptime_s=time.time() - self._started,
            workers=tuple(
                sorted(map(_worker_snapshot, processes), key=lambda worker: (worker.role, worker.index, worker.pid))
            ),
            past_requests=sum(row[BoardCell.PAST_REQUESTS] for row in rows),
            past_errors=sum(row[BoardCell.PAST_ERRORS] for row in rows),
            refused=sum(row[BoardCell.REFUSED] for row in rows),
            histograms=sum_histograms(rows),
            queued=sum(row[BoardCell.QUEUED] for row in fronts) if fronts else None,
            queued_bytes=sum(row[BoardCell.QUEUED_BYTES] for row in fronts) if fronts else None,
        )

    def _consistent_rows(self) -> list[Cells]:
        """Return copies of the rows in use and, last, of the server's own; none in the middle of a transfer."""
        rows: list[Cells] = []
        for _ in range(_READ_TRIES):
            transfers = self._transfers()
            in_use = [row for row, pid in enumerate(self.cells[: self._own : ROW_CELLS].tolist()) if pid]
            rows = [memoryview(self.row(row).tobytes()).cast("q") for row in (*in_use, self._rows)]
            if transfers == self._transfers() and not any(count % 2 for count in transfers):
                break
            time.sleep(_READ_PAUSE_S)
        # A row may have been freed or reserved since it was seen in use.
        return [*(row for row in rows[:-1] if row[BoardCell.PID] not in (0, _RESERVED)), rows[-1]]

    def _transfers(self) -> list[int]:
        return self.cells[BoardCell.TRANSFERS :: ROW_CELLS].tolist()


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
        self._observe = _observer(board.cells, self._at)
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
        _write_text(self._row[_DEVICE_CELLS], device)

    def set_note(self, note: str) -> None:
        """Set a remark for the status; at most 64 bytes."""
        _write_text(self._row[_NOTE_CELLS], note)

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


def sum_histograms(rows: Sequence[Cells]) -> tuple[Histogram, ...]:
    """Return the histograms of several rows added up, one for each of `MEASURES`."""
    histograms = []
    for first, measure in zip(_HISTOGRAM_AT, MEASURES, strict=True):
        cells = slice(first, first + _cell_count(measure))
        *counts, total = (sum(column) for column in zip(*(row[cells] for row in rows), strict=True))
        histograms.append(Histogram(measure.name, measure.unit, measure.bounds, tuple(counts), total))
    return tuple(histograms)


def _observer(cells: Cells, row_at: int) -> Observe:
    """Return what counts requests in the histograms of the row that starts at a cell, for one thread at a time."""
    queue_at, compute_at, batch_at = ([row_at + cell for cell in _bucket_cells(at)] for at in range(len(MEASURES)))
    queue_sum, compute_sum, batch_sum = (
        row_at + first + _cell_count(measure) - 1 for first, measure in zip(_HISTOGRAM_AT, MEASURES, strict=True)
    )

    def observe(queue_us: int, compute_us: int, batch_size: int) -> None:
        # The bounds are powers of two: a value less one has as many bits as its bound has zeros.
        cells[queue_at[(queue_us - 1).bit_length()]] += 1
        cells[queue_sum] += queue_us
        cells[compute_at[(compute_us - 1).bit_length()]] += 1
        cells[compute_sum] += compute_us
        cells[batch_at[(batch_size - 1 if batch_size else 0).bit_length()]] += 1
        cells[batch_sum] += batch_size

    return observe


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


def _write_text(cells: Cells, text: str) -> None:
    """Write a text into cells, cut off if it is too long for them."""
    size = cells.nbytes
    cells.cast("B")[:] = memoryview(text.encode()[:size].ljust(size, b"\0"))


def _read_text(cells: Cells) -> str:
    """Return the text that `_write_text` wrote."""
    return cells.tobytes().rstrip(b"\0").decode(errors="ignore")


def _bucket_cells(at: int) -> list[int]:
    """Return the cell of a row in which `MEASURES[at]` counts a value, by the bits of that value less one."""
    powers = [bound.bit_length() - 1 for bound in MEASURES[at].bounds]
    int64_bits = 64
    return [_HISTOGRAM_AT[at] + min(max(bits - powers[0], 0), len(powers)) for bits in range(int64_bits + 1)]


def _worker_snapshot(row: Cells) -> WorkerSnapshot:
    phase = WorkerPhase(row[BoardCell.PHASE] or WorkerPhase.STARTING)  # 0 while `occupy` is at work
    if phase is WorkerPhase.IDLE and row[BoardCell.IN_FLIGHT]:
        phase = WorkerPhase.BUSY
    pid = row[BoardCell.PID]
    rss_bytes, cpu_s = _usage(pid)
    return WorkerSnapshot(
        index=row[BoardCell.INDEX],
        pid=pid,
        phase=phase,
        device=_read_text(row[_DEVICE_CELLS]),
        rss_bytes=rss_bytes,
        cpu_s=cpu_s,
        uptime_s=max(0.0, time.time() - row[BoardCell.STARTED_NS] / 1e9),
        requests=row[BoardCell.REQUESTS],
        errors=row[BoardCell.ERRORS],
        in_flight=max(0, row[BoardCell.IN_FLIGHT]),
        connections=max(0, row[BoardCell.CONNECTIONS]),
        restarts=row[BoardCell.RESTARTS],
        role=WorkerRole(row[BoardCell.ROLE]),
        note=_read_text(row[_NOTE_CELLS]),
    )


def _usage(pid: int) -> tuple[int, float]:
    """Return resident bytes and CPU seconds of a process; zeros if it has ended or no descriptor is left."""
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
