"""The Open Inference Protocol, version 2, with its binary and classification extensions.

GET  /v2, /v2/health/live, /v2/health/ready, /v2/models/N[/versions/V][/ready]
POST /v2/models/N[/versions/V]/infer --JSON [and bytes]--> tensors --Backends--> outputs --> JSON [and bytes]
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from thriftserve import __version__
from thriftserve.gateway.backends import Health, MetadataCache, signature_of
from thriftserve.gateway.http import JSON, SIGNATURE, HttpReply, HttpRequest, ModelPath, Refusal, parse_model_path
from thriftserve.gateway.json_decode import Types
from thriftserve.gateway.json_encode import Array, encode_array, number
from thriftserve.gateway.json_tensors import decode
from thriftserve.gateway.json_text import parse_object, show, without_nulls
from thriftserve.gateway.model_api import ModelApi, run_aside
from thriftserve.gateway.npy import RAW
from thriftserve.gateway.v2_request import InferRequest, RequestedOutput, no_classes, parameters_of
from thriftserve_client.codec import data_type, numpy_dtype
from thriftserve_client.results import Prediction, SignatureInfo, TensorInfo
from thriftserve_idl.ttypes import DataType, Tensor

DATATYPES = {
    "BOOL": DataType.BOOL,
    "UINT8": DataType.UINT8,
    "UINT16": DataType.UINT16,
    "UINT32": DataType.UINT32,
    "UINT64": DataType.UINT64,
    "INT8": DataType.INT8,
    "INT16": DataType.INT16,
    "INT32": DataType.INT32,
    "INT64": DataType.INT64,
    "FP16": DataType.HALF,
    "FP32": DataType.FLOAT,
    "FP64": DataType.DOUBLE,
    "BF16": DataType.BFLOAT16,
    "BYTES": DataType.STRING,
}
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_LENGTH = struct.Struct("<I")
_MAX_DIMENSIONS = 64
_MODEL = re.compile(r"/v2(?P<which>/models/[^/:]+(?:/versions/\d+)?)(?:/(?P<verb>ready|infer))?", re.ASCII)
#: Header with the number of the body's first bytes that are JSON; the rest are tensors.
_JSON_LENGTH = "inference-header-content-length"
_EXTENSIONS = ["binary_tensor_data", "classification"]


class V2Api:
    """The endpoints below /v2."""

    def __init__(self, metadata_cache: MetadataCache, models: ModelApi, health: Health) -> None:
        self._metadata_cache = metadata_cache
        self._models = models
        self._health = health

    async def answer(self, request: HttpRequest) -> HttpReply:
        """Answer any request below /v2."""
        fixed = {"/v2": self._server, "/v2/health/live": self._live, "/v2/health/ready": self._health.ready}
        endpoint = fixed.get(request.path.rstrip("/"))
        if endpoint is not None:
            _check_method("GET", request)
            return await endpoint(request)
        match = _MODEL.fullmatch(request.path)
        if match is None:
            raise Refusal(f"Not found: {request.path[:1000]}", 404)
        path = replace(parse_model_path("GET", f"/v1{match['which']}"), verb=match["verb"] or "metadata")
        _check_method("POST" if path.verb == "infer" else "GET", request)
        if path.verb == "infer":
            return await self._infer(request, path)
        return await (self._ready if path.verb == "ready" else self._metadata)(request, path)

    async def _server(self, request: HttpRequest) -> HttpReply:
        return HttpReply.of({"name": "thriftserve", "version": __version__, "extensions": _EXTENSIONS})

    async def _live(self, request: HttpRequest) -> HttpReply:
        return HttpReply.of({"live": True})

    async def _ready(self, request: HttpRequest, path: ModelPath) -> HttpReply:
        metadata = await self._metadata_cache.renew(path, request.left_s)
        return HttpReply.of({"name": metadata.model, "ready": True})

    async def _metadata(self, request: HttpRequest, path: ModelPath) -> HttpReply:
        metadata = await self._metadata_cache.renew(path, request.left_s)
        request.check_query(SIGNATURE)
        signature = signature_of(metadata, request.query.get(SIGNATURE))
        return HttpReply.of(
            {
                "name": metadata.model,
                "versions": [str(metadata.version)],
                "platform": metadata.platform,
                "inputs": _infos(signature.inputs),
                "outputs": _infos(signature.outputs),
            }
        )

    async def _infer(self, request: HttpRequest, path: ModelPath) -> HttpReply:
        request.check_query(SIGNATURE)
        body = memoryview(await request.body())
        length = _json_length(request, len(body))
        document = without_nulls(await run_aside(len(body), parse_object, bytes(body[:length])))
        infer = InferRequest.read(document)
        if infer.timeout_s is not None:
            request.set_timeout(infer.timeout_s)

        async def read(declared: SignatureInfo, types: Types) -> tuple[dict[str, Tensor], None]:
            if types is not None:
                infer.check(declared)
            return await run_aside(len(body), decode_inputs, document.get("inputs"), body[length:]), None

        signature = infer.signature or request.query.get(SIGNATURE)
        prediction, _ = await self._models.run(request, path, signature, read, infer.output_names())
        outputs = infer.requested(prediction)
        labels: Sequence[str] = ()
        if any(output.classes for output in outputs.values()):
            ran = replace(path, version=prediction.version, label=None)
            labels = (await self._metadata_cache.get(ran, request.left_s)).labels
        size = sum(array.nbytes for array in prediction.outputs.values())
        return await run_aside(size, _reply, infer.request_id, prediction, outputs, labels)


def _check_method(method: str, request: HttpRequest) -> None:
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        raise Refusal(f"Method {request.method} is not allowed here: use {method}", 405, {"allow": method})


def _json_length(request: HttpRequest, size: int) -> int:
    text = request.headers.get(_JSON_LENGTH)
    if text is None:
        return size
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > size:
        raise Refusal(f"Inference-Header-Content-Length is {text[:100]!r}: the body has {size} bytes")
    return int(text)


def _reply(
    request_id: str | None, prediction: Prediction, requested: Mapping[str, RequestedOutput], labels: Sequence[str]
) -> HttpReply:
    outputs, tails = [], []
    for name, output in requested.items():
        array = prediction[name]
        if output.classes:
            array = best_classes(name, array, output.classes, labels)
        encoded, tail = _encode_output(name, array, output.binary)
        outputs.append(encoded)
        tails.append(tail)
    response: dict[str, Any] = {
        "model_name": prediction.model,
        "model_version": str(prediction.version),
        "outputs": outputs,
    }
    if request_id is not None:
        response["id"] = request_id
    text = orjson.dumps(response)
    if not any(output.binary for output in requested.values()):
        return HttpReply(text, JSON)
    return HttpReply(b"".join([text, *tails]), RAW, headers={_JSON_LENGTH: str(len(text))})


def _infos(infos: Mapping[str, TensorInfo]) -> list[dict[str, Any]]:
    return [
        {
            "name": info.name,
            "datatype": NAMES[info.dtype],
            "shape": [-1 if size is None else size for size in info.shape or ()],
        }
        for info in infos.values()
    ]


def decode_inputs(inputs: Any, tail: memoryview) -> dict[str, Tensor]:
    """Return the tensors of a request.

    Args:
        inputs: the JSON value of its "inputs".
        tail: the bytes after the JSON: those of inputs with a binary_data_size, one after the other.

    Raises:
        Refusal: an input is malformed, or bytes are missing or left over.
    """
    if type(inputs) is not list or not all(type(item) is dict for item in inputs):
        raise Refusal('"inputs" must be a list of objects')
    tensors: dict[str, Tensor] = {}
    for item in map(without_nulls, inputs):
        name, dtype, shape = _decode_head(item)
        if name in tensors:
            raise Refusal(f"the request has input {name!r} more than once: expected it once")
        size = parameters_of(item, f"input {name!r}: parameters").get("binary_data_size")
        if size is not None and "data" in item:
            raise Refusal(f"input {name!r} has data and binary_data_size: send one of them")
        if size is None:
            tensors[name] = _from_values(name, dtype, shape, item.get("data"))
            continue
        if type(size) is not int or not 0 <= size <= len(tail):
            raise Refusal(
                f"input {name!r} has binary_data_size {show(size)}: expected at most {len(tail)}, the bytes left"
            )
        tensors[name] = _from_bytes(name, dtype, shape, tail[:size])
        tail = tail[size:]
    if len(tail):
        raise Refusal(f"{len(tail)} bytes after the JSON belong to no input: set binary_data_size")
    return tensors


def _decode_head(item: dict[str, Any]) -> tuple[str, DataType, list[int]]:
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if type(name) is not str or not name:
        raise Refusal(f"an input has the name {show(name)}: expected text")
    if type(datatype) is not str or datatype not in DATATYPES:
        raise Refusal(f"input {name!r} has datatype {show(datatype)}: expected one of {', '.join(DATATYPES)}")
    valid = type(shape) is list and len(shape) <= _MAX_DIMENSIONS
    if not valid or not all(type(size) is int and 0 <= size < 2**63 for size in shape or ()):
        raise Refusal(f"input {name!r} has shape {show(shape)}: expected a list of sizes")
    return name, DATATYPES[datatype], shape or []


def _from_values(name: str, dtype: DataType, shape: list[int], data: Any) -> Tensor:
    """Return the tensor of JSON values, in one list or nested like the tensor."""
    if type(data) is not list:
        raise Refusal(f"input {name!r} has data {show(data)}: expected a list")
    try:
        tensor = decode(data, dtype)
    except Refusal as error:
        raise Refusal(f"input {name!r}: {error.message}", error.status) from None
    if math.prod(tensor.shape) != math.prod(shape):
        raise Refusal(
            f"input {name!r} has {math.prod(tensor.shape)} values: expected {math.prod(shape)} for shape {shape}"
        )
    tensor.shape = shape
    return tensor


def _from_bytes(name: str, dtype: DataType, shape: list[int], content: memoryview) -> Tensor:
    """Return the tensor of raw bytes.

    Raises:
        Refusal: there are too few or too many bytes.
    """
    if dtype == DataType.STRING:
        texts = list(_split_texts(name, content))
        if len(texts) != math.prod(shape):
            raise Refusal(f"input {name!r} has {len(texts)} elements: expected {math.prod(shape)} for shape {shape}")
        return Tensor(dtype, shape, None, texts)
    size = math.prod(shape) * (2 if dtype == DataType.BFLOAT16 else numpy_dtype(dtype).itemsize)
    if size != len(content):
        raise Refusal(f"input {name!r} has {len(content)} bytes: expected {size} for shape {shape} of {NAMES[dtype]}")
    return Tensor(dtype, shape, bytes(content))


def _split_texts(name: str, content: memoryview) -> Iterator[bytes]:
    while len(content):
        length = _LENGTH.unpack_from(content)[0] if len(content) >= _LENGTH.size else len(content)
        if _LENGTH.size + length > len(content):
            raise Refusal(f"input {name!r} ends within an element")
        yield bytes(content[_LENGTH.size : _LENGTH.size + length])
        content = content[_LENGTH.size + length :]


def _encode_output(name: str, array: Array, binary: bool) -> tuple[dict[str, Any], bytes]:
    """Return an output's JSON value, and its bytes after the JSON if it is binary."""
    encoded: dict[str, Any] = {"name": name, "datatype": NAMES[data_type(array.dtype)], "shape": list(array.shape)}
    if not binary:
        encoded["data"] = orjson.Fragment(encode_array(array.reshape(-1)))
        return encoded, b""
    if array.dtype == object:
        content = b"".join(_LENGTH.pack(len(text)) + text for text in array.reshape(-1).tolist())
    else:
        content = np.ascontiguousarray(array).tobytes()
    encoded["parameters"] = {"binary_data_size": len(content)}
    return encoded, content


def best_classes(name: str, array: Array, count: int, labels: Sequence[str]) -> Array:
    """Return the `count` highest values along an output's last dimension as "value:number[:label]", best first.

    Ties are in the order of their numbers, NaN last. Values are written as in any other reply.

    Raises:
        Refusal: the output is a scalar, or not numeric.
    """
    if array.ndim == 0 or array.dtype.kind in "bO":
        raise no_classes(name, data_type(array.dtype), array.shape)
    if array.dtype.kind not in "iu":
        array = array.astype(np.float64)
    # Inverting the bits reverses the order of integers, also where the type lacks the negative.
    order = np.argsort(~array if array.dtype.kind in "iu" else -array, axis=-1, kind="stable")[..., :count]
    values = np.take_along_axis(array, order, axis=-1)
    texts = np.empty(order.size, object)
    texts[:] = [
        _format_class(value, index, labels)
        for value, index in zip(values.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
    return texts.reshape(order.shape)


def _format_class(value: Any, index: int, labels: Sequence[str]) -> bytes:
    text = orjson.dumps(number(value) if isinstance(value, float) else value).decode()
    label = labels[index] if index < len(labels) else ""
    return (f"{text}:{index}:{label}" if label else f"{text}:{index}").encode()
