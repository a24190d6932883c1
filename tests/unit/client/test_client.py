"""The client against a real service: what goes out, what comes back."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import thriftserve_client
from client_service import Service, serving
from thriftserve_client import (
    Client,
    DataType,
    DeadlineExceededError,
    ErrorCode,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    MessageTooLarge,
    NotFoundError,
    ResourceExhaustedError,
    ServerError,
    TensorError,
    Timing,
    UnavailableError,
    UnimplementedError,
    errors,
)
from thriftserve_client.requests import tensors


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(port=service.port) as one:
        yield one


@pytest.mark.parametrize("transport", ["framed", "buffered"])
@pytest.mark.parametrize("protocol", ["binary", "compact"])
def test_every_wire(transport: str, protocol: str) -> None:
    """Each transport with each protocol carries small and large tensors, strings, results and errors."""
    large = np.random.default_rng(1).random((224, 224, 3), np.float32)
    with (
        serving(transport, protocol) as service,
        Client(port=service.port, transport=transport, protocol=protocol) as client,
    ):
        client.ping()
        prediction = client.predict("echo", {"large": large, "text": [["a", "é"]], "small": np.int8(3)})
        np.testing.assert_array_equal(prediction["large"], large)
        assert prediction["text"].tolist() == [[b"a", "é".encode()]]
        assert prediction["small"].dtype == np.int8
        with pytest.raises(NotFoundError):
            client.predict("missing", {})
        assert client.models()[0].name == "half_plus_two"


def test_unix_socket(tmp_path: Path) -> None:
    """A server on a Unix socket is called by its path."""
    path = tmp_path / "s"
    with serving(unix_socket=str(path)), Client(unix_socket=path) as client:
        client.ping()


def test_prediction(client: Client) -> None:
    """A prediction is a mapping of outputs, with what was run and the time it took."""
    prediction = client.predict("half_plus_two", {"x": np.array([1, 2, 5], np.float32)})
    assert sorted(prediction) == ["x", "y"]
    assert len(prediction) == 2
    assert prediction["y"].tolist() == [2.5, 3.0, 4.5]
    assert (prediction.model, prediction.version, prediction.signature) == ("half_plus_two", 7, "serving_default")
    assert prediction.timing == Timing(3, 40, 2, 4711)
    with pytest.raises(KeyError, match="output 'z' does not exist: expected one of"):
        prediction["z"]


def test_what_predict_sends(service: Service, client: Client) -> None:
    """Every argument arrives in its field, and the call's time as the deadline."""
    x = np.array([1], np.float32)
    client.predict(
        "half_plus_two", {"x": x}, version=3, signature="other", outputs=["y"], timeout_s=1.5, request_id="r1"
    )
    sent = service.handler.requests[-1]
    assert (sent.model_spec.name, sent.model_spec.version, sent.model_spec.signature_name) == (
        "half_plus_two",
        3,
        "other",
    )
    assert (sent.output_filter, sent.timeout_ms, sent.request_id) == (["y"], 1500, "r1")
    client.predict("half_plus_two", {"x": x}, label="stable", outputs="y", timeout_s=None)
    sent = service.handler.requests[-1]
    assert (sent.model_spec.version, sent.model_spec.version_label) == (None, "stable")
    assert (sent.output_filter, sent.timeout_ms) == (["y"], None)
    client.predict("half_plus_two", {"x": x})
    assert service.handler.requests[-1].timeout_ms == 30_000


def test_large_inputs_are_not_copied() -> None:
    """A large input's Tensor shares the array's memory."""
    array = np.zeros(100_000, np.float32)
    content = tensors({"x": array})["x"].content
    assert np.shares_memory(np.frombuffer(content, np.uint8), array)


def test_version_and_label_together_are_refused(client: Client) -> None:
    """A version named twice is the caller's mistake, said before anything is sent."""
    with pytest.raises(ValueError, match="are both set"):
        client.predict("half_plus_two", {}, version=1, label="stable")


def test_an_input_that_is_no_tensor_is_named(client: Client) -> None:
    """The error of the codec says which input it is about."""
    with pytest.raises(TensorError, match="input 'x': numpy dtype complex128"):
        client.predict("echo", {"x": 1j})


def test_classify(service: Service, client: Client, tmp_path: Path) -> None:
    """Images go as bytes or paths, one or several; classes come back for each."""
    file = tmp_path / "b.png"
    file.write_bytes(b"second")
    answer = client.classify("digits", [b"first", file, str(file)], top_k=2, label="canary")
    assert service.handler.requests[-1].images == [b"first", b"second", b"second"]
    assert service.handler.requests[-1].model_spec.version_label == "canary"
    assert len(answer) == 3
    assert [(one.label, one.score, one.class_id) for one in answer[0]] == [("class 0", 1.0, 0), ("class 1", 0.5, 1)]
    assert answer.model == "digits"
    assert len(client.classify("digits", b"alone")) == 1
    assert len(client.classify("digits", file)) == 1
    with pytest.raises(FileNotFoundError):
        client.classify("digits", "no-such-file.png")


def test_detect(service: Service, client: Client) -> None:
    """Boxes come back for each image, with the image's size; an image without any has none."""
    answer = client.detect("street", [b"image", b""], min_score=0.25, max_detections=3)
    sent = service.handler.requests[-1]
    assert (sent.min_score, sent.max_detections) == (0.25, 3)
    found, nothing = answer
    assert (found.width, found.height, len(nothing)) == (640, 480, 0)
    assert (found[0].label, found[0].score, found[0].class_id) == ("cat", 0.75, 17)
    assert (found[0].y_min, found[0].x_min, found[0].y_max, found[0].x_max) == (0.1, 0.2, 0.5, 1.0)


def test_metadata(client: Client) -> None:
    """Signatures, labels; sizes and ranks that may be any are None."""
    found = client.metadata("half_plus_two")
    signature = found.signatures["serving_default"]
    assert (found.model, found.version, found.platform, found.labels) == (
        "half_plus_two",
        7,
        "tensorflow",
        ("cat", "dog"),
    )
    assert (signature.inputs["x"].dtype, signature.inputs["x"].shape) == (DataType.FLOAT, (None,))
    assert signature.outputs["y"].shape is None


def test_status(client: Client) -> None:
    """Versions with their states in words, END among them, and their failures."""
    here, gone = client.status("half_plus_two").versions
    assert (here.version, here.state, here.error, here.labels) == (7, "AVAILABLE", None, ("stable",))
    assert (gone.version, gone.state, gone.error, gone.error_message) == (6, "END", "INTERNAL", "no such file")
    assert client.models() == [client.status("half_plus_two")]


def test_server_status(client: Client) -> None:
    """The server's and the workers' fields arrive under their names."""
    status = client.server_status()
    assert (status.state, status.server_type, status.models, status.refused) == (
        "SERVING",
        "TThreadedServer",
        ("half_plus_two",),
        3,
    )
    assert (status.workers[0].state, status.workers[0].device, status.workers[0].requests) == ("IDLE", "cpu", 120)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (ErrorCode.INVALID_ARGUMENT, InvalidArgumentError),
        (ErrorCode.DEADLINE_EXCEEDED, DeadlineExceededError),
        (ErrorCode.NOT_FOUND, NotFoundError),
        (ErrorCode.RESOURCE_EXHAUSTED, ResourceExhaustedError),
        (ErrorCode.FAILED_PRECONDITION, FailedPreconditionError),
        (ErrorCode.UNIMPLEMENTED, UnimplementedError),
        (ErrorCode.INTERNAL, InternalError),
        (ErrorCode.UNAVAILABLE, UnavailableError),
        (ErrorCode.DATA_LOSS, ServerError),
        (77, ServerError),
    ],
)
@pytest.mark.parametrize("retryable", [False, True])
def test_server_errors(client: Client, code: int, kind: type[ServerError], retryable: bool) -> None:
    """Each code has its class; code, message and retryable arrive; unknown codes stay numbers."""
    with pytest.raises(ServerError) as caught:
        client.predict("fails", {"code": np.int32(code), "retryable": np.bool_(retryable)})
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.message, error.retryable) == (code, "as you wished", retryable)
    assert "as you wished" in str(error)
    client.ping()


def test_request_over_the_limit(service: Service) -> None:
    """A request over max_message_bytes is refused here, and the client goes on."""
    with Client(port=service.port, max_message_bytes=10_000) as client:
        with pytest.raises(MessageTooLarge, match="max_message_bytes is 10000"):
            client.predict("echo", {"x": np.zeros(10_000, np.uint8)})
        client.ping()


def test_threads_share_a_client(client: Client) -> None:
    """Answers reach the thread that asked, whatever the others do."""
    mixed_up: list[Any] = []

    def ask(number: int) -> None:
        for size in range(1, 60):
            sent = np.full(size * 37, number, np.int32)
            if not np.array_equal(client.predict("echo", {"x": sent})["x"], sent):
                mixed_up.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mixed_up == []


def test_close_and_go_on(client: Client) -> None:
    """A closed client opens a new connection when it is called again; closing twice is fine."""
    client.ping()
    client.close()
    client.close()
    client.ping()


@pytest.mark.parametrize("wrong", [{"transport": "http"}, {"protocol": "json"}])
def test_unknown_words_are_refused(wrong: dict[str, str]) -> None:
    """A transport or protocol that there is not is refused with those that there are."""
    with pytest.raises(ValueError, match="expected one of"):
        Client(**wrong)  # type: ignore[arg-type]  # mypy can't see which keywords these are


def test_exports() -> None:
    """__all__ is sorted, complete, and every error of the tree is in it."""
    exported = thriftserve_client.__all__
    assert exported == sorted(exported)
    assert all(hasattr(thriftserve_client, name) for name in exported)
    tree = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Exception)}
    assert tree <= set(exported)
    assert errors.__doc__ is not None
    assert all(f" {name} " in errors.__doc__ for name in tree)


def test_importing_is_light() -> None:
    """Neither the package nor its command line imports TensorFlow, Pillow or the server, or opens a socket."""
    code = """
import socket, sys
def refuse(*_): raise AssertionError("a socket on import")
socket.socket.connect = refuse
import thriftserve_client, thriftserve_client.cli
heavy = {"tensorflow", "PIL", "thriftserve", "ml_dtypes", "rich", "psutil"} & set(sys.modules)
sys.exit(str(heavy) if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
