"""Numbers over HTTP: written by one rule whatever the endpoint, and refused where a type does not hold them."""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest

from documents import SUPPORT
from encoded_images import plain
from gateway_served import Door, gateway
from served import Served
from thriftserve.gateway.json_encode import encode_array, number

TESTS = str(SUPPORT)
NPY, NPZ = "application/x-npy", "application/x-npz"
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """A gateway before a server of Python models."""
    flags = [f"--model={name.lower()}=python:gateway_models:{name}" for name in ("Kinds", "Scores", "Objects")]
    with (
        Served(*flags, "--workers", "1", "--server-type", "TThreadPoolServer", PYTHONPATH=TESTS) as server,
        gateway(server.port) as made,
    ):
        yield made


def v2(name: str, datatype: str, data: Any, **more: Any) -> dict[str, Any]:
    """An inference request with one input x."""
    return {"inputs": [{"name": "x", "shape": [len(data)], "datatype": datatype, "data": data}], **more}


def test_classify_writes_every_score(door: Door) -> None:
    """Scores that are no numbers have their names, those of a float32 model the digits of a float32."""
    told = door.post("/v1/models/scores:classify?top_k=6", plain(), PNG)
    # Best first; NaN is the last.
    expected = '[["4",Infinity],["5",0.33333334],["1",0.1],["3",-0.0],["2",-Infinity],["0",NaN]]'
    assert told.body == f'{{"results":[{expected}]}}'.encode()


def test_detect_writes_every_number(door: Door) -> None:
    """So do the scores and boxes of objects."""
    told = door.post("/v1/models/objects:detect", plain(), PNG)
    assert told.status == 200, told.body
    assert b'"score":Infinity,"class_id":1,"box":[0.1,NaN,-Infinity,-0.0]' in told.body
    assert b'"score":0.9,"class_id":1,"box":[0.0,0.0,1.0,1.0]' in told.body


def test_v2_writes_every_number(door: Door) -> None:
    """So does the Open Inference Protocol, which reads them, too."""
    sent = '{"parameters":{"signature_name":"%s"},"inputs":[{"name":"x","shape":[4],"datatype":"%s","data":%s}]}'
    for signature, datatype in (("float32", "FP32"), ("float64", "FP64")):
        told = door.post("/v2/models/kinds/infer", sent % (signature, datatype, "[NaN,Infinity,-Infinity,-0.0]"))
        assert b'"data":[NaN,Infinity,-Infinity,-0.0]' in told.body
    told = door.post("/v2/models/kinds/infer", sent % ("float32", "FP32", "[0.1,0.33333334,1e-45,3.4028235e38]"))
    assert b'"data":[0.1,0.33333334,1e-45,3.4028235e+38]' in told.body
    told = door.post("/v2/models/kinds/infer", sent % ("int64", "INT64", "[9007199254740993,-9223372036854775808,0,1]"))
    assert b'"data":[9007199254740993,-9223372036854775808,0,1]' in told.body


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predict_and_scores_agree(dtype: Any) -> None:
    """A score reads as the same number in an output does, whatever its size; a double keeps all of its digits."""
    values = [
        0.1,
        1 / 3,
        1e-45,
        5e-324,
        3.4028235e38,
        1e300,
        123456789.0,
        0.0,
        -0.0,
        1.0,
        math.nan,
        math.inf,
        -math.inf,
    ]
    with np.errstate(all="ignore"):
        for value in map(dtype, values):
            assert orjson.dumps(number(float(value))) == encode_array(np.array(value))


def npy(array: Any) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("signature", "array", "message"),
    [
        ("int32", np.array([1, 3_000_000_000]), "input 'x': 3000000000 (int64) does not fit INT32"),
        ("int64", np.array([2**64 - 1], np.uint64), "input 'x': 18446744073709551615 (uint64) does not fit INT64"),
        ("float32", np.array([1e300]), "input 'x': 1e+300 (float64) does not fit FLOAT"),
        ("float32", np.array([2**24 + 1]), "input 'x': 16777217 (int64) does not fit FLOAT"),
        ("float16", np.array([1e5], np.float32), "input 'x': 100000.0 (float32) does not fit HALF"),
    ],
)
def test_arrays_are_converted_without_loss(door: Door, signature: str, array: Any, message: str) -> None:
    """A .npy file of another type of the same kind is refused where a number does not fit, by its value."""
    path = f"/v1/models/kinds:predict?signature_name={signature}"
    told = door.post(path, npy(array), {"Content-Type": NPY})
    assert (told.status, told.error) == (400, message)
    assert door.post(path, npy(array[:0]), {"Content-Type": NPY}).json() == {"outputs": []}


def test_arrays_that_fit_are_converted(door: Door) -> None:
    """Rounding to the declared float type is what it declares; NaN and infinities stay."""
    path = "/v1/models/kinds:predict?signature_name=float32"
    told = door.post(path, npy(np.array([0.1, math.nan, -math.inf])), {"Content-Type": NPY})
    assert told.body == b'{"outputs":[0.1,NaN,-Infinity]}'


def test_text_that_npy_can_not_hold(door: Door) -> None:
    """A zero byte at a text's end would be lost in a .npy file: 406, by the output's name; JSON has it."""
    body = {"signature_name": "string", "inputs": ["a", "b\0"]}
    for kind in (NPY, NPZ):
        told = door.predict("kinds", body, Accept=kind)
        assert told.status == 406
        assert "output 'y' can't be sent as" in told.error and "zero byte" in told.error
    assert door.predict("kinds", body).json() == {"outputs": ["a", "b\0"]}
    assert door.predict("kinds", {**body, "inputs": ["a", "\0b"]}, Accept=NPY).status == 200


def test_bfloat16_in_every_form(door: Door) -> None:
    """BFLOAT16 goes out as float32 where the form has no such type, and as its bytes where it has."""
    tail = np.array([0.1, 3.140625], ml_dtypes.bfloat16).tobytes()
    one = {"name": "x", "shape": [2], "datatype": "BF16", "parameters": {"binary_data_size": len(tail)}}
    document = {"parameters": {"signature_name": "bfloat16", "binary_data_output": True}, "inputs": [one]}
    text = json.dumps(document).encode()
    answer = door.post("/v2/models/kinds/infer", text + tail, {"Inference-Header-Content-Length": str(len(text))})
    assert answer.body.endswith(tail)
    body = {"signature_name": "bfloat16", "inputs": [3.140625, 0.5]}
    assert door.predict("kinds", body).json() == {"outputs": [3.140625, 0.5]}
    told = door.predict("kinds", body, Accept=NPY)
    array = np.load(io.BytesIO(told.body))
    assert (array.dtype, array.tolist()) == (np.float32, [3.140625, 0.5])
    raw = door.predict("kinds", body, Accept="application/octet-stream")
    assert (raw.headers["x-tensor-dtype"], raw.body) == ("bfloat16", struct.pack("<HH", 0x4049, 0x3F00))
