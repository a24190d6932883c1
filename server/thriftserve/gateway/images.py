"""Images in, labels or boxes out: the server's own classify and detect over HTTP.

    images --classify--> {"results": [[["label", 0.93], …], …]}           the form of TensorFlow Serving's classify
    images --detect-->   {"results": [{"width", "height", "detections": [{"label", "score", "class_id", "box"}]}]}

A box is [y_min, x_min, y_max, x_max] in fractions of height and width, from the upper left corner.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from thriftserve.gateway.backends import Backends
from thriftserve.gateway.fetching import ImageFetcher, ImageFetchFailed
from thriftserve.gateway.http import SIGNATURE, HttpReply, HttpRequest, ModelPath, Refusal, refusal_of
from thriftserve.gateway.json_encode import number, token
from thriftserve.gateway.json_faults import from_base64
from thriftserve.gateway.json_text import members, parsed, shown
from thriftserve.settings.gateway import GatewaySettings
from thriftserve_client.errors import NotFoundError, ThriftServeClientError
from thriftserve_client.results import Detection, ImageDetections

# Encoded images out of a request's body, and options beside them.

N = TypeVar("N", int, float)

#: Files and fields of one form.
_MOST_FILES = 256
_MOST_FIELDS = 32
#: What may be said beside images, by what is asked of them.
OPTIONS = {"classify": (SIGNATURE, "top_k"), "detect": (SIGNATURE, "min_score", "max_detections")}


@dataclass
class Images:
    """Encoded images and the options that came with them, as text or JSON values."""

    images: list[bytes]
    options: dict[str, Any]

    def whole(self, name: str) -> int | None:
        """An option that is a whole number of 32 bits.

        Raises:
            Refusal: it is none.
        """
        return self._option(name, _whole, "a whole number")

    def number(self, name: str) -> float | None:
        """An option that is a number.

        Raises:
            Refusal: it is none.
        """
        return self._option(name, float, "a number")

    def _option(self, name: str, convert: Callable[[Any], N], expected: str) -> N | None:
        value = self.options.get(name)
        if value is None:
            return None
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError):
            raise Refusal(f"{name} is {shown(value)}: expected {expected}") from None

    @property
    def signature(self) -> str | None:
        """The signature to run; None: the default one.

        Raises:
            Refusal: it is not text.
        """
        name = self.options.get("signature_name")
        if name is not None and type(name) is not str:
            raise Refusal(f"signature_name is {shown(name)}: expected text")
        return name or None


def _whole(value: Any) -> int:
    if type(value) not in (int, str) or not -(2**31) <= (number := int(value)) < 2**31:
        raise ValueError
    return number


def bears_images(content_type: str) -> bool:
    """Whether a body of that media type is an image, or a form with files."""
    return content_type.startswith("image/") or content_type == "multipart/form-data"


async def images_of(exchange: HttpRequest, verb: str) -> Images:
    """The images of a body that `bears_images`, for "classify" or "detect".

    Raises:
        Refusal: there is none, the form is damaged, or an option is not known there.
    """
    exchange.check_query(*OPTIONS[verb])
    body = await exchange.body()
    if exchange.content_type.startswith("image/"):
        found = Images([body], {})
    else:
        found = await _of_form(exchange, body)
    for name in found.options:
        if name not in OPTIONS[verb]:
            raise Refusal(
                f"the form has the field {name[:100]!r}, which is no file; options here: {', '.join(OPTIONS[verb])}"
            )
    found.options = {**exchange.query, **found.options}
    return _some(found)


def images_in(exchange: HttpRequest, verb: str, document: dict[str, Any]) -> Images:
    """The images of a JSON object, for "classify" or "detect".

    Raises:
        Refusal: there is none, one is no base64, or an option is not known there.
    """
    exchange.check_query(*OPTIONS[verb])
    given = members(document, ("images", *OPTIONS[verb]))
    images = given.get("images")
    if type(images) is not list:
        raise Refusal(f"JSON Value: {shown(document)} Expecting 'images' to be a list of {{\"b64\": text}}")
    return _some(Images([from_base64(one) for one in images], {**exchange.query, **given}))


def _some(found: Images) -> Images:
    if not any(found.images):
        raise Refusal("the request carries no image")
    return found


async def _of_form(exchange: HttpRequest, body: bytes) -> Images:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    headers = Headers({"content-type": exchange.headers.get("content-type", "")})
    parser = MultiPartParser(
        headers,
        stream(),
        max_files=_MOST_FILES,
        max_fields=_MOST_FIELDS,
        max_part_size=len(body) + 1,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Refusal(f"the form can't be read: {getattr(error, 'message', error)}") from None
    images, options = [], {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                images.append(await value.read())
            else:
                options[name] = value
    finally:
        await form.close()
    return Images(images, options)


# Objects in images that a client names by address.

#: Signature, min_score and max_detections, each None where it is not said.
How = tuple[str | None, float | None, int | None]


class ImageService:
    """The endpoint /service."""

    def __init__(self, backends: Backends, settings: GatewaySettings) -> None:
        self._backends = backends
        self._settings = settings

    async def answer(self, exchange: HttpRequest) -> HttpReply:
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
        async with ImageFetcher(self._settings) as fetcher:
            return HttpReply.of(await asyncio.gather(*(self._one(exchange, path, how, fetcher, url) for url in urls)))

    async def _model(self, exchange: HttpRequest) -> str:
        named = exchange.query.get("model") or self._settings.service_model
        if named:
            return named
        found = await self._backends.models(exchange.left_s)
        if len(found) != 1:
            names = ", ".join(one.name for one in found) or "none"
            raise Refusal(f"which model? Name it in the query, as in ?model=detector, or by --service-model: {names}")
        return found[0].name

    async def _one(
        self, exchange: HttpRequest, path: ModelPath, how: How, fetcher: ImageFetcher, url: str
    ) -> dict[str, Any]:
        signature, min_score, most = how
        told: dict[str, Any] = {"imageURL": url.encode("utf-8", "replace").decode(), "detectCells": []}
        try:
            image = await fetcher.fetch(url)
            (found,) = await self._backends.detect(exchange, path, signature, [image], min_score, most)
        except ImageFetchFailed as error:
            return told | {"error": str(error)}
        except NotFoundError as error:
            return told | {"error": unknown(path, error).message}
        except (Refusal, ThriftServeClientError) as error:
            return told | {"error": refusal_of(error, exchange.request_id).message}
        return told | {"detectCells": [f"Found {one.label} (score: {_told(one.score)})" for one in found]}


def _told(score: float) -> str:
    return f"{score:.4f}" if math.isfinite(score) else token(score).decode()


class ImageApi:
    """The endpoints that take encoded images."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    async def classify(self, exchange: HttpRequest, path: ModelPath, found: Images) -> HttpReply:
        """The best classes of each image."""
        try:
            answer = await self._backends.classify(exchange, path, found.signature, found.images, found.whole("top_k"))
        except NotFoundError as error:
            raise unknown(path, error) from None
        return HttpReply.of({"results": [[[one.label, number(one.score)] for one in image] for image in answer]})

    async def detect(self, exchange: HttpRequest, path: ModelPath, found: Images) -> HttpReply:
        """The objects in each image."""
        try:
            answer = await self._backends.detect(
                exchange, path, found.signature, found.images, found.number("min_score"), found.whole("max_detections")
            )
        except NotFoundError as error:
            raise unknown(path, error) from None
        return HttpReply.of({"results": [_detections(image) for image in answer]})


def unknown(path: ModelPath, error: NotFoundError) -> NotFoundError | Refusal:
    """The server says which it does not know: a model or version, or a signature."""
    return error if "signature" in error.message else path.not_found()


def _detections(image: ImageDetections) -> dict[str, Any]:
    return {"width": image.width, "height": image.height, "detections": [_detection(one) for one in image]}


def _detection(one: Detection) -> dict[str, Any]:
    box = [number(edge) for edge in (one.y_min, one.x_min, one.y_max, one.x_max)]
    return {"label": one.label, "score": number(one.score), "class_id": one.class_id, "box": box}
