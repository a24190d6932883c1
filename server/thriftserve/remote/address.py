"""The URL of a packed model: read, checked, and made fit for a log.

"https://user:secret@models.example/digits.tar.gz?sig=…"  --parse-->  Address, shown as https://models.example/digits.tar.gz

It imports no HTTP client: the controller checks requests without one.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from thriftserve.errors import InvalidArgument

SCHEMES = ("http", "https", "file")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Address:
    """Where a packed model is."""

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
        return redact(self.url)


def parse(url: str) -> Address:
    """Return the address that a URL names.

    Raises:
        InvalidArgument: it can't be read, or has another scheme than http, https or file.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # read for its ValueError
    except ValueError as error:
        raise InvalidArgument(f"{url!r:.200} is no URL: {error}") from None
    shown = f"{redact(url)!r:.200}"
    if parts.scheme not in SCHEMES:
        raise InvalidArgument(f"{shown}: a model is fetched from http://, https:// or file:///")
    if any(not char.isprintable() or char.isspace() for char in url):
        raise InvalidArgument(f"{shown}: a URL has no spaces or control characters: write them as %20")
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise InvalidArgument(f"{shown}: a file URL has three slashes: file:///path/model.tar.gz")
    if parts.scheme != "file" and not parts.hostname:
        raise InvalidArgument(f"{shown}: the URL names no host")
    return Address(parts.scheme, parts._replace(netloc=_host(parts), fragment="").geturl(), _authorization(parts))


def parse_sha256(text: str | None) -> str | None:
    """Return a checksum in lower case.

    Raises:
        InvalidArgument: it is not 64 hexadecimal digits.
    """
    if text is None:
        return None
    if not _SHA256.fullmatch(text):
        raise InvalidArgument(f"sha256 is {text!r:.80}: write 64 hexadecimal digits")
    return text.lower()


def check_request(url: str, sha256: str | None) -> None:
    """Check a URL and a checksum before a fetch is begun.

    Raises:
        InvalidArgument: the URL can't be read, or has another scheme than http, https or file; or the checksum can't.
    """
    parse(url)
    parse_sha256(sha256)


def redact(url: str) -> str:
    """Return a URL without what must not be in a log: user, password, and the query, which may hold a signature."""
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
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(credentials.encode()).decode()
