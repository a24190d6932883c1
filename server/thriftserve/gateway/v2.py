"""The Open Inference Protocol, version 2: health, metadata and inference.

GET  /v2, /v2/health/live, /v2/health/ready, /v2/models/N[/versions/V][/ready]
POST /v2/models/N[/versions/V]/infer   --JSON [and bytes]--> Backends --> JSON [and bytes]
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
from thriftserve.gateway.health import Health
from thriftserve.gateway.http import JSON, SIGNATURE, HttpReply, HttpRequest, ModelPath, Refusal, model_path
from thriftserve.gateway.json_decode import Types
from thriftserve.gateway.json_encode import Array, number, written
from thriftserve.gateway.json_faults import tensor_of
from thriftserve.gateway.json_tensors import quick_tensor
from thriftserve.gateway.json_text import parsed_object, shown, without_nulls
from thriftserve.gateway.metadata_cache import MetadataCache, signature_of
from thriftserve.gateway.model_api import ModelApi, aside
from thriftserve.gateway.npy import RAW
from thriftserve.gateway.v2_request import InferRequest, RequestedOutput, no_classes, parameters_of
from thriftserve_client.codec import data_type, numpy_dtype
from thriftserve_client.results import Prediction, SignatureInfo, TensorInfo
from thriftserve_idl.ttypes import DataType, Tensor

# Tensors as the Open Inference Protocol (version 2, with its binary extension) writes them.

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
_MOST_DIMENSIONS = 64


def tensors_in(inputs: Any, tail: memoryview) -> dict[str, Tensor]:
    """The tensors of a request.

    Args:
        inputs: the JSON value of its "inputs".
        tail: what follows the JSON: the bytes of those that say so, one after the other.

    Raises:
        Refusal: one is not well formed, or bytes are missing or left over.
    """
    if type(inputs) is not list or not all(type(one) is dict for one in inputs):
        raise Refusal('"inputs" must be a list of objects')
    found: dict[str, Tensor] = {}
    for one in map(without_nulls, inputs):
        name, dtype, shape = _head(one)
        if name in found:
            raise Refusal(f"input {name!r} is there more than once")
        size = parameters_of(one, f"input {name!r}: parameters").get("binary_data_size")
        if size is not None and "data" in one:
            raise Refusal(f"input {name!r} has data and binary_data_size: give one of them")
        if size is None:
            found[name] = _of_values(name, dtype, shape, one.get("data"))
            continue
        if type(size) is not int or not 0 <= size <= len(tail):
            raise Refusal(f"input {name!r} has binary_data_size {shown(size)}, {len(tail)} bytes are left")
        found[name] = of_bytes(name, dtype, shape, tail[:size])
        tail = tail[size:]
    if len(tail):
        raise Refusal(f"{len(tail)} bytes behind the JSON belong to no input")
    return found


def _head(one: dict[str, Any]) -> tuple[str, DataType, list[int]]:
    name, datatype, shape = one.get("name"), one.get("datatype"), one.get("shape")
    if type(name) is not str or not name:
        raise Refusal(f"an input has the name {shown(name)}: expected text")
    if type(datatype) is not str or datatype not in DATATYPES:
        raise Refusal(f"input {name!r} has datatype {shown(datatype)}: expected one of {', '.join(DATATYPES)}")
    fine = type(shape) is list and len(shape) <= _MOST_DIMENSIONS
    if not fine or not all(type(size) is int and 0 <= size < 2**63 for size in shape or ()):
        raise Refusal(f"input {name!r} has shape {shown(shape)}: expected a list of sizes")
    return name, DATATYPES[datatype], shape or []


def _of_values(name: str, dtype: DataType, shape: list[int], data: Any) -> Tensor:
    """A tensor of JSON values, in one list or nested like the tensor."""
    if type(data) is not list:
        raise Refusal(f"input {name!r} has data {shown(data)}: expected a list")
    try:
        tensor = quick_tensor(data, dtype) or tensor_of(data, dtype)
    except Refusal as error:
        raise Refusal(f"input {name!r}: {error.message}", error.status) from None
    if math.prod(tensor.shape) != math.prod(shape):
        raise Refusal(f"input {name!r} has {math.prod(tensor.shape)} values, shape {shape} has {math.prod(shape)}")
    tensor.shape = shape
    return tensor


def of_bytes(name: str, dtype: DataType, shape: list[int], content: memoryview) -> Tensor:
    """A tensor of bytes as they lie in memory.

    Raises:
        Refusal: they are too few or too many.
    """
    if dtype == DataType.STRING:
        texts = list(_texts(name, content))
        if len(texts) != math.prod(shape):
            raise Refusal(f"input {name!r} has {len(texts)} elements, shape {shape} has {math.prod(shape)}")
        return Tensor(dtype, shape, None, texts)
    size = math.prod(shape) * (2 if dtype == DataType.BFLOAT16 else numpy_dtype(dtype).itemsize)
    if size != len(content):
        raise Refusal(f"input {name!r} has {len(content)} bytes, shape {shape} of {NAMES[dtype]} has {size}")
    return Tensor(dtype, shape, bytes(content))


def _texts(name: str, content: memoryview) -> Iterator[bytes]:
    while len(content):
        length = _LENGTH.unpack_from(content)[0] if len(content) >= _LENGTH.size else len(content)
        if _LENGTH.size + length > len(content):
            raise Refusal(f"input {name!r} ends within an element")
        yield bytes(content[_LENGTH.size : _LENGTH.size + length])
        content = content[_LENGTH.size + length :]


def output(name: str, array: Array, binary: bool) -> tuple[dict[str, Any], bytes]:
    """An output's JSON value, and its bytes where they go behind the JSON."""
    told: dict[str, Any] = {"name": name, "datatype": NAMES[data_type(array.dtype)], "shape": list(array.shape)}
    if not binary:
        told["data"] = orjson.Fragment(written(array.reshape(-1)))
        return told, b""
    if array.dtype == object:
        content = b"".join(_LENGTH.pack(len(text)) + text for text in array.reshape(-1).tolist())
    else:
        content = np.ascontiguousarray(array).tobytes()
    told["parameters"] = {"binary_data_size": len(content)}
    return told, content


# The best classes of an output, as the classification extension of the Open Inference Protocol has them.


def best_classes(name: str, array: Array, most: int, labels: Sequence[str]) -> Array:
    """The `most` highest values of each row of an output's last dimension, best first, as "value:number[:label]".

    Equal values come by number, NaN last. Numbers are written as in any other answer.

    Raises:
        Refusal: the output has no such dimension, or no numbers.
    """
    if array.ndim == 0 or array.dtype.kind in "bO":
        raise no_classes(name, data_type(array.dtype), array.shape)
    if array.dtype.kind not in "iu":
        array = array.astype(np.float64)
    # Inverting turns the order of integers round, of those too whose negative their type does not have.
    order = np.argsort(~array if array.dtype.kind in "iu" else -array, axis=-1, kind="stable")[..., :most]
    values = np.take_along_axis(array, order, axis=-1)
    found = np.empty(order.size, object)
    found[:] = [
        _described(value, at, labels) for value, at in zip(values.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
    return found.reshape(order.shape)


def _described(value: Any, at: int, labels: Sequence[str]) -> bytes:
    text = orjson.dumps(number(value) if isinstance(value, float) else value).decode()
    label = labels[at] if at < len(labels) else ""
    return (f"{text}:{at}:{label}" if label else f"{text}:{at}").encode()


_MODEL = re.compile(r"/v2(?P<which>/models/[^/:]+(?:/versions/\d+)?)(?:/(?P<verb>ready|infer))?", re.ASCII)
#: How many of a body's first bytes are JSON; the rest are tensors.
_JSON_LENGTH = "inference-header-content-length"
_EXTENSIONS = ["binary_tensor_data", "classification"]


class V2Api:
    """The endpoints below /v2."""

    def __init__(self, catalog: MetadataCache, models: ModelApi, health: Health) -> None:
        self._catalog = catalog
        self._models = models
        self._health = health

    async def answer(self, exchange: HttpRequest) -> HttpReply:
        """Whatever is asked below /v2."""
        fixed = {"/v2": self._server, "/v2/health/live": self._live, "/v2/health/ready": self._health.ready}
        endpoint = fixed.get(exchange.path.rstrip("/"))
        if endpoint is not None:
            _only("GET", exchange)
            return await endpoint(exchange)
        found = _MODEL.fullmatch(exchange.path)
        if found is None:
            raise Refusal(f"Not found: {exchange.path[:1000]}", 404)
        path = replace(model_path("GET", f"/v1{found['which']}"), verb=found["verb"] or "metadata")
        _only("POST" if path.verb == "infer" else "GET", exchange)
        if path.verb == "infer":
            return await self._infer(exchange, path)
        return await (self._ready if path.verb == "ready" else self._metadata)(exchange, path)

    async def _server(self, exchange: HttpRequest) -> HttpReply:
        return HttpReply.of({"name": "thriftserve", "version": __version__, "extensions": _EXTENSIONS})

    async def _live(self, exchange: HttpRequest) -> HttpReply:
        return HttpReply.of({"live": True})

    async def _ready(self, exchange: HttpRequest, path: ModelPath) -> HttpReply:
        described = await self._catalog.renew(path, exchange.left_s)
        return HttpReply.of({"name": described.model, "ready": True})

    async def _metadata(self, exchange: HttpRequest, path: ModelPath) -> HttpReply:
        described = await self._catalog.renew(path, exchange.left_s)
        exchange.check_query(SIGNATURE)
        signature = signature_of(described, exchange.query.get(SIGNATURE))
        return HttpReply.of(
            {
                "name": described.model,
                "versions": [str(described.version)],
                "platform": described.platform,
                "inputs": _infos(signature.inputs),
                "outputs": _infos(signature.outputs),
            }
        )

    async def _infer(self, exchange: HttpRequest, path: ModelPath) -> HttpReply:
        exchange.check_query(SIGNATURE)
        body = memoryview(await exchange.body())
        length = _json_length(exchange, len(body))
        document = without_nulls(await aside(len(body), parsed_object, bytes(body[:length])))
        request = InferRequest.read(document)
        if request.timeout_s is not None:
            exchange.ask_for(request.timeout_s)

        async def read(declared: SignatureInfo, types: Types) -> tuple[dict[str, Tensor], None]:
            if types is not None:
                request.check(declared)
            return await aside(len(body), tensors_in, document.get("inputs"), body[length:]), None

        signature = request.signature or exchange.query.get(SIGNATURE)
        prediction, _ = await self._models.run(exchange, path, signature, read, request.names())
        wanted = request.wanted(prediction)
        labels: Sequence[str] = ()
        if any(one.classes for one in wanted.values()):
            ran = replace(path, version=prediction.version, label=None)
            labels = (await self._catalog.describe(ran, exchange.left_s)).labels
        size = sum(array.nbytes for array in prediction.outputs.values())
        return await aside(size, _reply, request.request_id, prediction, wanted, labels)


def _only(method: str, exchange: HttpRequest) -> None:
    if exchange.method != method and not (method == "GET" and exchange.method == "HEAD"):
        raise Refusal(f"Method {exchange.method} is not allowed here: use {method}", 405, {"allow": method})


def _json_length(exchange: HttpRequest, size: int) -> int:
    text = exchange.headers.get(_JSON_LENGTH)
    if text is None:
        return size
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > size:
        raise Refusal(f"Inference-Header-Content-Length is {text[:100]!r}: the body has {size} bytes")
    return int(text)


def _reply(
    request_id: str | None, prediction: Prediction, wanted: Mapping[str, RequestedOutput], labels: Sequence[str]
) -> HttpReply:
    told, tails = [], []
    for name, how in wanted.items():
        array = prediction[name]
        if how.classes:
            array = best_classes(name, array, how.classes, labels)
        one, tail = output(name, array, how.binary)
        told.append(one)
        tails.append(tail)
    answer: dict[str, Any] = {"model_name": prediction.model, "model_version": str(prediction.version), "outputs": told}
    if request_id is not None:
        answer["id"] = request_id
    text = orjson.dumps(answer)
    if not any(how.binary for how in wanted.values()):
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
