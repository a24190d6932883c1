"""What runs take, learned from runs, and what is worth running together."""

from __future__ import annotations

import doctest

import pytest

from batching_models import job, rows_of, watched
from thriftserve.batching import Advice, Batcher, batcher, run_times
from thriftserve.batching.run_times import Fit, RunTimes, efficient_rows


@pytest.mark.parametrize("module", [run_times, batcher])
def test_the_examples_in_the_text(module: object) -> None:
    """What the modules' docstrings show is what happens."""
    found = doctest.testmod(module)  # type: ignore[arg-type]  # a module
    assert found.attempted > 0
    assert found.failed == 0


def learned(*runs: tuple[int, float]) -> Fit | None:
    times = RunTimes()
    for rows, us in runs:
        times.add(rows, us)
    return times.fit()


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], None),
        ([(4, 100.0)] * 5, None),
        ([(1, 30.0), (3, 50.0)], (20.0, 10.0)),
        ([(1, 30.0), (3, 50.0), (2, 40.0), (8, 100.0)], (20.0, 10.0)),
        ([(1, 50.0), (3, 50.0)], (50.0, 0.0)),
        ([(1, 60.0), (3, 20.0)], (39.798, 0.0)),
        ([(1, 10.0), (3, 50.0)], (0.0, 15.025)),
    ],
)
def test_the_line_through_the_runs(runs: list[tuple[int, float]], expected: tuple[float, float] | None) -> None:
    """A line is found exactly; what noise makes negative is 0; one size alone tells nothing."""
    found = learned(*runs)
    assert found == (None if expected is None else pytest.approx(expected, abs=0.01))


def test_what_changed_is_learned_anew() -> None:
    """After a change of the machine's speed, the new runs decide."""
    before = [(rows, 100.0 + 10 * rows) for rows in range(1, 9)]
    after = [(rows, 50.0 + 40 * rows) for rows in range(1, 9)]
    found = learned(*before * 20, *after * 40)
    assert found == pytest.approx((50, 40), abs=1)


def test_single_rows_for_a_long_time_forget_nothing() -> None:
    """A lane that runs single rows, because that is best, keeps knowing so."""
    found = learned((1, 100.0), (8, 730.0), *[(1, 100.0)] * 100_000)
    assert found == pytest.approx((10.0, 90.0), rel=1e-3)


@pytest.mark.parametrize(
    ("fit", "most", "expected"),
    [
        (None, 64, 64),
        (Fit(10.0, 0.0), 64, 64),
        (Fit(0.0, 10.0), 64, 1),
        (Fit(1.0, 19.0), 64, 1),
        (Fit(1.01, 19.0), 64, 2),
        (Fit(20.0, 0.05), 64, 64),
        (Fit(20.0, 0.05), 4096, 4096),
        (Fit(20.0, 10.0), 64, 38),
        (Fit(2700.0, 12_300.0), 64, 5),
    ],
)
def test_rows_that_are_worth_running_together(fit: Fit | None, most: int, expected: int) -> None:
    """The smallest run with 95 % of the best rate, or the largest that is allowed."""
    assert efficient_rows(fit, most) == expected


def test_advice_follows_the_busiest_lane() -> None:
    """Before any run the most is advised; then what the lane that took most of the time is best at."""
    servable, made = watched(max_batch_size=None), Batcher(max_batch_size=32)
    assert made.advice() == Advice(32, 0.0, 0.0)
    slow = made._lane(job(servable, rows_of(0)))
    for rows in (1, 1, 4, 4):
        slow.add(1, rows, rows, 1000 + 9500 * rows)
    assert advice_now(made, slow) == pytest.approx((1, 1000.0, 9500.0))  # 2 rows, and a request has 2.5
    quick = made._lane(job(servable, {"x": rows_of(0)["x"][0]}, "uneven"))
    for rows in (3, 3, 30, 30):
        quick.add(rows // 3, rows, rows, 10 + rows)
    assert advice_now(made, quick) == pytest.approx((1, 1000.0, 9500.0))
    while slow.fade():
        pass
    assert advice_now(made, quick) == pytest.approx((32, 10.0, 1.0))  # small ones are handed over together


def test_the_first_run_of_a_size_does_not_count() -> None:
    """What a size's first run pays for by itself is no part of what runs take."""
    servable = watched()
    lane = Batcher()._lane(job(servable, rows_of(0)))
    for rows, us in ((1, 90_000), (1, 30), (3, 90_000), (3, 50)):
        lane.add(1, rows, rows, us)
    assert lane.times.fit() == pytest.approx((20.0, 10.0))


def advice_now(made: Batcher, used: object) -> tuple[float, ...]:
    made._usage.add(used)  # type: ignore[arg-type]  # a Lane
    made._usage._until = 0.0
    return made.advice()[:3]
