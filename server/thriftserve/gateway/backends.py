"""Call the servers behind the gateway, report whether they answer, and cache their models' metadata.

endpoint --> Backends --AsyncPool--> thriftserve servers --> results, or the calls' errors
/healthz, /readyz --> Health
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from thriftserve.gateway.http import HttpReply, HttpRequest, ModelPath, Refusal
from thriftserve.settings.gateway import GatewaySettings, address_of
from thriftserve_client import CallTimeout, decode, requests, results
from thriftserve_client.address import Address, SslOptions
from thriftserve_client.async_pool import AsyncPool
from thriftserve_client.connection import ConnectionConfig
from thriftserve_client.errors import FailedPreconditionError, NotFoundError
from thriftserve_client.results import ModelMetadata, SignatureInfo
from thriftserve_idl.ttypes import ClassifyRequest, DetectRequest, ModelSpec, PredictRequest, Tensor


class Backends:
    """Call any of the servers, each call within the time that its request has left. Used by the event loop's thread."""

    def __init__(self, settings: GatewaySettings) -> None:
        limit = min(settings.max_body_bytes + _ENVELOPE_BYTES, 0x7FFFFFFF)
        configs = [
            ConnectionConfig(
                Address(*address_of(backend), tls=_tls(settings)),
                protocol=settings.backend_protocol,
                connect_timeout_s=settings.connect_timeout_s,
                max_message_bytes=limit,
            )
            for backend in settings.backends
        ]
        self.pool = AsyncPool(configs, max_connections=settings.backend_connections)

    async def predict(
        self,
        request: HttpRequest,
        path: ModelPath,
        signature: str | None,
        inputs: Mapping[str, Tensor],
        outputs: list[str] | None = None,
        *,
        free_shapes: bool = False,
    ) -> results.Prediction:
        """Run a signature on tensors; return the named outputs, or all of them for None.

        With `free_shapes` a model that has a graph decides itself whether the tensors' shapes fit.
        """
        left_s = request.left_s
        call = PredictRequest(
            path.spec(signature),
            dict(inputs),
            outputs,
            requests.timeout_ms(left_s),
            request.request_id,
            free_shapes or None,
        )
        prediction = decode.prediction(await self.pool.call("predict", left_s, call))
        request.ran = prediction.model, prediction.version
        return prediction

    async def classify(
        self, request: HttpRequest, path: ModelPath, signature: str | None, images: list[bytes], top_k: int | None
    ) -> results.PerImage[tuple[results.Classification, ...]]:
        """Return the best classes of encoded images."""
        left_s = request.left_s
        call = ClassifyRequest(path.spec(signature), images, top_k, requests.timeout_ms(left_s), request.request_id)
        classifications = decode.classifications(await self.pool.call("classify", left_s, call))
        request.ran = classifications.model, classifications.version
        return classifications

    async def detect(
        self,
        request: HttpRequest,
        path: ModelPath,
        signature: str | None,
        images: list[bytes],
        min_score: float | None,
        max_detections: int | None,
    ) -> results.PerImage[results.ImageDetections]:
        """Return the objects in encoded images."""
        left_s = request.left_s
        call = DetectRequest(
            path.spec(signature), images, min_score, max_detections, requests.timeout_ms(left_s), request.request_id
        )
        detections = decode.detections(await self.pool.call("detect", left_s, call))
        request.ran = detections.model, detections.version
        return detections

    async def metadata(self, spec: ModelSpec, timeout_s: float) -> results.ModelMetadata:
        """Return the signatures of a model."""
        return decode.metadata(await self.pool.call("getModelMetadata", timeout_s, spec))

    async def status(self, request: HttpRequest, path: ModelPath) -> results.ModelStatus:
        """Return the state of a model's versions."""
        return decode.model_status(await self.pool.call("getModelStatus", request.left_s, path.spec()))

    async def models(self, timeout_s: float) -> list[results.ModelStatus]:
        """Return the state of every model."""
        statuses: list[Any] = await self.pool.call("listModels", timeout_s)
        return [decode.model_status(status) for status in statuses]

    def close(self) -> None:
        """Close the idle connections."""
        self.pool.close()


class Health:
    """The probes of load balancers and orchestrators."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    async def live(self, request: HttpRequest) -> HttpReply:
        """Answer, which shows that the event loop runs."""
        return HttpReply.of({"status": "ok"})

    async def ready(self, request: HttpRequest) -> HttpReply:
        """Return 200 if a server answers a ping, else 503, with the error of each that does not.

        Raises:
            Refusal: the request's own time ended before a server answered.
        """
        left_s = request.left_s
        pings = await self._backends.pool.call_each("ping", min(_PING_TIMEOUT_S, left_s))
        servers = [
            {"backend": str(backend.config.address), "status": "ok" if error is None else "failed"}
            | ({} if error is None else {"error": str(error)})
            for backend, error in pings
        ]
        answering = sum(server["status"] == "ok" for server in servers)
        if not answering and left_s < _PING_TIMEOUT_S:  # the request left the servers too little time to judge them
            if any(isinstance(error, CallTimeout) for _, error in pings):
                raise request.too_late()
            _ = request.left_s
        state = "ok" if answering == len(servers) else "degraded" if answering else "failed"
        return HttpReply.of({"status": state, "backends": servers}, 200 if answering else 503)


def _tls(settings: GatewaySettings) -> SslOptions | None:
    if settings.backend_ca is None:
        return None
    return SslOptions(settings.backend_ca, settings.backend_cert, settings.backend_key)


DEFAULT_SIGNATURE = "serving_default"
#: Entries of the cache; the least recently used is dropped first.
_MAX_ENTRIES = 1000
#: Metadata younger than this is not read again because a request does not fit it.
_FRESH_S = 1.0


class MetadataCache:
    """Metadata of models by model and version. Used by the event loop's thread."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._entries: OrderedDict[ModelPath, ModelMetadata] = OrderedDict()
        self._read_at: dict[ModelPath, float] = {}
        self._reads: dict[ModelPath, asyncio.Task[ModelMetadata]] = {}

    async def get(self, path: ModelPath, timeout_s: float) -> ModelMetadata:
        """Return a model's metadata.

        Raises:
            Refusal: no such model or version.
            ThriftServeClientError: no server returned it.
        """
        metadata = self._entries.get(path.without_verb)
        if metadata is None:
            return await self.renew(path, timeout_s)
        self._entries.move_to_end(path.without_verb)
        return metadata

    async def renew(self, path: ModelPath, timeout_s: float) -> ModelMetadata:
        """Return a model's metadata, read again; concurrent callers share one read. Errors as for `get`."""
        key = path.without_verb
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = asyncio.ensure_future(self._read(key, timeout_s))
            task.add_done_callback(lambda _: self._reads.pop(key, None))
        try:
            return await asyncio.shield(task)
        except NotFoundError:
            raise path.not_found() from None
        except FailedPreconditionError:
            if path.label is not None:
                raise path.not_found() from None
            raise
        finally:
            del task  # its error refers to this frame

    async def refresh(self, path: ModelPath, timeout_s: float, *, refused_here: bool) -> ModelMetadata:
        """Return a model's metadata after a request failed with the cached one. Errors as for `get`.

        Args:
            path: names the model and version.
            timeout_s: limit on the read.
            refused_here: whether the gateway itself refused the request. Then metadata younger than a second is not
                read again: clients with wrong requests must not load the servers.
        """
        metadata, now = self._entries.get(path.without_verb), asyncio.get_running_loop().time()
        if refused_here and metadata is not None and now < self._read_at.get(path.without_verb, 0.0) + _FRESH_S:
            return metadata
        return await self.renew(path, timeout_s)

    def note_version(self, path: ModelPath, version: int | None) -> None:
        """Drop a model's metadata if another version answered than the cached one."""
        metadata = self._entries.get(path.without_verb)
        if metadata is not None and metadata.version != version:
            self._drop(path)

    def _drop(self, path: ModelPath) -> None:
        self._entries.pop(path.without_verb, None)
        self._read_at.pop(path.without_verb, None)

    async def _read(self, key: ModelPath, timeout_s: float) -> ModelMetadata:
        self._drop(key)
        metadata = await self._backends.metadata(key.spec(), timeout_s)
        self._entries[key] = metadata
        self._read_at[key] = asyncio.get_running_loop().time()
        if len(self._entries) > _MAX_ENTRIES:
            oldest, _ = self._entries.popitem(last=False)
            self._read_at.pop(oldest, None)
        return metadata


def signature_of(metadata: ModelMetadata, name: str | None) -> SignatureInfo:
    """Return a signature by its name, or the default one for None.

    Raises:
        Refusal: the model has no such signature.
    """
    name = name or DEFAULT_SIGNATURE
    signature = metadata.signatures.get(name)
    if signature is None:
        raise Refusal(f'Serving signature name: "{name}" not found in signature def')
    return signature


def declares_nothing(metadata: ModelMetadata, signature: SignatureInfo) -> bool:
    """Return whether a model takes any inputs: a Python model without signatures."""
    return metadata.platform == "python" and not signature.inputs and not signature.outputs


#: Bytes that a message may have beside the body's: names, shapes.
_ENVELOPE_BYTES = 1024 * 1024
#: /readyz: a server that has not answered by then counts as unreachable.
_PING_TIMEOUT_S = 1.0
