"""Images from addresses that clients name: fetched with care.

    URL --look up its host--> address that is allowed --GET--> bytes, bounded in size, time and redirects

The connection goes to the very address that was looked at, so that a name can't lead elsewhere the second time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from types import TracebackType
from urllib.parse import urljoin

import httpx

from thriftserve.settings.gateway import GatewaySettings

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_CONNECTIONS = 16
#: IPv4 addresses behind a translator.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ImageFetchFailed(Exception):
    """An image could not be had; the message says why."""


class ImageFetcher:
    """Fetches images, several at once."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._places = asyncio.Semaphore(_CONNECTIONS)
        # Proxies of the environment would be asked for addresses that are not allowed here.
        self._http = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=settings.service_timeout_s)

    async def __aenter__(self) -> ImageFetcher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def fetch(self, url: str) -> bytes:
        """The bytes behind a URL.

        Raises:
            FetchFailed: they can't or may not be had.
        """
        limit = self._settings.service_timeout_s
        try:
            async with self._places, asyncio.timeout(limit):
                return await self._followed(url)
        except TimeoutError:
            raise ImageFetchFailed(f"not there within {limit:g} s") from None
        except httpx.HTTPError as error:
            raise ImageFetchFailed(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from None

    async def _followed(self, url: str) -> bytes:
        for _ in range(self._settings.service_redirects + 1):
            found = await self._get(url)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise ImageFetchFailed(f"more than {self._settings.service_redirects} redirects")

    async def _get(self, url: str) -> bytes | str:
        """The bytes, or where they are said to be instead."""
        asked = await self._request(url)
        response = await self._http.send(asked, stream=True)
        try:
            if response.status_code in _REDIRECTS and "location" in response.headers:
                return str(response.headers["location"])
            if response.status_code != 200:
                raise ImageFetchFailed(f"HTTP status {response.status_code}")
            return await self._bounded(response)
        finally:
            await response.aclose()

    async def _request(self, url: str) -> httpx.Request:
        """The request for a URL, to an address that is allowed."""
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, ValueError, TypeError):
            raise ImageFetchFailed("not a URL") from None
        if target.scheme not in ("http", "https") or not target.host:
            raise ImageFetchFailed("expected an http or https URL")
        if target.userinfo:
            raise ImageFetchFailed("a URL with a password is not fetched")
        address = await self._address(target.host, target.port or (443 if target.scheme == "https" else 80))
        return self._http.build_request(
            "GET",
            target.copy_with(host=str(address)),
            headers={"host": target.netloc.decode("ascii"), "accept": "image/*"},
            extensions={"sni_hostname": target.host, "timeout": self._http.timeout.as_dict()},
        )

    async def _address(self, host: str, port: int) -> Address:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise ImageFetchFailed("its host is not known") from None
        addresses = [ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found]
        if not self._settings.service_private and not all(map(is_public, addresses)):
            raise ImageFetchFailed("it leads into a private network")
        return addresses[0]

    async def _bounded(self, response: httpx.Response) -> bytes:
        limit = self._settings.service_image_bytes
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > limit:
                raise ImageFetchFailed(f"larger than {limit} bytes, the limit")
        return bytes(content)


def is_public(address: Address) -> bool:
    """Whether an address lies in the public internet, whatever it is wrapped in."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast
