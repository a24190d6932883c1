"""One HTTP request for a file or a range of it, and what its answer means.

Address, HttpRange  --get-->  HttpAnswer: all of it or the range, size, validator, bytes
                              | HttpFailed (worth another try) | a typed error (not worth one)
"""

from __future__ import annotations

import re
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import httpx

from thriftserve.errors import FailedPrecondition, NotFound
from thriftserve.remote.address import Address, redact

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_UNSATISFIABLE = re.compile(r"bytes \*/(\d+)")
#: Answers that may be others the next time: RFC 9110, section 15; RFC 6585 (429); RFC 8470 (425).
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class HttpFailed(Exception):
    """The network or the server failed in a way that may pass."""


@dataclass(frozen=True)
class HttpRange:
    """A range of bytes to ask for."""

    start: int
    #: The first byte that is not wanted.
    end: int
    #: The file's ETag or Last-Modified: if it has another one now, all of it is sent.
    validator: str | None = None


@dataclass(frozen=True)
class HttpAnswer:
    """A file on its way, or a range of it."""

    #: Whether it is the range that was asked for, and not the file.
    partial: bool
    #: Its first byte within the file.
    start: int
    #: Size of the file in bytes; None: the server does not say.
    total: int | None
    #: What tells this file from a later one under the same URL; None: nothing does.
    validator: str | None
    _response: httpx.Response | None = None

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes as they arrive, until the end or, if the answer has a length, a cut: count them.

        Raises:
            HttpFailed: the connection broke or was silent for too long.
        """
        if self._response is None:
            return
        try:
            yield from self._response.iter_raw()
        except httpx.RemoteProtocolError as error:
            if "Content-Length" not in self._response.headers:
                raise HttpFailed(f"the connection broke: {_describe(error)}") from error
        except httpx.HTTPError as error:
            raise HttpFailed(f"the connection broke: {_describe(error)}") from error


@contextmanager
def get(address: Address, byte_range: HttpRange | None, *, timeout_s: float, redirects: int) -> Iterator[HttpAnswer]:
    """Ask for a file, or a range of it; the answer is open within the `with` block.

    Args:
        address: of the file.
        byte_range: None: all of it.
        timeout_s: for the connection to be made, and for each silence of the server.
        redirects: how many are followed: to http and https only, and never from https to http.

    Raises:
        HttpFailed: another try may succeed.
        NotFound, FailedPrecondition: none will.
    """
    with ExitStack() as connections:
        url, headers = address.url, _request_headers(byte_range)
        if address.authorization:
            headers["Authorization"] = address.authorization
        for _ in range(redirects + 1):
            try:
                response = _send(connections, url, headers, timeout_s)
            except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
                raise _connection_error(address, error) from error
            if response.status_code not in _REDIRECTS:
                break
            url = _redirect_target(address, url, response.headers.get("Location"))
            headers.pop("Authorization", None)  # meant for the first server alone
            connections.close()
        else:
            raise FailedPrecondition(f"{address}: it redirects in circles, or too often: not followed")
        yield _answer(address, response)


def _send(connections: ExitStack, url: str, headers: dict[str, str], timeout_s: float) -> httpx.Response:
    proxy = _proxy(url)
    # Reading whom this machine trusts takes 20 ms: only where there is something to verify. SSL_CERT_FILE is heeded.
    verify = ssl.create_default_context() if proxy or url.startswith("https:") else False
    # The transport, not httpx.Client: the client logs each URL with its query, which may hold a signature.
    transport = connections.enter_context(httpx.HTTPTransport(verify=verify, proxy=proxy))
    timeout = httpx.Timeout(timeout_s).as_dict()
    response = transport.handle_request(httpx.Request("GET", url, headers=headers, extensions={"timeout": timeout}))
    connections.callback(response.close)
    return response


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for a URL: http_proxy, https_proxy and no_proxy."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _request_headers(byte_range: HttpRange | None) -> dict[str, str]:
    # No compression: ranges count the bytes of the file.
    headers = {"User-Agent": "thriftserve", "Accept-Encoding": "identity", "Connection": "close"}
    if byte_range is not None:
        headers["Range"] = f"bytes={byte_range.start}-{byte_range.end - 1}"
        if byte_range.validator is not None:
            headers["If-Range"] = byte_range.validator
    return headers


def _redirect_target(address: Address, url: str, location: str | None) -> str:
    target = urljoin(url, location or "").replace(" ", "%20")
    scheme = urlsplit(target).scheme
    if not location or scheme not in ("http", "https"):
        raise FailedPrecondition(f"{address}: it redirects to what is neither http nor https: not followed")
    if scheme == "http" and url.startswith("https:"):
        raise FailedPrecondition(f"{redact(url)} redirects to {redact(target)}: not followed")
    return target


def _answer(address: Address, response: httpx.Response) -> HttpAnswer:
    headers, status = response.headers, response.status_code
    content_range = headers.get("Content-Range", "")
    if status == 416:  # the file has no such bytes
        unsatisfiable = _UNSATISFIABLE.fullmatch(content_range)
        return HttpAnswer(True, 0, int(unsatisfiable[1]) if unsatisfiable else None, None)
    if not response.is_success:
        raise _status_error(address, response)
    validator = _validator(headers)
    if status == 206:
        sent = _CONTENT_RANGE.fullmatch(content_range)
        if sent is None:
            raise HttpFailed(f"the server sent a range without saying which: Content-Range is {content_range!r}")
        return HttpAnswer(True, int(sent[1]), int(sent[3]), validator, response)
    length = headers.get("Content-Length", "")
    return HttpAnswer(False, 0, int(length) if length.isdecimal() else None, validator, response)


def _validator(headers: httpx.Headers) -> str | None:
    tag = headers.get("ETag", "")
    # A weak tag says that the content means the same, not that its bytes are: ranges of two such can't be joined.
    return tag if tag.startswith('"') else headers.get("Last-Modified") or None


def _status_error(address: Address, response: httpx.Response) -> Exception:
    message = f"{address}: the server answered {response.status_code} {response.reason_phrase}".strip()
    if response.status_code in _RETRYABLE:
        return HttpFailed(message)
    return NotFound(message) if response.status_code in (404, 410) else FailedPrecondition(message)


def _connection_error(address: Address, error: Exception) -> Exception:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return FailedPrecondition(f"{address}: its certificate is not trusted: {cause.verify_message}")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return FailedPrecondition(f"{address}: {error}")
    return HttpFailed(f"{address}: {_describe(error)}")


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
