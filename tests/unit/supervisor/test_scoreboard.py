"""The scoreboard alone: histograms, sums that never go back, roles, queues, texts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from thriftserve.status import BATCH_SIZE_BOUNDS, TIME_BOUNDS_US, ServerSnapshot, WorkerPhase, WorkerRole, summarize
from thriftserve.supervisor.context import WorkerContext
from thriftserve.supervisor.scoreboard import ROW_CELLS, BoardCell, Cells, Counters, Scoreboard
from thriftserve_client import Histogram


def occupied_row(board: Scoreboard, pid: int, index: int = 0, among: range | None = None) -> int:
    """Reserve and occupy a row for a process."""
    row = board.reserve(index, among=among)
    board.occupy(row, pid, index)
    return row


def board_with(*pids: int) -> tuple[Scoreboard, list[Counters]]:
    """Return a board on which these processes serve, and their counters."""
    board = Scoreboard("TTestServer", len(pids) + 1)
    contexts = [WorkerContext(board, occupied_row(board, pid, at), at, len(pids)) for at, pid in enumerate(pids)]
    for context in contexts:
        context.set_phase(WorkerPhase.IDLE)
    return board, [context.counters for context in contexts]


def bucket(histogram: Histogram) -> int | None:
    """Return the bound of the only bucket with a value in it; None for the one above all bounds."""
    (at,) = (at for at, count in enumerate(histogram.counts) if count)
    return histogram.bounds[at] if at < len(histogram.bounds) else None


def ran(snapshot: ServerSnapshot) -> int:
    """Return how many requests the histograms count; all of them count the same number."""
    (count,) = {each.count for each in snapshot.histograms}
    return count


@pytest.mark.parametrize("one_thread", [False, True])
@pytest.mark.parametrize(
    ("us", "rows", "bound_us", "bound_rows"),
    [
        (0, 0, 8, 1),
        (1, 1, 8, 1),
        (8, 2, 8, 2),
        (9, 3, 16, 4),
        (16, 4, 16, 4),
        (17, 5, 32, 8),
        (1000, 1024, 1024, 1024),
        (1025, 1025, 2048, 2048),
        (TIME_BOUNDS_US[-1], BATCH_SIZE_BOUNDS[-1], TIME_BOUNDS_US[-1], BATCH_SIZE_BOUNDS[-1]),
        (TIME_BOUNDS_US[-1] + 1, BATCH_SIZE_BOUNDS[-1] + 1, None, None),
        (2**60, 2**31 - 1, None, None),
    ],
)
def test_buckets(us: int, rows: int, bound_us: int | None, bound_rows: int | None, one_thread: bool) -> None:
    """A value is counted in the bucket with the least bound that is not below it, and added to the sum."""
    board, (counters,) = board_with(1)
    if one_thread:
        counters.for_one_thread()
    counters.observe(us, us, rows)
    queue, compute, batch = board.snapshot().histograms
    assert [each.name for each in (queue, compute, batch)] == ["queue_time", "compute_time", "batch_size"]
    assert (queue.unit, compute.unit, batch.unit) == ("us", "us", "rows")
    assert (bucket(queue), bucket(compute), bucket(batch)) == (bound_us, bound_us, bound_rows)
    assert (queue.sum, compute.sum, batch.sum) == (us, us, rows)


def test_each_figure_has_its_own_histogram() -> None:
    """Three different values are counted in three histograms."""
    board, (counters,) = board_with(1)
    counters.observe(100, 5000, 3)
    assert [bucket(each) for each in board.snapshot().histograms] == [128, 8192, 4]
    assert [each.sum for each in board.snapshot().histograms] == [100, 5000, 3]


def test_threads_lose_nothing() -> None:
    """No count of four concurrent threads is lost."""
    board, (counters,) = board_with(1)
    start = threading.Barrier(4)

    def count() -> None:
        start.wait()
        for at in range(20_000):
            counters.observe(at % 50, 7, 2)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue, compute, batch = board.snapshot().histograms
    assert ran(board.snapshot()) == 80_000
    assert (queue.sum, compute.sum, batch.sum) == (4 * 400 * sum(range(50)), 560_000, 160_000)


def test_the_past_is_kept() -> None:
    """The numbers of a process stay when it is reaped and its row goes to another, which starts at zero."""
    board, (first, second) = board_with(1, 2)
    first.observe(10, 20, 4)
    second.observe(1000, 20, 4)
    before = board.snapshot().histograms
    board.free(0)
    assert board.snapshot().histograms == before
    assert occupied_row(board, 3) == 0
    assert board.snapshot().histograms == before


def test_children_count_for_their_parent() -> None:
    """A forking server's child is reaped into its parent's row, and with that row into the server's past."""
    board = Scoreboard("TForkingServer", 2, children=3)
    parent = occupied_row(board, 1)
    for pid in (11, 12):
        child = occupied_row(board, pid, 1, among=board.rows_of_children(parent))
        Counters(board, child).observe(10, 20, 1)
        board.free(child, into=parent)
    assert ran(board.snapshot()) == 2
    board.free(parent)
    assert ran(board.snapshot()) == 2


class ReadInBetween(Scoreboard):
    """A board that changes while its rows are read one after the other."""

    def __init__(self) -> None:
        super().__init__("TTestServer", 2)
        self.meanwhile: list[Callable[[], object]] = []
        for pid in (1, 2):
            counters = Counters(self, occupied_row(self, pid))
            counters.begin_request()
            counters.observe(10, 20, 1)
            counters.end_request()

    def row(self, row: int) -> Cells:
        """Make the next change, then read."""
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return super().row(row)

    def counts_two(self) -> bool:
        """Return whether a reader finds both counted requests: in the histograms, and by number."""
        snapshot = self.snapshot()
        requests = snapshot.past_requests + sum(worker.requests for worker in snapshot.workers)
        return not self.meanwhile and requests == ran(snapshot) == 2


def nothing() -> None:
    """Change nothing."""


@pytest.mark.parametrize("moment", range(3))
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("replaced", [False, True])
def test_reaped_while_it_is_read(moment: int, victim: int, replaced: bool) -> None:
    """Whenever a process is reaped, and its row occupied again, a reader counts its requests once."""
    board = ReadInBetween()

    def reap() -> None:
        board.free(victim)
        if replaced:
            board.occupy(victim, 3, 0)

    board.meanwhile = [*([nothing] * moment), reap]
    assert board.counts_two()


def test_read_during_a_transfer() -> None:
    """A reader waits until a transfer that it meets is complete."""
    board = ReadInBetween()
    before = bytes(board.cells)
    board.free(0)
    after = bytes(board.cells)
    half = bytearray(before)
    half[-8 * ROW_CELLS :] = after[-8 * ROW_CELLS :]  # added to the past, not yet removed from the row
    board.cells[:] = memoryview(half).cast("q")
    board.cells[-ROW_CELLS + BoardCell.TRANSFERS] -= 1
    board.meanwhile = [*([nothing] * 10), lambda: board.cells.cast("B").__setitem__(slice(None), after)]
    assert board.counts_two()


def test_a_parent_killed_while_it_reaped_stops_no_reader() -> None:
    """A transfer that was never finished ends with the row that it went into."""
    board = Scoreboard("TForkingServer", 2, children=3)
    parent = occupied_row(board, 1)
    Counters(board, parent).observe(10, 20, 1)
    board.row(parent)[BoardCell.TRANSFERS] = 7
    assert ran(board.snapshot()) == 1
    board.free(parent)
    assert ran(board.snapshot()) == 1
    assert not any(count % 2 for count in board.cells[BoardCell.TRANSFERS :: len(board.row(0))])


def test_fronts_are_no_workers() -> None:
    """The status shows a front as one, with its queue; it is no peer to leave a connection to."""
    board, (worker, front, other) = board_with(1, 2, 3)
    snapshot = board.snapshot()
    assert (snapshot.queued, snapshot.queued_bytes) == (None, None)
    assert [worker.role for worker in snapshot.workers] == [WorkerRole.WORKER] * 3
    for each in (front, other):
        each.set_role(WorkerRole.FRONT)
        each.set_queued(5, 1000)
    front.set_queued(2, 400)
    worker.set_note("frozen")
    snapshot = board.snapshot()
    assert (snapshot.queued, snapshot.queued_bytes) == (7, 1400)
    assert {process.pid: process.role for process in snapshot.workers} == {
        1: WorkerRole.WORKER,
        2: WorkerRole.FRONT,
        3: WorkerRole.FRONT,
    }
    assert [pid for pid, _, _ in board.peers()] == [1]
    board.free(1)
    assert (board.snapshot().queued, board.snapshot().queued_bytes) == (5, 1000)


def test_controller_and_gateway_are_shown() -> None:
    """The status shows controller and gateway by their roles; they have no queue and are no peers."""
    board, (_, controller, gateway) = board_with(1, 2, 3)
    controller.set_role(WorkerRole.KEEPER)
    gateway.set_role(WorkerRole.GATEWAY)
    snapshot = board.snapshot()
    assert [worker.role for worker in snapshot.workers] == [WorkerRole.WORKER, WorkerRole.KEEPER, WorkerRole.GATEWAY]
    assert (snapshot.queued, [pid for pid, _, _ in board.peers()]) == (None, [1])


def test_a_row_can_start_as_a_front() -> None:
    """The role that a row is occupied with lasts until the row is occupied again."""
    board = Scoreboard("TTestServer", 1)
    board.occupy(0, 5, 0, role=WorkerRole.FRONT)
    assert board.snapshot().workers[0].role is WorkerRole.FRONT
    board.occupy(0, 6, 0)
    assert board.snapshot().workers[0].role is WorkerRole.WORKER


def test_texts_are_cut() -> None:
    """Device and note come back unchanged; a long text is cut off between two characters."""
    board, (counters,) = board_with(1)
    counters.set_device("gpu:1")
    counters.set_note("as loaded: größer")
    assert (board.snapshot().workers[0].device, board.snapshot().workers[0].note) == ("gpu:1", "as loaded: größer")
    counters.set_device("a device with a long name")
    counters.set_note("x" + "ö" * 40)
    assert board.snapshot().workers[0].device == "a device with a "
    assert board.snapshot().workers[0].note == "x" + "ö" * 31
    counters.set_note("")
    assert board.snapshot().workers[0].note == ""


def test_summary() -> None:
    """The summary has percentiles as upper bounds, and the mean batch size."""
    board, (counters,) = board_with(1)
    for _ in range(97):
        counters.observe(10, 20, 1)
    for _ in range(3):
        counters.observe(300, 2**40, 34)
    assert summarize(board.snapshot().histograms) == (
        "queue time p50 <= 16, p90 <= 16, p99 <= 512 us; "
        "compute time p50 <= 32, p90 <= 32, p99 > 134217728 us; mean batch size 2.0"
    )


def test_percentiles() -> None:
    """A percentile is the lowest bound that enough values stay below; without values it is the lowest bound."""
    some = Histogram("h", "us", (1, 2, 4), (5, 4, 0, 1), 40)
    assert [some.bound_of(share) for share in (0.1, 0.5, 0.51, 0.9, 0.91)] == [1, 1, 2, 2, None]
    assert (some.count, some.mean) == (10, 4.0)
    none = Histogram("h", "us", (1, 2, 4), (0, 0, 0, 0), 0)
    assert (none.count, none.mean, none.bound_of(0.5)) == (0, 0.0, 1)


def test_a_reserved_row_is_in_no_status() -> None:
    """A reserved row counts for the controller as a worker that starts; the status shows it once it has a process."""
    board = Scoreboard("TTestServer", 1)
    row = board.reserve(0, restarts=2)
    assert (board.snapshot().workers, board.peers()) == ((), [])
    assert board.plans() == [(WorkerPhase.STARTING, 0)]
    with pytest.raises(RuntimeError, match="all rows"):
        board.reserve(0)
    board.occupy(row, os.getpid(), 0, restarts=2, parent=os.getppid())
    (worker,) = board.snapshot().workers
    assert (worker.pid, worker.restarts) == (os.getpid(), 2)
    assert worker.rss_bytes > 0
    board.free(row)
    assert (board.snapshot().workers, board.plans()) == ((), [])


def test_a_reserved_row_is_freed_with_its_parent() -> None:
    """A worker that dies while it forks a child leaves no row behind."""
    board = Scoreboard("TForkingServer", 1, children=1)
    among = board.rows_of_children(occupied_row(board, 1))
    board.reserve(0, among=among)
    board.free_children_of(os.getpid())
    assert board.reserve(0, among=among) == among[0]


def test_a_reserved_row_names_no_process() -> None:
    """The pid of a reserved row is none that a signal could be sent to."""
    board = Scoreboard("TTestServer", 1)
    pid = board.row(board.reserve(0))[BoardCell.PID]
    with pytest.raises(OverflowError):
        os.kill(pid, 0)


@pytest.mark.parametrize("moment", range(3))
@pytest.mark.parametrize("victim", [0, 1])
def test_replaced_while_it_is_read(moment: int, victim: int) -> None:
    """Whenever a row is freed and reserved again, a reader finds only pids of processes that existed."""
    board = ReadInBetween()

    def replace() -> None:
        board.free(victim)
        board.reserve(0)

    board.meanwhile = [*([nothing] * moment), replace]
    assert {worker.pid for worker in board.snapshot().workers} <= {1, 2}


def test_freed_while_it_is_read_for_the_last_time() -> None:
    """A reader that always meets a transfer still shows no row without a process."""
    board = ReadInBetween()
    board.row(0)[BoardCell.TRANSFERS] = 7  # a parent was killed during a transfer
    reads_per_try = 3  # two rows and the server's own
    board.meanwhile = [*([nothing] * (99 * reads_per_try)), lambda: board.free(1)]
    assert [worker.pid for worker in board.snapshot().workers] == [1]
    assert board.meanwhile == []
