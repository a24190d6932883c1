"""The gateway as an ASGI application: routes each request to its endpoint and sends the reply.

    scope, receive, send --> HttpRequest --route--> endpoint --> HttpReply | exception --> send

With `cors_origin`, Starlette's CORS middleware wraps it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from thriftserve.gateway import openapi
from thriftserve.gateway.backends import Backends, Health, MetadataCache
from thriftserve.gateway.classify import ExampleApi
from thriftserve.gateway.http import (
    RETRY_AFTER,
    HttpReply,
    HttpRequest,
    ModelPath,
    Receive,
    Refusal,
    Scope,
    parse_model_path,
    to_refusal,
)
from thriftserve.gateway.images import ImageApi, ImageService, decode_images, has_images, read_images
from thriftserve.gateway.json_text import parse_object
from thriftserve.gateway.metrics import Metrics
from thriftserve.gateway.model_api import ModelApi, run_aside
from thriftserve.gateway.npy import KINDS
from thriftserve.gateway.v2 import V2Api
from thriftserve.settings.gateway import GatewaySettings

logger = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]
Endpoint = Callable[[HttpRequest], Awaitable[HttpReply]]
#: TensorFlow Serving's API, in any case of the letters.
_V1 = re.compile(r"/v1(?:/.*)?", re.IGNORECASE | re.DOTALL)
#: Answered above `max_in_flight`, too: a monitor must not take an overloaded gateway for a dead one.
_UNLIMITED_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
_ALL_MODELS = re.compile(r"/v1/models/?", re.IGNORECASE)


class Gateway:
    """The ASGI application of one process. Its only state are connections and cached metadata of models."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._unlimited = _UNLIMITED_PATHS | {settings.metrics_path}
        self.in_flight = 0
        self._backends: Backends | None = None
        self._routes: dict[str, tuple[str, Endpoint]] = {}

    def open(self) -> None:
        """Create everything that belongs to the running event loop."""
        settings = self._settings
        self._backends = backends = Backends(settings)
        metadata_cache = MetadataCache(backends)
        health = Health(backends)
        self._models = ModelApi(backends, metadata_cache, settings.max_body_bytes)
        self._examples = ExampleApi(metadata_cache, self._models)
        self._images = ImageApi(backends)
        self._v2 = V2Api(metadata_cache, self._models, health)
        self._metrics = Metrics(backends)
        self._routes = {
            "/metrics": ("GET", self._metrics.answer),
            settings.metrics_path: ("GET", self._metrics.answer),
            "/healthz": ("GET", health.live),
            "/readyz": ("GET", health.ready),
            "/service": ("POST", ImageService(backends, settings).answer),
            "/openapi.json": ("GET", _openapi),
            "/docs": ("GET", _page),
        }

    def close(self) -> None:
        """Close the connections to the servers."""
        if self._backends is not None:
            self._backends.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI calls it."""
        if scope["type"] != "http":
            return
        if self._backends is None:
            self.open()
        request = HttpRequest(scope, receive, self._settings)
        counted = request.path not in self._unlimited
        self.in_flight += counted
        self._metrics.requests.in_flight(self.in_flight)
        try:
            reply = await self._reply(request)
        finally:
            self.in_flight -= counted
            self._metrics.requests.in_flight(self.in_flight)
        self._metrics.requests.answered(request, reply)
        if self._settings.access_log:
            logger.info(
                "%s %s %d %d bytes, request_id=%s",
                request.method,
                request.path,
                reply.status,
                len(reply.body),
                request.request_id,
            )
        await _send(request, reply, send)

    async def _reply(self, request: HttpRequest) -> HttpReply:
        try:
            if self.in_flight > self._settings.max_in_flight and request.path not in self._unlimited:
                raise Refusal(
                    f"max_in_flight is {self._settings.max_in_flight}: the gateway is at its limit, retry later",
                    503,
                    RETRY_AFTER,
                )
            return await self._route(request)
        except Exception as error:
            refusal = to_refusal(error, request.request_id)
            self._metrics.requests.failed(error, refusal.status)
        try:
            body = orjson.dumps({"error": refusal.message.encode("utf-8", "replace").decode()})
            return HttpReply(body, status=refusal.status, headers=dict(refusal.headers))
        finally:
            del refusal  # it refers to this frame; the cycle would keep the request's body until a collection

    async def _route(self, request: HttpRequest) -> HttpReply:
        path = request.path
        route = self._routes.get(path)
        if route is not None:
            return await _call_with_method(request, *route)
        if _V1.fullmatch(path):
            return await self._v1(request, path)
        if path == "/v2" or path.startswith("/v2/"):
            return await self._v2.answer(request)
        raise Refusal(f"Not found: {path[:1000]}", 404)

    async def _v1(self, request: HttpRequest, path: str) -> HttpReply:
        if request.method in ("GET", "HEAD") and _ALL_MODELS.fullmatch(path):
            return await self._models.models(request)
        model_path = parse_model_path(request.method, path)
        if model_path.verb == "predict":
            return await self._models.predict(request, model_path)
        if model_path.verb == "status":
            return await self._models.status(request, model_path)
        if model_path.verb == "metadata":
            return await self._models.metadata(request, model_path)
        return await self._v1_images(request, model_path)

    async def _v1_images(self, request: HttpRequest, model_path: ModelPath) -> HttpReply:
        """Answer classify, regress and detect: examples for the first two, images for the first and the last."""
        kind = request.content_type
        if model_path.verb != "regress" and has_images(kind):
            images = await read_images(request, model_path.verb)
        elif has_images(kind) or kind in KINDS:
            raise Refusal(f":{model_path.verb} does not take {kind}", 415)
        else:
            body = await request.body()
            document = await run_aside(len(body), parse_object, body)
            if model_path.verb == "regress":
                return await self._examples.regress(request, model_path, document)
            if model_path.verb == "classify" and document.get("images") is None:
                return await self._examples.classify(request, model_path, document)
            images = decode_images(request, model_path.verb, document)
        if model_path.verb == "classify":
            return await self._images.classify(request, model_path, images)
        return await self._images.detect(request, model_path, images)


async def _openapi(request: HttpRequest) -> HttpReply:
    return HttpReply.of(openapi.document())


async def _page(request: HttpRequest) -> HttpReply:
    return HttpReply(openapi.page().encode(), "text/html; charset=utf-8")


async def _call_with_method(request: HttpRequest, method: str, endpoint: Endpoint) -> HttpReply:
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        raise Refusal(f"Method {request.method} is not allowed here: use {method}", 405, {"allow": method})
    return await endpoint(request)


async def _send(request: HttpRequest, reply: HttpReply, send: Send) -> None:
    headers = [
        (b"content-type", reply.content_type.encode("latin-1")),
        (b"content-length", b"%d" % len(reply.body)),
        (b"x-request-id", request.request_id.encode()),
    ]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else reply.body})
