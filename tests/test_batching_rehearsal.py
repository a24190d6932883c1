"""Made-up requests before the first real ones: what runs take is known, models whose rows depend are found out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from batching_models import answered, job, rows_of, runs, watched
from thriftserve.batching import Batcher, Done, Job, rehearsal
from thriftserve.batching.job import Answer
from thriftserve.batching.size_search import SizeSearch, ladder
from thriftserve.models.model_settings import UNSET, BatchingSettings
from thriftserve.models.servable import Servable
from thriftserve.models.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from thriftserve_idl.ttypes import DataType

MERGED = BatchingSettings(max_batch_size=64)


class RunningTotal:
    """Its free leading dimension is a series, not a batch: each answer depends on the rows before it."""

    platform = "tensorflow"
    device = "cpu"

    def __init__(self, noise: float = 0.0) -> None:
        spec = TensorSpec("x", DataType.FLOAT, (None,))
        self.signatures = {DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, {"x": spec}, {"y": spec})}
        self._noise = noise
        self._random = np.random.default_rng(1)

    def run(self, signature: str, inputs: Any, outputs: Any) -> dict[str, Any]:
        total = np.cumsum(inputs["x"]) if not self._noise else inputs["x"]
        return {"y": total + self._noise * self._random.standard_normal(total.shape)}

    def close(self) -> None:
        """Nothing to free."""


def together(batcher: Batcher, servable: Servable, inputs: list[dict[str, Any]]) -> list[Any]:
    """The outputs `y` of requests that are in hand together."""
    return [answered(one).outputs["y"] for one in batcher.run_all([job(servable, each) for each in inputs])]


def test_rows_that_depend_on_each_other_stay_apart(caplog: pytest.LogCaptureFixture) -> None:
    """Once examined, such a model is never given rows of two requests at once; a warning names it."""
    said, servable = (Servable("series", 4, RunningTotal(), batching=each) for each in (MERGED, UNSET.batching))
    inputs = [{"x": np.array([number], np.float32)} for number in (1, 10, 100)]
    wrong = [[1], [11], [111]]
    assert [list(each) for each in together(Batcher(), said, inputs)] == wrong, "what the proof is there for"
    batcher = Batcher()
    with caplog.at_level(logging.WARNING):
        batcher.examine(servable)
    assert [list(each) for each in together(batcher, servable, inputs)] == [[1], [10], [100]]
    assert "series version 4" in caplog.text


def test_an_answer_that_differs_each_time_shows_nothing() -> None:
    """A model of random answers is not taken for one whose rows are independent."""
    servable, batcher = Servable("noisy", 1, RunningTotal(noise=1.0)), Batcher()
    batcher.examine(servable)
    assert "differently each time" in batcher.note(servable)
    inputs = [{"x": np.array([number], np.float32)} for number in (1, 10, 100)]
    jobs = [job(servable, each) for each in inputs]
    assert [answered(one).batch_size for one in batcher.run_all(jobs)] == [1, 1, 1]


def test_run_times_are_known_before_the_first_request() -> None:
    """A model's signatures have been run alone and together, and are put together still."""
    servable, batcher = watched(max_batch_size=4), Batcher(1)
    batcher.examine(servable)
    assert {1, 2, 4} <= set(runs(servable))
    lane = batcher._lane(job(servable, rows_of(0)))
    assert lane.times.fit() is not None
    assert lane.merges


def test_the_rehearsal_says_where_to_begin() -> None:
    """The first requests are run in the size that the rehearsal found worth it, of those that it ran."""
    servable, batcher = watched(max_batch_size=64), Batcher()
    lane = batcher._lane(job(servable, rows_of(0)))
    for rows in (1, 1, 3, 3):
        lane.add(1, rows, rows, 100_000 + rows)
    lane.rehearsed({1: 0.010, 2: 0.007, 4: 0.006, 8: 0.0061})
    assert lane.rows_to_run() == 4
    lane.rehearsed({})
    assert lane.rows_to_run() == 2  # of 1, 2, 4, ...
    for rows in (12, 12):
        lane.add(1, rows, rows, 100_000 + rows)
    lane.rehearsed({})
    assert lane.rows_to_run() == 8


class Machine:
    """Runs jobs, one after the other, on a clock of its own: what a run takes goes by its rows."""

    def __init__(self, run_s: Callable[[int], float], *, fails_at: int = 0) -> None:
        self._run_s = run_s
        self._fails_at = fails_at
        self.now = 0.0
        self.runs: list[int] = []

    def monotonic(self) -> float:
        return self.now

    def run(self, jobs: Sequence[Job]) -> list[Answer]:
        self.now += self._run_s(len(jobs)) * (1 if len(jobs) in self.runs else 3)
        self.runs.append(len(jobs))
        if len(jobs) == self._fails_at:
            return [ValueError("no")] * len(jobs)
        return [Done({}, 0.0, 0, len(jobs))] * len(jobs)

    def rehearse(self, monkeypatch: pytest.MonkeyPatch, seconds: float = 2.0) -> dict[int, float]:
        monkeypatch.setattr(rehearsal, "time", self)
        servable = watched()
        return rehearsal.at_load([job(servable, rows_of(0))], self.run, 1, (1, 2, 4, 8, 16, 32, 64), seconds)


@pytest.mark.parametrize(
    ("run_s", "largest", "best"),
    [
        (lambda rows: 0.001 * rows, 4, 1),
        (lambda rows: 0.002 + 0.00001 * rows, 64, 64),
        (lambda rows: 0.02 + 0.0001 * rows, 16, 16),
        (lambda rows: rows * {1: 0.0050, 2: 0.0047, 4: 0.0044}.get(rows, 0.0046), 4, 4),
        (lambda rows: 1e-12, 64, 64),
    ],
)
def test_runs_side_by_side(
    monkeypatch: pytest.MonkeyPatch, run_s: Callable[[int], float], largest: int, best: int
) -> None:
    """Sizes are measured up to one that is plainly not worth it, or large and slow; first runs of each do not count."""
    machine = Machine(run_s)
    took = machine.rehearse(monkeypatch)
    assert max(machine.runs) == largest
    assert took == pytest.approx({size: run_s(size) / size for size in took}, abs=1e-9)
    search = SizeSearch(ladder(64))
    search.begin(took)
    assert search.rows == best


def test_no_time_for_runs_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model takes long, little of the time given is gone over, and a single size tells nothing."""
    machine = Machine(lambda rows: 0.1 * rows)
    assert set(machine.rehearse(monkeypatch)) == {1, 2}
    for row_s in (0.25, 2):
        machine = Machine(lambda rows, row_s=row_s: row_s * rows)  # type: ignore[misc]
        assert machine.rehearse(monkeypatch) == {}
        assert machine.now <= 2 + 3 * row_s


def test_a_run_that_fails_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that can't run such a batch says nothing of the sizes; nor is any run where there is no choice."""
    assert Machine(lambda rows: 0.001, fails_at=4).rehearse(monkeypatch) == {}
    machine = Machine(lambda rows: 0.001)
    assert rehearsal.at_load([], machine.run, 1, (32, 64), 2.0) == {}
    assert machine.runs == []


def test_runs_of_a_worker_are_rehearsed_side_by_side() -> None:
    """A worker's first requests are run in the size that took the least, however few rows it tried before."""
    servable, batcher = watched(max_batch_size=16), Batcher(2)
    servable.session.pause_s = 0.005  # type: ignore[attr-defined]
    batcher.examine(servable)
    assert batcher._lane(job(servable, rows_of(0))).rows_to_run() == 16
