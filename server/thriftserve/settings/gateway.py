"""Every setting of `thriftserve gateway`, written once: default, help, unit and check.

GatewaySettings  -->  flag | THRIFTSERVE_GATEWAY_… variable | TOML key | row of docs/reference/settings.md

>>> GatewaySettings(backend=("10.0.0.1:9090,10.0.0.2:9090",)).backends
('10.0.0.1:9090', '10.0.0.2:9090')
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from thriftserve.errors import ConfigError
from thriftserve.settings.field import above, at_least, check, setting, within

HTTP, BACKENDS, LIMITS, SERVICE, LOGGING = "HTTP", "backends", "limits", "image service", "logging"
_MAX_BODY = 0x7FFFFFFF


def _check_backends(value: tuple[str, ...]) -> str | None:
    for one in _split(value):
        host, _, port = one.rpartition(":")
        if not one.startswith("unix:/") and not (host and port.isdigit() and 0 < int(port) < 65536):
            return "must be HOST:PORT or unix:/PATH, several between commas"
    return None if _split(value) else "must name one server at least"


def _split(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.strip() for item in value for part in item.split(",") if part.strip())


def _check_origins(value: tuple[str, ...]) -> str | None:
    fine = all(one == "*" or one.startswith(("http://", "https://")) for one in value)
    return None if fine else "must be * or origins like https://example.org"


@dataclass(frozen=True)
class GatewaySettings:
    """Everything that `thriftserve gateway` can be told."""

    VARIABLE_PREFIX: ClassVar[str] = "THRIFTSERVE_GATEWAY_"

    backend: tuple[str, ...] = setting(
        ("127.0.0.1:9090",),
        "the servers to call, HOST:PORT or unix:/PATH; repeat, or put commas between them",
        group=BACKENDS,
        metavar="HOST:PORT",
        repeated=True,
        check=_check_backends,
    )
    backend_protocol: str = setting(
        "binary", "how messages to the servers are encoded", group=BACKENDS, choices=("binary", "compact")
    )
    backend_connections: int = setting(
        256, "connections to each server; requests beyond wait for one", group=BACKENDS, check=at_least(1)
    )
    connect_timeout_s: float = setting(
        2.0, "how long connecting to a server may take", group=BACKENDS, unit="seconds", check=above(0)
    )
    backend_ca: str | None = setting(
        None,
        "call the servers by TLS, and trust those whose certificates these authorities (PEM) signed",
        group=BACKENDS,
        metavar="FILE",
    )
    backend_cert: str | None = setting(
        None, "certificate (PEM) to show to servers that ask for one: mutual TLS", group=BACKENDS, metavar="FILE"
    )
    backend_key: str | None = setting(
        None, "private key (PEM) of --backend-cert, where that file does not hold it", group=BACKENDS, metavar="FILE"
    )
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 or :: for every interface", group=HTTP)
    port: int = setting(8501, "TCP port; 0 lets the kernel pick one", group=HTTP, check=within(0, 65535))
    backlog: int = setting(
        1024, "connections that the kernel keeps waiting before it turns more away", group=HTTP, check=at_least(1)
    )
    keep_alive_s: float = setting(
        75.0, "a connection without a request for this long is closed", group=HTTP, unit="seconds", check=at_least(1)
    )
    cors_origin: tuple[str, ...] = setting(
        (),
        "web pages of this origin may call (CORS), * for all; repeat for more; unset: none",
        group=HTTP,
        metavar="ORIGIN",
        repeated=True,
        check=_check_origins,
    )
    request_timeout_s: float = setting(
        30.0,
        "how long a request may take; one that names its own may not have more than max_timeout_s",
        group=LIMITS,
        unit="seconds",
        check=above(0),
    )
    max_timeout_s: float = setting(
        600.0, "the most time that a request may ask for", group=LIMITS, unit="seconds", check=above(0)
    )
    read_timeout_s: float = setting(
        30.0,
        "a request's head, and its body, must have come within this time",
        group=LIMITS,
        unit="seconds",
        check=above(0),
    )
    max_body_bytes: int = setting(
        64 * 1024 * 1024,
        "largest body of a request, unpacked, and largest message from a server",
        group=LIMITS,
        unit="bytes",
        check=within(1024, _MAX_BODY),
    )
    max_in_flight: int = setting(
        1000, "requests under way at once; a further one is answered 503", group=LIMITS, check=at_least(1)
    )
    drain_timeout_s: float = setting(
        30.0, "after SIGTERM, what is in flight may take this long", group=LIMITS, unit="seconds", check=at_least(0)
    )
    service_model: str | None = setting(
        None, "the model that POST /service asks; unset: the only one there is", group=SERVICE, metavar="NAME"
    )
    service_private: bool = setting(
        False, "whether image addresses may lead into private networks and to this machine", group=SERVICE
    )
    service_images: int = setting(32, "image addresses of one request", group=SERVICE, check=at_least(1))
    service_image_bytes: int = setting(
        20 * 1024 * 1024, "largest image fetched", group=SERVICE, unit="bytes", check=at_least(1024)
    )
    service_timeout_s: float = setting(
        10.0, "fetching an image may take this long", group=SERVICE, unit="seconds", check=above(0)
    )
    service_redirects: int = setting(3, "redirects followed for an image", group=SERVICE, check=at_least(0))
    log_level: str = setting(
        "info", "least severe log lines to write", group=LOGGING, choices=("debug", "info", "warning", "error")
    )
    log_format: str = setting("text", "log lines as text or as JSON", group=LOGGING, choices=("text", "json"))
    access_log: bool = setting(False, "a log line for each request", group=LOGGING)

    def __post_init__(self) -> None:
        check(self)
        if (self.backend_key and not self.backend_cert) or (self.backend_cert and not self.backend_ca):
            raise ConfigError("backend_key needs backend_cert, and that needs backend_ca: give them too")
        if self.request_timeout_s > self.max_timeout_s:
            raise ConfigError(
                f"request_timeout_s is {self.request_timeout_s:g}, more than max_timeout_s, {self.max_timeout_s:g}"
            )

    @property
    def backends(self) -> tuple[str, ...]:
        """The servers, one each."""
        return _split(self.backend)


def address_of(backend: str) -> tuple[str, int, str | None]:
    """Host, port and Unix socket that an item of `backends` names; one of the two is empty."""
    if backend.startswith("unix:"):
        return "", 0, backend.removeprefix("unix:")
    host, _, port = backend.rpartition(":")
    return host.strip("[]"), int(port), None


def backend_of(name: Any) -> str:
    """The item of `backends` that calls what listens on a socket of this name (`getsockname`), from this machine."""
    if isinstance(name, str):
        return f"unix:{name}"
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name[0], name[0])
    return f"[{local}]:{name[1]}" if ":" in local else f"{local}:{name[1]}"
