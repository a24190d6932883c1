"""The URL of a packed model, read and made fit for a log.

"https://user:secret@host/m.tgz?sig=…"  --parse-->  Address(scheme, url, authorization)  --str-->  https://host/m.tgz
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from thriftserve.errors import InvalidArgument

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
