"""The settings for hosting any Thrift service, each written once: default, help, unit and check.

    HostSettings  -->  flag | THRIFTSERVE_… variable | TOML key | row of docs/reference/settings.md

The constructor checks them: a `ConfigError` names the setting, the value and the remedy.

    >>> HostSettings(server_type="TThreadedServer", port=0).threads
    10
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from thriftserve.cores import usable_cores
from thriftserve.errors import ConfigError
from thriftserve.settings.field import LIMITS, Settings, above, at_least, setting, within

#: The largest frame that Thrift's frame header, a signed 32-bit length, can announce.
MAX_MESSAGE_LIMIT = 0x7FFFFFFF

NETWORK, PROCESSES, TLS = "network", "processes", "TLS"

#: Server type -> the settings that it uses, of those that not every type uses.
_USED_BY = {
    "TSimpleServer": frozenset({"max_queued", "spin_us"}),
    "TThreadedServer": frozenset({"max_connections", "spin_us"}),
    "TThreadPoolServer": frozenset({"threads", "max_connections", "max_queued", "spin_us"}),
    "TNonblockingServer": frozenset({"threads", "max_connections", "max_queued"}),
    "TForkingServer": frozenset({"max_children", "max_queued", "spin_us"}),
    "TProcessPoolServer": frozenset({"workers", "max_connections", "max_queued", "spin_us"}),
    "TBatchingServer": frozenset(
        {
            "workers",
            "max_connections",
            "max_queued",
            "max_queued_bytes",
            "fronts",
            "runs_per_worker",
            "template_cache",
            "spin_us",
            "worker_timeout_s",
            "max_batch_size",
            "batch_timeout_ms",
        }
    ),
}
SERVER_TYPES = tuple(_USED_BY)
_NOT_USED_BY_ALL = frozenset().union(*_USED_BY.values())


def server_type_uses(server_type: str, name: str) -> bool:
    """Return whether a server type uses the setting of that name."""
    return name not in _NOT_USED_BY_ALL or name in _USED_BY[server_type]


@dataclass(frozen=True)
class HostSettings(Settings):
    """How to host a Thrift service: server type, address, wire, limits."""

    server_type: str = setting(
        "TBatchingServer",
        "How connections and requests are laid over threads and processes.",
        group=PROCESSES,
        choices=SERVER_TYPES,
    )
    host: str = setting("127.0.0.1", "Address to listen on. Use 0.0.0.0 or :: for every interface.", group=NETWORK)
    port: int = setting(9090, "TCP port. 0: the kernel picks one.", group=NETWORK, check=within(0, 65535))
    unix_socket: str | None = setting(
        None, "Listen on this Unix socket instead of host and port.", group=NETWORK, metavar="PATH"
    )
    backlog: int = setting(
        4096, "Connections that may wait in the kernel to be accepted.", group=NETWORK, check=at_least(1)
    )
    transport: str = setting(
        "framed", "How messages are delimited on the wire.", group=NETWORK, choices=("framed", "buffered")
    )
    protocol: str = setting(
        "binary",
        "How messages are encoded. header: each client chooses (THeader, framed binary or framed compact).",
        group=NETWORK,
        choices=("binary", "compact", "header"),
    )
    workers: int | None = setting(
        None,
        "Worker processes. Unset: TProcessPoolServer has one per core, TBatchingServer enough to run a batch on every "
        "core.",
        group=PROCESSES,
        check=at_least(1),
    )
    spin_us: int = setting(
        200,
        "Busy-wait up to this many microseconds for the next request before sleeping. Halves the latency of small "
        "requests; keeps cores busy under load. 0: off.",
        group=PROCESSES,
        unit="microseconds",
        check=within(0, 10_000),
    )
    threads: int = setting(
        10, "Handler threads of TThreadPoolServer and TNonblockingServer.", group=PROCESSES, check=at_least(1)
    )
    runs_per_worker: int | None = setting(
        None,
        "Batches that a worker of TBatchingServer runs at once, each in its own thread. Unset: 2 on the CPU, 1 on a "
        "GPU and for Python models.",
        group=PROCESSES,
        check=at_least(1),
    )
    template_cache: bool = setting(
        True,
        "Workers of TBatchingServer recognize small calls that are like an earlier one, and answer them without "
        "decoding. Answers are the same; it saves time under the binary protocol.",
        group=PROCESSES,
    )
    fronts: int = setting(
        1,
        "Front processes of TBatchingServer. They share the port. More than 1 pays when one core can't read all "
        "requests.",
        group=PROCESSES,
        check=at_least(1),
    )
    answer_half_closed: bool = setting(
        False,
        "Answer clients that close their sending side before they read their replies. Otherwise a closed side means "
        "that the client has gone: its requests that wait are not run, except for oneway calls.",
        group=NETWORK,
    )
    worker_timeout_s: float = setting(
        300.0,
        "Kill and replace a worker of TBatchingServer that has had one batch for this long.",
        group=LIMITS,
        unit="seconds",
        check=above(0),
    )
    max_message_bytes: int = setting(
        64 * 1024 * 1024,
        "Largest message to read or write.",
        group=LIMITS,
        unit="bytes",
        check=within(1024, MAX_MESSAGE_LIMIT),
    )
    max_connections: int = setting(
        10_000,
        "Open connections (per front of TBatchingServer). One more gets RESOURCE_EXHAUSTED.",
        group=LIMITS,
        check=at_least(1),
    )
    max_queued: int = setting(
        1000,
        "Requests that may wait, or connections, in the types where a connection waits for its worker. One more gets "
        "RESOURCE_EXHAUSTED.",
        group=LIMITS,
        check=at_least(1),
    )
    max_queued_bytes: int = setting(
        256 * 1024 * 1024,
        "Bytes of all requests that a front of TBatchingServer has not answered yet. One request more gets "
        "RESOURCE_EXHAUSTED.",
        group=LIMITS,
        unit="bytes",
        check=at_least(1024),
    )
    max_children: int = setting(
        256,
        "Child processes of TForkingServer. Further connections wait until a child ends.",
        group=LIMITS,
        check=at_least(1),
    )
    read_timeout_s: float = setting(
        30.0,
        "Close a connection whose message is incomplete this long after its first byte.",
        group=LIMITS,
        unit="seconds",
        check=above(0),
    )
    write_timeout_s: float = setting(
        30.0,
        "Close a connection whose client does not take its response within this time.",
        group=LIMITS,
        unit="seconds",
        check=above(0),
    )
    idle_timeout_s: float = setting(
        600.0, "Close a connection without a request for this long.", group=LIMITS, unit="seconds", check=above(0)
    )
    handshake_timeout_s: float = setting(
        10.0,
        "Close a connection whose TLS handshake takes longer than this.",
        group=TLS,
        unit="seconds",
        check=above(0),
    )
    drain_timeout_s: float = setting(
        30.0,
        "After SIGTERM, requests in flight may take this long. Then they are cut off.",
        group=LIMITS,
        unit="seconds",
        check=at_least(0),
    )
    tls_cert: str | None = setting(None, "Certificate chain (PEM). Turns TLS on.", group=TLS, metavar="FILE")
    tls_key: str | None = setting(
        None, "Private key (PEM) of --tls-cert, if that file does not hold it.", group=TLS, metavar="FILE"
    )
    tls_client_ca: str | None = setting(
        None,
        "Accept only clients whose certificate these authorities (PEM) have signed: mutual TLS.",
        group=TLS,
        metavar="FILE",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tls_key and not self.tls_cert:
            raise ConfigError("tls_key is set without tls_cert: give the certificate too")
        if self.tls_client_ca and not self.tls_cert:
            raise ConfigError("tls_client_ca is set without tls_cert: mutual TLS needs the server's certificate too")
        if self.transport != self.framing:
            needs = "protocol=header" if self.protocol == "header" else self.server_type
            raise ConfigError(
                f"transport is {self.transport!r}, but {needs} has the framed transport only: leave it out"
            )

    @property
    def worker_processes(self) -> int:
        """Worker processes that the server type runs: one, except for TProcessPoolServer and TBatchingServer."""
        if self.server_type not in ("TProcessPoolServer", "TBatchingServer"):
            return 1
        return self.workers or usable_cores()

    @property
    def slots(self) -> int:
        """Batches that each worker of TBatchingServer runs at once. It has more in hand: the next ones to run."""
        return self.runs_per_worker or 1

    @property
    def framing(self) -> str:
        """The effective transport: "framed" if the server type or the protocol requires frames."""
        if self.server_type in ("TNonblockingServer", "TBatchingServer") or self.protocol == "header":
            return "framed"
        return self.transport

    def unused(self) -> tuple[str, ...]:
        """Return, as `name=value`, the changed settings that the server type does not use."""
        return tuple(
            f"{item.name}={getattr(self, item.name)}"
            for item in fields(self)
            if getattr(self, item.name) != item.default and not server_type_uses(self.server_type, item.name)
        )
