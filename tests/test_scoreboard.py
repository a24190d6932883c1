"""The scoreboard by itself: histograms, sums that never go back, roles, queues, texts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from thriftserve.status import BATCH_SIZE_BOUNDS, TIME_BOUNDS_US, ServerSnapshot, WorkerPhase, WorkerRole, summarize
from thriftserve.supervisor.context import WorkerContext
from thriftserve.supervisor.counters import Counters
from thriftserve.supervisor.scoreboard import SLOT_CELLS, BoardCell, Cells, Scoreboard
from thriftserve_client import Histogram


def entered(board: Scoreboard, pid: int, index: int = 0, among: range | None = None) -> int:
    """The slot of a process that was made for it."""
    slot = board.reserve(index, among=among)
    board.enter(slot, pid, index)
    return slot


def board_with(*pids: int) -> tuple[Scoreboard, list[Counters]]:
    """A board on which these processes serve."""
    board = Scoreboard("TTestServer", len(pids) + 1)
    contexts = [WorkerContext(board, entered(board, pid, at), at, len(pids)) for at, pid in enumerate(pids)]
    for context in contexts:
        context.set_phase(WorkerPhase.IDLE)
    return board, [context.counters for context in contexts]


def bucket(histogram: Histogram) -> int | None:
    """The bound of the only bucket with a value in it; None for the one above all bounds."""
    (at,) = (at for at, count in enumerate(histogram.counts) if count)
    return histogram.bounds[at] if at < len(histogram.bounds) else None


def ran(snapshot: ServerSnapshot) -> int:
    """How many requests the histograms tell of; all of them the same."""
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
    """Three different values stand in three histograms."""
    board, (counters,) = board_with(1)
    counters.observe(100, 5000, 3)
    assert [bucket(each) for each in board.snapshot().histograms] == [128, 8192, 4]
    assert [each.sum for each in board.snapshot().histograms] == [100, 5000, 3]


def test_threads_lose_nothing() -> None:
    """Four threads that count at once are all counted."""
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
    """What a process counted stays when it is reaped and its slot is taken by another, which begins at zero."""
    board, (first, second) = board_with(1, 2)
    first.observe(10, 20, 4)
    second.observe(1000, 20, 4)
    before = board.snapshot().histograms
    board.free(0)
    assert board.snapshot().histograms == before
    assert entered(board, 3) == 0
    assert board.snapshot().histograms == before


def test_children_count_for_their_parent() -> None:
    """A forking server's child is reaped into its parent's slot, and with that into the server's past."""
    board = Scoreboard("TForkingServer", 2, children=3)
    parent = entered(board, 1)
    for pid in (11, 12):
        child = entered(board, pid, 1, among=board.slots_of_children(parent))
        Counters(board, child).observe(10, 20, 1)
        board.free(child, into=parent)
    assert ran(board.snapshot()) == 2
    board.free(parent)
    assert ran(board.snapshot()) == 2


class ReadInBetween(Scoreboard):
    """A board to which something happens while its slots are read one after the other."""

    def __init__(self) -> None:
        super().__init__("TTestServer", 2)
        self.meanwhile: list[Callable[[], object]] = []
        for pid in (1, 2):
            counters = Counters(self, entered(self, pid))
            counters.begin_request()
            counters.observe(10, 20, 1)
            counters.end_request()

    def slot(self, slot: int) -> Cells:
        """Lets the next thing happen, then reads."""
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return super().slot(slot)

    def counts_two(self) -> bool:
        """Whether a reader finds the two requests that were counted: in the histograms, and by number."""
        snapshot = self.snapshot()
        requests = snapshot.past_requests + sum(one.requests for one in snapshot.workers)
        return not self.meanwhile and requests == ran(snapshot) == 2


def nothing() -> None:
    """Nothing happens."""


@pytest.mark.parametrize("moment", range(3))
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("replaced", [False, True])
def test_reaped_while_it_is_read(moment: int, victim: int, replaced: bool) -> None:
    """Whenever a process is reaped, and its slot taken anew, a reader counts its requests once."""
    board = ReadInBetween()

    def reap() -> None:
        board.free(victim)
        if replaced:
            board.enter(victim, 3, 0)

    board.meanwhile = [*([nothing] * moment), reap]
    assert board.counts_two()


def test_read_amid_a_move() -> None:
    """A reader that comes while numbers are half moved waits until they are there."""
    board = ReadInBetween()
    before = bytes(board.cells)
    board.free(0)
    after = bytes(board.cells)
    half = bytearray(before)
    half[-8 * SLOT_CELLS :] = after[-8 * SLOT_CELLS :]  # added to the past, not yet taken from the slot
    board.cells[:] = memoryview(half).cast("q")
    board.cells[-SLOT_CELLS + BoardCell.MOVES] -= 1
    board.meanwhile = [*([nothing] * 10), lambda: board.cells.cast("B").__setitem__(slice(None), after)]
    assert board.counts_two()


def test_a_parent_killed_while_it_reaped_stops_no_reader() -> None:
    """A move of numbers that was never finished ends with the slot that it went into."""
    board = Scoreboard("TForkingServer", 2, children=3)
    parent = entered(board, 1)
    Counters(board, parent).observe(10, 20, 1)
    board.slot(parent)[BoardCell.MOVES] = 7
    assert ran(board.snapshot()) == 1
    board.free(parent)
    assert ran(board.snapshot()) == 1
    assert not any(count % 2 for count in board.cells[BoardCell.MOVES :: len(board.slot(0))])


def test_fronts_are_no_workers() -> None:
    """A front is shown as one, with what waits in it; nobody leaves a connection to it."""
    board, (worker, front, other) = board_with(1, 2, 3)
    snapshot = board.snapshot()
    assert (snapshot.queued, snapshot.queued_bytes) == (None, None)
    assert [one.role for one in snapshot.workers] == [WorkerRole.WORKER] * 3
    for each in (front, other):
        each.set_role(WorkerRole.FRONT)
        each.set_queued(5, 1000)
    front.set_queued(2, 400)
    worker.set_note("frozen")
    snapshot = board.snapshot()
    assert (snapshot.queued, snapshot.queued_bytes) == (7, 1400)
    assert {one.pid: one.role for one in snapshot.workers} == {
        1: WorkerRole.WORKER,
        2: WorkerRole.FRONT,
        3: WorkerRole.FRONT,
    }
    assert [pid for pid, _, _ in board.peers()] == [1]
    board.free(1)
    assert (board.snapshot().queued, board.snapshot().queued_bytes) == (5, 1000)


def test_every_process_is_shown() -> None:
    """Keeper and gateway are shown as what they are; they have no queue, and nobody leaves a connection to them."""
    board, (_, keeper, gateway) = board_with(1, 2, 3)
    keeper.set_role(WorkerRole.KEEPER)
    gateway.set_role(WorkerRole.GATEWAY)
    snapshot = board.snapshot()
    assert [one.role for one in snapshot.workers] == [WorkerRole.WORKER, WorkerRole.KEEPER, WorkerRole.GATEWAY]
    assert (snapshot.queued, [pid for pid, _, _ in board.peers()]) == (None, [1])


def test_a_slot_can_begin_as_a_front() -> None:
    """The role that a slot is entered with stands until the slot begins anew."""
    board = Scoreboard("TTestServer", 1)
    board.enter(0, 5, 0, role=WorkerRole.FRONT)
    assert board.snapshot().workers[0].role is WorkerRole.FRONT
    board.enter(0, 6, 0)
    assert board.snapshot().workers[0].role is WorkerRole.WORKER


def test_texts_are_cut() -> None:
    """Device and note come back as they were; what is too long is cut between two characters."""
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
    """A line of percentiles as upper bounds, and the mean batch."""
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
    """A percentile is the least bound that so many values keep; without values there is nothing above any bound."""
    some = Histogram("h", "us", (1, 2, 4), (5, 4, 0, 1), 40)
    assert [some.bound_of(share) for share in (0.1, 0.5, 0.51, 0.9, 0.91)] == [1, 1, 2, 2, None]
    assert (some.count, some.mean) == (10, 4.0)
    none = Histogram("h", "us", (1, 2, 4), (0, 0, 0, 0), 0)
    assert (none.count, none.mean, none.bound_of(0.5)) == (0, 0.0, 1)


def test_a_worker_that_is_still_to_be_made_is_in_no_status() -> None:
    """Its slot is held, and counts for the keeper as one that begins; a row with a pid comes with its process."""
    board = Scoreboard("TTestServer", 1)
    slot = board.reserve(0, restarts=2)
    assert (board.snapshot().workers, board.peers()) == ((), [])
    assert board.plans() == [(WorkerPhase.STARTING, 0)]
    with pytest.raises(RuntimeError, match="all slots"):
        board.reserve(0)
    board.enter(slot, os.getpid(), 0, restarts=2, parent=os.getppid())
    (born,) = board.snapshot().workers
    assert (born.pid, born.restarts) == (os.getpid(), 2)
    assert born.rss_bytes > 0
    board.free(slot)
    assert (board.snapshot().workers, board.plans()) == ((), [])


def test_a_slot_that_is_held_is_freed_with_its_parent() -> None:
    """A worker that dies while it makes a child leaves no slot behind."""
    board = Scoreboard("TForkingServer", 1, children=1)
    among = board.slots_of_children(entered(board, 1))
    board.reserve(0, among=among)
    board.free_children_of(os.getpid())
    assert board.reserve(0, among=among) == among[0]


def test_a_slot_that_is_still_to_be_filled_names_no_process() -> None:
    """What stands in a held slot for a pid is none that a signal could be sent to."""
    board = Scoreboard("TTestServer", 1)
    held = board.slot(board.reserve(0))[BoardCell.PID]
    with pytest.raises(OverflowError):
        os.kill(held, 0)


@pytest.mark.parametrize("moment", range(3))
@pytest.mark.parametrize("victim", [0, 1])
def test_replaced_while_it_is_read(moment: int, victim: int) -> None:
    """However a reader meets a place that is filled anew, it finds only pids of processes that have been there."""
    board = ReadInBetween()

    def replace() -> None:
        board.free(victim)
        board.reserve(0)

    board.meanwhile = [*([nothing] * moment), replace]
    assert {one.pid for one in board.snapshot().workers} <= {1, 2}


def test_freed_while_it_is_read_for_the_last_time() -> None:
    """A reader that never sees the board at rest still shows no row without a process."""
    board = ReadInBetween()
    board.slot(0)[BoardCell.MOVES] = 7  # a parent was killed while it moved numbers into it
    calls_a_look = 3  # two slots and the server's own
    board.meanwhile = [*([nothing] * (99 * calls_a_look)), lambda: board.free(1)]
    assert [one.pid for one in board.snapshot().workers] == [1]
    assert board.meanwhile == []
