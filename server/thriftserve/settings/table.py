"""Every setting, written once: default, help, unit and check.

    table  -->  flag | THRIFTSERVE_… variable | TOML key | row of docs/settings.md

`HostSettings` is all that hosting a Thrift service needs; `ServeSettings` adds the models. Both are
checked when they are made: a `ConfigError` names the setting, the value and the remedy.

    >>> HostSettings(server_type="TThreadedServer", port=0).threads
    10
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

from thriftserve.errors import ConfigError
from thriftserve.settings.field import above, at_least, check, setting, within

SERVER_TYPES = (
    "TSimpleServer",
    "TThreadedServer",
    "TThreadPoolServer",
    "TNonblockingServer",
    "TForkingServer",
    "TProcessPoolServer",
    "TBatchingServer",
)
#: What each server type makes use of, of the settings that not every one does.
_USED_BY = {
    "TSimpleServer": frozenset({"max_queued"}),
    "TThreadedServer": frozenset({"max_connections"}),
    "TThreadPoolServer": frozenset({"threads", "max_connections", "max_queued"}),
    "TNonblockingServer": frozenset({"threads", "max_connections", "max_queued"}),
    "TForkingServer": frozenset({"max_children", "max_queued"}),
    "TProcessPoolServer": frozenset({"workers", "max_connections", "max_queued"}),
    "TBatchingServer": frozenset(
        {
            "workers",
            "max_connections",
            "max_queued",
            "max_queued_bytes",
            "fronts",
            "runs_per_worker",
            "worker_timeout_s",
        }
    ),
}
_OF_SOME_TYPES = frozenset().union(*_USED_BY.values())
#: The largest frame that Thrift's frame header can announce.
MAX_MESSAGE_LIMIT = 0x7FFFFFFF


def _check_devices(value: str) -> str | None:
    names = [name.strip() for name in value.split(",")]
    if names in (["cpu"], ["auto"]):
        return None
    for name in names:
        kind, _, number = name.partition(":")
        if kind != "gpu" or not number.isdigit():
            return "must be cpu, auto, or a list like gpu:0,gpu:1"
    return None


NETWORK, PROCESSES, LIMITS, TLS, MODELS, LOGGING = "network", "processes", "limits", "TLS", "models", "logging"


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
        1024, "connections that the kernel keeps waiting before it turns more away", group=NETWORK, check=at_least(1)
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
        return self.workers or os.cpu_count() or 1

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
        used = _USED_BY.get(self.server_type, frozenset())
        changed = [
            one.name
            for one in fields(HostSettings)
            if one.name in _OF_SOME_TYPES - used and getattr(self, one.name) != one.default
        ]
        if self.framing != self.transport:
            changed.append("transport")
        return tuple(f"{name}={getattr(self, name)}" for name in changed)


@dataclass(frozen=True)
class ServeSettings(HostSettings):
    """Everything that `thriftserve serve` can be told."""

    model: tuple[str, ...] = setting(
        (),
        "a model to serve: NAME=BASE_PATH (highest version directory below it) or "
        "NAME=python:package.module:Class; repeat for more",
        group=MODELS,
        metavar="NAME=PATH",
        repeated=True,
    )
    model_config_file: str | None = setting(
        None,
        "the models to serve, listed in TensorFlow Serving's text format or, where the name ends in .toml, as TOML; "
        "instead of --model",
        group=MODELS,
        metavar="FILE",
    )
    model_config_poll_s: float = setting(
        0.0,
        "how often model_config_file is looked at for a change; 0: only on SIGHUP and reloadConfig",
        group=MODELS,
        unit="seconds",
        check=at_least(0),
    )
    file_system_poll_s: float = setting(
        1.0,
        "how often base paths are looked at for new and removed versions; 0: only on SIGHUP and reloadConfig",
        group=MODELS,
        unit="seconds",
        check=at_least(0),
    )
    mirror_poll_s: float = setting(
        10.0,
        "how often base paths that are URLs are looked at for new and removed versions; 0: only on SIGHUP and "
        "reloadConfig",
        group=MODELS,
        unit="seconds",
        check=at_least(0),
    )
    mirror_dir: str | None = setting(
        None,
        "where versions of base paths that are URLs are kept, and found again after a restart; this server's alone; "
        "unset: in state_dir",
        group=MODELS,
        metavar="DIR",
    )
    max_load_retries: int = setting(
        5, "how often a version that failed to load is tried again", group=MODELS, check=at_least(0)
    )
    load_retry_interval_s: float = setting(
        10.0,
        "pause before a version that failed to load is tried again; twice as long each time",
        group=MODELS,
        unit="seconds",
        check=above(0),
    )
    swap_policy: str = setting(
        "availability",
        "availability: new workers load beside those that serve; resource: a worker ends before its successor loads, "
        "for models that do not fit twice",
        group=MODELS,
        choices=("availability", "resource"),
    )
    state_dir: str | None = setting(
        None,
        "where the state of models and labels is kept; labels in it come back after a restart; unset: a temporary "
        "directory",
        group=MODELS,
        metavar="DIR",
    )
    devices: str = setting(
        "auto",
        "cpu, auto (every GPU, else cpu) or a list like gpu:0,gpu:1, laid round-robin over the workers",
        group=MODELS,
        check=_check_devices,
    )
    gpu_memory_limit_mb: int | None = setting(
        None, "GPU memory of each worker; unset: it grows as needed", group=MODELS, unit="MiB", check=at_least(1)
    )
    intra_op_threads: int | None = setting(
        None,
        "threads inside one operation; unset: the cores divided among the workers",
        group=MODELS,
        check=at_least(1),
    )
    inter_op_threads: int | None = setting(
        None,
        "threads that run operations side by side; unset: each call runs its own in the thread that calls",
        group=MODELS,
        check=at_least(1),
    )
    max_batch_size: int | None = setting(
        None,
        "rows that one run of a model takes at most, requests of different clients together; a model's own "
        "model.toml goes before; unset: 64 on TBatchingServer, 1 (nothing is put together) elsewhere",
        group=MODELS,
        check=at_least(1),
    )
    batch_timeout_ms: float | None = setting(
        None,
        "how long a request may wait for others to share its run; 0: not at all; unset: as long as the measured "
        "run times say that it is worth, and never where no other request can come",
        group=MODELS,
        unit="milliseconds",
        check=at_least(0),
    )
    freeze: bool = setting(
        True,
        "turn a TensorFlow model's variables into constants when it is loaded, where that is possible",
        group=MODELS,
    )
    warmup: bool = setting(
        True,
        "run the requests recorded for a model, and every other signature once with zeros, before it is served",
        group=MODELS,
    )
    strict_warmup: bool = setting(
        False,
        "a recorded request that can't be run fails the load of its model, instead of a line in the log",
        group=MODELS,
    )
    max_image_pixels: int = setting(
        50_000_000, "larger images are refused before they are decoded", group=LIMITS, unit="pixels", check=at_least(1)
    )
    control_port: int | None = setting(
        None,
        "serve ModelControl on this port; unset: not at all",
        group=NETWORK,
        check=lambda value: None if value is None else within(0, 65535)(value),
    )
    control_host: str = setting(
        "127.0.0.1",
        "address of the control port; one that is not loopback needs control_token_file or control_tls_client_ca",
        group=NETWORK,
    )
    control_token_file: str | None = setting(
        None,
        "ModelControl answers only calls that carry the token in this file; it is read again when it changes",
        group=NETWORK,
        metavar="FILE",
    )
    control_open: bool = setting(
        False,
        "allow everybody who reaches control_host to call ModelControl, without a token or a certificate",
        group=NETWORK,
    )
    control_tls_cert: str | None = setting(
        None, "certificate chain (PEM) of the control port; turns TLS on there", group=TLS, metavar="FILE"
    )
    control_tls_key: str | None = setting(None, "private key (PEM) of --control-tls-cert", group=TLS, metavar="FILE")
    control_tls_client_ca: str | None = setting(
        None,
        "the control port accepts only clients with a certificate signed by these authorities (PEM)",
        group=TLS,
        metavar="FILE",
    )
    fetch_dir: str | None = setting(
        None,
        "where models that loadModel fetches by URL are kept, as NAME/VERSION; unset: fetched in state_dir",
        group=MODELS,
        metavar="DIR",
    )
    fetch_max_bytes: int = setting(
        16 * 1024**3,
        "largest download of a model by URL; it may unpack to twice as much",
        group=LIMITS,
        unit="bytes",
        check=at_least(1024),
    )
    fetch_timeout_s: float = setting(
        3600.0, "fetching a model by URL must be done within this time", group=LIMITS, unit="seconds", check=above(0)
    )
    rest_port: int | None = setting(
        None,
        "answer HTTP, too, on this port: a `thriftserve gateway` in a process of its own; unset: not at all",
        group=NETWORK,
        check=lambda value: None if value is None else within(0, 65535)(value),
    )
    log_level: str = setting(
        "info", "least severe log lines to write", group=LOGGING, choices=("debug", "info", "warning", "error")
    )
    log_format: str = setting("text", "log lines as text or as JSON", group=LOGGING, choices=("text", "json"))
