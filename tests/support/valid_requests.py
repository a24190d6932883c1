"""Requests that the gateway answers well: every kind of body, and models of every kind of input.

SEEDS: half_plus_two, kinds, text, examples, stripes and detector must be served under these names.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from encoded_images import encoded

NPY, NPZ, RAW = "application/x-npy", "application/x-npz", "application/octet-stream"
JSON, FORM = "application/json", "multipart/form-data; boundary=xyz"


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    body: bytes
    kind: str = JSON
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _form(option: str, *files: bytes) -> bytes:
    head = b'--xyz\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    field = f'--xyz\r\nContent-Disposition: form-data; name="{option}"\r\n\r\n1\r\n'.encode()
    return b"".join([field, *(head + file + b"\r\n" for file in files), b"--xyz--\r\n"])


def _predict(model: str, value: Any, **more: Any) -> Asked:
    return Asked(f"/v1/models/{model}:predict", json.dumps(value, ensure_ascii=False).encode(), **more)


_X = np.array([1, 2, 5], "f4")
_PICTURE = encoded(Image.new("L", (28, 28), 200))
_BASE64 = {"b64": base64.b64encode(_PICTURE).decode()}
_INFER = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2]}
_BINARY_HEAD = json.dumps({"inputs": [{**_INFER, "data": None, "parameters": {"binary_data_size": 8}}]}).encode()
_WORDS = {**_INFER, "datatype": "BYTES", "data": ["a", "很"]}

SEEDS: tuple[Asked, ...] = (
    _predict("half_plus_two", {"instances": [1.0, 2.0, 5.0]}),
    _predict("half_plus_two", {"signature_name": "half_plus_three", "inputs": {"x": [1e3, -2.5, 3]}}),
    _predict("kinds", {"instances": [{"a": [1.5, 2], "b": 3}, {"a": [0, 1], "b": 4}]}),
    _predict("kinds", {"inputs": {"a": [1.5], "b": [2]}}),
    *(
        _predict("kinds", {"signature_name": kind, "inputs": [value]})
        for kind, value in (("float16", 0.5), ("int8", 127), ("uint64", 2**64 - 1), ("bool", True), ("string", "很"))
    ),
    _predict("kinds", {"signature_name": "bytes", "instances": ["a", {"b64": "aW1hZ2U="}]}),
    _predict("text", {"instances": [{"words": ["很", "喜欢"], "nwords": 2}, {"words": ["足球", "比赛"], "nwords": 2}]}),
    Asked("/v1/models/half_plus_two:predict", b'{"inputs": [NaN, -Infinity, 1e38]}'),
    Asked("/v1/models/half_plus_two:predict", gzip.compress(b'{"inputs": [1]}'), headers={"Content-Encoding": "gzip"}),
    Asked(
        "/v1/models/half_plus_two:predict", zlib.compress(b'{"inputs": [1]}'), headers={"Content-Encoding": "deflate"}
    ),
    Asked("/v1/models/half_plus_two:predict", _npy(_X), NPY),
    Asked("/v1/models/half_plus_two:predict", _npy(np.asfortranarray(_X)), NPY, headers={"Accept": NPZ}),
    Asked("/v1/models/half_plus_two:predict", _npz(x=_X), NPZ, headers={"Accept": RAW}),
    Asked("/v1/models/kinds:predict", _npz(a=_X, b=np.array([1], "i4")), NPZ, "output=a", {"Accept": NPY}),
    Asked("/v1/models/half_plus_two:predict", _X.tobytes(), RAW, "shape=3"),
    Asked("/v1/models/stripes:predict", bytes(28 * 28 * 4), RAW, headers={"X-Tensor-Shape": "1,28,28,1"}),
    Asked("/v1/models/examples:regress", b'{"signature_name": "regress_x_to_y", "examples": [{"x": 2.0, "n": 1}]}'),
    Asked("/v1/models/examples:classify", b'{"signature_name": "classify_words", "examples": [{"words": ["a", "b"]}]}'),
    Asked("/v1/models/stripes:classify", json.dumps({"images": [_BASE64], "top_k": 1}).encode()),
    Asked("/v1/models/stripes:classify", _PICTURE, "image/png", "top_k=2"),
    Asked("/v1/models/stripes:classify", _form("top_k", _PICTURE, _PICTURE), FORM),
    Asked("/v1/models/detector:detect", json.dumps({"images": [_BASE64], "min_score": 0.1}).encode()),
    Asked("/v1/models/detector:detect", _form("min_score", _PICTURE), FORM, "max_detections=3"),
    Asked("/v2/models/half_plus_two/infer", json.dumps({"id": "1", "inputs": [_INFER]}).encode()),
    Asked(
        "/v2/models/half_plus_two/infer",
        json.dumps({"inputs": [_INFER], "outputs": [{"name": "y", "parameters": {"classification": 1}}]}).encode(),
    ),
    Asked(
        "/v2/models/half_plus_two/infer",
        _BINARY_HEAD + _X.tobytes()[:8],
        RAW,
        headers={"Inference-Header-Content-Length": str(len(_BINARY_HEAD))},
    ),
    Asked(
        "/v2/models/kinds/infer", json.dumps({"inputs": [_WORDS], "parameters": {"signature_name": "string"}}).encode()
    ),
    Asked("/service", b'["http://127.0.0.1:1/a.png", "http://[::1]/b", "x"]', query="model=detector"),
    Asked("/v1/models/half_plus_two/versions/1/metadata", b"", method="GET"),
    Asked("/v1/models/half_plus_two/labels/stable", b"", method="GET"),
    Asked("/v2/models/kinds/versions/1/ready", b"", method="GET"),
)
