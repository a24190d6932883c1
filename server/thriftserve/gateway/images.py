"""Images in, labels or boxes out: the server's classify and detect over HTTP, and /service.

    images --classify--> {"results": [[["label", 0.93], …], …]}           the format of TensorFlow Serving's classify
    images --detect-->   {"results": [{"width", "height", "detections": [{"label", "score", "class_id", "box"}]}]}

A box is [y_min, x_min, y_max, x_max] in fractions of height and width, from the upper left corner.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urljoin

import httpx
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from thriftserve.gateway.backends import Backends
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


_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_CONNECTIONS = 16
#: IPv4 addresses as IPv6 ones (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ImageFetchFailed(Exception):
    """An image could not be fetched; the message says why."""


class ImageFetcher:
    """Fetch images, up to `_CONNECTIONS` at once."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._free_connections = asyncio.Semaphore(_CONNECTIONS)
        # A proxy of the environment could reach addresses that are not allowed here.
        self._http = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=settings.service_timeout_s)

    async def __aenter__(self) -> ImageFetcher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def fetch(self, url: str) -> bytes:
        """Return the bytes at a URL.

        Raises:
            ImageFetchFailed: they could not be fetched, or the address is not allowed.
        """
        timeout_s = self._settings.service_timeout_s
        try:
            async with self._free_connections, asyncio.timeout(timeout_s):
                return await self._follow(url)
        except TimeoutError:
            raise ImageFetchFailed(f"no response within {timeout_s:g} s") from None
        except httpx.HTTPError as error:
            raise ImageFetchFailed(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from None

    async def _follow(self, url: str) -> bytes:
        for _ in range(self._settings.service_redirects + 1):
            result = await self._get(url)
            if isinstance(result, bytes):
                return result
            url = urljoin(url, result)
        raise ImageFetchFailed(f"more than {self._settings.service_redirects} redirects")

    async def _get(self, url: str) -> bytes | str:
        """Return the bytes, or the location that the server redirects to."""
        response = await self._http.send(await self._build_request(url), stream=True)
        try:
            if response.status_code in _REDIRECTS and "location" in response.headers:
                return str(response.headers["location"])
            if response.status_code != 200:
                raise ImageFetchFailed(f"HTTP status {response.status_code}")
            return await self._read_bounded(response)
        finally:
            await response.aclose()

    async def _build_request(self, url: str) -> httpx.Request:
        """Return the request for a URL, to an allowed address."""
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, ValueError, TypeError):
            raise ImageFetchFailed("not a URL") from None
        if target.scheme not in ("http", "https") or not target.host:
            raise ImageFetchFailed("expected an http or https URL")
        if target.userinfo:
            raise ImageFetchFailed("URLs with a user name or password are not allowed")
        address = await self._resolve(target.host, target.port or (443 if target.scheme == "https" else 80))
        return self._http.build_request(
            "GET",
            target.copy_with(host=str(address)),
            headers={"host": target.netloc.decode("ascii"), "accept": "image/*"},
            extensions={"sni_hostname": target.host, "timeout": self._http.timeout.as_dict()},
        )

    async def _resolve(self, host: str, port: int) -> Address:
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise ImageFetchFailed("its host can't be resolved") from None
        addresses = [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in infos]
        if not self._settings.service_private and not all(map(is_public, addresses)):
            raise ImageFetchFailed("its address is in a private network")
        return addresses[0]

    async def _read_bounded(self, response: httpx.Response) -> bytes:
        limit = self._settings.service_image_bytes
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > limit:
                raise ImageFetchFailed(f"larger than the limit of {limit} bytes")
        return bytes(content)


def is_public(address: Address) -> bool:
    """Return whether an address is in the public internet, also if it wraps an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast
