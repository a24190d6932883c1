"""The settings that hosting any Thrift service needs, written once: default, help, unit and check.

    HostSettings  -->  flag | THRIFTSERVE_… variable | TOML key | row of docs/reference/settings.md

They are checked when they are made: a `ConfigError` names the setting, the value and the remedy.

    >>> HostSettings(server_type="TThreadedServer", port=0).threads
    10
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from thriftserve.cores import usable_cores
from thriftserve.errors import ConfigError
from thriftserve.settings.field import above, at_least, check, setting, within
from thriftserve.settings.server_types import OF_SOME_TYPES, SERVER_TYPES, USED_BY

#: The largest frame that Thrift's frame header can announce.
MAX_MESSAGE_LIMIT = 0x7FFFFFFF

NETWORK, PROCESSES, LIMITS, TLS = "network", "processes", "limits", "TLS"


@dataclass(frozen=True)
class HostSettings:
    """How any Thrift service is hosted: server type, address, wire, limits."""

    server_type: str = setting(
        "TBatchingServer",
        "how connections and requests are laid over threads and processes",
        group=PROCESSES,
        choices=SERVER_TYPES,
    )
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 or :: for every interface", group=NETWORK)
    port: int = setting(9090, "TCP port; 0 lets the kernel pick one", group=NETWORK, check=within(0, 65535))
    unix_socket: str | None = setting(
        None, "listen on this Unix socket instead of host and port", group=NETWORK, metavar="PATH"
    )
    backlog: int = setting(
        4096, "connections that the kernel keeps waiting before it turns more away", group=NETWORK, check=at_least(1)
    )
    transport: str = setting(
        "framed", "how messages are delimited on the wire", group=NETWORK, choices=("framed", "buffered")
    )
    protocol: str = setting(
        "binary",
        "how messages are encoded; header tells each client's own choice apart",
        group=NETWORK,
        choices=("binary", "compact", "header"),
    )
    workers: int | None = setting(
        None,
        "worker processes of TProcessPoolServer (unset: one for each core) and of TBatchingServer (unset: as many as "
        "give every core a run)",
        group=PROCESSES,
        check=at_least(1),
    )
    spin_us: int = setting(
        200,
        "microseconds that a process looks for the next event before it sleeps, while events come that fast: a small "
        "request's latency halves, for cores that are busy at thousands of requests a second; 0 never does",
        group=PROCESSES,
        check=within(0, 10_000),
    )
    threads: int = setting(
        10, "handler threads of TThreadPoolServer and TNonblockingServer", group=PROCESSES, check=at_least(1)
    )
    runs_per_worker: int | None = setting(
        None,
        "batches that a worker process of TBatchingServer runs at once, each in a thread of its own; "
        "unset: 2 on cpu, 1 on a GPU and for Python models",
        group=PROCESSES,
        check=at_least(1),
    )
    fronts: int = setting(
        1,
        "front processes of TBatchingServer that share the port, for where one core of Python is not enough",
        group=PROCESSES,
        check=at_least(1),
    )
    worker_timeout_s: float = setting(
        300.0,
        "a worker of TBatchingServer that has a batch in hand for this long is killed and replaced",
        group=LIMITS,
        unit="seconds",
        check=above(0),
    )
    max_message_bytes: int = setting(
        64 * 1024 * 1024,
        "largest message read or written",
        group=LIMITS,
        unit="bytes",
        check=within(1024, MAX_MESSAGE_LIMIT),
    )
    max_connections: int = setting(
        10_000,
        "connections held at once (by each front of TBatchingServer); a further one is refused with RESOURCE_EXHAUSTED",
        group=LIMITS,
        check=at_least(1),
    )
    max_queued: int = setting(
        1000,
        "requests (or connections, where a connection waits for its worker) that may wait; "
        "a further one is refused with RESOURCE_EXHAUSTED",
        group=LIMITS,
        check=at_least(1),
    )
    max_queued_bytes: int = setting(
        256 * 1024 * 1024,
        "bytes of all requests that each front of TBatchingServer holds; a further one is refused with "
        "RESOURCE_EXHAUSTED",
        group=LIMITS,
        unit="bytes",
        check=at_least(1024),
    )
    max_children: int = setting(
        256,
        "child processes of TForkingServer; further connections wait for one to end",
        group=LIMITS,
        check=at_least(1),
    )
    read_timeout_s: float = setting(
        30.0,
        "a message must have arrived whole within this time from its first byte",
        group=LIMITS,
        unit="seconds",
        check=above(0),
    )
    write_timeout_s: float = setting(
        30.0, "a client must have taken an answer within this time", group=LIMITS, unit="seconds", check=above(0)
    )
    idle_timeout_s: float = setting(
        600.0, "a connection without a request for this long is closed", group=LIMITS, unit="seconds", check=above(0)
    )
    handshake_timeout_s: float = setting(
        10.0, "a TLS handshake must be done within this time", group=TLS, unit="seconds", check=above(0)
    )
    drain_timeout_s: float = setting(
        30.0, "after SIGTERM, what is in flight may take this long", group=LIMITS, unit="seconds", check=at_least(0)
    )
    tls_cert: str | None = setting(None, "certificate chain (PEM); turns TLS on", group=TLS, metavar="FILE")
    tls_key: str | None = setting(None, "private key (PEM) of --tls-cert", group=TLS, metavar="FILE")
    tls_client_ca: str | None = setting(
        None,
        "accept only clients with a certificate signed by these authorities (PEM): mutual TLS",
        group=TLS,
        metavar="FILE",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.tls_key and not self.tls_cert:
            raise ConfigError("tls_key is set without tls_cert: give the certificate too")
        if self.tls_client_ca and not self.tls_cert:
            raise ConfigError("tls_client_ca is set without tls_cert: mutual TLS needs the server's certificate too")

    @property
    def worker_processes(self) -> int:
        """Worker processes that the server type runs: one for all but TProcessPoolServer and TBatchingServer."""
        if self.server_type not in ("TProcessPoolServer", "TBatchingServer"):
            return 1
        return self.workers or usable_cores()

    @property
    def slots(self) -> int:
        """Batches that each worker of TBatchingServer has in hand at most."""
        return self.runs_per_worker or 1

    @property
    def framing(self) -> str:
        """The transport on the wire: "framed" where the server type or the protocol brings frames of its own."""
        if self.server_type in ("TNonblockingServer", "TBatchingServer") or self.protocol == "header":
            return "framed"
        return self.transport

    def unused(self) -> tuple[str, ...]:
        """Settings that were changed, but that the server type or the protocol has no use for, as `name=value`."""
        used = USED_BY.get(self.server_type, frozenset())
        changed = [
            one.name
            for one in fields(self)
            if one.name in OF_SOME_TYPES - used and getattr(self, one.name) != one.default
        ]
        if self.framing != self.transport:
            changed.append("transport")
        return tuple(f"{name}={getattr(self, name)}" for name in changed)
