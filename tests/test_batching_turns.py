"""Threads that bring jobs to one lane: one of them runs what the others wait with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from batching_models import Watched, answered, job, rows_of, watched
from thriftserve.batching import Batcher, Done
from thriftserve.batching.on_the_way import OnTheWay
from thriftserve.errors import DeadlineExceeded, Internal, InvalidArgument, ResourceExhausted
from thriftserve.models.model_settings import BatchingSettings
from thriftserve.models.servable import Servable


class Gated:
    """A session whose first run waits for a gate; while it waits, jobs gather."""

    platform = "tensorflow"
    device = "cpu"

    def __init__(self, session: Watched, failure: BaseException | None = None) -> None:
        self._session = session
        self.signatures = session.signatures
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.failure = failure

    def run(self, signature: str, inputs: Any, outputs: Any) -> Any:
        first = not self._session.runs
        answer = self._session.run(signature, inputs, outputs)
        self.entered.release()
        if first:
            assert self.gate.wait(20)
        elif self.failure is not None:
            raise self.failure
        return answer

    def close(self) -> None:
        pass


class Crowd:
    """Threads on one batcher that lets one run of a lane happen at a time."""

    def __init__(self, pool: ThreadPoolExecutor, failure: BaseException | None = None, **settings: Any) -> None:
        plain = watched(**settings).session
        assert isinstance(plain, Watched)
        self.rows = plain.rows
        self.gated = Gated(plain, failure)
        self.servable = Servable("m", 3, self.gated, batching=BatchingSettings(**{"max_batch_size": 8} | settings))
        self.batcher = Batcher(1)
        self._pool = pool

    def brings(self, arrays: dict[str, Any], **fields: Any) -> Future[Done]:
        """A thread that runs a job."""
        return self._pool.submit(self.batcher.run, job(self.servable, arrays, **fields))

    def waits(self, count: int) -> None:
        """Returns once that many wait behind the run under way."""
        (sharing,) = self.batcher._sharings.values()
        (lane,) = sharing._lanes.values()
        until(lambda: lane.turns is not None and len(lane.turns._waiting) == count)

    def begins(self) -> Future[Done]:
        """The first run, which is in the session now."""
        first = self.brings(rows_of(100))
        assert self.gated.entered.acquire(timeout=20)
        return first


def until(condition: Callable[[], bool]) -> None:
    """Returns once it holds; fails after a while."""
    pause = threading.Event()
    for _ in range(4000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never came")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(24) as made:
        yield made


def right(future: Future[Done], number: float, rows: int = 1) -> Done:
    """The answer, which belongs to the rows from `number` on."""
    done = future.result(20)
    np.testing.assert_array_equal(done.outputs["y"], rows_of(number, rows)["x"] * 2 + 1)
    return done


def test_those_who_wait_share_the_next_run(pool: ThreadPoolExecutor) -> None:
    """What came during a run is run together, up to the most rows; each thread gets its own rows."""
    crowd = Crowd(pool)
    first = crowd.begins()
    others = [crowd.brings(rows_of(float(n), 2)) for n in range(9)]
    crowd.waits(9)
    crowd.gated.gate.set()
    assert right(first, 100).batch_size == 1
    sizes = sorted(right(one, float(n), 2).batch_size for n, one in enumerate(others))
    assert sizes == [2] + [8] * 8
    assert sorted(crowd.rows()) == [1, 2, 8, 8]


def test_many_threads_for_a_while(pool: ThreadPoolExecutor) -> None:
    """Under load from many threads every answer is the right one, and runs are shared."""
    servable, batcher = watched(), Batcher(2)
    servable.session.pause_s = 0.001  # type: ignore[attr-defined]  # Watched

    def client(number: int) -> int:
        largest = 0
        for n in range(30):
            rows = 1 + (number + n) % 3
            done = batcher.run(job(servable, rows_of(number * 1000.0 + n, rows)))
            np.testing.assert_array_equal(done.outputs["y"], rows_of(number * 1000.0 + n, rows)["x"] * 2 + 1)
            largest = max(largest, done.batch_size)
        return largest

    assert max(pool.map(client, range(16))) > 3
    assert batcher.advice().take >= 1


def test_one_bad_request_among_those_who_wait(pool: ThreadPoolExecutor) -> None:
    """An invalid request in a shared run, and an expired one, fail alone."""
    crowd = Crowd(pool)
    first = crowd.begins()
    bad = rows_of(1)
    bad["x"][0, 0] = np.inf
    others = [crowd.brings(rows_of(50)), crowd.brings(bad), crowd.brings(rows_of(60), timeout_ms=1, age_s=3.0)]
    crowd.waits(3)
    crowd.gated.gate.set()
    right(first, 100)
    right(others[0], 50)
    assert isinstance(others[1].exception(20), InvalidArgument)
    assert isinstance(others[2].exception(20), DeadlineExceeded)


@pytest.mark.parametrize("failure", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_a_leader_that_dies_leaves_nobody_waiting(pool: ThreadPoolExecutor, failure: BaseException) -> None:
    """Where a shared run ends its thread, the others get an error each, and the lane goes on."""
    crowd = Crowd(pool, failure)
    first = crowd.begins()
    others = [crowd.brings(rows_of(float(n))) for n in range(5)]
    crowd.waits(5)
    crowd.gated.gate.set()
    right(first, 100)
    told = [one.exception(20) for one in others]
    name = type(failure).__name__
    kinds = sorted(type(one).__name__ for one in told)
    expected = [name] * 5 if isinstance(failure, Exception) else sorted(["Internal"] * 4 + [name])
    assert kinds == expected
    assert all(name in one.message for one in told if isinstance(one, Internal))
    crowd.gated.failure = None
    right(crowd.brings(rows_of(7)), 7)


def test_only_so_many_may_wait(pool: ThreadPoolExecutor) -> None:
    """Past `max_enqueued` a request is refused at once; later ones are taken again."""
    crowd = Crowd(pool, max_enqueued=2)
    first = crowd.begins()
    others = [crowd.brings(rows_of(float(n))) for n in range(2)]
    crowd.waits(2)
    assert isinstance(crowd.brings(rows_of(9)).exception(20), ResourceExhausted)
    crowd.gated.gate.set()
    right(first, 100)
    for number, one in enumerate(others):
        assert right(one, number).batch_size == 2
    right(crowd.brings(rows_of(9)), 9)


def test_a_timeout_waits_for_a_full_run(pool: ThreadPoolExecutor) -> None:
    """With `batch_timeout_ms`, a run waits for more rows and starts as soon as it is full."""
    servable = watched(batch_timeout_ms=60_000, max_batch_size=4)
    for batcher in (Batcher(1), Batcher()):
        futures = [pool.submit(batcher.run, job(servable, rows_of(float(n)))) for n in range(16)]
        assert [right(one, n).batch_size for n, one in enumerate(futures)] == [4] * 16


def test_a_timeout_is_no_reason_to_miss_a_deadline(pool: ThreadPoolExecutor) -> None:
    """A request with less time than `batch_timeout_ms` is run within it, whether it leads or comes later."""
    servable, batcher = watched(batch_timeout_ms=3_600_000, max_batch_size=4), Batcher(1)
    right(pool.submit(batcher.run, job(servable, rows_of(1), timeout_ms=400)), 1)
    patient = pool.submit(batcher.run, job(servable, rows_of(2)))
    hasty = pool.submit(batcher.run, job(servable, rows_of(3), timeout_ms=10_000))
    assert {right(patient, 2).batch_size, right(hasty, 3).batch_size} == {2}


def test_a_lone_request_never_waits() -> None:
    """Without a timeout a leader waits only for what is known to come, and only where a run is costly enough."""
    servable, batcher = watched(), Batcher()
    lane = batcher._lane(job(servable, rows_of(0)))
    for rows in (1, 1, 4, 4):
        lane.add(1, rows, rows, 5000 + 10 * rows)
    way = OnTheWay()
    assert way.worth_s(lane) == 0.0
    way.coming()
    assert way.worth_s(lane) == pytest.approx(0.005)
    cheap = batcher._lane(job(servable, {"a": np.ones((1, 1)), "b": np.ones((1, 1))}, "pairs", wanted=("sum",)))
    for rows in (1, 1, 4, 4):
        cheap.add(1, rows, rows, 50 + 10 * rows)
    assert way.worth_s(cheap) == 0.0
    watcher = threading.Thread(target=way.wait, args=(threading.Event(), 3600))
    watcher.start()
    way.arrived()  # nobody comes any more: the wait is over
    watcher.join(20)
    assert not watcher.is_alive()
    assert answered(batcher.run(job(servable, rows_of(0)))).batch_size == 1
