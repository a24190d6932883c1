"""Predict: what is right is run and answered; what is wrong is named and never reaches the session."""

from __future__ import annotations

import gc
import logging
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from encoded_images import encoded, photo, plain
from numpy_models import NumpySession, Server, arrays, half_plus_two, one_function, serve, signature
from thriftserve.errors import FailedPrecondition, Internal, InvalidArgument, ThriftServeError
from thriftserve.models.image_settings import ImageSettings
from thriftserve.models.registry import Registry
from thriftserve.models.servable import Servable
from thriftserve.models.session import Arrays
from thriftserve.models.signature import DEFAULT_SIGNATURE, Signature
from thriftserve_client.codec import to_tensor
from thriftserve_idl.ttypes import DataType, ErrorCode, ModelSpec, PredictError, PredictRequest, Tensor

X = np.array([[2.0, 4.0, 6.0]], np.float32)
K = np.int64(1)


def refused(call: Callable[[], Any], code: ErrorCode, *words: str) -> PredictError:
    """The error that a call fails with; its message has all the words."""
    with pytest.raises(PredictError) as caught:
        call()
    error = caught.value
    assert error.code == code, error.message
    for word in words:
        assert word in error.message
    return error


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
    server = Server(Servable("m", 1, old, version_labels=("stable",)), Servable("m", 2, new))
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
    "extra": ({**GOOD, "z": GOOD["x"]}, ["inputs 'z' are not known", "takes 'k', 'x'"]),
    "misspelt": ({"X": GOOD["x"], "k": GOOD["k"]}, ["inputs 'x' are missing and inputs 'X' are not known"]),
    "dtype": ({**GOOD, "x": to_tensor(X.astype(np.float64))}, ["'x' was sent as DOUBLE: expected FLOAT"]),
    "dtype of a scalar": ({**GOOD, "k": to_tensor(np.int32(1))}, ["'k' was sent as INT32: expected INT64"]),
    "strings for floats": ({**GOOD, "x": Tensor(STRING, [1], None, [b"a"])}, ["'x' was sent as STRING"]),
    "unknown dtype": ({**GOOD, "x": Tensor(99, [1, 3], b"")}, ["'x' was sent as unknown dtype 99: expected FLOAT"]),
    "no dtype": ({**GOOD, "x": Tensor(None, [1, 3], b"")}, ["'x' was sent as no dtype: expected FLOAT"]),
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
        (["z"], ["output_filter names 'z'", "model 'm'", "it has 'total', 'y'"]),
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
    refused(call, ErrorCode.INVALID_ARGUMENT, "output_filter names 'z'", "gave 'sum'")


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
    with caplog.at_level(logging.INFO, logger="thriftserve.handler"):
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
    ("given", "words"), [({}, "did not give the outputs 'y'"), ({"y": np.complex64(1)}, "output 'y' can't be sent")]
)
def test_a_model_that_breaks_its_word_is_internal(given: dict[str, Any], words: str) -> None:
    """Missing outputs, and ones that no tensor can carry, are the model's fault, not the caller's."""
    session = one_function(signature({}, {"y": (FLOAT, None)}), lambda _: given)
    refused(lambda: serve(session).predict({}), ErrorCode.INTERNAL, words)


def test_an_exchanged_servable_gets_a_plan_of_its_own() -> None:
    """A version that is loaded anew is checked by its own signature, and the old one is not held in memory."""
    first = Servable("m", 3, half_plus_two())
    server = Server(first)
    server.predict({"x": X, "k": K})
    second = Servable("m", 3, one_function(signature({}, {"y": (FLOAT, None)}), lambda _: {"y": X}))
    registry: Registry = server.handler._registry
    registry.replace([second])
    assert arrays(server.predict({}))["y"].tolist() == X.tolist()
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None


def image_model(shape: tuple[int | None, ...], dtype: DataType = FLOAT) -> NumpySession:
    """The model image -> the same image, whatever its shape."""
    made = signature({"image": (dtype, shape)}, {"same": (dtype, shape)})
    return one_function(made, lambda inputs: {"same": inputs["image"]})


def images(*data: bytes) -> dict[str, Any]:
    return {"image": np.array(data, dtype=object)}


@pytest.mark.parametrize("dtype", [DataType.FLOAT, DataType.UINT8, DataType.HALF, DataType.INT32, DataType.DOUBLE])
def test_encoded_images_become_the_input(dtype: DataType) -> None:
    """A STRING tensor for an image input is decoded to the signature's size and dtype, one row an image."""
    session = image_model((None, 6, 4, 3), dtype)
    response = serve(session).predict(images(plain(30, 20), encoded(photo(64, 48), "JPEG")))
    same = arrays(response)["same"]
    assert same.shape == (2, 6, 4, 3)
    assert same[0, 0, 0].tolist() == [255, 0, 0]
    assert response.timing.batch_size == 2


def test_image_settings_are_used() -> None:
    """Size, channels and scale come from the model's settings where its signature leaves them free."""
    settings = ImageSettings(input="image", height=5, width=7, channels=1, scale=1 / 255)
    same = arrays(serve(image_model((None, None, None, None)), image=settings).predict(images(plain())))["same"]
    assert same.shape == (1, 5, 7, 1)
    assert same[0, 0, 0, 0] == pytest.approx(76 / 255)


def test_free_sizes_keep_the_images_own() -> None:
    """Without any size set, an image keeps its own, and several must have one size."""
    session = image_model((None, None, None, 3))
    server = serve(session)
    assert arrays(server.predict(images(plain(9, 5))))["same"].shape == (1, 5, 9, 3)
    assert arrays(server.predict(images(plain(9, 5), plain(9, 5))))["same"].shape == (2, 5, 9, 3)
    runs = len(session.runs)
    call = lambda: server.predict(images(plain(9, 5), plain(4, 4)))  # noqa: E731  # one line below
    refused(call, ErrorCode.INVALID_ARGUMENT, "input 'image'", "different sizes (4x4, 9x5)", "one by one")
    assert len(session.runs) == runs


def test_an_input_without_batch_takes_one_image() -> None:
    """[H, W, C] takes one image, as a scalar or a list of one, and is a batch of one."""
    server = serve(image_model((None, None, 3)))
    for sent in (images(plain(9, 5)), {"image": plain(9, 5)}):
        response = server.predict(sent)
        assert arrays(response)["same"].shape == (5, 9, 3)
        assert response.timing.batch_size == 1


@pytest.mark.parametrize(
    ("shape", "sent", "words"),
    [
        ((1, 4, 4, 3), images(plain(), plain()), ["input 'image' takes 1 image(s) a run: 2 were sent"]),
        ((2, 4, 4, 3), images(plain()), ["input 'image' takes 2 image(s) a run: 1 were sent"]),
        ((4, 4, 3), images(plain(), plain()), ["takes 1 image(s) a run: 2 were sent"]),
        ((None, 4, 4, 3), images(), ["input 'image' was sent without an image"]),
        ((None, 4, 4, 3), images(plain(), b"junk"), ["image 1 (4 bytes, beginning b'junk')"]),
        ((None, 4, 4, 3), {"image": np.array([[plain()]], object)}, ["STRING of shape [1, 1]", "rank 1"]),
        ((None, 4, 4, 3), images(plain(2000, 1000)), ["image 0 has 2000x1000", "at most 1000000"]),
        ((None, None, None, 3), images(*[plain(900, 1000)] * 2), ["images 0 to 1 of 2 have 1800000 pixels", "1000000"]),
    ],
)
def test_wrong_images_are_named(shape: tuple[int | None, ...], sent: dict[str, Any], words: list[str]) -> None:
    """Count, place, size and shape of what was sent are told; the session never sees it."""
    session = image_model(shape)
    refused(lambda: serve(session).predict(sent), ErrorCode.INVALID_ARGUMENT, *words)
    assert session.runs == []


@pytest.mark.parametrize("shape", [(None, 3), (None, 4, 4, 2), (None, 4, 4, 3, 3), (3,)])
def test_other_inputs_take_no_images(shape: tuple[int | None, ...]) -> None:
    """Encoded images for an input of no image's shape are a wrong dtype, and images are not offered."""
    call = lambda: serve(image_model(shape)).predict(images(plain()))  # noqa: E731  # one line below
    error = refused(call, ErrorCode.INVALID_ARGUMENT, "'image' was sent as STRING: expected FLOAT")
    assert "encoded" not in error.message


def test_prepare_makes_no_difference_but_time() -> None:
    """After prepare, requests are answered as before it."""
    server = serve(image_model((None, 6, 4, 3)))
    server.handler.prepare()
    assert arrays(server.predict(images(plain())))["same"].shape == (1, 6, 4, 3)
