"""TensorFlow Serving's REST API, exchange by exchange: what is sent, and what its documentation says comes back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from documents import SUPPORT
from gateway_served import Door, gateway
from served import Served
from small_models import small

TESTS = str(SUPPORT)
KINDS = "/v1/models/kinds:predict"


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """A gateway before a server of several models."""
    models = {
        "half_plus_two": small("half_plus_two"),
        "text": small("text_classifier"),
        "kinds": "python:gateway_models:Kinds",
        "any": "python:served_models:Doubler",
        "my.model-2": "python:gateway_models:Kinds",
        "moody": "python:gateway_models:Moody",
    }
    flags = [part for name, path in models.items() for part in ("--model", f"{name}={path}")]
    with (
        Served(*flags, "--workers", "1", "--server-type", "TBatchingServer", PYTHONPATH=TESTS) as server,
        gateway(server.port) as made,
    ):
        yield made


def kind(name: str, **rest: Any) -> dict[str, Any]:
    """A request to one of the signatures of the model "kinds"."""
    return {"signature_name": name, **rest}


HALF = "/v1/models/half_plus_two:predict"
TEXT = "/v1/models/text:predict"
#: Path, what is sent, what comes back.
FINE: list[tuple[str, Any, Any]] = [
    # The documented examples, in both forms
    (HALF, {"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
    (HALF, {"inputs": [1.0, 2.0, 5.0]}, {"outputs": [2.5, 3.0, 4.5]}),
    (HALF, {"inputs": {"x": [1.0, 2.0, 5.0]}}, {"outputs": [2.5, 3.0, 4.5]}),
    (HALF, {"instances": [{"x": 1.0}, {"x": 2.0}]}, {"predictions": [2.5, 3.0]}),
    (HALF, {"signature_name": "half_plus_three", "instances": [1.0]}, {"predictions": [3.5]}),
    (HALF, {"signature_name": "serving_default", "instances": [1.0]}, {"predictions": [2.5]}),
    (HALF, {"signature_name": "", "instances": [1.0]}, {"predictions": [2.5]}),
    # What is null is as if left out
    (HALF, {"signature_name": None, "instances": [1], "inputs": None, "more": None}, {"predictions": [2.5]}),
    (HALF, {"signature_name": "half_plus_three", "inputs": [1], "instances": None}, {"outputs": [3.5]}),
    # The query says what the body does not
    (HALF + "?signature_name=half_plus_three", {"instances": [1.0]}, {"predictions": [3.5]}),
    (HALF + "?signature_name=nope", {"signature_name": "half_plus_three", "instances": [1]}, {"predictions": [3.5]}),
    (HALF + "?output=y&_=17", {"instances": [1.0]}, {"predictions": [2.5]}),
    ("/v1/models/kinds:predict?output=b", {"inputs": {"a": [1], "b": [2]}}, {"outputs": [2]}),
    ("/v1/models/kinds:predict?output=", {"inputs": {"a": [1], "b": [2]}}, {"outputs": {"a": [1.0], "b": [2]}}),
    ("/v1/models/half_plus_two/versions/1:predict", {"instances": [1.0]}, {"predictions": [2.5]}),
    # Keywords whatever their case, names URL-decoded
    ("/V1/Models/half_plus_two/Versions/1:Predict", {"instances": [1.0]}, {"predictions": [2.5]}),
    ("/v1/models/my%2Emodel%2d2:predict", kind("int32", inputs=[1]), {"outputs": [1]}),
    ("/v1/models/half%5fplus_two:predict", {"instances": [1.0]}, {"predictions": [2.5]}),
    # Several inputs and outputs: objects
    (KINDS, {"inputs": {"a": [1.5], "b": [2]}}, {"outputs": {"a": [1.5], "b": [2]}}),
    (
        KINDS,
        {"instances": [{"a": [1.5, 2], "b": 3}, {"b": 4, "a": [0, 1]}]},
        {"predictions": [{"a": [1.5, 2.0], "b": 3}, {"a": [0.0, 1.0], "b": 4}]},
    ),
    # Shapes
    (KINDS, kind("float32", inputs=7), {"outputs": 7.0}),
    (KINDS, kind("float32", inputs=[[[1, 2]], [[3, 4]]]), {"outputs": [[[1.0, 2.0]], [[3.0, 4.0]]]}),
    (KINDS, kind("float32", instances=[[[1, 2]], [[3, 4]]]), {"predictions": [[[1.0, 2.0]], [[3.0, 4.0]]]}),
    (KINDS, kind("float32", inputs=[]), {"outputs": []}),
    (KINDS, kind("float32", inputs=[[], []]), {"outputs": [[], []]}),
    (KINDS, kind("float32", instances=[[], []]), {"predictions": [[], []]}),
    (KINDS, kind("total", inputs=[1, 2]), {"outputs": 3.0}),
    # Numbers: whole ones for floats, the fewest digits of the type, the ends of its range
    (KINDS, kind("float32", inputs=[1, 0.1, 1e10, 16777215]), {"outputs": [1.0, 0.1, 1e10, 16777215.0]}),
    (KINDS, kind("float64", inputs=[0.1, 1e300, 9007199254740991]), {"outputs": [0.1, 1e300, 9007199254740991.0]}),
    (KINDS, kind("float16", inputs=[0.5, 2]), {"outputs": [0.5, 2.0]}),
    (KINDS, kind("int8", inputs=[-128, 127]), {"outputs": [-128, 127]}),
    (KINDS, kind("int16", inputs=[-32768, 32767]), {"outputs": [-32768, 32767]}),
    (KINDS, kind("int32", inputs=[-(2**31), 2**31 - 1]), {"outputs": [-(2**31), 2**31 - 1]}),
    (KINDS, kind("int64", inputs=[-(2**63), 2**63 - 1]), {"outputs": [-(2**63), 2**63 - 1]}),
    (KINDS, kind("uint8", inputs=[0, 255]), {"outputs": [0, 255]}),
    (KINDS, kind("uint32", inputs=[2**32 - 1]), {"outputs": [2**32 - 1]}),
    (KINDS, kind("uint64", inputs=[2**64 - 1]), {"outputs": [2**64 - 1]}),
    (KINDS, kind("bool", instances=[True, False]), {"predictions": [True, False]}),
    (KINDS, kind("bool", inputs=True), {"outputs": True}),
    # Text and bytes
    (KINDS, kind("string", instances=["foo", "bar", "很"]), {"predictions": ["foo", "bar", "很"]}),
    (KINDS, kind("string", inputs=[["a"], ["\u0000\n"]]), {"outputs": [["a"], ["\u0000\n"]]}),
    (KINDS, kind("string", instances=[{"b64": "aW1hZ2U="}]), {"predictions": ["image"]}),
    (KINDS, kind("string", inputs={"b64": "aW1hZ2U"}), {"outputs": "image"}),
    (KINDS, kind("string", inputs={"b64": "aW1h\nZ2U=\n"}), {"outputs": "image"}),
    (KINDS, kind("string", instances=[{"x": {"b64": "aW1hZ2U="}}]), {"predictions": ["image"]}),
    (KINDS, kind("string", instances=[{"b64": "/w=="}]), {"predictions": [{"b64": "/w=="}]}),
    (KINDS, kind("bytes", instances=["image"]), {"predictions": [{"b64": "aW1hZ2U="}]}),
    (
        KINDS,
        kind("texts", inputs=["image"]),
        {"outputs": {"raw_bytes": [{"b64": "aW1hZ2U="}], "text": ["image"]}},
    ),
    (
        KINDS,
        kind("texts", instances=["image"]),
        {"predictions": [{"raw_bytes": {"b64": "aW1hZ2U="}, "text": "image"}]},
    ),
    # The published text client's request
    (
        TEXT,
        {"instances": [{"words": ["很", "喜欢"], "nwords": 2}, {"words": ["足球", "比赛"], "nwords": 2}]},
        None,
    ),
    # A model that declares nothing is sent what the JSON looks like
    ("/v1/models/any:predict", {"inputs": {"x": [1, 2]}}, {"outputs": {"x": [1, 2], "y": [2, 4]}}),
    ("/v1/models/any:predict", {"instances": [{"x": 1.5}]}, {"predictions": [{"x": 1.5, "y": 3.0}]}),
    # A signature without inputs can be run, which TensorFlow Serving does not
    (HALF, {"signature_name": "constants", "inputs": {}}, {"outputs": {"half": 0.5, "two": 2.0}}),
]


@pytest.mark.parametrize(("path", "sent", "expected"), FINE)
def test_predictions(door: Door, path: str, sent: Any, expected: Any) -> None:
    """A request is answered with the values, types and layout that the API documents."""
    answer = door.post(path, sent)
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/json"
    if expected is not None:
        assert json.dumps(answer.json(), sort_keys=True) == json.dumps(expected, sort_keys=True)


DOCUMENT = '{\n    "instances": 3\n}'
#: Path, what is sent, status, message.
WRONG: list[tuple[str, Any, int, str | None]] = [
    # JSON comes before the model
    (HALF, b"", 400, "JSON Parse error: the body is empty"),
    (HALF, b"  ", 400, "JSON Parse error: input data is empty: line 1 column 1 (char 0)"),
    (
        "/v1/models/foo:predict",
        b"foo",
        400,
        "JSON Parse error: invalid literal, expected 'false': line 1 column 1 (char 0)",
    ),
    (HALF, b'{"instances": [1,]}', 400, "JSON Parse error: trailing comma is not allowed: line 1 column 17 (char 16)"),
    (
        HALF,
        b'{"instances": [1 2]}',
        400,
        "JSON Parse error: unexpected character, expected ',' or ']': line 1 column 18 (char 17)",
    ),
    (HALF, b'{"instances": [1]', 400, "JSON Parse error: unexpected end of data: line 1 column 18 (char 17)"),
    (
        HALF,
        b'{"instances" [1]}',
        400,
        "JSON Parse error: unexpected character, expected ':' after key: line 1 column 14 (char 13)",
    ),
    (
        HALF,
        b"{instances: [1]}",
        400,
        "JSON Parse error: unexpected character, expected a string key: line 1 column 2 (char 1)",
    ),
    (HALF, b'{"instances', 400, "JSON Parse error: unexpected end of data: line 1 column 12 (char 11)"),
    (HALF, b'{"\\q": 1}', 400, "JSON Parse error: invalid escaped sequence in string: line 1 column 3 (char 2)"),
    (
        HALF,
        b'{"instances": [1]} {}',
        400,
        "JSON Parse error: unexpected content after document: line 1 column 20 (char 19)",
    ),
    (HALF, '{"很": nul}', 400, "JSON Parse error: invalid literal, expected 'null': line 1 column 7 (char 6)"),
    (
        HALF,
        b'{"instances": [1e999]}',
        400,
        "JSON Parse error: number is infinity when parsed as double: line 1 column 16 (char 15)",
    ),
    (HALF, b"[1]", 400, "JSON Value: [\n    1\n] Is not object"),
    # The model, its version, its label, its signature
    ("/v1/models/foo:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(foo)"),
    (
        "/v1/models/half_plus_two/versions/9:predict",
        {"instances": [1]},
        404,
        "Servable not found for request: Specific(half_plus_two, 9)",
    ),
    (
        "/v1/models/half_plus_two/labels/canary:predict",
        {"instances": [1]},
        400,
        "Unrecognized servable version label: canary",
    ),
    (
        "/v1/models/half_plus_two/versions/9223372036854775808:predict",
        {"instances": [1]},
        400,
        "Failed to convert version: 9223372036854775808 to numeric.",
    ),
    (
        HALF,
        {"signature_name": "nope", "instances": [1]},
        400,
        'Serving signature name: "nope" not found in signature def',
    ),
    (
        HALF,
        {"signature_name": 3},
        400,
        'JSON Value: {\n    "signature_name": 3\n} not formatted correctly. '
        "'signature_name' key must be a string value.",
    ),
    # What would have no effect
    (
        HALF,
        {"instances": [1], "signature_nam": "half_plus_three"},
        400,
        "JSON object: has the key 'signature_nam', which has no effect here; did you mean 'signature_name'?",
    ),
    (
        HALF,
        {"instances": [1], "top_k": 3},
        400,
        "JSON object: has the key 'top_k', which has no effect here; known here: signature_name, instances, inputs",
    ),
    (HALF, {"inputs": {"x": [1], "z": [2]}}, 400, "JSON object: does not have named input: z"),
    (
        HALF + "?top_k=3",
        {"instances": [1]},
        400,
        "the query has top_k, which has no effect here; known here: timeout, signature_name, output",
    ),
    (
        HALF + "?shape=1,1",
        {"instances": [1]},
        400,
        "the query has shape, which has no effect here; known here: timeout, signature_name, output",
    ),
    ("/v1/models/kinds:predict?output=z", {"inputs": {"a": [1], "b": [2]}}, 400, None),
    # The two forms
    (HALF, {}, 400, "Missing 'inputs' or 'instances' key"),
    (HALF, {"instances": None}, 400, "Missing 'inputs' or 'instances' key"),
    (
        HALF,
        {"instances": [], "inputs": []},
        400,
        'JSON Value: {\n    "instances": [],\n    "inputs": []\n} Not formatted correctly expecting only one of '
        "'inputs' or 'instances' keys to exist ",
    ),
    (HALF, {"instances": 3}, 400, f"JSON Value: {DOCUMENT} Excepting 'instances' to be an list/array"),
    (HALF, {"instances": []}, 400, "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
    (
        KINDS,
        {"instances": [1]},
        400,
        "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
        "tensorinfo_map",
    ),
    (
        KINDS,
        {"inputs": [1]},
        400,
        "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
        "tensorinfo_map",
    ),
    (KINDS, {"inputs": {"a": [1]}}, 400, "Missing named input: b in 'inputs' object."),
    (
        KINDS,
        {"instances": [{"a": 1}]},
        400,
        "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"a\": 1\n} must only have keys: a,b",
    ),
    (
        KINDS,
        {"instances": [{"a": 1, "b": 1, "c": 1}]},
        400,
        "Failed to process element: 0 key: c of 'instances' list. Error: INVALID_ARGUMENT: "
        "JSON object: does not have named input: c",
    ),
    (
        KINDS,
        {"instances": [{"a": 1, "b": 1}, 3]},
        400,
        "Expecting object but got list at item 1 of input list",
    ),
    (HALF, {"instances": [1, {"x": 1}]}, 400, "Expecting value/list but got object at item 1 of input list"),
    (
        HALF,
        {"signature_name": "constants", "instances": [1]},
        400,
        "Failed to get input map for signature: constants",
    ),
    # Ragged lists
    (
        KINDS,
        kind("float32", inputs=[[1, 2], [3]]),
        400,
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    (KINDS, kind("float32", inputs=[1, [2]]), 400, "Encountered list at unexpected level: 1 expected < 1"),
    (
        KINDS,
        kind("float32", inputs=[[1], 2]),
        400,
        "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
    ),
    (
        KINDS,
        kind("float32", instances=[[1, 2], [3]]),
        400,
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
        "Expecting tensor size: 2 but got: 1",
    ),
    (
        KINDS,
        kind("float32", instances=[[[1, 2]], [[3], [4]]]),
        400,
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
        "Expecting shape [1,2] but got: [2,1]",
    ),
    # Types
    (
        KINDS,
        kind("float32", inputs=["1"]),
        400,
        'JSON Value: "1" Type: String is not of expected type: float',
    ),
    (KINDS, kind("float32", inputs=[True]), 400, "JSON Value: true Type: True is not of expected type: float"),
    (KINDS, kind("float32", inputs=[1.5, None]), 400, "JSON Value: null Type: Null is not of expected type: float"),
    (KINDS, kind("float32", inputs=[{"a": 1}]), 400, None),
    (KINDS, kind("int32", inputs=[1.0]), 400, "JSON Value: 1.0 Type: Number is not of expected type: int32"),
    (KINDS, kind("int32", inputs=[2**31]), 400, "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
    (KINDS, kind("uint64", inputs=[-1]), 400, "JSON Value: -1 Type: Number is not of expected type: uint64"),
    (KINDS, kind("bool", inputs=[1]), 400, "JSON Value: 1 Type: Number is not of expected type: bool"),
    (KINDS, kind("string", inputs=[1]), 400, "JSON Value: 1 Type: Number is not of expected type: string"),
    (
        KINDS,
        kind("float32", inputs=[16777217]),
        400,
        "Cannot convert JSON value: 16777217 to float without loss of precision.",
    ),
    (
        KINDS,
        kind("float32", inputs=[1e39]),
        400,
        "Cannot convert JSON value: 1e+39 to float without loss of precision.",
    ),
    (
        KINDS,
        kind("float64", inputs=[2**53]),
        400,
        "Cannot convert JSON value: 9007199254740992 to double without loss of precision.",
    ),
    (
        KINDS,
        b'{"signature_name": "float64", "inputs": [NaN, 1%s]}' % (b"0" * 400),
        400,
        f"Cannot convert JSON value: 1{'0' * 400} to double without loss of precision.",
    ),
    (KINDS, kind("string", inputs=[{"b64": "?"}]), 400, "Unable to base64 decode"),
    (
        KINDS,
        kind("string", inputs=[{"b64": 3}]),
        400,
        'JSON Value: {\n    "b64": 3\n} not formatted correctly for base64 data',
    ),
    # Answers that have no rows
    (KINDS, kind("total", instances=[1]), 400, "Tensor name: sum has no shape information "),
    (
        KINDS,
        kind("uneven", instances=[1, 2]),
        400,
        "Tensor name: z has inconsistent batch size: 1 expecting: 2",
    ),
    # The model's own errors
    ("/v1/models/moody:predict", {"instances": ["InvalidArgument"]}, 400, "as you wished"),
    ("/v1/models/moody:predict", {"instances": ["FailedPrecondition"]}, 400, "as you wished"),
    ("/v1/models/moody:predict", {"instances": ["NotFound"]}, 404, "as you wished"),
    ("/v1/models/moody:predict", {"instances": ["Unimplemented"]}, 501, "as you wished"),
    ("/v1/models/moody:predict", {"instances": ["DeadlineExceeded"]}, 504, "as you wished"),
    ("/v1/models/moody:predict", {"instances": ["ResourceExhausted"]}, 503, "as you wished"),
    ("/v1/models/moody:predict", {"instances": ["Unavailable"]}, 503, "as you wished"),
    ("/v1/models/moody:predict", {"instances": ["raise"]}, 500, None),
    ("/v1/models/moody:predict?timeout=0.1", {"instances": ["sleep 0.5"]}, 504, None),
]


def test_keys_that_nobody_knows_pass(door: Door) -> None:
    """As with TensorFlow Serving: clients exist that send more than they need."""
    answer = door.post(HALF, {"instances": [1], "trace_id": "7"})
    assert (answer.status, answer.json()) == (200, {"predictions": [2.5]})


@pytest.mark.parametrize(("path", "sent", "status", "message"), WRONG)
def test_errors(door: Door, path: str, sent: Any, status: int, message: str | None) -> None:
    """What is wrong is answered with TensorFlow Serving's status and message, as {"error": message}."""
    answer = door.post(path, sent)
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.error if message is None else answer.error == message


LOOKS: list[tuple[str, int, Any]] = [
    (
        "/v1/models/half_plus_two",
        200,
        {
            "model_version_status": [
                {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            ]
        },
    ),
    ("/v1/models/half_plus_two/versions/1", 200, None),
    ("/v1/models/foo", 404, {"error": "Could not find any versions of model foo"}),
    ("/v1/models/half_plus_two/versions/7", 404, {"error": "Could not find version 7 of model half_plus_two"}),
    ("/v1/models/half_plus_two/labels/beta", 400, {"error": "Unrecognized servable version label: beta"}),
    ("/v1/models/foo/metadata", 404, {"error": "Servable not found for request: Latest(foo)"}),
    ("/v1/models/foo/versions/2/metadata", 404, {"error": "Servable not found for request: Specific(foo, 2)"}),
    ("/v1/models/foo:predict", 400, {"error": "Malformed request: GET /v1/models/foo:predict"}),
    ("/v1/nothing", 400, {"error": "Malformed request: GET /v1/nothing"}),
    ("/v1/models/%ff", 400, {"error": "Failed to decode model name:%ff"}),
    ("/nothing", 404, {"error": "Not found: /nothing"}),
]


@pytest.mark.parametrize(("path", "status", "expected"), LOOKS)
def test_looks(door: Door, path: str, status: int, expected: Any) -> None:
    """States of versions, and what is said of those that are not there."""
    answer = door.get(path)
    assert answer.status == status, answer.body
    assert expected is None or answer.json() == expected


def test_metadata_is_the_protobuf_messages_in_json(door: Door) -> None:
    """The signatures with the fields' own names, types and sizes as text, and defaults written out."""
    told = door.get("/v1/models/half_plus_two/versions/1/metadata").json()
    assert told["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "1"}
    signatures = told["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "half_plus_three", "constants"}
    default = signatures["serving_default"]
    assert default["method_name"] == "tensorflow/serving/predict"
    assert default["inputs"] == {
        "x": {
            "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
            "name": "serving_default_x:0",
        }
    }
    assert default["outputs"]["y"]["dtype"] == "DT_FLOAT"
    assert signatures["constants"]["outputs"]["two"]["tensor_shape"] == {"dim": [], "unknown_rank": False}


def test_all_models_are_listed(door: Door) -> None:
    """GET /v1/models names every model with its versions' states."""
    told = door.get("/v1/models").json()["models"]
    assert [one["name"] for one in told] == ["any", "half_plus_two", "kinds", "moody", "my.model-2", "text"]
    assert told[1]["model_version_status"][0]["state"] == "AVAILABLE"


def test_text_is_classified(door: Door) -> None:
    """The published text client's request, Chinese words in rows, gets an object a row with every output."""
    rows = [{"words": ["很", "喜欢"], "nwords": 2}, {"words": ["足球", "比赛"], "nwords": 2}]
    told = door.predict("text", {"instances": rows}).json()["predictions"]
    assert [set(row) for row in told] == [{"classes_id", "labels", "softmax"}] * 2
    assert told[1]["labels"] == "sport" and told[1]["classes_id"] == 0
    assert sum(told[0]["softmax"]) == pytest.approx(1)


def test_nan_and_infinity_travel_both_ways(door: Door) -> None:
    """NaN, Infinity and -Infinity are tokens in requests and in answers, whatever the number of outputs."""
    sent = b'{"signature_name": "float32", "inputs": [NaN, Infinity, -Infinity, 1]}'
    told = door.predict("kinds", sent)
    assert told.body == b'{"outputs":[NaN,Infinity,-Infinity,1.0]}'
    told = door.predict("kinds", b'{"signature_name": "odd", "instances": [1, 0]}')
    rows = told.json()["predictions"]
    assert rows[0] == [math.inf, -math.inf] and all(map(math.isnan, rows[1]))
    told = door.predict("kinds", b'{"instances": [{"a": NaN, "b": 1}]}')
    assert told.body == b'{"predictions":[{"a":NaN,"b":1}]}'


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"inputs":' + b"[" * 900 + b"]" * 900 + b"}"])
def test_deep_nesting_is_harmless(door: Door, body: bytes) -> None:
    """Lists in lists in lists are refused, and the next request is answered."""
    assert door.predict("half_plus_two", body).status == 400
    assert door.predict("half_plus_two", {"inputs": [1]}).status == 200


def test_every_fast_and_careful_way_agree(door: Door) -> None:
    """What is read value by value comes out as what is read at once: a base64 value makes the difference."""
    texts = [f"text {number}" for number in range(100)]
    told = door.predict("kinds", kind("string", inputs=[*texts, {"b64": "dGV4dA=="}])).json()
    assert told == {"outputs": [*texts, "text"]}
    numbers = [float(number) for number in range(100)]
    told = door.predict(
        "kinds", b'{"signature_name":"float32","instances":%s}' % json.dumps([*numbers, 2.0**25]).encode()
    )
    assert told.json() == {"predictions": [*numbers, 2.0**25]}
