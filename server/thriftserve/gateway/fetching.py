"""Fetch images from URLs that clients name, safely.

    URL --resolve its host--> allowed address --GET--> bytes, limited in size, time and redirects

The connection goes to the address that was checked, so that a second resolution can't lead elsewhere.
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
