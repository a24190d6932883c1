"""Requests that are begun together: the processor's steps, from decoded arguments to result structs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from batching_models import rows_of, runs, watched
from encoded_images import plain
from numpy_models import Counter, handler_of, one_function, signature
from thriftserve.batching import Batcher
from thriftserve.deadline import mark_arrival
from thriftserve.models.registry import Registry, Servable
from thriftserve.repository.model_settings import BatchingSettings
from thriftserve.service import PredictProcessor
from thriftserve_client.codec import from_tensor, to_tensor
from thriftserve_idl import Predict
from thriftserve_idl.ttypes import (
    ClassifyRequest,
    DataType,
    DetectRequest,
    ErrorCode,
    ModelSpec,
    PredictRequest,
    Tensor,
)


@pytest.fixture(autouse=True)
def _unmarked() -> Iterator[None]:
    """No mark is left on this thread for the next test."""
    yield
    mark_arrival(None)


class Hand:
    """A processor, and what a worker does with it."""

    def __init__(self, *servables: Servable) -> None:
        self.counter = Counter()
        self.processor = PredictProcessor(handler_of(Registry(servables), self.counter, batcher=Batcher()))

    def answer(self, calls: list[tuple[str, Any]], age_s: float = 0.0) -> list[Any]:
        """The result structs of requests begun together, as often as they have jobs to run."""
        results: list[Any] = [None] * len(calls)
        waiting: list[tuple[int, Any, Any]] = []
        for place, (method, request) in enumerate(calls):
            mark_arrival(time.monotonic() - age_s)
            steps = self.processor.begin(method, self.processor.together[method][0](request))
            advance(waiting, results, place, steps, None)
        mark_arrival(None)
        while waiting:
            taken, waiting = waiting, []
            for (place, steps, _), answer in zip(
                taken, self.processor.batcher.run_all([one[2] for one in taken]), strict=True
            ):
                advance(waiting, results, place, steps, answer)
        return results


def advance(waiting: list[Any], results: list[Any], place: int, steps: Any, answer: Any) -> None:
    """Takes one request's next step, with its answer or its error."""
    try:
        job = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
        waiting.append((place, steps, job))
    except StopIteration as stop:
        results[place] = stop.value


def predict(arrays: dict[str, Any], **fields: Any) -> tuple[str, PredictRequest]:
    tensors = {name: to_tensor(array) for name, array in arrays.items()}
    return "predict", PredictRequest(ModelSpec("m"), tensors, **fields)


def test_a_mixed_hand() -> None:
    """Good requests share a run and get their own rows; each bad one gets its own error; none comes out raised."""
    servable = watched()
    hand = Hand(servable)
    holes = rows_of(3)
    holes["x"][0, 0] = np.nan
    bad: list[tuple[tuple[str, Any], ErrorCode, str]] = [
        (("predict", None), ErrorCode.INVALID_ARGUMENT, "carries no request"),
        (("predict", PredictRequest(ModelSpec("nobody"))), ErrorCode.NOT_FOUND, "nobody"),
        (("predict", PredictRequest(ModelSpec("m"), {"x": Tensor(99)})), ErrorCode.INVALID_ARGUMENT, "99"),
        (predict(holes), ErrorCode.INVALID_ARGUMENT, "x has holes"),
        (predict(rows_of(0), timeout_ms=-1), ErrorCode.INVALID_ARGUMENT, "timeout_ms is -1"),
        (("classify", ClassifyRequest(ModelSpec("m"), [b"junk"])), ErrorCode.FAILED_PRECONDITION, "image input"),
        (("detect", DetectRequest(ModelSpec("m"), [b"junk"])), ErrorCode.FAILED_PRECONDITION, "no detector"),
    ]
    calls = [call for number, (one, _, _) in enumerate(bad) for call in (one, predict(rows_of(number * 10.0, 2)))]
    results = hand.answer(calls)
    for (_, code, words), result in zip(bad, results[::2], strict=True):
        assert (result.error.code, result.success) == (code, None)
        assert words in result.error.message
    for number, result in enumerate(results[1::2]):
        assert isinstance(result, Predict.predict_result)
        assert result.error is None
        got = from_tensor(result.success.outputs["y"])
        np.testing.assert_array_equal(got, rows_of(number * 10.0, 2)["x"] * 2 + 1)
    assert hand.counter.errors == len(bad)
    assert runs(servable)[0] == 7  # a merged run that the holes spoilt
    assert hand.processor.batcher.hint().requests >= 1


def test_timing_and_deadlines() -> None:
    """Each answer tells its own wait and the whole run's rows; who waited too long is not run."""
    servable = watched()
    hand = Hand(servable)
    results = hand.answer([predict(rows_of(float(n))) for n in range(3)] + [predict(rows_of(9), timeout_ms=1000)], 5.0)
    assert runs(servable) == [3]
    for result in results[:3]:
        assert result.success.timing.batch_size == 3
        assert result.success.timing.queue_us >= 5_000_000
    assert results[3].error.code == ErrorCode.DEADLINE_EXCEEDED


def test_images_of_several_requests_share_a_run() -> None:
    """Images of classify requests are run as one batch; those that the model takes one by one are run in turn."""
    made = signature({"image": (DataType.FLOAT, (None, 4, 4, 3))}, {"scores": (DataType.FLOAT, (None, 3))})
    session = one_function(made, lambda inputs: {"scores": inputs["image"].mean((1, 2))})
    single = signature({"image": (DataType.FLOAT, (4, 4, 3))}, {"scores": (DataType.FLOAT, (3,))})
    alone = one_function(single, lambda inputs: {"scores": inputs["image"].mean((0, 1))})
    hand = Hand(Servable("m", 1, session, batching=BatchingSettings(max_batch_size=64)), Servable("one", 1, alone))
    red, blue = plain(colour=(200, 0, 0)), plain(colour=(0, 0, 100))
    calls = [
        ("classify", ClassifyRequest(ModelSpec("m"), [red, blue])),
        ("classify", ClassifyRequest(ModelSpec("one"), [blue, red, blue])),
        ("classify", ClassifyRequest(ModelSpec("m"), [blue])),
    ]
    results = hand.answer(calls)
    best = [[one.classes[0].class_id for one in result.success.results] for result in results]
    assert best == [[0, 2], [2, 0, 2], [2]]
    assert [result.success.timing.batch_size for result in results] == [3, 1, 3]
    assert (len(session.runs), len(alone.runs)) == (1, 3)


def test_the_height_of_an_image_is_no_batch() -> None:
    """A model that takes one image of any height gets one, though the leading size of its input is free."""
    made = signature({"image": (DataType.FLOAT, (None, 4, 3))}, {"row": (DataType.FLOAT, (None,))})
    session = one_function(made, lambda inputs: {"row": inputs["image"].sum((1, 2))})
    hand = Hand(Servable("m", 1, session))
    results = hand.answer([predict({"image": np.full((height, 4, 3), height, np.float32)}) for height in (1, 5)])
    assert [result.success.timing.batch_size for result in results] == [1, 1]
    assert len(session.runs) == 2
