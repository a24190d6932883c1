"""TensorFlow Serving's predict, status and metadata.

POST /v1/models/N:predict   --JSON | arrays--> tensors --Backends--> outputs --> JSON | arrays
GET  /v1/models/N           --> the state of each version
GET  /v1/models/N/metadata  --> the signatures, as JSON of the protobuf messages
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from thriftserve.gateway import json_encode
from thriftserve.gateway.backends import Backends, MetadataCache, declares_nothing, signature_of
from thriftserve.gateway.http import SIGNATURE, HttpReply, HttpRequest, ModelPath, Refusal
from thriftserve.gateway.images import has_images
from thriftserve.gateway.json_decode import JsonLayout, Types, decode_tensors, signature_name, with_images
from thriftserve.gateway.json_text import members, parse_object
from thriftserve.gateway.npy import KINDS, accepted_kind, decode_arrays, encode_arrays, query_parameters
from thriftserve_client.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from thriftserve_client.results import ModelMetadata, ModelStatus, Prediction, SignatureInfo, TensorInfo
from thriftserve_idl.ttypes import DataType, Tensor

T = TypeVar("T")
#: Decodes a request's tensors, given a signature and its inputs' types; the second value is returned with the outputs.
ReadTensors = Callable[[SignatureInfo, Types], Awaitable[tuple[dict[str, Tensor], T]]]

#: Names of outputs; None for all.
OutputNames = list[str] | None

#: Larger bodies are decoded and encoded in a thread, so that other requests proceed.
LARGE_BYTES = 1024 * 1024
_CHANNELS = (1, 3, 4)
_MEMBERS = (SIGNATURE, "instances", "inputs")


async def run_aside(size: int, work: Callable[..., T], *values: Any) -> T:
    """Return `work(*values)`, run in a thread if it processes more than `LARGE_BYTES`."""
    return work(*values) if size <= LARGE_BYTES else await asyncio.to_thread(work, *values)


class ModelApi:
    """The endpoints /v1/models/N:predict, /v1/models/N, /v1/models/N/metadata and /v1/models."""

    def __init__(self, backends: Backends, metadata_cache: MetadataCache, max_body_bytes: int) -> None:
        self._backends = backends
        self._metadata_cache = metadata_cache
        self._max_body_bytes = max_body_bytes

    async def predict(self, request: HttpRequest, path: ModelPath) -> HttpReply:
        """Run a signature on the tensors of a body: JSON, or arrays in a binary format."""
        request.check_query(SIGNATURE, "output", *query_parameters(request.content_type))
        body = await request.body()
        if request.content_type in KINDS:
            prediction, layout = await self._predict_arrays(request, path, body)
        else:
            prediction, layout = await self._predict_json(request, path, body)
        kind = accepted_kind(request)
        if kind is not None:
            return encode_arrays(prediction.outputs, kind)
        size = sum(array.nbytes for array in prediction.outputs.values())
        return HttpReply(await run_aside(size, json_encode.encode_response, prediction.outputs, layout))

    async def _predict_json(self, request: HttpRequest, path: ModelPath, body: bytes) -> tuple[Prediction, JsonLayout]:
        if has_images(request.content_type):
            raise Refusal(f":predict does not take {request.content_type}: send images to :classify or :detect", 415)
        document = members(await run_aside(len(body), parse_object, body), _MEMBERS)
        name = signature_name(document) or request.query.get(SIGNATURE)

        async def read(signature: SignatureInfo, types: Types) -> tuple[dict[str, Tensor], JsonLayout]:
            sent = with_images(document, types, image_inputs(signature))
            return await run_aside(len(body), decode_tensors, document, sent, name)

        return await self.run(request, path, name, read, _output_names(request), free_shapes=True)

    async def _predict_arrays(
        self, request: HttpRequest, path: ModelPath, body: bytes
    ) -> tuple[Prediction, JsonLayout]:
        async def read(signature: SignatureInfo, types: Types) -> tuple[dict[str, Tensor], JsonLayout]:
            return decode_arrays(request, body, signature, types, self._max_body_bytes), JsonLayout.COLUMNAR

        signature = request.query.get(SIGNATURE)
        return await self.run(request, path, signature, read, _output_names(request), free_shapes=True)

    async def run(
        self,
        request: HttpRequest,
        path: ModelPath,
        signature: str | None,
        read: ReadTensors[T],
        outputs: OutputNames = None,
        *,
        free_shapes: bool = False,
    ) -> tuple[Prediction, T]:
        """Run a signature on the tensors that `read` returns; return its outputs and the second value of `read`.

        If the request fails, the model may have changed since its metadata was cached. Then the metadata is read
        again, and if it differs, the request is tried once more.

        Args:
            request: the request.
            path: names the model and version.
            signature: name of the signature; None for the default one.
            read: decodes the tensors.
            outputs: names of the outputs to return; None for all.
            free_shapes: whether the model's graph decides if the tensors' shapes fit, as in TensorFlow Serving.

        Raises:
            Refusal: no such model, version or signature, or the refusal of `read`.
            ThriftServeClientError: the call failed.
        """
        metadata = await self._metadata_cache.get(path, request.left_s)
        try:
            return await self._run(request, path, metadata, signature, read, outputs, free_shapes)
        except (InvalidArgumentError, NotFoundError, FailedPreconditionError, Refusal) as error:
            renewed = await self._metadata_cache.refresh(path, request.left_s, refused_here=isinstance(error, Refusal))
            if renewed == metadata:
                raise
            return await self._run(request, path, renewed, signature, read, outputs, free_shapes)

    async def _run(
        self,
        request: HttpRequest,
        path: ModelPath,
        metadata: ModelMetadata,
        signature: str | None,
        read: ReadTensors[T],
        outputs: OutputNames,
        free_shapes: bool,
    ) -> tuple[Prediction, T]:
        request.ran = metadata.model, metadata.version
        declared = signature_of(metadata, signature)
        inputs, extra = await read(declared, types_of(metadata, declared))
        prediction = await self._backends.predict(request, path, signature, inputs, outputs, free_shapes=free_shapes)
        self._metadata_cache.note_version(path, prediction.version)
        return prediction, extra

    async def status(self, request: HttpRequest, path: ModelPath) -> HttpReply:
        """Return the state of every version, or of the one named."""
        request.check_query()
        try:
            status = await self._backends.status(request, path)
        except NotFoundError:
            raise path.not_found() from None
        except FailedPreconditionError:
            if path.label is None:
                raise
            raise path.not_found() from None
        return HttpReply.of(status_json(status))

    async def metadata(self, request: HttpRequest, path: ModelPath) -> HttpReply:
        """Return the signatures."""
        request.check_query()
        return HttpReply.of(metadata_json(await self._metadata_cache.renew(path, request.left_s)))

    async def models(self, request: HttpRequest) -> HttpReply:
        """Return the state of every model."""
        request.check_query()
        models = await self._backends.models(request.left_s)
        return HttpReply.of({"models": [{"name": model.name, **status_json(model)} for model in models]})


def _output_names(request: HttpRequest) -> OutputNames:
    """Return the output that the query names; None for all."""
    name = request.query.get("output")
    return [name] if name else None


def types_of(metadata: ModelMetadata, signature: SignatureInfo) -> Types:
    """Return the types of a signature's inputs; None if it declares none."""
    if declares_nothing(metadata, signature):
        return None
    return {name: info.dtype for name, info in signature.inputs.items()}


def image_inputs(signature: SignatureInfo) -> list[str]:
    """Return the inputs that take encoded images: those of one, three or four channels in the last dimension."""
    return [
        name
        for name, info in signature.inputs.items()
        if info.shape is not None
        and len(info.shape) in (3, 4)
        and info.shape[-1] in _CHANNELS
        and info.dtype not in (DataType.STRING, DataType.BOOL)
    ]


def status_json(status: ModelStatus) -> dict[str, Any]:
    """Return GetModelStatusResponse as JSON: 64-bit numbers are text."""
    return {
        "model_version_status": [
            {
                "version": str(version.version),
                "state": version.state,
                "status": {"error_code": version.error or "OK", "error_message": version.error_message},
            }
            for version in status.versions
        ]
    }


def metadata_json(metadata: ModelMetadata) -> dict[str, Any]:
    """Return GetModelMetadataResponse as JSON, with the protobuf names of the fields and every default."""
    spec = {"name": metadata.model, "signature_name": "", "version": str(metadata.version or 0)}
    signatures = {
        name: {
            "inputs": _infos(signature.inputs),
            "outputs": _infos(signature.outputs),
            "method_name": signature.method_name,
            "defaults": {},
        }
        for name, signature in metadata.signatures.items()
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
            "name": info.tensor_name or info.name,
        }
        for name, info in infos.items()
    }
