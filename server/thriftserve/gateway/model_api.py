"""TensorFlow Serving's predict, status and metadata.

POST /v1/models/N:predict   --JSON--> tensors --Backends--> outputs --> JSON
GET  /v1/models/N           --> every version's state
GET  /v1/models/N/metadata  --> the signatures, as the JSON form of the protobuf messages
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from thriftserve.gateway import json_encode
from thriftserve.gateway.backends import Backends
from thriftserve.gateway.http import SIGNATURE, HttpReply, HttpRequest, ModelPath, Refusal
from thriftserve.gateway.images import bears_images
from thriftserve.gateway.json_decode import JsonForm, Types, signature_name, tensors_of, with_images
from thriftserve.gateway.json_text import members, parsed_object
from thriftserve.gateway.metadata_cache import MetadataCache, declares_nothing, signature_of
from thriftserve.gateway.npy import KINDS, accepted, query_of, reply_of, tensors_in
from thriftserve_client.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from thriftserve_client.results import ModelMetadata, ModelStatus, Prediction, SignatureInfo, TensorInfo
from thriftserve_idl.ttypes import DataType, Tensor

T = TypeVar("T")
#: Makes tensors of a request by a signature and its inputs' types; the second value comes back beside the outputs.
Read = Callable[[SignatureInfo, Types], Awaitable[tuple[dict[str, Tensor], T]]]

#: Names of outputs; None: all of them.
Outputs = list[str] | None

#: Larger bodies are read and written in a thread, so that other requests go on.
LARGE_BYTES = 1024 * 1024
_CHANNELS = (1, 3, 4)
_MEMBERS = (SIGNATURE, "instances", "inputs")


async def aside(size: int, work: Callable[..., T], *values: Any) -> T:
    """Runs `work`, in a thread where it has many bytes to go through."""
    return work(*values) if size <= LARGE_BYTES else await asyncio.to_thread(work, *values)


class ModelApi:
    """The endpoints below /v1/models/N that take tensors or tell of a model."""

    def __init__(self, backends: Backends, catalog: MetadataCache, max_body_bytes: int) -> None:
        self._backends = backends
        self._catalog = catalog
        self._max_body_bytes = max_body_bytes

    async def predict(self, exchange: HttpRequest, path: ModelPath) -> HttpReply:
        """Runs a signature on the tensors of a body: JSON, or as they lie in memory."""
        exchange.check_query(SIGNATURE, "output", *query_of(exchange.content_type))
        body = await exchange.body()
        if exchange.content_type in KINDS:
            prediction, form = await self._predict_arrays(exchange, path, body)
        else:
            prediction, form = await self._predict_json(exchange, path, body)
        kind = accepted(exchange)
        if kind is not None:
            return reply_of(prediction.outputs, kind)
        size = sum(array.nbytes for array in prediction.outputs.values())
        return HttpReply(await aside(size, json_encode.answer, prediction.outputs, form))

    async def _predict_json(self, exchange: HttpRequest, path: ModelPath, body: bytes) -> tuple[Prediction, JsonForm]:
        if bears_images(exchange.content_type):
            raise Refusal(f":predict takes no {exchange.content_type}: send images to :classify or :detect", 415)
        document = members(await aside(len(body), parsed_object, body), _MEMBERS)
        name = signature_name(document) or exchange.query.get(SIGNATURE)

        async def read(signature: SignatureInfo, types: Types) -> tuple[dict[str, Tensor], JsonForm]:
            sent = with_images(document, types, pixels(signature))
            return await aside(len(body), tensors_of, document, sent, name)

        return await self.run(exchange, path, name, read, _asked(exchange))

    async def _predict_arrays(self, exchange: HttpRequest, path: ModelPath, body: bytes) -> tuple[Prediction, JsonForm]:
        async def read(signature: SignatureInfo, types: Types) -> tuple[dict[str, Tensor], JsonForm]:
            return tensors_in(exchange, body, signature, types, self._max_body_bytes), JsonForm.COLUMNAR

        return await self.run(exchange, path, exchange.query.get(SIGNATURE), read, _asked(exchange))

    async def run(
        self, exchange: HttpRequest, path: ModelPath, signature: str | None, read: Read[T], outputs: Outputs = None
    ) -> tuple[Prediction, T]:
        """Runs a signature on what `read` makes of it and its types: tensors, and something to keep by.

        `outputs` are the names of those wanted; None: all of them.

        Where the model has changed since it was described, all is done once more by the new description: a server
        that refuses what was made by the old one, or a request that does not fit it, may be the first to tell.

        Raises:
            Refusal: no such model, version or signature, or what `read` refused.
            ThriftServeClientError: as the call went.
        """
        described = await self._catalog.describe(path, exchange.left_s)
        try:
            return await self._run(exchange, path, described, signature, read, outputs)
        except (InvalidArgumentError, NotFoundError, FailedPreconditionError, Refusal) as error:
            renewed = await self._catalog.refresh(path, exchange.left_s, ours=isinstance(error, Refusal))
            if renewed == described:
                raise
            return await self._run(exchange, path, renewed, signature, read, outputs)

    async def _run(
        self,
        exchange: HttpRequest,
        path: ModelPath,
        described: ModelMetadata,
        signature: str | None,
        read: Read[T],
        outputs: Outputs,
    ) -> tuple[Prediction, T]:
        exchange.ran = described.model, described.version
        declared = signature_of(described, signature)
        inputs, kept = await read(declared, types_of(described, declared))
        prediction = await self._backends.predict(exchange, path, signature, inputs, outputs)
        self._catalog.ran(path, prediction.version)
        return prediction, kept

    async def status(self, exchange: HttpRequest, path: ModelPath) -> HttpReply:
        """The state of every version, or of the one named."""
        exchange.check_query()
        try:
            found = await self._backends.status(exchange, path)
        except NotFoundError:
            raise path.not_found() from None
        except FailedPreconditionError:
            if path.label is None:
                raise
            raise path.not_found() from None
        return HttpReply.of(status_form(found))

    async def metadata(self, exchange: HttpRequest, path: ModelPath) -> HttpReply:
        """The signatures."""
        exchange.check_query()
        return HttpReply.of(metadata_form(await self._catalog.renew(path, exchange.left_s)))

    async def models(self, exchange: HttpRequest) -> HttpReply:
        """The state of every model."""
        exchange.check_query()
        found = await self._backends.models(exchange.left_s)
        return HttpReply.of({"models": [{"name": one.name, **status_form(one)} for one in found]})


def _asked(exchange: HttpRequest) -> Outputs:
    """The one output that the query names; None: all of them."""
    name = exchange.query.get("output")
    return [name] if name else None


def types_of(described: ModelMetadata, signature: SignatureInfo) -> Types:
    """The types of a signature's inputs; None where nothing is declared."""
    if declares_nothing(described, signature):
        return None
    return {name: info.dtype for name, info in signature.inputs.items()}


def pixels(signature: SignatureInfo) -> list[str]:
    """The inputs that a server takes encoded images for: rows of one, three or four channels."""
    return [
        name
        for name, info in signature.inputs.items()
        if info.shape is not None
        and len(info.shape) in (3, 4)
        and info.shape[-1] in _CHANNELS
        and info.dtype not in (DataType.STRING, DataType.BOOL)
    ]


def status_form(status: ModelStatus) -> dict[str, Any]:
    """GetModelStatusResponse as JSON: 64-bit numbers are text."""
    return {
        "model_version_status": [
            {
                "version": str(one.version),
                "state": one.state,
                "status": {"error_code": one.error or "OK", "error_message": one.error_message},
            }
            for one in status.versions
        ]
    }


def metadata_form(described: ModelMetadata) -> dict[str, Any]:
    """GetModelMetadataResponse as JSON, with the fields' own names and every default."""
    spec = {"name": described.model, "signature_name": "", "version": str(described.version or 0)}
    signatures = {
        name: {
            "inputs": _infos(one.inputs),
            "outputs": _infos(one.outputs),
            "method_name": one.method_name,
            "defaults": {},
        }
        for name, one in described.signatures.items()
    }
    return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}}


def _infos(infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    return {
        name: {
            "dtype": f"DT_{info.dtype.name}",
            "tensor_shape": {
                "dim": [{"size": str(-1 if size is None else size), "name": ""} for size in info.shape or ()],
                "unknown_rank": info.shape is None,
            },
            "name": info.name,
        }
        for name, info in infos.items()
    }
