"""Images in, labels or boxes out: the server's classify and detect over HTTP, and /service.

    images --classify--> {"results": [[["label", 0.93], …], …]}           the format of TensorFlow Serving's classify
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
from thriftserve.gateway.http import SIGNATURE, HttpReply, HttpRequest, ModelPath, Refusal, to_refusal
from thriftserve.gateway.json_encode import number, token
from thriftserve.gateway.json_tensors import from_base64
from thriftserve.gateway.json_text import members, parse, show
from thriftserve.settings.gateway import GatewaySettings
from thriftserve_client.errors import NotFoundError, ThriftServeClientError
from thriftserve_client.results import Detection, ImageDetections

N = TypeVar("N", int, float)

#: Limits on the files and fields of one form.
_MAX_FILES = 256
_MAX_FIELDS = 32
#: Options beside the images, by verb.
OPTIONS = {"classify": (SIGNATURE, "top_k"), "detect": (SIGNATURE, "min_score", "max_detections")}


@dataclass
class Images:
    """Encoded images of a request, and its options as text or JSON values."""

    images: list[bytes]
    options: dict[str, Any]

    def integer(self, name: str) -> int | None:
        """Return an option that is a whole number of 32 bits; None if it is absent.

        Raises:
            Refusal: its value is something else.
        """
        return self._option(name, _integer, "a whole number")

    def number(self, name: str) -> float | None:
        """Return an option that is a number; None if it is absent.

        Raises:
            Refusal: its value is something else.
        """
        return self._option(name, float, "a number")

    def _option(self, name: str, convert: Callable[[Any], N], expected: str) -> N | None:
        value = self.options.get(name)
        if value is None:
            return None
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError):
            raise Refusal(f"{name} is {show(value)}: expected {expected}") from None

    @property
    def signature(self) -> str | None:
        """The signature to run; None for the default one.

        Raises:
            Refusal: its name is not text.
        """
        name = self.options.get("signature_name")
        if name is not None and type(name) is not str:
            raise Refusal(f"signature_name is {show(name)}: expected text")
        return name or None


def _integer(value: Any) -> int:
    if type(value) not in (int, str) or not -(2**31) <= (number := int(value)) < 2**31:
        raise ValueError
    return number


def has_images(content_type: str) -> bool:
    """Return whether a body of this media type is an image, or a form with files."""
    return content_type.startswith("image/") or content_type == "multipart/form-data"


async def read_images(request: HttpRequest, verb: str) -> Images:
    """Return the images of a body that `has_images`, for "classify" or "detect".

    Raises:
        Refusal: there is no image, the form is damaged, or the verb does not have an option.
    """
    request.check_query(*OPTIONS[verb])
    body = await request.body()
    if request.content_type.startswith("image/"):
        images = Images([body], {})
    else:
        images = await _read_form(request, body)
    for name in images.options:
        if name not in OPTIONS[verb]:
            raise Refusal(
                f"the form has the field {name[:100]!r}, which is not a file; options here: {', '.join(OPTIONS[verb])}"
            )
    images.options = {**request.query, **images.options}
    return _check_any(images)


def decode_images(request: HttpRequest, verb: str, document: dict[str, Any]) -> Images:
    """Return the images of a JSON object, for "classify" or "detect".

    Raises:
        Refusal: there is no image, one is not base64, or the verb does not have an option.
    """
    request.check_query(*OPTIONS[verb])
    given = members(document, ("images", *OPTIONS[verb]))
    encoded = given.get("images")
    if type(encoded) is not list:
        raise Refusal(f"JSON Value: {show(document)} Expecting 'images' to be a list of {{\"b64\": text}}")
    return _check_any(Images([from_base64(image) for image in encoded], {**request.query, **given}))


def _check_any(images: Images) -> Images:
    if not any(images.images):
        raise Refusal("the request carries no image: expected one or more")
    return images


async def _read_form(request: HttpRequest, body: bytes) -> Images:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    headers = Headers({"content-type": request.headers.get("content-type", "")})
    parser = MultiPartParser(
        headers,
        stream(),
        max_files=_MAX_FILES,
        max_fields=_MAX_FIELDS,
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


#: Signature, min_score and max_detections; None for those not set.
DetectOptions = tuple[str | None, float | None, int | None]


class ImageService:
    """The endpoint /service: objects in images that the client names by URL."""

    def __init__(self, backends: Backends, settings: GatewaySettings) -> None:
        self._backends = backends
        self._settings = settings

    async def answer(self, request: HttpRequest) -> HttpReply:
        """Detect the objects in every image."""
        request.check_query("model", *OPTIONS["detect"])
        query = Images([], dict(request.query))
        options = query.signature, query.number("min_score"), query.integer("max_detections")
        urls = parse(await request.body())
        if type(urls) is not list or not all(type(url) is str for url in urls):
            raise Refusal(f'JSON Value: {show(urls)} Expecting a list of image URLs: ["http://…", …]')
        limit = self._settings.service_images
        if len(urls) > limit:
            raise Refusal(f"the request has {len(urls)} image URLs: expected {limit} or fewer", 413)
        path = ModelPath(await self._model_name(request), verb="detect")
        async with ImageFetcher(self._settings) as fetcher:
            return HttpReply.of(
                await asyncio.gather(*(self._detect_at(request, path, options, fetcher, url) for url in urls))
            )

    async def _model_name(self, request: HttpRequest) -> str:
        name = request.query.get("model") or self._settings.service_model
        if name:
            return name
        models = await self._backends.models(request.left_s)
        if len(models) != 1:
            names = ", ".join(model.name for model in models) or "none"
            raise Refusal(f"no model is named: set ?model= in the query or --service-model; the server has {names}")
        return models[0].name

    async def _detect_at(
        self, request: HttpRequest, path: ModelPath, options: DetectOptions, fetcher: ImageFetcher, url: str
    ) -> dict[str, Any]:
        signature, min_score, max_detections = options
        cell: dict[str, Any] = {"imageURL": url.encode("utf-8", "replace").decode(), "detectCells": []}
        try:
            image = await fetcher.fetch(url)
            (detections,) = await self._backends.detect(request, path, signature, [image], min_score, max_detections)
        except ImageFetchFailed as error:
            return cell | {"error": str(error)}
        except NotFoundError as error:
            return cell | {"error": explain_not_found(path, error).message}
        except (Refusal, ThriftServeClientError) as error:
            return cell | {"error": to_refusal(error, request.request_id).message}
        return cell | {
            "detectCells": [
                f"Found {detection.label} (score: {_format_score(detection.score)})" for detection in detections
            ]
        }


def _format_score(score: float) -> str:
    return f"{score:.4f}" if math.isfinite(score) else token(score).decode()


class ImageApi:
    """The endpoints that take encoded images."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    async def classify(self, request: HttpRequest, path: ModelPath, images: Images) -> HttpReply:
        """Return the best classes of each image."""
        try:
            results = await self._backends.classify(
                request, path, images.signature, images.images, images.integer("top_k")
            )
        except NotFoundError as error:
            raise explain_not_found(path, error) from None
        return HttpReply.of({"results": [[[best.label, number(best.score)] for best in image] for image in results]})

    async def detect(self, request: HttpRequest, path: ModelPath, images: Images) -> HttpReply:
        """Return the objects in each image."""
        try:
            results = await self._backends.detect(
                request,
                path,
                images.signature,
                images.images,
                images.number("min_score"),
                images.integer("max_detections"),
            )
        except NotFoundError as error:
            raise explain_not_found(path, error) from None
        return HttpReply.of({"results": [_detections(image) for image in results]})


def explain_not_found(path: ModelPath, error: NotFoundError) -> NotFoundError | Refusal:
    """Return the error for what the server does not have: a signature, or the model or version."""
    return error if "signature" in error.message else path.not_found()


def _detections(image: ImageDetections) -> dict[str, Any]:
    return {"width": image.width, "height": image.height, "detections": [_detection(detection) for detection in image]}


def _detection(detection: Detection) -> dict[str, Any]:
    box = [number(edge) for edge in (detection.y_min, detection.x_min, detection.y_max, detection.x_max)]
    return {"label": detection.label, "score": number(detection.score), "class_id": detection.class_id, "box": box}
