"""The Open Inference Protocol: what an inference asks for beside its tensors is done, or refused by name."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from documents import SUPPORT
from gateway_served import Answer, Door, gateway
from served import Served
from thriftserve.gateway.http import Refusal
from thriftserve.gateway.v2 import best_classes
from thriftserve.gateway.v2_request import InferRequest, RequestedOutput

TESTS = str(SUPPORT)
CLASSES, ANYTHING, KINDS = (f"/v2/models/{name}/infer" for name in ("classes", "anything", "kinds"))
LENGTH = "inference-header-content-length"
LABELS = ("cat", "", "big: dog")
X = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [0.1, 0.7, 0.2, 3, 1, 2]}
BINARY = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """A gateway before a server of Python models."""
    flags = [f"--model={name.lower()}=python:gateway_models:{name}" for name in ("Classes", "Anything", "Kinds")]
    with (
        Served(*flags, "--workers", "1", "--server-type", "TThreadPoolServer", PYTHONPATH=TESTS) as server,
        gateway(server.port) as made,
    ):
        yield made


def asked(name: str = "scores", **parameters: Any) -> dict[str, Any]:
    """A request for one output."""
    return {"inputs": [X], "outputs": [{"name": name, "parameters": parameters}]}


def output(answer: Answer) -> Any:
    """The only output of an answer, which is good."""
    assert answer.status == 200, answer.body
    (one,) = answer.json()["outputs"]
    return one


# Classification


@pytest.mark.parametrize(
    ("most", "shape", "data"),
    [
        (1, [2, 1], ["0.7:1", "3.0:0:cat"]),
        (2, [2, 2], ["0.7:1", "0.2:2:big: dog", "3.0:0:cat", "2.0:2:big: dog"]),
        (9, [2, 3], ["0.7:1", "0.2:2:big: dog", "0.1:0:cat", "3.0:0:cat", "2.0:2:big: dog", "1.0:1"]),
    ],
)
def test_an_output_comes_as_its_best_classes(door: Door, most: int, shape: list[int], data: list[str]) -> None:
    """Of each row so many values as text with their class numbers and the model's labels, best first."""
    told = output(door.post(CLASSES, asked(classification=most)))
    assert told == {"name": "scores", "datatype": "BYTES", "shape": shape, "data": data}


def test_classes_beside_other_outputs_and_as_bytes(door: Door) -> None:
    """Each output is given as it is asked for: as classes, as values, or either behind the JSON."""
    outputs = [
        {"name": "number"},
        {"name": "scores", "parameters": {"classification": 1, "binary_data": True}},
    ]
    answer = door.post(CLASSES, {"inputs": [X], "outputs": outputs})
    size = int(answer.headers[LENGTH])
    number, scores = json.loads(answer.body[:size])["outputs"]
    assert number == {"name": "number", "datatype": "INT64", "shape": [2], "data": [1, 0]}
    tail = struct.pack("<I", 5) + b"0.7:1" + struct.pack("<I", 9) + b"3.0:0:cat"
    assert answer.body[size:] == tail
    binary = {"binary_data_size": len(tail)}
    assert scores == {"name": "scores", "datatype": "BYTES", "shape": [2, 1], "parameters": binary}


def test_classes_of_an_undeclared_output(door: Door) -> None:
    """A model that declares nothing has classes where its output has a dimension."""
    one = {"name": "y", "shape": [3], "datatype": "INT64", "data": [5, 9, 7]}
    sent = {"inputs": [one], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}
    assert output(door.post(ANYTHING, sent))["data"] == ["9:1", "7:2"]
    sent["inputs"] = [{**one, "shape": [], "data": [5]}]
    answer = door.post(ANYTHING, sent)
    assert answer.status == 400 and "output 'y' is INT64 []: classification expects numbers" in answer.error


@pytest.mark.parametrize("name", ["known", "name", "total"])
def test_outputs_without_classes(door: Door, name: str) -> None:
    """Truth values, text and scalars have none: the output is named, and not given as it is."""
    answer = door.post(CLASSES, asked(name, classification=1))
    assert answer.status == 400
    assert f"output {name!r} is " in answer.error and "classification expects numbers" in answer.error


@pytest.mark.parametrize(
    ("array", "most", "expected"),
    [
        (np.array([1.5, np.nan, np.inf, -np.inf], np.float32), 4, [b"Infinity:2", b"1.5:0", b"-Infinity:3", b"NaN:1"]),
        (np.array([0.1, 0.1, 0.2], np.float32), 3, [b"0.2:2", b"0.1:0", b"0.1:1"]),
        (np.array([2**63, 2**64 - 1, 0], np.uint64), 2, [b"18446744073709551615:1", b"9223372036854775808:0"]),
        (np.array([-(2**63), 2**63 - 1, 0]), 3, [b"9223372036854775807:1", b"0:2", b"-9223372036854775808:0"]),
        (np.array([-128, 127], np.int8), 1, [b"127:1"]),
        (np.array([0.1], np.float16), 1, [b"0.099975586:0"]),
        (np.array([1e-7, 1e-45], np.float64), 2, [b"1e-7:0", b"1e-45:1"]),
        (np.zeros((2, 0), np.float32), 3, []),
    ],
)
def test_the_order_of_classes(array: Any, most: int, expected: list[bytes]) -> None:
    """Highest first, equal ones by number, NaN last, of every type, to the last digit."""
    found = best_classes("y", array, most, ())
    assert found.ravel().tolist() == expected
    assert found.shape == (*array.shape[:-1], min(most, array.shape[-1]))


def test_classes_of_more_dimensions() -> None:
    """The last dimension is that of the classes, whatever stands before."""
    array = np.arange(8.0).reshape(2, 2, 2)
    assert best_classes("y", array, 1, LABELS).tolist() == [[[b"1.0:1"], [b"3.0:1"]], [[b"5.0:1"], [b"7.0:1"]]]


# What can't be had


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (asked(shared_memory_region="r"), "output 'scores': parameters.shared_memory_region is \"r\": shared memory"),
        (asked(shared_memory_byte_size=64), "output 'scores': parameters.shared_memory_byte_size is 64: shared memory"),
        (asked(shared_memory_offset=0), "output 'scores': parameters.shared_memory_offset is 0: shared memory"),
        (
            {"inputs": [{**X, "data": None, "parameters": {"shared_memory_region": "r"}}]},
            "input 'x': parameters.shared_memory_region is \"r\": shared memory is not supported here",
        ),
        (asked(classification=-1), "output 'scores': parameters.classification is -1: expected a number of classes"),
        (
            asked(classification="2"),
            "output 'scores': parameters.classification is \"2\": expected a number of classes",
        ),
        (
            asked(classification=True),
            "output 'scores': parameters.classification is true: expected a number of classes",
        ),
        (asked(classification=1.5), "output 'scores': parameters.classification is 1.5: expected a number of classes"),
        (asked(binary_data="false"), "output 'scores': parameters.binary_data is \"false\": expected true or false"),
        (asked(binary_data=1), "output 'scores': parameters.binary_data is 1: expected true or false"),
        (
            asked(other=[1]),
            "output 'scores': parameters.other is [\n    1\n]: expected text, a number or a truth value",
        ),
        (
            {"inputs": [X], "parameters": {"sequence_id": 7}},
            "parameters.sequence_id is 7: models here have no sequences",
        ),
        ({"inputs": [X], "parameters": {"sequence_start": True}}, "parameters.sequence_start is true: models here"),
        ({"inputs": [X], "parameters": {"sequence_end": True}}, "parameters.sequence_end is true: models here"),
        ({"inputs": [X], "parameters": {"triton_x": 1}}, "parameters.triton_x: names that begin with triton_"),
        (
            {"inputs": [X], "parameters": {"binary_data_output": "no"}},
            'parameters.binary_data_output is "no": expected',
        ),
        (
            {"inputs": [X], "parameters": {"timeout": 0.5}},
            "parameters.timeout is 0.5: expected a whole number of microseconds",
        ),
        (
            {"inputs": [X], "parameters": {"timeout": -1}},
            "parameters.timeout is -1: expected a whole number of microseconds",
        ),
        ({"inputs": [X], "parameters": {"signature_name": 3}}, "parameters.signature_name is 3: expected text"),
        ({"inputs": [X], "parameters": [1]}, "parameters is [\n    1\n]: expected an object"),
        ({"inputs": [{**X, "parameters": 3}]}, "input 'x': parameters is 3: expected an object"),
        (
            {"inputs": [X], "outputs": [{"name": "scores", "parameters": 3}]},
            "output 'scores': parameters is 3: expected",
        ),
        ({"inputs": [X], "id": 3}, "id is 3: expected text"),
        ({"inputs": [X], "outputs": {}}, '"outputs" is {}: expected a list'),
        ({"inputs": [X], "outputs": False}, '"outputs" is false: expected a list'),
        (
            {"inputs": [X], "outputs": [{"name": "scores"}, {"name": "scores"}]},
            "has output 'scores' more than once",
        ),
        (
            {"inputs": [X], "outputs": [{"name": "z"}]},
            "output 'z' does not exist: expected some of known, name, number, scores, total",
        ),
        ({"inputs": [X, X]}, "has input 'x' more than once"),
        ({"inputs": [{**X, "parameters": {"binary_data_size": 0}}]}, "input 'x' has data and binary_data_size"),
        ({"inputs": [X, {**X, "name": "z"}]}, "'z'"),
    ],
)
def test_what_can_not_be_had_is_refused(door: Door, sent: Any, message: str) -> None:
    """Whatever would not be as it was asked is a 400 that names it, in the protocol's form of an error."""
    answer = door.post(CLASSES, sent)
    assert answer.status == 400, answer.body
    assert message in answer.error


def test_the_query_of_an_inference(door: Door) -> None:
    """It may say the signature, which the body goes before; what has no effect is refused by name."""
    one = {"name": "x", "shape": [1], "datatype": "INT8", "data": [7]}
    assert output(door.post(f"{KINDS}?signature_name=int8", {"inputs": [one]}))["data"] == [7]
    sent = {"inputs": [one], "parameters": {"signature_name": "int8"}}
    assert output(door.post(f"{KINDS}?signature_name=float32", sent))["datatype"] == "INT8"
    answer = door.post(f"{CLASSES}?top_k=1", {"inputs": [X]})
    assert (answer.status, answer.error) == (
        400,
        "the query has top_k, which has no effect here; known here: timeout, signature_name",
    )
    told = door.get("/v2/models/kinds?signature_name=int8").json()
    assert told["inputs"] == [{"name": "x", "datatype": "INT8", "shape": []}]
    assert door.get("/v2/models/kinds?output=y").status == 400


# What is null is as if left out, and what is let pass


@pytest.mark.parametrize(
    "more",
    [
        {"id": None, "outputs": None, "parameters": None},
        {"parameters": {}, "outputs": []},
        {"inputs": [{**X, "parameters": None}]},
        {"inputs": [{**X, "parameters": {"binary_data_size": None, "shared_memory_region": None}}]},
        {"parameters": {"sequence_id": 0, "sequence_start": False, "sequence_end": None, "priority": 3, "mine": 0.5}},
        {"parameters": {"binary_data_output": None, "timeout": None, "signature_name": None, "triton": "x"}},
        {"parameters": {"binary_data_output": False, "timeout": 0, "signature_name": ""}},
        {"inputs": [{**X, "parameters": {"content_type": "np"}, "more": 1}], "more": 2},
    ],
)
def test_what_is_left_out(door: Door, more: dict[str, Any]) -> None:
    """Optional parts that are null, empty or without effect change nothing of the answer."""
    plain = door.post(CLASSES, {"inputs": [X]})
    assert [one["name"] for one in plain.json()["outputs"]] == ["scores", "number", "known", "name", "total"]
    told = door.post(CLASSES, {"inputs": [X], **more})
    assert (told.status, told.body) == (200, plain.body)


@pytest.mark.parametrize(
    "parameters",
    [None, {}, {"classification": None, "binary_data": None}, {"classification": 0}, {"content_type": "x"}],
)
def test_what_is_left_out_of_an_output(door: Door, parameters: Any) -> None:
    """So do those of an output: it is given as it is."""
    sent = {"inputs": [X], "outputs": [{"name": "number", "parameters": parameters}]}
    assert output(door.post(CLASSES, sent)) == {"name": "number", "datatype": "INT64", "shape": [2], "data": [1, 0]}


def test_null_data_beside_bytes(door: Door) -> None:
    """An input whose bytes follow may say that it has no data."""
    text = json.dumps({"inputs": [{**BINARY, "data": None}], "outputs": [{"name": "number"}], "id": "é"}).encode()
    body = text + np.array([0, 0, 1], np.float32).tobytes()
    answer = door.post(CLASSES, body, {"Inference-Header-Content-Length": str(len(text))})
    assert output(answer)["data"] == [2]
    assert answer.json()["id"] == "é"


def test_bytes_are_asked_for_by_default_and_one_by_one(door: Door) -> None:
    """binary_data_output holds for every output that does not say binary_data of its own."""
    names = ({"name": "number", "parameters": {"binary_data": False}}, {"name": "scores"})
    sent = {"inputs": [X], "outputs": names, "parameters": {"binary_data_output": True}}
    answer = door.post(CLASSES, sent)
    number, scores = json.loads(answer.body[: int(answer.headers[LENGTH])])["outputs"]
    assert number["data"] == [1, 0]
    assert scores["parameters"] == {"binary_data_size": 24}


def test_only_the_outputs_wanted_are_asked_of_the_server(door: Door) -> None:
    """An output that nobody asked for is not run, and those that were come in the order of the request."""
    sent = {"inputs": [X], "outputs": [{"name": "total"}, {"name": "number"}]}
    assert [one["name"] for one in door.post(CLASSES, sent).json()["outputs"]] == ["total", "number"]
    one = {"name": "y", "shape": [1], "datatype": "INT64", "data": [5]}
    answer = door.post(ANYTHING, {"inputs": [one], "outputs": [{"name": "z"}]})
    assert answer.status == 400 and "'z'" in answer.error


@pytest.mark.parametrize(
    ("parameters", "query", "status"),
    [
        ({"timeout": 100_000}, "", 504),
        ({"timeout": 1}, "", 504),
        ({"timeout": 30_000_000}, "", 200),
        ({"timeout": 100_000}, "?timeout=30", 200),
        ({}, "?timeout=0.1", 504),
    ],
)
def test_the_time_of_a_request(door: Door, parameters: dict[str, Any], query: str, status: int) -> None:
    """`timeout` is the request's time in microseconds, unless the query says another."""
    one = {"name": "sleep_s", "shape": [], "datatype": "FP32", "data": [0.4]}
    sent = {"inputs": [one], "parameters": {"signature_name": "slow", **parameters}}
    assert door.post(f"{CLASSES}{query}", sent).status == status


def test_extensions_are_told(door: Door) -> None:
    """The server's metadata names what of the protocol's extensions there is."""
    assert door.get("/v2").json()["extensions"] == ["binary_tensor_data", "classification"]


def test_a_request_as_it_is_read() -> None:
    """The parts of a request, by themselves."""
    assert InferRequest.read({}) == InferRequest()
    made = InferRequest.read(
        {
            "id": "7",
            "parameters": {"signature_name": "s", "timeout": 1500, "binary_data_output": True},
            "outputs": [{"name": "a", "parameters": {"classification": 2}}, {"name": "b"}],
        }
    )
    outputs = {"a": RequestedOutput(True, 2), "b": RequestedOutput(True)}
    assert made == InferRequest("7", "s", 0.0015, outputs, RequestedOutput(True))
    assert made.requested(["a", "b", "c"]) == outputs
    assert InferRequest.read({}).requested(["a"]) == {"a": RequestedOutput()}
    with pytest.raises(Refusal):
        InferRequest.read({"outputs": [{"name": None}]})
