"""Call the servers behind the gateway, and report whether they answer.

endpoint --> Backends --AsyncPool--> thriftserve servers --> results, or the calls' errors
/healthz, /readyz --> Health
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thriftserve.gateway.http import HttpReply, HttpRequest, ModelPath
from thriftserve.settings.gateway import GatewaySettings, address_of
from thriftserve_client import CallTimeout, decode, requests, results
from thriftserve_client.address import Address, SslOptions
from thriftserve_client.async_pool import AsyncPool
from thriftserve_client.connection import ConnectionConfig
from thriftserve_idl.ttypes import ClassifyRequest, DetectRequest, ModelSpec, PredictRequest, Tensor

#: Bytes that a message may have beside the body's: names, shapes.
_ENVELOPE_BYTES = 1024 * 1024
#: /readyz: a server that has not answered by then counts as unreachable.
_PING_TIMEOUT_S = 2.0


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
    ) -> results.Prediction:
        """Run a signature on tensors; return the named outputs, or all of them for None."""
        left_s = request.left_s
        call = PredictRequest(
            path.spec(signature), dict(inputs), outputs, requests.timeout_ms(left_s), request.request_id
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
