"""How many rows a run is worth: measured when a model is loaded, before its first request."""

from __future__ import annotations

import doctest
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from batching_models import answered, job, rows_of, runs, watched
from thriftserve.batching import Batcher, BatchHint, Task, TaskResult, calibration
from thriftserve.batching.calibration import Calibration, calibrate, conclude, ladder
from thriftserve.batching.group import HINT_S
from thriftserve.batching.task import TaskOutcome
from thriftserve.models.registry import Servable
from thriftserve.models.session import DEFAULT_SIGNATURE, Session, Signature, TensorSpec
from thriftserve.repository.model_settings import UNSET, BatchingSettings
from thriftserve_idl.ttypes import DataType

MERGED = BatchingSettings(max_batch_size=64)


class RunningTotal(Session):
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


@pytest.mark.parametrize(
    ("most", "allowed", "expected"),
    [
        (1, (), (1,)),
        (2, (), (1, 2)),
        (24, (), (1, 2, 4, 8, 16, 24)),
        (64, (8, 64, 128), (8, 64)),
        (6, (8, 16), (6,)),
    ],
)
def test_the_sizes_to_choose_from(most: int, allowed: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Powers of two up to the most rows and with it, or the sizes that a model allows."""
    assert ladder(most, allowed) == expected


def test_the_examples_in_the_text() -> None:
    """They are so."""
    assert doctest.testmod(calibration).failed == 0


class Machine:
    """Runs jobs, one after the other, on a clock of its own: what a run takes goes by its rows."""

    def __init__(self, run_s: Callable[[int], float], *, fails_at: int = 0) -> None:
        self._run_s = run_s
        self._fails_at = fails_at
        self.now = 0.0
        self.runs: list[int] = []

    def monotonic(self) -> float:
        return self.now

    def run(self, jobs: Sequence[Task]) -> list[TaskOutcome]:
        self.now += self._run_s(len(jobs)) * (1 if len(jobs) in self.runs else 3)
        self.runs.append(len(jobs))
        if len(jobs) == self._fails_at:
            return [ValueError("no")] * len(jobs)
        return [TaskResult({}, 0.0, 0, len(jobs))] * len(jobs)

    def measured(self, monkeypatch: pytest.MonkeyPatch, seconds: float = 2.0, asked: int = 0) -> Calibration | None:
        monkeypatch.setattr(calibration, "time", self)
        jobs = [job(watched(), rows_of(0))]
        return calibrate(jobs, self.run, 1, ladder(64), seconds, asked)


@pytest.mark.parametrize(
    ("run_s", "largest", "best"),
    [
        (lambda rows: 0.001 * rows, 4, 1),
        (lambda rows: 0.002 + 0.00001 * rows, 64, 64),
        (lambda rows: 0.02 + 0.0001 * rows, 16, 16),
        (lambda rows: rows * {1: 0.0050, 2: 0.0049, 4: 0.0044}.get(rows, 0.0046), 8, 4),
        (lambda rows: rows * {1: 0.0050, 2: 0.0044, 4: 0.0043}.get(rows, 0.0046), 4, 2),
        (lambda rows: 1e-12, 64, 64),
    ],
)
def test_the_size_that_is_worth_it(
    monkeypatch: pytest.MonkeyPatch, run_s: Callable[[int], float], largest: int, best: int
) -> None:
    """Sizes are measured up to one that saves nothing, or that is large and slow; the smallest good one is chosen."""
    machine = Machine(run_s)
    found = machine.measured(monkeypatch)
    assert found is not None
    assert max(machine.runs) == largest
    assert found.s_a_row == pytest.approx({size: run_s(size) / size for size in found.s_a_row}, abs=1e-9)
    assert found.rows == best


def test_what_a_run_and_a_row_take() -> None:
    """A line through the sizes: what waiting for another request can save."""
    found = conclude({size: (0.002 + 0.0005 * size) / size for size in (1, 2, 4)})
    assert (found.fixed_us, found.row_us) == pytest.approx((2000, 500))
    assert conclude({1: 0.003}) == Calibration(1, 0.0, 0.0, {1: 0.003})
    assert conclude({1: 0.003, 2: 0.004}).fixed_us == 0.0


def test_what_the_author_asked_for_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose settings say `max_batch_size` is measured up to it, however long its runs are."""
    machine = Machine(lambda rows: 0.02 + 0.0001 * rows)
    found = machine.measured(monkeypatch, seconds=60.0, asked=32)
    assert found is not None
    assert (max(machine.runs), found.rows) == (32, 32)


def test_no_time_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model takes long, little of the time given is gone over, and a single size tells nothing."""
    machine = Machine(lambda rows: 0.1 * rows)
    found = machine.measured(monkeypatch)
    assert found is not None
    assert set(found.s_a_row) == {1, 2}
    for row_s in (0.25, 2):
        machine = Machine(lambda rows, row_s=row_s: row_s * rows)  # type: ignore[misc]
        assert machine.measured(monkeypatch) is None
        assert machine.now <= 2 + 3 * row_s


def test_a_run_that_fails_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that can't run such a batch says nothing of the sizes."""
    assert Machine(lambda rows: 0.001, fails_at=4).measured(monkeypatch) is None


def test_requests_are_run_in_that_size(caplog: pytest.LogCaptureFixture) -> None:
    """A worker asks for as many requests as are worth a run, from the first one on; the log says what was found."""
    servable, batcher = watched(max_batch_size=16), Batcher(2)
    servable.session.pause_s = 0.005  # type: ignore[attr-defined]
    with caplog.at_level(logging.INFO):
        batcher.examine(servable)
    assert {1, 2, 4, 8, 16} <= set(runs(servable))
    assert "'serving_default': batch size 16 (measured ms a row, by rows of a run: 1: " in caplog.text
    batcher.run_all([job(servable, rows_of(0))])
    batcher.run_all([job(servable, rows_of(0))])
    hint = hint_of(batcher)
    assert hint.requests >= 16
    assert hint.fixed_us > 1000


def test_hint_follows_the_busiest_requests() -> None:
    """Before any run the most is advised; then what suits the requests that took most of the time."""
    slow, quick = watched(max_batch_size=None), watched(max_batch_size=None)
    slow.session.pause_s = 0.01  # type: ignore[attr-defined]
    batcher = Batcher(max_batch_size=32)
    assert batcher.hint() == BatchHint(32, 0.0, 0.0)
    for _ in range(3):
        batcher.run_all([job(slow, rows_of(0, 2))])
        batcher.run_all([job(quick, rows_of(0))])
    assert hint_of(batcher).requests == 1  # nothing shows that they may share a run
    for _ in range(400):
        batcher.run_all([job(quick, rows_of(0))] * 20)
    assert hint_of(batcher).requests > 4  # small ones are handed over together


def hint_of(batcher: Batcher) -> BatchHint:
    """What it advises once it looks again."""
    time.sleep(1.5 * HINT_S)
    return batcher.hint()
