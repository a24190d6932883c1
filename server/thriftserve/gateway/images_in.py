"""Encoded images out of a request's body, and options beside them.

    image/*              --> that image
    multipart/form-data  --> every file in it, in order; its fields are options
    {"images": [{"b64": …}, …], "top_k": 3}  --> those

Options may also stand in the query: top_k, min_score, max_detections, signature_name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from thriftserve.gateway.exchange import SIGNATURE, Exchange
from thriftserve.gateway.failures import Refusal
from thriftserve.gateway.json_faults import from_base64
from thriftserve.gateway.json_text import members, shown

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


async def images_of(exchange: Exchange, verb: str) -> Images:
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


def images_in(exchange: Exchange, verb: str, document: dict[str, Any]) -> Images:
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


async def _of_form(exchange: Exchange, body: bytes) -> Images:
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
