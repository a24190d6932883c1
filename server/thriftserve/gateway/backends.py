"""The servers behind the gateway, asked in the contract's words.

GatewaySettings --> AsyncPool --> what a method answered, or how the calls fail
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thriftserve.gateway.http import HttpRequest, ModelPath
from thriftserve.settings.gateway import GatewaySettings, address_of
from thriftserve_client import decode, requests, results
from thriftserve_client.address import Address, SslOptions
from thriftserve_client.async_pool import AsyncPool
from thriftserve_client.connection import Dialing
from thriftserve_idl.ttypes import ClassifyRequest, DetectRequest, ModelSpec, PredictRequest, Tensor

#: Room for the names around a body's bytes.
_ENVELOPE_BYTES = 1024 * 1024


def _tls(settings: GatewaySettings) -> SslOptions | None:
    if settings.backend_ca is None:
        return None
    return SslOptions(settings.backend_ca, settings.backend_cert, settings.backend_key)


class Backends:
    """Calls to whichever server is there; each within the time that its exchange has left."""

    def __init__(self, settings: GatewaySettings) -> None:
        limit = min(settings.max_body_bytes + _ENVELOPE_BYTES, 0x7FFFFFFF)
        dialings = [
            Dialing(
                Address(*address_of(one), tls=_tls(settings)),
                protocol=settings.backend_protocol,
                connect_timeout_s=settings.connect_timeout_s,
                max_message_bytes=limit,
            )
            for one in settings.backends
        ]
        self.pool = AsyncPool(dialings, max_connections=settings.backend_connections)

    async def predict(
        self,
        exchange: HttpRequest,
        path: ModelPath,
        signature: str | None,
        inputs: Mapping[str, Tensor],
        outputs: list[str] | None = None,
    ) -> results.Prediction:
        """Runs a signature on tensors, for the outputs named (None: all of them)."""
        left = exchange.left_s
        request = PredictRequest(
            path.spec(signature), dict(inputs), outputs, requests.timeout_ms(left), exchange.request_id
        )
        found = decode.prediction(await self.pool.call("predict", left, request))
        exchange.ran = found.model, found.version
        return found

    async def classify(
        self, exchange: HttpRequest, path: ModelPath, signature: str | None, images: list[bytes], top_k: int | None
    ) -> results.PerImage[tuple[results.Classification, ...]]:
        """Names the best classes of encoded images."""
        left = exchange.left_s
        request = ClassifyRequest(path.spec(signature), images, top_k, requests.timeout_ms(left), exchange.request_id)
        found = decode.classifications(await self.pool.call("classify", left, request))
        exchange.ran = found.model, found.version
        return found

    async def detect(
        self,
        exchange: HttpRequest,
        path: ModelPath,
        signature: str | None,
        images: list[bytes],
        min_score: float | None,
        most: int | None,
    ) -> results.PerImage[results.ImageDetections]:
        """Finds objects in encoded images."""
        left = exchange.left_s
        request = DetectRequest(
            path.spec(signature), images, min_score, most, requests.timeout_ms(left), exchange.request_id
        )
        found = decode.detections(await self.pool.call("detect", left, request))
        exchange.ran = found.model, found.version
        return found

    async def metadata(self, spec: ModelSpec, timeout_s: float) -> results.ModelMetadata:
        """The signatures of a model."""
        return decode.metadata(await self.pool.call("getModelMetadata", timeout_s, spec))

    async def status(self, exchange: HttpRequest, path: ModelPath) -> results.ModelStatus:
        """The state of a model's versions."""
        return decode.model_status(await self.pool.call("getModelStatus", exchange.left_s, path.spec()))

    async def models(self, timeout_s: float) -> list[results.ModelStatus]:
        """The state of every model."""
        found: list[Any] = await self.pool.call("listModels", timeout_s)
        return [decode.model_status(one) for one in found]

    def close(self) -> None:
        """Closes the connections that are idle."""
        self.pool.close()
