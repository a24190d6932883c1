"""The gateway as an ASGI application: every request comes in here, and every answer goes out.

    scope, receive, send --> Exchange --route--> endpoint --Reply | exception--> send

Starlette's CORS layer stands before it where web pages may call.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from thriftserve.gateway import openapi
from thriftserve.gateway.backends import Backends
from thriftserve.gateway.classify import ExampleApi
from thriftserve.gateway.health import Health
from thriftserve.gateway.http import (
    RETRY_AFTER,
    HttpReply,
    HttpRequest,
    ModelPath,
    Receive,
    Refusal,
    Scope,
    model_path,
    refusal_of,
)
from thriftserve.gateway.images import ImageApi, ImageService, bears_images, images_in, images_of
from thriftserve.gateway.json_text import parsed_object
from thriftserve.gateway.metadata_cache import MetadataCache
from thriftserve.gateway.metrics import Metrics
from thriftserve.gateway.model_api import ModelApi, aside
from thriftserve.gateway.npy import KINDS
from thriftserve.gateway.v2 import V2Api
from thriftserve.settings.gateway import GatewaySettings

log = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]
Endpoint = Callable[[HttpRequest], Awaitable[HttpReply]]
#: Beside "/v1/models", what there is of TensorFlow Serving's API, whatever the letters' case.
_V1 = re.compile(r"/v1(?:/.*)?", re.IGNORECASE | re.DOTALL)
#: Answered however much is under way: who watches an overloaded gateway must not take it for a dead one.
_ALWAYS = frozenset({"/healthz", "/readyz", "/metrics", "/monitoring/prometheus/metrics"})
_ALL_MODELS = re.compile(r"/v1/models/?", re.IGNORECASE)


class Gateway:
    """One process's HTTP side: stateless but for its connections and what it remembers of models."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self.in_flight = 0
        self._backends: Backends | None = None
        self._routes: dict[str, tuple[str, Endpoint]] = {}

    def open(self) -> None:
        """Makes everything that belongs to the running event loop."""
        settings = self._settings
        self._backends = backends = Backends(settings)
        catalog = MetadataCache(backends)
        health = Health(backends)
        self._models = ModelApi(backends, catalog, settings.max_body_bytes)
        self._examples = ExampleApi(catalog, self._models)
        self._images = ImageApi(backends)
        self._v2 = V2Api(catalog, self._models, health)
        self._metrics = Metrics(backends)
        self._routes = {
            "/metrics": ("GET", self._metrics.answer),
            "/monitoring/prometheus/metrics": ("GET", self._metrics.answer),
            "/healthz": ("GET", health.live),
            "/readyz": ("GET", health.ready),
            "/service": ("POST", ImageService(backends, settings).answer),
            "/openapi.json": ("GET", _openapi),
            "/docs": ("GET", _page),
        }

    def close(self) -> None:
        """Closes the connections to the servers."""
        if self._backends is not None:
            self._backends.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        if scope["type"] != "http":
            return
        if self._backends is None:
            self.open()
        exchange = HttpRequest(scope, receive, self._settings)
        counted = exchange.path not in _ALWAYS
        self.in_flight += counted
        self._metrics.requests.in_flight(self.in_flight)
        try:
            reply = await self._answer(exchange)
        finally:
            self.in_flight -= counted
            self._metrics.requests.in_flight(self.in_flight)
        self._metrics.requests.answered(exchange, reply)
        if self._settings.access_log:
            log.info(
                "%s %s %d %d bytes, request_id=%s",
                exchange.method,
                exchange.path,
                reply.status,
                len(reply.body),
                exchange.request_id,
            )
        await _send(exchange, reply, send)

    async def _answer(self, exchange: HttpRequest) -> HttpReply:
        try:
            if self.in_flight > self._settings.max_in_flight and exchange.path not in _ALWAYS:
                raise Refusal(f"{self._settings.max_in_flight} requests are under way, the limit", 503, RETRY_AFTER)
            return await self._routed(exchange)
        except Exception as error:
            refusal = refusal_of(error, exchange.request_id)
            self._metrics.requests.failed(error, refusal.status)
        try:
            body = orjson.dumps({"error": refusal.message.encode("utf-8", "replace").decode()})
            return HttpReply(body, status=refusal.status, headers=dict(refusal.headers))
        finally:
            del refusal  # it knows this frame: the two would wait for the collector, and the request's body with them

    async def _routed(self, exchange: HttpRequest) -> HttpReply:
        path = exchange.path
        route = self._routes.get(path)
        if route is not None:
            return await _allowed(exchange, *route)
        if _V1.fullmatch(path):
            return await self._v1(exchange, path)
        if path == "/v2" or path.startswith("/v2/"):
            return await self._v2.answer(exchange)
        raise Refusal(f"Not found: {path[:1000]}", 404)

    async def _v1(self, exchange: HttpRequest, path: str) -> HttpReply:
        if exchange.method in ("GET", "HEAD") and _ALL_MODELS.fullmatch(path):
            return await self._models.models(exchange)
        which = model_path(exchange.method, path)
        if which.verb == "predict":
            return await self._models.predict(exchange, which)
        if which.verb == "status":
            return await self._models.status(exchange, which)
        if which.verb == "metadata":
            return await self._models.metadata(exchange, which)
        return await self._v1_images(exchange, which)

    async def _v1_images(self, exchange: HttpRequest, which: ModelPath) -> HttpReply:
        """classify, regress and detect: the first takes examples or images, the others one of these."""
        kind = exchange.content_type
        if which.verb != "regress" and bears_images(kind):
            found = await images_of(exchange, which.verb)
        elif bears_images(kind) or kind in KINDS:
            raise Refusal(f":{which.verb} takes no {kind}", 415)
        else:
            body = await exchange.body()
            document = await aside(len(body), parsed_object, body)
            if which.verb == "regress":
                return await self._examples.regress(exchange, which, document)
            if which.verb == "classify" and document.get("images") is None:
                return await self._examples.classify(exchange, which, document)
            found = images_in(exchange, which.verb, document)
        if which.verb == "classify":
            return await self._images.classify(exchange, which, found)
        return await self._images.detect(exchange, which, found)


async def _openapi(exchange: HttpRequest) -> HttpReply:
    return HttpReply.of(openapi.document())


async def _page(exchange: HttpRequest) -> HttpReply:
    return HttpReply(openapi.page().encode(), "text/html; charset=utf-8")


async def _allowed(exchange: HttpRequest, method: str, endpoint: Endpoint) -> HttpReply:
    if exchange.method != method and not (method == "GET" and exchange.method == "HEAD"):
        raise Refusal(f"Method {exchange.method} is not allowed here: use {method}", 405, {"allow": method})
    return await endpoint(exchange)


async def _send(exchange: HttpRequest, reply: HttpReply, send: Send) -> None:
    headers = [
        (b"content-type", reply.content_type.encode("latin-1")),
        (b"content-length", b"%d" % len(reply.body)),
        (b"x-request-id", exchange.request_id.encode()),
    ]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if exchange.method == "HEAD" else reply.body})
