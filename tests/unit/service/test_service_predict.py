"""Predict: what is right is run and answered; what is wrong is named and never reaches the session."""

from __future__ import annotations

import gc
import logging
import os
import weakref
from typing import Any

import numpy as np
import pytest

from numpy_models import NumpySession, Server, arrays, half_plus_two, one_function, refused, serve, signature
from thriftserve.errors import FailedPrecondition, Internal, InvalidArgument, ThriftServeError
from thriftserve.models.registry import Servable
from thriftserve.models.session import DEFAULT_SIGNATURE, Arrays, Signature
from thriftserve_client.codec import to_tensor
from thriftserve_idl.ttypes import DataType, ErrorCode, ModelSpec, PredictError, PredictRequest, Tensor

X = np.array([[2.0, 4.0, 6.0]], np.float32)
K = np.int64(1)


def test_the_answer_is_the_models() -> None:
    """Every output by name, what was run with each part resolved, and where the time went."""
    server = serve(half_plus_two())
    response = server.predict({"x": np.repeat(X, 4, axis=0), "k": K})
    outputs = arrays(response)
    assert outputs["y"].tolist() == [[2.0, 3.0, 4.0]] * 4
    assert outputs["total"] == np.float32(36.0)
    spec = response.model_spec
    assert (spec.name, spec.version, spec.signature_name) == ("m", 3, DEFAULT_SIGNATURE)
    assert spec.version_label is None
    timing = response.timing
    assert timing.batch_size == 4
    assert timing.worker_pid == os.getpid()
    assert timing.queue_us >= 0
    assert timing.compute_us >= 0
    assert server.counter.errors == 0


def test_only_the_outputs_asked_for_are_run() -> None:
    """output_filter reaches the session; an empty one asks for all."""
    session = half_plus_two()
    server = serve(session)
    assert list(arrays(server.predict({"x": X, "k": K}, output_filter=["total"]))) == ["total"]
    assert set(arrays(server.predict({"x": X, "k": K}, output_filter=[]))) == {"y", "total"}
    assert [outputs for _, outputs in session.runs] == [("total",), ("y", "total")]


def test_version_and_signature_are_found() -> None:
    """An exact version, a label, or the newest; empty strings count as unset."""
    old, new = half_plus_two(), half_plus_two()
    server = Server(Servable("m", 1, old), Servable("m", 2, new))
    server.registry.relabel({"m": {"stable": 1}})
    versions = [
        server.predict({"x": X, "k": K}, **asked).model_spec.version
        for asked in ({}, {"version": 1}, {"version_label": "stable"}, {"version_label": "", "signature_name": ""})
    ]
    assert versions == [2, 1, 1, 2]
    assert (len(old.runs), len(new.runs)) == (2, 2)


GOOD = {"x": to_tensor(X), "k": to_tensor(K)}
FLOAT, STRING = DataType.FLOAT, DataType.STRING

WRONG_INPUTS = {
    "missing": ({"x": GOOD["x"]}, ["inputs 'k' are missing", "model 'm' takes 'k', 'x'"]),
    "none at all": ({}, ["inputs 'k', 'x' are missing"]),
    "unset": (None, ["inputs 'k', 'x' are missing"]),
    "extra": ({**GOOD, "z": GOOD["x"]}, ["inputs 'z' are unknown", "takes 'k', 'x'"]),
    "misspelt": ({"X": GOOD["x"], "k": GOOD["k"]}, ["inputs 'x' are missing and inputs 'X' are unknown"]),
    "dtype": ({**GOOD, "x": to_tensor(X.astype(np.float64))}, ["'x' has dtype DOUBLE: expected FLOAT"]),
    "dtype of a scalar": ({**GOOD, "k": to_tensor(np.int32(1))}, ["'k' has dtype INT32: expected INT64"]),
    "strings for floats": ({**GOOD, "x": Tensor(STRING, [1], None, [b"a"])}, ["'x' has dtype STRING"]),
    "unknown dtype": ({**GOOD, "x": Tensor(99, [1, 3], b"")}, ["'x' has dtype 99 (unknown): expected FLOAT"]),
    "no dtype": ({**GOOD, "x": Tensor(None, [1, 3], b"")}, ["'x' has dtype none: expected FLOAT"]),
    "rank": ({**GOOD, "x": to_tensor(X[0])}, ["'x' of shape [3] has 1 dimensions: expected [?, 3]"]),
    "rank of a scalar": ({**GOOD, "k": to_tensor(np.array([1]))}, ["'k' of shape [1] has 1 dim", "expected []"]),
    "fixed size": (
        {**GOOD, "x": to_tensor(np.zeros((5, 4), np.float32))},
        ["'x' of shape [5, 4] has size 4 in dimension 1: expected [?, 3]"],
    ),
    "short content": ({**GOOD, "x": Tensor(FLOAT, [1, 3], b"\0" * 11)}, ["input 'x'", "[1, 3]", "12 bytes", "got 11"]),
    "long content": ({**GOOD, "x": Tensor(FLOAT, [1, 3], b"\0" * 16)}, ["input 'x'", "12 bytes", "got 16"]),
    "no content": ({**GOOD, "x": Tensor(FLOAT, [1, 3])}, ["input 'x'", "12 bytes", "got none"]),
    "no shape": ({**GOOD, "x": Tensor(FLOAT, None, b"")}, ["input 'x'", "without a shape"]),
    "negative size": ({**GOOD, "x": Tensor(FLOAT, [-1, 3], b"")}, ["input 'x'", "[-1, 3]", "negative"]),
    "two negatives": ({**GOOD, "x": Tensor(FLOAT, [-2, -3], b"\0" * 24)}, ["input 'x'", "[-2, -3]", "negative"]),
    "huge": ({**GOOD, "x": Tensor(FLOAT, [2**62, 3], b"")}, ["input 'x'", "got 0"]),
    "huge and empty": ({**GOOD, "x": Tensor(FLOAT, [0, 2**62], b"")}, ["input 'x'", "[0, 4611686018427387904]"]),
}


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_wrong_inputs_are_named(case: str) -> None:
    """The message says what was sent and what was expected; the session never sees it; it is counted once."""
    inputs, words = WRONG_INPUTS[case]
    session = half_plus_two()
    server = serve(session)
    request = PredictRequest(ModelSpec("m"), inputs)
    error = refused(lambda: server.call("predict", request), ErrorCode.INVALID_ARGUMENT, *words)
    assert error.retryable is False
    assert session.runs == []
    assert server.counter.errors == 1


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        (None, ErrorCode.INVALID_ARGUMENT, ["model_spec.name is not set"]),
        (ModelSpec(""), ErrorCode.INVALID_ARGUMENT, ["model_spec.name is not set"]),
        (ModelSpec("n"), ErrorCode.NOT_FOUND, ["'n'", "'m'"]),
        (ModelSpec("m", 9), ErrorCode.NOT_FOUND, ["'m'", "9", "3"]),
        (ModelSpec("m", 3, "stable"), ErrorCode.INVALID_ARGUMENT, ["version 3", "version_label 'stable'", "one of"]),
        (ModelSpec("m", None, None, "s"), ErrorCode.NOT_FOUND, ["version 3 has no signature 's'", DEFAULT_SIGNATURE]),
    ],
)
def test_what_is_not_served_is_named(spec: ModelSpec | None, code: ErrorCode, words: list[str]) -> None:
    """Model, version and signature that are not there are named beside those that are."""
    session = half_plus_two()
    server = serve(session)
    refused(lambda: server.call("predict", PredictRequest(spec, GOOD)), code, *words)
    assert session.runs == []


def test_a_label_that_is_not_there_is_named() -> None:
    """An unknown label is refused and named."""
    session = half_plus_two()
    with pytest.raises(PredictError, match="'canary'"):
        serve(session).predict({"x": X, "k": K}, version_label="canary")
    assert session.runs == []


@pytest.mark.parametrize(
    ("output_filter", "words"),
    [
        (["z"], ["output_filter names 'z'", "model 'm'", "'total', 'y'"]),
        (["y", "y"], ["output_filter names 'y' more than once"]),
    ],
)
def test_a_wrong_output_filter_is_named(output_filter: list[str], words: list[str]) -> None:
    """Outputs that are not there, or named twice, are refused before the run."""
    session = half_plus_two()
    server = serve(session)
    call = lambda: server.predict({"x": X, "k": K}, output_filter=output_filter)  # noqa: E731  # one for all three
    refused(call, ErrorCode.INVALID_ARGUMENT, *words)
    assert session.runs == []


def test_a_call_without_request_is_refused() -> None:
    """A client that leaves the argument out is told so."""
    server = serve(half_plus_two())
    for method in ("predict", "classify", "detect"):
        refused(lambda: getattr(server.handler, method)(None), ErrorCode.INVALID_ARGUMENT, "no request")  # noqa: B023


def test_messages_do_not_grow_with_the_request() -> None:
    """Thousands of long input names give a message of moderate length."""
    inputs = {f"{number:05d}" + "x" * 1000: GOOD["k"] for number in range(2000)}
    server = serve(half_plus_two())
    request = PredictRequest(ModelSpec("m"), inputs)
    error = refused(lambda: server.call("predict", request), ErrorCode.INVALID_ARGUMENT, "and 1980 more")
    assert len(error.message) < 4000


def test_a_batch_dimension_is_not_assumed() -> None:
    """Inputs of different leading sizes are the model's own business."""
    made = signature({"a": (FLOAT, (None,)), "b": (FLOAT, (None, None))}, {"n": (DataType.INT64, ())})
    session = one_function(made, lambda inputs: {"n": np.array(inputs["a"].size + inputs["b"].size)})
    response = serve(session).predict({"a": np.zeros(2, np.float32), "b": np.zeros((3, 4), np.float32)})
    assert arrays(response)["n"] == 14


def test_signatures_without_inputs_run() -> None:
    """A signature that takes nothing is run with nothing, as a batch of one."""
    session = one_function(signature({}, {"answer": (DataType.INT32, ())}), lambda _: {"answer": np.int32(42)})
    response = serve(session).predict({})
    assert arrays(response)["answer"] == 42
    assert response.timing.batch_size == 1


def test_any_rank_and_strings_pass() -> None:
    """An input of unknown rank takes any shape; STRING arrives as an object array of bytes."""
    made = signature({"s": (STRING, None)}, {"s": (STRING, None)})
    session = one_function(made, lambda inputs: {"s": inputs["s"]})
    for value in (b"a", [b"a", b"\xff\x00"], [[b"a"], [b"b"]]):
        sent = np.array(value, dtype=object)
        received = arrays(serve(session).predict({"s": sent}))["s"]
        assert received.shape == sent.shape
        assert received.tolist() == sent.tolist()


def unvalidated() -> NumpySession:
    return one_function(Signature(DEFAULT_SIGNATURE, validated=False), lambda inputs: {"sum": sum(inputs.values())})


def test_a_model_without_declared_signature_gets_what_is_sent() -> None:
    """Names, dtypes and shapes are not checked where nothing is declared; content against shape still is."""
    server = serve(unvalidated())
    response = server.predict({"anything": np.arange(3), "else": np.ones((2, 3))})
    assert arrays(response)["sum"].shape == (2, 3)
    assert list(arrays(server.predict({"a": X}, output_filter=["sum"]))) == ["sum"]
    short = PredictRequest(ModelSpec("m"), {"a": Tensor(FLOAT, [2], b"\0" * 4)})
    refused(lambda: server.call("predict", short), ErrorCode.INVALID_ARGUMENT, "input 'a'", "8 bytes", "got 4")


def test_an_output_that_no_signature_declares_is_named_afterwards() -> None:
    """What such a model gives is only known after the run: a wrong filter is the caller's mistake all the same."""
    server = serve(unvalidated())
    call = lambda: server.predict({"a": X}, output_filter=["z"])  # noqa: E731  # one line below
    refused(call, ErrorCode.INVALID_ARGUMENT, "output_filter names 'z'", "outputs 'sum'")


FAILURES: dict[str, tuple[Exception, ErrorCode, bool, str]] = {
    "refused by the model": (InvalidArgument("too long"), ErrorCode.INVALID_ARGUMENT, False, "too long"),
    "not ready": (FailedPrecondition("no table"), ErrorCode.FAILED_PRECONDITION, False, "no table"),
    "failed": (Internal("bad node"), ErrorCode.INTERNAL, False, "bad node"),
    "unforeseen": (ZeroDivisionError("secret"), ErrorCode.INTERNAL, False, "ZeroDivisionError"),
    "out of memory": (MemoryError(), ErrorCode.RESOURCE_EXHAUSTED, True, "memory"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_of_a_model_are_told(case: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each failure has its code; an unforeseen one gives its type, and its text and traceback to the log alone."""
    failure, code, retryable, words = FAILURES[case]

    def fail(_: Arrays) -> dict[str, Any]:
        raise failure

    server = serve(one_function(signature({}, {}), fail))
    with caplog.at_level(logging.INFO, logger="thriftserve.service"):
        error = refused(lambda: server.predict({}, request_id="r-17"), code, words)
    assert error.retryable is retryable
    assert "secret" not in error.message
    assert server.counter.errors == 1
    logged = [record for record in caplog.records if "r-17" in record.getMessage()]
    server_side = not isinstance(failure, ThriftServeError) or code == ErrorCode.INTERNAL
    assert len(logged) == server_side
    assert all(record.exc_info and record.exc_info[1] is failure for record in logged)


def test_what_is_no_exception_passes_the_door() -> None:
    """SystemExit is not turned into an answer: the layer that owns the thread decides."""

    def leave(_: Arrays) -> dict[str, Any]:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        serve(one_function(signature({}, {}), leave)).predict({})


@pytest.mark.parametrize(
    ("given", "words"), [({}, "did not return the outputs 'y'"), ({"y": np.complex64(1)}, "output 'y' can't be sent")]
)
def test_a_model_that_breaks_its_word_is_internal(given: dict[str, Any], words: str) -> None:
    """Missing outputs, and ones that no tensor can carry, are the model's fault, not the caller's."""
    session = one_function(signature({}, {"y": (FLOAT, None)}), lambda _: given)
    refused(lambda: serve(session).predict({}), ErrorCode.INTERNAL, words)


def test_an_exchanged_servable_gets_a_plan_of_its_own() -> None:
    """A version that is loaded anew is checked by its own signature."""
    server = serve(half_plus_two())
    server.predict({"x": X, "k": K})
    again = one_function(signature({}, {"y": (FLOAT, None)}), lambda _: {"y": X})
    server.registry.replace([Servable("m", 3, again)])
    assert arrays(server.predict({}))["y"].tolist() == X.tolist()


def test_what_is_no_longer_served_is_let_go() -> None:
    """Once a version is out of the registry, the handler does not hold its session in memory."""
    session = half_plus_two()
    server = serve(session)
    server.predict({"x": X, "k": K})
    server.registry.replace([])
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
