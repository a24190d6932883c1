"""Made-up requests before the first real ones: what runs take is known, models whose rows depend are found out."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from batching_models import answered, job, rows_of, runs, watched
from thriftserve.batching import Batcher
from thriftserve.models.servable import Servable
from thriftserve.models.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from thriftserve_idl.ttypes import DataType


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
    """After its rehearsal such a model is never given rows of two requests at once; a warning names it."""
    servable = Servable("series", 4, RunningTotal())
    inputs = [{"x": np.array([number], np.float32)} for number in (1, 10, 100)]
    wrong = [[1], [11], [111]]
    assert [list(each) for each in together(Batcher(), servable, inputs)] == wrong, "what the rehearsal is there for"
    batcher = Batcher()
    with caplog.at_level(logging.WARNING):
        batcher.rehearse(servable)
    assert [list(each) for each in together(batcher, servable, inputs)] == [[1], [10], [100]]
    assert "series version 4" in caplog.text


def test_an_answer_that_differs_each_time_says_nothing() -> None:
    """A model of random answers is not taken for one whose rows depend on each other."""
    servable, batcher = Servable("noisy", 1, RunningTotal(noise=1.0)), Batcher()
    batcher.rehearse(servable)
    assert batcher._lane(job(servable, {"x": np.array([1], np.float32)})).merges


def test_run_times_are_known_before_the_first_request() -> None:
    """A model's signatures have been run alone and together, and are put together still."""
    servable, batcher = watched(), Batcher()
    batcher.rehearse(servable)
    assert {1, 3} <= set(runs(servable))
    lane = batcher._lane(job(servable, rows_of(0)))
    assert lane.times.fit() is not None
    assert lane.merges


def test_the_rehearsal_says_where_to_begin() -> None:
    """The first requests are run in the size that the rehearsal found worth it, of those that it ran."""
    servable, batcher = watched(max_batch_size=64), Batcher()
    lane = batcher._lane(job(servable, rows_of(0)))
    for rows in (1, 1, 3, 3):
        lane.add(1, rows, rows, 100_000 + rows)
    lane.rehearsed()
    assert lane.rows_to_run() == 2  # of 1, 2, 4, ...
    for rows in (12, 12):
        lane.add(1, rows, rows, 100_000 + rows)
    lane.rehearsed()
    assert lane.rows_to_run() == 8
