"""Objects in images that a client names by address.

    POST /service ["http://…/1.jpg", …]  --fetch, detect-->  [{"imageURL", "detectCells": ["Found cat (score: 0.93)"]}]

What goes wrong with one image is told in its place: {"imageURL", "detectCells": [], "error"}.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from thriftserve.gateway.backends import Backends
from thriftserve.gateway.exchange import Exchange, Reply
from thriftserve.gateway.failures import Refusal, refusal_of
from thriftserve.gateway.fetching import Fetcher, FetchFailed
from thriftserve.gateway.image_api import unknown
from thriftserve.gateway.images_in import OPTIONS, Images
from thriftserve.gateway.json_answers import token
from thriftserve.gateway.json_text import parsed, shown
from thriftserve.gateway.paths import ModelPath
from thriftserve.settings.gateway import GatewaySettings
from thriftserve_client.errors import NotFoundError, ThriftServeClientError

#: Signature, min_score and max_detections, each None where it is not said.
How = tuple[str | None, float | None, int | None]


class ImageService:
    """The endpoint /service."""

    def __init__(self, backends: Backends, settings: GatewaySettings) -> None:
        self._backends = backends
        self._settings = settings

    async def answer(self, exchange: Exchange) -> Reply:
        """Detects the objects of every image named."""
        exchange.check_query("model", *OPTIONS["detect"])
        options = Images([], dict(exchange.query))
        how = options.signature, options.number("min_score"), options.whole("max_detections")
        urls = parsed(await exchange.body())
        if type(urls) is not list or not all(type(one) is str for one in urls):
            raise Refusal(f'JSON Value: {shown(urls)} Expecting a list of image URLs: ["http://…", …]')
        most = self._settings.service_images
        if len(urls) > most:
            raise Refusal(f"{len(urls)} images are asked for at once, the limit is {most}", 413)
        path = ModelPath(await self._model(exchange), verb="detect")
        async with Fetcher(self._settings) as fetcher:
            return Reply.of(await asyncio.gather(*(self._one(exchange, path, how, fetcher, url) for url in urls)))

    async def _model(self, exchange: Exchange) -> str:
        named = exchange.query.get("model") or self._settings.service_model
        if named:
            return named
        found = await self._backends.models(exchange.left_s)
        if len(found) != 1:
            names = ", ".join(one.name for one in found) or "none"
            raise Refusal(f"which model? Name it in the query, as in ?model=detector, or by --service-model: {names}")
        return found[0].name

    async def _one(self, exchange: Exchange, path: ModelPath, how: How, fetcher: Fetcher, url: str) -> dict[str, Any]:
        signature, min_score, most = how
        told: dict[str, Any] = {"imageURL": url.encode("utf-8", "replace").decode(), "detectCells": []}
        try:
            image = await fetcher.fetch(url)
            (found,) = await self._backends.detect(exchange, path, signature, [image], min_score, most)
        except FetchFailed as error:
            return told | {"error": str(error)}
        except NotFoundError as error:
            return told | {"error": unknown(path, error).message}
        except (Refusal, ThriftServeClientError) as error:
            return told | {"error": refusal_of(error, exchange.request_id).message}
        return told | {"detectCells": [f"Found {one.label} (score: {_told(one.score)})" for one in found]}


def _told(score: float) -> str:
    return f"{score:.4f}" if math.isfinite(score) else token(score).decode()
