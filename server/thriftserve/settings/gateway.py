"""The settings of `thriftserve gateway`, each written once: default, help, unit and check.

GatewaySettings  -->  flag | THRIFTSERVE_GATEWAY_… variable | TOML key | row of docs/reference/settings.md

>>> GatewaySettings(backend=("10.0.0.1:9090,10.0.0.2:9090",)).backends
('10.0.0.1:9090', '10.0.0.2:9090')
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from thriftserve.errors import ConfigError
from thriftserve.settings.field import (
    LIMITS,
    LOGGING,
    Settings,
    above,
    at_least,
    log_format_setting,
    log_level_setting,
    setting,
    within,
)

HTTP, BACKENDS, SERVICE = "HTTP", "backends", "image service"
#: A body becomes one message, whose frame header holds a signed 32-bit length.
_MAX_BODY = 0x7FFFFFFF


def _check_backends(value: tuple[str, ...]) -> str | None:
    for backend in _split(value):
        host, _, port = backend.rpartition(":")
        if not backend.startswith("unix:/") and not (host and port.isdigit() and 0 < int(port) < 65536):
            return "must be HOST:PORT or unix:/PATH, several between commas"
    return None if _split(value) else "must name one server at least"


def _split(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.strip() for item in value for part in item.split(",") if part.strip())


def _check_origins(value: tuple[str, ...]) -> str | None:
    valid = all(origin == "*" or origin.startswith(("http://", "https://")) for origin in value)
    return None if valid else "must be * or origins like https://example.org"


def _check_path(value: str) -> str | None:
    fine = value.startswith("/") and not value.startswith(("/v1/", "/v2/")) and not set(value) & set("?# ")
    return None if fine else "must begin with / and not lead to the models, like /monitoring/prometheus/metrics"


@dataclass(frozen=True)
class GatewaySettings(Settings):
    """The settings of `thriftserve gateway`."""

    VARIABLE_PREFIX: ClassVar[str] = "THRIFTSERVE_GATEWAY_"

    backend: tuple[str, ...] = setting(
        ("127.0.0.1:9090",),
        "The servers to call: HOST:PORT or unix:/PATH. Repeat, or separate them by commas.",
        group=BACKENDS,
        metavar="HOST:PORT",
        repeated=True,
        check=_check_backends,
    )
    backend_protocol: str = setting(
        "binary", "How messages to the servers are encoded.", group=BACKENDS, choices=("binary", "compact")
    )
    backend_connections: int = setting(
        256, "Connections to each server. Further requests wait for one.", group=BACKENDS, check=at_least(1)
    )
    connect_timeout_s: float = setting(
        2.0, "Give up connecting to a server after this time.", group=BACKENDS, unit="seconds", check=above(0)
    )
    backend_ca: str | None = setting(
        None,
        "Call the servers by TLS, and trust certificates that these authorities (PEM) have signed.",
        group=BACKENDS,
        metavar="FILE",
    )
    backend_cert: str | None = setting(
        None, "Certificate (PEM) to show to servers that ask for one: mutual TLS.", group=BACKENDS, metavar="FILE"
    )
    backend_key: str | None = setting(
        None, "Private key (PEM) of --backend-cert, if that file does not hold it.", group=BACKENDS, metavar="FILE"
    )
    host: str = setting("127.0.0.1", "Address to listen on. Use 0.0.0.0 or :: for every interface.", group=HTTP)
    port: int = setting(8501, "TCP port. 0: the kernel picks one.", group=HTTP, check=within(0, 65535))
    backlog: int = setting(
        1024, "Connections that may wait in the kernel to be accepted.", group=HTTP, check=at_least(1)
    )
    keep_alive_s: float = setting(
        75.0, "Close a connection without a request for this long.", group=HTTP, unit="seconds", check=at_least(1)
    )
    cors_origin: tuple[str, ...] = setting(
        (),
        "Origin whose web pages may call (CORS). *: all. Repeat for more. Unset: none.",
        group=HTTP,
        metavar="ORIGIN",
        repeated=True,
        check=_check_origins,
    )
    request_timeout_s: float = setting(
        30.0,
        "How long a request may take. A request may ask for more, up to max_timeout_s.",
        group=LIMITS,
        unit="seconds",
        check=above(0),
    )
    max_timeout_s: float = setting(
        600.0, "The longest time that a request may ask for.", group=LIMITS, unit="seconds", check=above(0)
    )
    read_timeout_s: float = setting(
        30.0,
        "Close a connection if the head or the body of a request takes longer than this to arrive.",
        group=LIMITS,
        unit="seconds",
        check=above(0),
    )
    max_body_bytes: int = setting(
        64 * 1024 * 1024,
        "Largest unpacked body of a request, and largest message from a server.",
        group=LIMITS,
        unit="bytes",
        check=within(1024, _MAX_BODY),
    )
    max_in_flight: int = setting(
        1000, "Requests in progress at once. One more is answered 503.", group=LIMITS, check=at_least(1)
    )
    drain_timeout_s: float = setting(
        30.0,
        "After SIGTERM, requests in flight may take this long. Then they are cut off.",
        group=LIMITS,
        unit="seconds",
        check=at_least(0),
    )
    service_model: str | None = setting(
        None, "The model that POST /service calls. Unset: the only one of the server.", group=SERVICE, metavar="NAME"
    )
    service_private: bool = setting(
        False, "Let image addresses lead into private networks and to this machine.", group=SERVICE
    )
    service_images: int = setting(32, "Most image addresses in one request.", group=SERVICE, check=at_least(1))
    service_image_bytes: int = setting(
        20 * 1024 * 1024, "Largest image to fetch.", group=SERVICE, unit="bytes", check=at_least(1024)
    )
    service_timeout_s: float = setting(
        10.0, "Give up fetching an image after this time.", group=SERVICE, unit="seconds", check=above(0)
    )
    service_redirects: int = setting(3, "Redirects to follow for an image.", group=SERVICE, check=at_least(0))
    log_level: str = log_level_setting()
    log_format: str = log_format_setting()
    metrics_path: str = setting(
        "/monitoring/prometheus/metrics",
        "A path that answers Prometheus besides /metrics.",
        group=HTTP,
        metavar="PATH",
        check=_check_path,
    )
    access_log: bool = setting(False, "Log a line for each request.", group=LOGGING)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.backend_key and not self.backend_cert) or (self.backend_cert and not self.backend_ca):
            raise ConfigError("backend_key needs backend_cert, and that needs backend_ca: give them too")
        if self.request_timeout_s > self.max_timeout_s:
            raise ConfigError(
                f"request_timeout_s is {self.request_timeout_s:g}, more than max_timeout_s, {self.max_timeout_s:g}"
            )

    @property
    def backends(self) -> tuple[str, ...]:
        """The servers to call, one item each."""
        return _split(self.backend)


def address_of(backend: str) -> tuple[str, int, str | None]:
    """Return (host, port, None) or ("", 0, path of the Unix socket) for an item of `backends`."""
    if backend.startswith("unix:"):
        return "", 0, backend.removeprefix("unix:")
    host, _, port = backend.rpartition(":")
    return host.strip("[]"), int(port), None


def backend_of(name: Any) -> str:
    """Return the item of `backends` that reaches a listening socket on this machine, by its `getsockname()`."""
    if isinstance(name, str):
        return f"unix:{name}"
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name[0], name[0])
    return f"[{local}]:{name[1]}" if ":" in local else f"{local}:{name[1]}"
