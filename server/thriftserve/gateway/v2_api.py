"""The Open Inference Protocol, version 2: health, metadata and inference.

GET  /v2, /v2/health/live, /v2/health/ready, /v2/models/N[/versions/V][/ready]
POST /v2/models/N[/versions/V]/infer   --JSON [and bytes]--> Backends --> JSON [and bytes]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from thriftserve import __version__
from thriftserve.gateway import v2_tensors
from thriftserve.gateway.arrays_in import RAW
from thriftserve.gateway.catalog import Catalog, signature_of
from thriftserve.gateway.exchange import JSON, SIGNATURE, Exchange, Reply
from thriftserve.gateway.failures import Refusal
from thriftserve.gateway.health import Health
from thriftserve.gateway.json_requests import Types
from thriftserve.gateway.json_text import parsed_object, without_nulls
from thriftserve.gateway.model_api import ModelApi, aside
from thriftserve.gateway.paths import ModelPath, model_path
from thriftserve.gateway.v2_classes import best_classes
from thriftserve.gateway.v2_request import InferRequest, Wanted
from thriftserve_client.results import Prediction, SignatureInfo, TensorInfo
from thriftserve_idl.ttypes import Tensor

_MODEL = re.compile(r"/v2(?P<which>/models/[^/:]+(?:/versions/\d+)?)(?:/(?P<verb>ready|infer))?", re.ASCII)
#: How many of a body's first bytes are JSON; the rest are tensors.
_JSON_LENGTH = "inference-header-content-length"
_EXTENSIONS = ["binary_tensor_data", "classification"]


class V2Api:
    """The endpoints below /v2."""

    def __init__(self, catalog: Catalog, models: ModelApi, health: Health) -> None:
        self._catalog = catalog
        self._models = models
        self._health = health

    async def answer(self, exchange: Exchange) -> Reply:
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

    async def _server(self, exchange: Exchange) -> Reply:
        return Reply.of({"name": "thriftserve", "version": __version__, "extensions": _EXTENSIONS})

    async def _live(self, exchange: Exchange) -> Reply:
        return Reply.of({"live": True})

    async def _ready(self, exchange: Exchange, path: ModelPath) -> Reply:
        described = await self._catalog.renew(path, exchange.left_s)
        return Reply.of({"name": described.model, "ready": True})

    async def _metadata(self, exchange: Exchange, path: ModelPath) -> Reply:
        described = await self._catalog.renew(path, exchange.left_s)
        exchange.check_query(SIGNATURE)
        signature = signature_of(described, exchange.query.get(SIGNATURE))
        return Reply.of(
            {
                "name": described.model,
                "versions": [str(described.version)],
                "platform": described.platform,
                "inputs": _infos(signature.inputs),
                "outputs": _infos(signature.outputs),
            }
        )

    async def _infer(self, exchange: Exchange, path: ModelPath) -> Reply:
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
            return await aside(len(body), v2_tensors.tensors_in, document.get("inputs"), body[length:]), None

        signature = request.signature or exchange.query.get(SIGNATURE)
        prediction, _ = await self._models.run(exchange, path, signature, read, request.names())
        wanted = request.wanted(prediction)
        labels: Sequence[str] = ()
        if any(one.classes for one in wanted.values()):
            ran = replace(path, version=prediction.version, label=None)
            labels = (await self._catalog.describe(ran, exchange.left_s)).labels
        size = sum(array.nbytes for array in prediction.outputs.values())
        return await aside(size, _reply, request.request_id, prediction, wanted, labels)


def _only(method: str, exchange: Exchange) -> None:
    if exchange.method != method and not (method == "GET" and exchange.method == "HEAD"):
        raise Refusal(f"Method {exchange.method} is not allowed here: use {method}", 405, {"allow": method})


def _json_length(exchange: Exchange, size: int) -> int:
    text = exchange.headers.get(_JSON_LENGTH)
    if text is None:
        return size
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > size:
        raise Refusal(f"Inference-Header-Content-Length is {text[:100]!r}: the body has {size} bytes")
    return int(text)


def _reply(
    request_id: str | None, prediction: Prediction, wanted: Mapping[str, Wanted], labels: Sequence[str]
) -> Reply:
    told, tails = [], []
    for name, how in wanted.items():
        array = prediction[name]
        if how.classes:
            array = best_classes(name, array, how.classes, labels)
        one, tail = v2_tensors.output(name, array, how.binary)
        told.append(one)
        tails.append(tail)
    answer: dict[str, Any] = {"model_name": prediction.model, "model_version": str(prediction.version), "outputs": told}
    if request_id is not None:
        answer["id"] = request_id
    text = orjson.dumps(answer)
    if not any(how.binary for how in wanted.values()):
        return Reply(text, JSON)
    return Reply(b"".join([text, *tails]), RAW, headers={_JSON_LENGTH: str(len(text))})


def _infos(infos: Mapping[str, TensorInfo]) -> list[dict[str, Any]]:
    return [
        {
            "name": info.name,
            "datatype": v2_tensors.NAMES[info.dtype],
            "shape": [-1 if size is None else size for size in info.shape or ()],
        }
        for info in infos.values()
    ]
