"""One HTTP request for a file or a piece of it, and what its answer means.

Address, range  --get-->  Answer(whole or piece, total, validator, stream)
                          | Failed (worth another try) | a typed error (not worth one)
"""

from __future__ import annotations

import base64
import http.client
import io
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from thriftserve.errors import FailedPrecondition, InvalidArgument, NotFound

# The URL of a packed model, read and made fit for a log.

SCHEMES = ("http", "https", "file")


@dataclass(frozen=True)
class Address:
    """Where a packed model lies."""

    scheme: str
    #: Without user and password.
    url: str
    #: Value of the Authorization header; None: none is sent.
    authorization: str | None = None

    @property
    def path(self) -> Path:
        """The file of a file URL."""
        return Path(unquote(urlsplit(self.url).path))

    def __str__(self) -> str:
        return shown(self.url)


def parse(url: str) -> Address:
    """Reads a URL.

    Raises:
        InvalidArgument: it can't be read, or has another scheme than http, https or file.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # read for its ValueError
    except ValueError as error:
        raise InvalidArgument(f"{url!r:.200} is no URL: {error}") from None
    if parts.scheme not in SCHEMES:
        raise InvalidArgument(f"{shown(url)!r:.200}: a model is fetched from http://, https:// or file:///")
    if any(not one.isprintable() or one.isspace() for one in url):
        raise InvalidArgument(f"{shown(url)!r:.200}: a URL has no spaces or control characters: write them as %20")
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise InvalidArgument(f"{shown(url)!r:.200}: a file URL has three slashes: file:///path/model.tar.gz")
    if parts.scheme != "file" and not parts.hostname:
        raise InvalidArgument(f"{shown(url)!r:.200}: the URL names no host")
    return Address(parts.scheme, parts._replace(netloc=_host(parts), fragment="").geturl(), _authorization(parts))


def shown(url: str) -> str:
    """A URL without what nobody should read in a log: user, password, query (signatures lie there)."""
    try:
        parts = urlsplit(url)
        return parts._replace(netloc=_host(parts), query="", fragment="").geturl()
    except ValueError:
        return "(no URL)"


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _authorization(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


#: Bytes read at a time.
CHUNK = 256 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_UNSATISFIABLE = re.compile(r"bytes \*/(\d+)")
#: Answers that another try may change.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpFailed(Exception):
    """The network or the server failed in a way that may pass."""


@dataclass(frozen=True)
class HttpRange:
    """A range of bytes asked for: `end` is the first byte not wanted.

    `validator` is what the file's ETag or Last-Modified was; where the file has changed, all of it is sent.
    """

    start: int
    end: int
    validator: str | None = None


@dataclass(frozen=True)
class HttpAnswer:
    """A file on its way, or a piece of it."""

    #: Whether it is the range asked for, and not the whole file.
    partial: bool
    #: First byte of it within the file.
    start: int
    #: Size of the whole file; None: not told.
    total: int | None
    #: What tells this file from a later one under the same URL; None: nothing does.
    validator: str | None
    _response: Any

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they arrive, until the end or a cut: which of the two, their number tells.

        Raises:
            Failed: the connection broke or was silent for too long.
        """
        try:
            while chunk := self._response.read1(CHUNK):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise HttpFailed(f"the connection broke: {_words(error)}") from error


@contextmanager
def get(address: Address, piece: HttpRange | None, *, timeout_s: float, redirects: int) -> Iterator[HttpAnswer]:
    """Asks for a file, or a piece of it; the answer is open within the `with` block.

    Raises:
        Failed: another try may succeed.
        NotFound, FailedPrecondition: none will.
    """
    request = urllib.request.Request(address.url, headers=_headers(piece))
    if address.authorization:
        # Not sent on to wherever a redirect leads.
        request.add_unredirected_header("Authorization", address.authorization)
    try:
        response = _opener(redirects).open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # it has no such bytes
                found = _UNSATISFIABLE.fullmatch(error.headers.get("Content-Range", ""))
                yield HttpAnswer(True, 0, int(found[1]) if found else None, None, io.BytesIO())
                return
            raise _refusal(address, error) from error
    except ssl.SSLCertVerificationError as error:
        raise FailedPrecondition(f"{address}: its certificate is not trusted: {error.verify_message}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreached(address, error) from error
    with response:
        yield _answer(response)


def _answer(response: Any) -> HttpAnswer:
    headers = response.headers
    validator = _validator(headers)
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if response.status == 206 and found:
        return HttpAnswer(True, int(found[1]), int(found[3]), validator, response)
    if response.status == 206:
        raise HttpFailed(
            f"the server sent a piece without saying which: Content-Range is {headers.get('Content-Range')!r}"
        )
    length = headers.get("Content-Length", "")
    return HttpAnswer(False, 0, int(length) if length.isdecimal() else None, validator, response)


def _validator(headers: Any) -> str | None:
    tag = headers.get("ETag", "")
    # A weak tag says that the content means the same, not that its bytes are: pieces of two such can't be joined.
    if tag.startswith('"'):
        return str(tag)
    modified = headers.get("Last-Modified")
    return str(modified) if modified else None


def _headers(piece: HttpRange | None) -> dict[str, str]:
    headers = {"User-Agent": "thriftserve", "Accept-Encoding": "identity"}
    if piece is not None:
        headers["Range"] = f"bytes={piece.start}-{piece.end - 1}"
        if piece.validator is not None:
            headers["If-Range"] = piece.validator
    return headers


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows so many redirects, to http and https only, and never from https to http."""

    def __init__(self, most: int) -> None:
        vars(self).update(max_redirections=most, max_repeats=most)

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://") and not (newurl.startswith("http://") and req.type == "http"):
            fp.close()
            raise FailedPrecondition(f"{shown(req.full_url)} redirects to {shown(newurl)}: not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Https(urllib.request.AbstractHTTPHandler):
    """Reads whom this machine trusts, which takes 20 ms, where a URL is https and not before."""

    https_request = urllib.request.AbstractHTTPHandler.do_request_

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(http.client.HTTPSConnection, req, context=ssl.create_default_context())


def _opener(redirects: int) -> urllib.request.OpenerDirector:
    # Put together by hand: the ready-made one would also open ftp: and data: URLs.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        _Https(),
        _Redirects(redirects),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _refusal(address: Address, error: urllib.error.HTTPError) -> Exception:
    told = f"{address}: the server answered {error.code} {error.reason or ''}".strip()
    if error.code in _PASSING:
        return HttpFailed(told)
    if error.code in (404, 410):
        return NotFound(told)
    if error.code in (301, 302, 303, 307, 308):
        circles = "infinite loop" in str(error.reason)
        where = "in circles, or too often" if circles else "to what is neither http nor https"
        return FailedPrecondition(f"{address}: it redirects {where}: not followed")
    return FailedPrecondition(told)


def _unreached(address: Address, error: Exception) -> Exception:
    reason = getattr(error, "reason", None)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return FailedPrecondition(f"{address}: its certificate is not trusted: {reason.verify_message}")
    return HttpFailed(f"{address}: {_words(reason if isinstance(reason, Exception) else error)}")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
