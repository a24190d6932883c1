"""One HTTP request, as the endpoints see it, and the answer that they give.

ASGI scope, receive --> Exchange: path, query, headers, body (unpacked, bounded), time left --> endpoint --> Reply
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

# Which model a path names, and what is wanted of it.

_WHICH = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_CALL = re.compile(_WHICH + r":(?P<verb>classify|regress|predict|detect)", re.IGNORECASE | re.ASCII)
_LOOK = re.compile(_WHICH + r"(?:/(?P<verb>metadata))?", re.IGNORECASE | re.ASCII)
_MAX_VERSION = 2**63 - 1
#: Longer ones are not remembered: clients can make as many of them as they like.
_LONGEST_REMEMBERED = 500


@dataclass(frozen=True)
class ModelPath:
    """A model, one of its versions by number or label or the newest, and what is wanted.

    `verb` is "predict", "classify", "regress", "detect", "metadata" or "status".
    """

    name: str
    version: int | None = None
    label: str | None = None
    verb: str = "status"

    @cached_property
    def which(self) -> ModelPath:
        """The model and version alone, whatever is wanted of it."""
        return replace(self, verb="")

    def spec(self, signature: str | None = None) -> ModelSpec:
        """The same for a call."""
        return ModelSpec(self.name, self.version, self.label, signature)

    def not_found(self) -> Refusal:
        """What TensorFlow Serving says of a model that it does not serve."""
        if self.label is not None:
            return Refusal(f"Unrecognized servable version label: {self.label}")
        if self.verb == "status":
            which = "any versions" if self.version is None else f"version {self.version}"
            return Refusal(f"Could not find {which} of model {self.name}", 404)
        which = f"Latest({self.name})" if self.version is None else f"Specific({self.name}, {self.version})"
        return Refusal(f"Servable not found for request: {which}", 404)


def model_path(method: str, path: str) -> ModelPath:
    """What a request to /v1/… is about.

    Raises:
        Refusal: the path names no model, or the method does not belong to it.
    """
    return _remembered(method, path) if len(path) <= _LONGEST_REMEMBERED else _taken_apart(method, path)


def _taken_apart(method: str, path: str) -> ModelPath:
    found = (_CALL if method == "POST" else _LOOK).fullmatch(path) if method in ("POST", "GET", "HEAD") else None
    if found is None:
        raise Refusal(f"Malformed request: {method} {path[:1000]}")
    version = _number(found["version"])
    label = None if found["label"] is None else _decoded(found["label"], "model version label")
    return ModelPath(_decoded(found["name"], "model name"), version, label, (found["verb"] or "status").lower())


# Most requests are for a few paths: taking one apart costs some 5 us.
_remembered = lru_cache(maxsize=1000)(_taken_apart)


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text) > 4000 or int(text) > _MAX_VERSION:
        raise Refusal(f"Failed to convert version: {text[:100]} to numeric.")
    return int(text)


def _decoded(text: str, what: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise Refusal(f"Failed to decode {what}:{text[:1000]}") from None


# What goes wrong, as HTTP says it; the one place where errors of calls become answers.

log = logging.getLogger(__name__)

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
#: What a client that was turned away for load is told to wait.
RETRY_AFTER = {"retry-after": "1"}


class Refusal(Exception):
    """A request is answered with an error.

    Args:
        message: stands in the answer.
        status: the HTTP status.
        headers: further headers of the answer.
    """

    def __init__(self, message: str, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.headers = headers or {}


def refusal_of(error: Exception, request_id: str) -> Refusal:
    """What an exception is answered with; one that nobody foresaw is logged with its traceback."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ServerError):
        return _of_server(error)
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
    log.error("request %s failed", request_id, exc_info=error)
    return Refusal(f"the gateway failed with {type(error).__name__}; its log has the cause", 500)


def _of_server(error: ServerError) -> Refusal:
    status = STATUS.get(error.code, 500)
    if error.code == Code.RESOURCE_EXHAUSTED and error.retryable:
        # A queue or a limit of the server is full: later it will do. TensorFlow Serving's full queue is a 503, too.
        status = 503
    return Refusal(error.message, status, RETRY_AFTER if status == 503 else None)


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

JSON = "application/json"
#: The contract counts in milliseconds.
LEAST_TIMEOUT_S = 0.001
#: Request ids of clients that are passed on; others are replaced.
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
#: A body that is too large is read on, and thrown away, up to so many times the limit: a client that is cut off in the
#: middle of sending does not see why.
_PATIENCE = 4
_CLOSE = {"connection": "close"}
_TIMEOUT_HEADER = "x-request-timeout"
SIGNATURE = "signature_name"
#: Parameters that a query may have somewhere.
_PARAMETERS = frozenset((SIGNATURE, "input", "shape", "output", "top_k", "min_score", "max_detections", "model"))


@dataclass
class HttpReply:
    """An answer: its body, and what is said of it."""

    body: bytes | memoryview = b""
    content_type: str = JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, status: int = 200) -> HttpReply:
        """A JSON answer of plain values."""
        return cls(orjson.dumps(value), status=status)


class HttpRequest:
    """One request.

    Attributes:
        method: "GET", "POST", ….
        path: as it was sent, its %-escapes still in it, without the query.
        arrived: when it came, by `time.perf_counter`, which is finer than the loop's time.
        received_bytes: of its body, so far, as they came.
        ran: the model and version that a server ran for it, or described for it to be run.
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
        """Every header by its name in small letters; of several of one name the last."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}

    @cached_property
    def query(self) -> dict[str, str]:
        """The parameters behind the question mark."""
        text = self.scope.get("query_string", b"")
        try:
            return dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True, max_num_fields=100)) if text else {}
        except ValueError as error:
            raise Refusal(f"the query can't be read: {error}") from None

    def check_query(self, *known: str) -> None:
        """Refuses parameters that have an effect elsewhere and none on this request; unknown ones are let pass.

        Raises:
            Refusal: the query has one of them.
        """
        for name in self.query:
            if name in _PARAMETERS and name not in known:
                here = ", ".join(("timeout", *known))
                raise Refusal(f"the query has {name}, which has no effect here; known here: {here}")

    @cached_property
    def request_id(self) -> str:
        """The client's own X-Request-Id, or a new one."""
        given = self.headers.get("x-request-id", "")
        return given if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()

    @cached_property
    def content_type(self) -> str:
        """The media type of the body, without parameters, in small letters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @cached_property
    def timeout_s(self) -> float:
        """How long the request may take from its arrival on: the query's `timeout`, X-Request-Timeout, or the setting.

        Raises:
            Refusal: it is no number of seconds.
        """
        text = self._timeout_text
        if text is None:
            return self._settings.request_timeout_s
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not LEAST_TIMEOUT_S <= seconds < math.inf:
            raise Refusal(f"timeout is {text[:100]!r}: expected seconds, {LEAST_TIMEOUT_S:g} at least")
        return min(seconds, self._settings.max_timeout_s)

    @property
    def _timeout_text(self) -> str | None:
        return self.query.get("timeout") or self.headers.get(_TIMEOUT_HEADER)

    def ask_for(self, seconds: float) -> None:
        """Takes the time that a body asks for, where neither the query nor a header says another."""
        if self._timeout_text is None:
            self.timeout_s = min(max(seconds, LEAST_TIMEOUT_S), self._settings.max_timeout_s)

    @property
    def left_s(self) -> float:
        """Seconds left of it.

        Raises:
            Refusal: none.
        """
        left = self._began + self.timeout_s - asyncio.get_running_loop().time()
        if left <= 0:
            raise self.too_late()
        return left

    def too_late(self) -> Refusal:
        """That the request's time is over."""
        return Refusal(f"the request's time, {self.timeout_s:g} s, is over", 504)

    async def body(self) -> bytes:
        """The body, unpacked where it was packed.

        Raises:
            Refusal: it is too large (413), too slow (408), packed in an unknown way (415) or damaged (400).
        """
        try:
            async with asyncio.timeout(self._settings.read_timeout_s):
                packed = await self._read()
        except TimeoutError:
            raise Refusal(f"the body did not come within {self._settings.read_timeout_s:g} s", 408) from None
        encoding = self.headers.get("content-encoding", "").strip().lower()
        if encoding in ("", "identity"):
            return packed
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise Refusal(f"Content-Encoding {encoding[:100]!r} is not known: send gzip, deflate or plain", 415)
        return unpacked(packed, self._settings.max_body_bytes)

    async def _read(self) -> bytes:
        limit = self._settings.max_body_bytes
        announced = self.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit * _PATIENCE:
            raise Refusal(_too_large(limit), 413, _CLOSE)
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Refusal("the client is gone", 499)
            piece = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(piece)
            self.received_bytes = size
            if size <= limit:
                pieces.append(piece)
            elif size > limit * _PATIENCE:
                raise Refusal(_too_large(limit), 413, _CLOSE)
        if size > limit:
            raise Refusal(_too_large(limit), 413)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def unpacked(packed: bytes, limit: int) -> bytes:
    """A gzip or zlib body, unpacked; never more than `limit` bytes are made of it.

    Raises:
        Refusal: it is damaged, or larger than that.
    """
    parts: list[bytes] = []
    room = limit
    while packed:
        machine = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            part = machine.decompress(packed, room + 1)
        except zlib.error as error:
            raise Refusal(f"Failed to uncompress the request body: {error}") from None
        room -= len(part)
        if room < 0:
            raise Refusal(_too_large(limit), 413)
        if not machine.eof:
            raise Refusal("Failed to uncompress the request body: it ends too early")
        parts.append(part)
        packed = machine.unused_data  # gzip allows several one after the other
    return b"".join(parts)


def _too_large(limit: int) -> str:
    return f"the request body is larger than {limit} bytes, the limit"
