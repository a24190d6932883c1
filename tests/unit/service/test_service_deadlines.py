"""Deadlines count from a request's arrival; a request that comes too late is not run."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import numpy as np
import pytest

from encoded_images import plain
from numpy_models import NumpySession, Server, half_plus_two, one_function, serve, signature
from thriftserve.deadline import Deadline, mark_arrival
from thriftserve.errors import DeadlineExceeded
from thriftserve.service.image_input import image_inputs
from thriftserve_client.codec import to_tensor
from thriftserve_idl.ttypes import (
    ClassifyRequest,
    DataType,
    DetectRequest,
    ErrorCode,
    ModelSpec,
    PredictError,
    PredictRequest,
    Tensor,
)

INPUTS = {"x": to_tensor(np.zeros((1, 3), np.float32)), "k": to_tensor(np.int64(0))}


@pytest.fixture(autouse=True)
def _unmarked() -> Iterator[None]:
    """No mark is left on this thread for the next test."""
    yield
    mark_arrival(None)


def arrived(seconds_ago: float) -> None:
    mark_arrival(time.monotonic() - seconds_ago)


def test_time_in_the_queue_counts() -> None:
    """A request that arrived longer ago than its timeout is not run; DEADLINE_EXCEEDED says how long it queued."""
    session = half_plus_two()
    server = serve(session)
    arrived(10)
    with pytest.raises(PredictError) as caught:
        server.call("predict", PredictRequest(ModelSpec("m"), INPUTS, timeout_ms=2000))
    assert caught.value.code == ErrorCode.DEADLINE_EXCEEDED
    queued = re.fullmatch(
        r"deadline exceeded: queued ([\d.]+) ms, timeout_ms is 2000; not executed", caught.value.message
    )
    assert queued is not None, caught.value.message
    assert float(queued[1]) >= 10_000
    assert session.runs == []
    assert server.counter.errors == 1


def test_in_time_is_run() -> None:
    """With time left, or without a limit, the request is run, and its wait stands in the timing."""
    server = serve(half_plus_two())
    for timeout_ms in (60_000, 0, None):
        arrived(10)
        response = server.call("predict", PredictRequest(ModelSpec("m"), INPUTS, timeout_ms=timeout_ms))
        assert response.timing.queue_us >= 10_000_000


def test_it_is_checked_before_anything_is_decoded() -> None:
    """An expired request whose tensors are nonsense, for a model that is not there, is still expired."""
    server = serve(half_plus_two())
    arrived(10)
    request = PredictRequest(ModelSpec("nobody"), {"x": Tensor(99)}, timeout_ms=1)
    with pytest.raises(PredictError) as caught:
        server.call("predict", request)
    assert caught.value.code == ErrorCode.DEADLINE_EXCEEDED


def test_it_is_checked_again_right_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline that passes while the request is decoded keeps it from being run."""
    session = half_plus_two()
    server = serve(session)
    real, began = time.monotonic, time.monotonic()
    # The clock stands still until the first check, and has moved an hour on by the next one.
    readings = iter([began, began])
    monkeypatch.setattr(time, "monotonic", lambda: next(readings, real() + 3600))
    with pytest.raises(PredictError) as caught:
        server.handler.predict(PredictRequest(ModelSpec("m"), INPUTS, timeout_ms=5000))
    assert caught.value.code == ErrorCode.DEADLINE_EXCEEDED
    assert session.runs == []


def _classifier() -> NumpySession:
    made = signature({"image": (DataType.FLOAT, (None, 4, 4, 3))}, {"scores": (DataType.FLOAT, (None, 3))})
    return one_function(made, lambda inputs: {"scores": inputs["image"].mean((1, 2))})


def test_classify_and_detect_have_deadlines_too() -> None:
    """An expired request with images is neither decoded nor run."""
    session = _classifier()
    server = serve(session)
    for method, kind in (("classify", ClassifyRequest), ("detect", DetectRequest)):
        arrived(10)
        with pytest.raises(PredictError) as caught:
            server.call(method, kind(ModelSpec("m"), [b"junk"], timeout_ms=1))
        assert caught.value.code == ErrorCode.DEADLINE_EXCEEDED
    assert session.runs == []


def test_images_are_not_decoded_past_the_deadline() -> None:
    """Between two images the deadline is checked: the second one, which is no image, is never opened."""
    image = image_inputs(_classifier().signatures["serving_default"], None, 10_000)["image"]
    with pytest.raises(DeadlineExceeded):
        image.decode([plain(), b"junk"], Deadline(time.monotonic() - 10, 1))


@pytest.mark.parametrize("timeout_ms", [-1, -(2**31)])
def test_a_negative_timeout_is_refused(timeout_ms: int) -> None:
    """A negative timeout is a mistake, not an expired request."""
    session = half_plus_two()
    server: Server = serve(session)
    with pytest.raises(PredictError, match=f"timeout_ms is {timeout_ms}") as caught:
        server.call("predict", PredictRequest(ModelSpec("m"), INPUTS, timeout_ms=timeout_ms))
    assert caught.value.code == ErrorCode.INVALID_ARGUMENT
    assert session.runs == []
