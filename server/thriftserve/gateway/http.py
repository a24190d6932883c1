"""HTTP requests and replies as the endpoints see them, model paths, and the errors that become replies.

ASGI scope, receive --> HttpRequest: path, query, headers, body (unpacked, limited), time left
--> endpoint --> HttpReply | Refusal
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson

from thriftserve.errors import Code
from thriftserve.settings.gateway import GatewaySettings
from thriftserve_client.errors import (
    CallTimeout,
    ConnectionFailed,
    MessageTooLarge,
    ProtocolMismatch,
    ServerError,
    TensorError,
)
from thriftserve_idl.ttypes import ModelSpec

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

JSON = "application/json"
#: The contract's timeout_ms is a whole number.
MIN_TIMEOUT_S = 0.001
#: Clients' request ids that are passed on; others are replaced.
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
#: A body over the limit is read and discarded up to this multiple of it: a client that is cut off while sending never
#: reads the reply.
_DISCARD_FACTOR = 4
_CLOSE = {"connection": "close"}
_TIMEOUT_HEADER = "x-request-timeout"
SIGNATURE = "signature_name"
#: Query parameters that some endpoint takes.
_PARAMETERS = frozenset((SIGNATURE, "input", "shape", "output", "top_k", "min_score", "max_detections", "model"))
STATUS: Mapping[int, int] = {
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
#: Seconds that a rejected client should wait.
RETRY_AFTER = {"retry-after": "1"}
_MODEL_PATTERN = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST_PATTERN = re.compile(_MODEL_PATTERN + r":(?P<verb>classify|regress|predict|detect)", re.IGNORECASE | re.ASCII)
_GET_PATTERN = re.compile(_MODEL_PATTERN + r"(?:/(?P<verb>metadata))?", re.IGNORECASE | re.ASCII)
_MAX_VERSION = 2**63 - 1
#: Longer paths are not cached, so that clients can't fill the cache with them.
_MAX_CACHED_PATH = 500


@dataclass
class HttpReply:
    """A reply: its body and head."""

    body: bytes | memoryview = b""
    content_type: str = JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, status: int = 200) -> HttpReply:
        """Return a JSON reply of plain values."""
        return cls(orjson.dumps(value), status=status)


class HttpRequest:
    """One HTTP request. Only the event loop's thread uses it.

    Attributes:
        method: "GET", "POST", ….
        path: as sent, with its %-escapes, without the query.
        arrived: when it arrived, by `time.perf_counter`, which is finer than the loop's time.
        received_bytes: bytes of its body received so far, before unpacking.
        ran: the model and version that a server ran for it, or described before a run; they label its metrics.
    """

    def __init__(self, scope: Scope, receive: Receive, settings: GatewaySettings) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        raw = scope.get("raw_path")
        self.path: str = scope["path"] if raw is None else raw.decode("latin-1")
        self._receive = receive
        self._settings = settings
        self._began = asyncio.get_running_loop().time()
        self.arrived = time.perf_counter()
        self.received_bytes = 0
        self.ran: tuple[str, int | None] | None = None

    @cached_property
    def headers(self) -> dict[str, str]:
        """Headers by lower-case name; the last of several with one name."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}

    @cached_property
    def query(self) -> dict[str, str]:
        """Parameters of the query.

        Raises:
            Refusal: there are too many.
        """
        text = self.scope.get("query_string", b"")
        try:
            return dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True, max_num_fields=100)) if text else {}
        except ValueError as error:
            raise Refusal(f"the query can't be read: {error}") from None

    def check_query(self, *known: str) -> None:
        """Refuse parameters that have an effect on other requests but not on this one; unknown ones pass.

        Raises:
            Refusal: the query has such a parameter.
        """
        for name in self.query:
            if name in _PARAMETERS and name not in known:
                here = ", ".join(("timeout", *known))
                raise Refusal(f"the query has {name}, which has no effect here; known here: {here}")

    @cached_property
    def request_id(self) -> str:
        """The client's X-Request-Id, or a new one."""
        given = self.headers.get("x-request-id", "")
        return given if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()

    @cached_property
    def content_type(self) -> str:
        """The media type of the body, without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @cached_property
    def timeout_s(self) -> float:
        """Seconds that the request may take from its arrival: the query's `timeout`, X-Request-Timeout, or the setting.

        Raises:
            Refusal: the value is not a number of seconds.
        """
        text = self._timeout_text
        if text is None:
            return self._settings.request_timeout_s
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not MIN_TIMEOUT_S <= seconds < math.inf:
            raise Refusal(f"timeout is {text[:100]!r}: expected seconds, {MIN_TIMEOUT_S:g} or more")
        return min(seconds, self._settings.max_timeout_s)

    @property
    def _timeout_text(self) -> str | None:
        return self.query.get("timeout") or self.headers.get(_TIMEOUT_HEADER)

    def set_timeout(self, seconds: float) -> None:
        """Use the timeout of the body, unless the query or a header has one."""
        if self._timeout_text is None:
            self.timeout_s = min(max(seconds, MIN_TIMEOUT_S), self._settings.max_timeout_s)

    @property
    def left_s(self) -> float:
        """Seconds left until the request's timeout.

        Raises:
            Refusal: there are none.
        """
        left_s = self._began + self.timeout_s - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise self.too_late()
        return left_s

    def too_late(self) -> Refusal:
        """Return the refusal of a request whose time is over."""
        return Refusal(f"deadline exceeded: the request's timeout is {self.timeout_s:g} s", 504)

    async def body(self) -> bytes:
        """Return the body, unpacked by its Content-Encoding.

        Raises:
            Refusal: it is too large (413), too slow (408), of an unknown encoding (415) or damaged (400).
        """
        try:
            async with asyncio.timeout(self._settings.read_timeout_s):
                packed = await self._read()
        except TimeoutError:
            raise Refusal(f"the body did not arrive within {self._settings.read_timeout_s:g} s", 408) from None
        encoding = self.headers.get("content-encoding", "").strip().lower()
        if encoding in ("", "identity"):
            return packed
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise Refusal(f"Content-Encoding {encoding[:100]!r} is unknown: expected gzip, deflate or none", 415)
        return _unpack(packed, self._settings.max_body_bytes)

    async def _read(self) -> bytes:
        limit = self._settings.max_body_bytes
        announced = self.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit * _DISCARD_FACTOR:
            raise Refusal(_too_large(limit), 413, _CLOSE)
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Refusal("the client disconnected", 499)
            piece = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(piece)
            self.received_bytes = size
            if size <= limit:
                pieces.append(piece)
            elif size > limit * _DISCARD_FACTOR:
                raise Refusal(_too_large(limit), 413, _CLOSE)
        if size > limit:
            raise Refusal(_too_large(limit), 413)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Refusal(Exception):
    """A request is answered with an error.

    Args:
        message: text of the reply.
        status: HTTP status.
        headers: further headers of the reply.
    """

    def __init__(self, message: str, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.headers = headers or {}


def to_refusal(error: Exception, request_id: str) -> Refusal:
    """Return the refusal for any exception; an unforeseen one is logged with its traceback."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ServerError):
        return _from_server(error)
    if isinstance(error, CallTimeout):
        return Refusal(str(error), 504)
    if isinstance(error, ConnectionFailed):
        return Refusal(str(error), 503, RETRY_AFTER)
    if isinstance(error, ProtocolMismatch):
        return Refusal(str(error), 502)
    if isinstance(error, MessageTooLarge):
        return Refusal(str(error), 413)
    if isinstance(error, TensorError):
        return Refusal(str(error))
    logger.error("request %s failed", request_id, exc_info=error)
    return Refusal(f"the gateway failed with {type(error).__name__}: see its log for the cause", 500)


def _from_server(error: ServerError) -> Refusal:
    status = STATUS.get(error.code, 500)
    if error.code == Code.RESOURCE_EXHAUSTED and error.retryable:
        # The server's queue or a limit is full, so a retry may work. TensorFlow Serving's full queue is a 503, too.
        status = 503
    return Refusal(error.message, status, RETRY_AFTER if status == 503 else None)


@dataclass(frozen=True)
class ModelPath:
    """What a path names: a model, its version by number or label (neither: the newest), and a verb.

    `verb` is "predict", "classify", "regress", "detect", "metadata" or "status"; below /v2 also "infer" or "ready".
    """

    name: str
    version: int | None = None
    label: str | None = None
    verb: str = "status"

    @cached_property
    def without_verb(self) -> ModelPath:
        """The model and version alone."""
        return replace(self, verb="")

    def spec(self, signature: str | None = None) -> ModelSpec:
        """Return the contract's spec of the model and version."""
        return ModelSpec(self.name, self.version, self.label, signature)

    def not_found(self) -> Refusal:
        """Return TensorFlow Serving's refusal for a model that is not served."""
        if self.label is not None:
            return Refusal(f"Unrecognized servable version label: {self.label}")
        if self.verb == "status":
            which = "any versions" if self.version is None else f"version {self.version}"
            return Refusal(f"Could not find {which} of model {self.name}", 404)
        which = f"Latest({self.name})" if self.version is None else f"Specific({self.name}, {self.version})"
        return Refusal(f"Servable not found for request: {which}", 404)


def parse_model_path(method: str, path: str) -> ModelPath:
    """Return what the path of a request to /v1/… names.

    Raises:
        Refusal: the path does not name a model, or the method does not fit its verb.
    """
    return _parse_cached(method, path) if len(path) <= _MAX_CACHED_PATH else _parse_path(method, path)


def _parse_path(method: str, path: str) -> ModelPath:
    match = (
        (_POST_PATTERN if method == "POST" else _GET_PATTERN).fullmatch(path)
        if method in ("POST", "GET")  # TensorFlow Serving refuses HEAD with these words
        else None
    )
    if match is None:
        raise Refusal(f"Malformed request: {method} {path[:1000]}")
    version = _number(match["version"])
    label = None if match["label"] is None else _unquote(match["label"], "model version label")
    return ModelPath(_unquote(match["name"], "model name"), version, label, (match["verb"] or "status").lower())


# Most requests are for a few paths, and parsing one takes 5 us.
_parse_cached = lru_cache(maxsize=1000)(_parse_path)


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text) > 4000 or int(text) > _MAX_VERSION:
        raise Refusal(f"Failed to convert version: {text[:100]} to numeric.")
    return int(text)


def _unquote(text: str, what: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise Refusal(f"Failed to decode {what}:{text[:1000]}") from None


def _unpack(packed: bytes, limit: int) -> bytes:
    """Unpack a gzip or zlib body, to at most `limit` bytes.

    Raises:
        Refusal: the body is damaged, or unpacks to more.
    """
    parts: list[bytes] = []
    room = limit
    while packed:
        decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            part = decompressor.decompress(packed, room + 1)
        except zlib.error as error:
            raise Refusal(f"Failed to uncompress the request body: {error}") from None
        room -= len(part)
        if room < 0:
            raise Refusal(_too_large(limit), 413)
        if not decompressor.eof:
            raise Refusal("Failed to uncompress the request body: it ends early")
        parts.append(part)
        packed = decompressor.unused_data  # gzip allows several members
    return b"".join(parts)


def _too_large(limit: int) -> str:
    return f"the request body is larger than the limit of {limit} bytes"
