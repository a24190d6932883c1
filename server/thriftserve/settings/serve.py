"""The settings of `thriftserve serve`, each written once: those of hosting a service, and those of its models.

ServeSettings  -->  flag | THRIFTSERVE_… variable | TOML key | row of docs/reference/settings.md
"""

from __future__ import annotations

from dataclasses import dataclass

from thriftserve.settings.field import (
    LIMITS,
    above,
    at_least,
    log_format_setting,
    log_level_setting,
    setting,
    within,
)
from thriftserve.settings.host import NETWORK, TLS, HostSettings

MODELS = "models"


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
    """The settings of `thriftserve serve`."""

    model: tuple[str, ...] = setting(
        (),
        "A model to serve: NAME=BASE_PATH (highest version directory below it), NAME=./FILE.py:CLASS (a Python class "
        "or function) or NAME=python:package.module:Class. Repeat for more.",
        group=MODELS,
        metavar="NAME=PATH",
        repeated=True,
    )
    model_config_file: str | None = setting(
        None,
        "File that lists the models to serve, instead of --model: TensorFlow Serving's text format, or TOML if the "
        "name ends in .toml.",
        group=MODELS,
        metavar="FILE",
    )
    batching_parameters_file: str | None = setting(
        None,
        "File with TensorFlow Serving's BatchingParameters in text form: how requests for every model share runs that "
        "has no [batching] in model_config_file.",
        group=MODELS,
        metavar="FILE",
    )
    model_config_poll_s: float = setting(
        0.0,
        "Check model_config_file for changes this often. 0: only on SIGHUP and reloadConfig.",
        group=MODELS,
        unit="seconds",
        check=at_least(0),
    )
    file_system_poll_s: float = setting(
        1.0,
        "Check base paths for new and removed versions this often. 0: only on SIGHUP and reloadConfig.",
        group=MODELS,
        unit="seconds",
        check=at_least(0),
    )
    mirror_poll_s: float = setting(
        10.0,
        "Check base paths that are URLs for new and removed versions this often. 0: only on SIGHUP and reloadConfig.",
        group=MODELS,
        unit="seconds",
        check=at_least(0),
    )
    mirror_dir: str | None = setting(
        None,
        "Directory for copies of base paths that are URLs. They are used again after a restart. Don't share it "
        "between servers. Unset: in state_dir.",
        group=MODELS,
        metavar="DIR",
    )
    max_load_retries: int = setting(
        5, "How often to retry a version that failed to load.", group=MODELS, check=at_least(0)
    )
    load_retry_interval_s: float = setting(
        10.0,
        "Pause before a version that failed to load is retried. Doubles each time.",
        group=MODELS,
        unit="seconds",
        check=above(0),
    )
    allow_unavailable_labels: bool = setting(
        False,
        "Let a reload point new labels at versions that are not available yet. Labels in use never move to such.",
        group=MODELS,
    )
    swap_policy: str = setting(
        "availability",
        "How a reload replaces workers. availability: the new worker loads while the old one serves. resource: the "
        "old one ends first, for models that don't fit into memory twice.",
        group=MODELS,
        choices=("availability", "resource"),
    )
    state_dir: str | None = setting(
        None,
        "Directory for the state of models and labels. Its labels are used again after a restart. Unset: a temporary "
        "directory.",
        group=MODELS,
        metavar="DIR",
    )
    devices: str = setting(
        "auto",
        "cpu, auto (every GPU, or the CPU if there is none) or a list like gpu:0,gpu:1. Workers get them round-robin.",
        group=MODELS,
        check=_check_devices,
    )
    gpu_memory_limit_mb: int | None = setting(
        None, "GPU memory of each worker. Unset: it grows as needed.", group=MODELS, unit="MiB", check=at_least(1)
    )
    intra_op_threads: int | None = setting(
        None,
        "Threads inside one operation. Unset: the cores divided among the workers.",
        group=MODELS,
        check=at_least(1),
    )
    inter_op_threads: int | None = setting(
        None,
        "Threads that run operations in parallel. Unset: each request runs its operations in its own thread.",
        group=MODELS,
        check=at_least(1),
    )
    max_batch_size: int | None = setting(
        None,
        "Most rows in one run of a model in TBatchingServer. Requests of different clients share a run only if tests "
        "showed that this changes no response, or if the model's own model.toml says so. Unset: 64.",
        group=MODELS,
        check=at_least(1),
    )
    batch_timeout_ms: float | None = setting(
        None,
        "How long a request of TBatchingServer may wait for others to share its run. 0: never wait. Unset: as long as "
        "waiting saves time by the measured run times, and never if no other request can come.",
        group=MODELS,
        unit="milliseconds",
        check=at_least(0),
    )
    freeze: bool = setting(
        True, "Turn the variables of TensorFlow models into constants at load, where possible.", group=MODELS
    )
    warmup: bool = setting(
        True,
        "Before a model is served, run its recorded requests, and each other signature once with zeros. Whether "
        "requests may share runs is tested in any case.",
        group=MODELS,
    )
    strict_warmup: bool = setting(
        False,
        "Fail the load of a model if one of its recorded requests can't run, instead of logging it.",
        group=MODELS,
    )
    max_image_pixels: int = setting(
        50_000_000, "Refuse larger images before decoding them.", group=LIMITS, unit="pixels", check=at_least(1)
    )
    control_port: int | None = setting(
        None, "Serve ModelControl on this port. Unset: nowhere.", group=NETWORK, check=within(0, 65535)
    )
    control_host: str = setting(
        "127.0.0.1",
        "Address of the control port. Other than loopback, it needs control_token_file, control_tls_client_ca or "
        "control_open.",
        group=NETWORK,
    )
    control_token_file: str | None = setting(
        None,
        "File with a token that calls of ModelControl must carry. It is read again when it changes.",
        group=NETWORK,
        metavar="FILE",
    )
    control_open: bool = setting(
        False,
        "Let everybody who reaches control_host call ModelControl, without a token or a certificate.",
        group=NETWORK,
    )
    control_tls_cert: str | None = setting(
        None, "Certificate chain (PEM) of the control port. Turns TLS on there.", group=TLS, metavar="FILE"
    )
    control_tls_key: str | None = setting(
        None, "Private key (PEM) of --control-tls-cert, if that file does not hold it.", group=TLS, metavar="FILE"
    )
    control_tls_client_ca: str | None = setting(
        None,
        "On the control port, accept only clients whose certificate these authorities (PEM) have signed.",
        group=TLS,
        metavar="FILE",
    )
    fetch_dir: str | None = setting(
        None,
        "Directory for models that loadModel fetches by URL, as NAME/VERSION. Unset: fetched in state_dir.",
        group=MODELS,
        metavar="DIR",
    )
    fetch_max_bytes: int = setting(
        16 * 1024**3,
        "Largest download of a model by URL. It may unpack to twice as much.",
        group=LIMITS,
        unit="bytes",
        check=at_least(1024),
    )
    fetch_timeout_s: float = setting(
        3600.0, "Give up fetching a model by URL after this time.", group=LIMITS, unit="seconds", check=above(0)
    )
    rest_port: int | None = setting(
        None,
        "Also answer HTTP on this port, by a `thriftserve gateway` in its own process. Unset: no HTTP.",
        group=NETWORK,
        check=within(0, 65535),
    )
    log_level: str = log_level_setting()
    log_format: str = log_format_setting()
