"""Every setting of `thriftserve serve`, written once: those of hosting a service, and those of its models.

ServeSettings  -->  flag | THRIFTSERVE_… variable | TOML key | row of docs/reference/settings.md
"""

from __future__ import annotations

from dataclasses import dataclass

from thriftserve.settings.field import above, at_least, setting, within
from thriftserve.settings.host import LIMITS, NETWORK, TLS, HostSettings

MODELS, LOGGING = "models", "logging"


def _check_devices(value: str) -> str | None:
    names = [name.strip() for name in value.split(",")]
    if names in (["cpu"], ["auto"]):
        return None
    for name in names:
        kind, _, number = name.partition(":")
        if kind != "gpu" or not number.isdigit():
            return "must be cpu, auto, or a list like gpu:0,gpu:1"
    return None


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
    allow_unavailable_labels: bool = setting(
        False,
        "a reload may point new labels at versions that are not available yet; labels in use never move to such",
        group=MODELS,
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
        "most rows in one run of a model, for requests of different clients together; they share a run only where that "
        "was shown to change no answer, or where the model's own model.toml says so; unset: 64; TBatchingServer only",
        group=MODELS,
        check=at_least(1),
    )
    batch_timeout_ms: float | None = setting(
        None,
        "how long a request may wait for others to share its run; 0: not at all; unset: as long as the measured "
        "run times say that it is worth, and never where no other request can come; TBatchingServer only",
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
        "run the requests recorded for a model, and every other signature once with zeros, before it is served; "
        "whether requests may share runs is tried in any case",
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
