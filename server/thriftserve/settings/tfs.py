"""The flags of `tensorflow_model_server`, told in settings of ours: `thriftserve tfs`.

    argv  --add_flags, translate-->  flags of `thriftserve serve`, variables of the gateway, remarks

Flags are written as there: `--name=value`, `--name value`, and `--name` alone for a truth value.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thriftserve.errors import ConfigError

#: Where TensorFlow Serving has its metrics, if the monitoring file names no path.
METRICS_PATH = "/monitoring/prometheus/metrics"
_GRPC = "there is no gRPC yet, so nothing listens there"
_THREADS = "threads follow from the cores"
#: Flags without an effect here -> why, for those who gave them.
_NO_EFFECT = {
    "grpc_socket_path": _GRPC,
    "grpc_channel_arguments": _GRPC,
    "grpc_max_threads": _GRPC,
    "ssl_config_file": f"it is for gRPC, and {_GRPC}",
    "enable_grpc_healthcheck_service": f"{_GRPC}; HTTP has /readyz",
    "rest_api_num_threads": "HTTP is answered by an event loop",
    "num_load_threads": _THREADS,
    "num_initial_load_threads": _THREADS,
    "num_unload_threads": _THREADS,
    "num_request_iterations_for_warmup": "each recorded request is run once",
    "flush_filesystem_caches": "the system keeps its file cache",
    "tensorflow_session_config_file": "use intra and inter op parallelism",
    "platform_config_file": "models are TensorFlow's SavedModels",
    "per_process_gpu_memory_fraction": "GPU memory grows as needed; thriftserve serve has --gpu-memory-limit-mb",
    "remove_unused_fields_from_bundle_metagraph": "unused parts are never kept",
    "prefer_tflite_model": "SavedModels are served",
    "num_tflite_pools": "SavedModels are served",
    "num_tflite_interpreters_per_pool": "SavedModels are served",
    "enable_signature_method_name_check": "signatures are served whatever their method name is",
    "xla_cpu_compilation_enabled": "XLA compiles what the model itself asks for",
    "enable_profiler": "there is no profiler port",
    "thread_pool_factory_config_file": _THREADS,
    "mixed_precision": "models run in the precision that they were saved in",
    "skip_initialize_tpu": "there are no TPUs here",
}
_MONITORING = re.compile(r"\s*prometheus_config\s*:?\s*\{(?P<body>[^{}]*)\}\s*", re.DOTALL)
_MONITORING_KEY = re.compile(r"\s*(?:(enable)\s*:\s*(true|false)|(path)\s*:\s*(?:\"([^\"]*)\"|'([^']*)'))\s*[,;]?")


@dataclass
class Translation:
    """What flags of TensorFlow Serving mean here."""

    #: Flags of `thriftserve serve`, by setting.
    flags: dict[str, Any] = field(default_factory=dict)
    #: Variables of the gateway.
    environ: dict[str, str] = field(default_factory=dict)
    #: What has no effect, a line each.
    remarks: list[str] = field(default_factory=list)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add TensorFlow Serving's flags, and those few that only make sense here."""

    def add(name: str, kind: Callable[[str], Any], text: str, metavar: str = "N") -> None:
        bare = kind is _truth or name in _NO_EFFECT  # a truth value comes without one, too
        parser.add_argument(
            f"--{name}",
            type=kind,
            nargs="?" if bare else None,
            const=True if bare else None,
            default=argparse.SUPPRESS,
            help=text,
            metavar=metavar,
        )

    add("rest_api_port", int, "port of HTTP; 0: none (default: 0)", "PORT")
    add("port", int, "port of gRPC: taken and told, for there is no gRPC yet; nothing listens there", "PORT")
    add("thrift_port", int, "port of Thrift, which TensorFlow Serving lacks (default: none)", "PORT")
    add("host", str, "address to listen on (default: 0.0.0.0, as TensorFlow Serving does)", "HOST")
    add("model_name", str, "name of the model of --model_base_path (default: default)", "NAME")
    add("model_base_path", str, "directory of version directories, or a URL", "PATH")
    add("model_config_file", str, "ModelServerConfig in text form; the two flags above are then ignored", "FILE")
    add("model_config_file_poll_wait_seconds", float, "look at that file again so often; 0: never (default: 0)")
    add("file_system_poll_wait_seconds", float, "look for versions so often; 0 or less: never (default: 1)")
    add(
        "enable_batching",
        _truth,
        "read --batching_parameters_file; requests share runs where that is safe anyway",
        "BOOL",
    )
    add("batching_parameters_file", str, "BatchingParameters in text form, for every model", "FILE")
    add("monitoring_config_file", str, "MonitoringConfig in text form: the path of Prometheus' metrics", "FILE")
    add("rest_api_timeout_in_ms", float, "how long a call by HTTP may take (default: 30000)")
    add("rest_api_enable_cors_support", _truth, "let pages of other origins call", "BOOL")
    add("allow_version_labels_for_unavailable_models", _truth, "let labels point at versions to come", "BOOL")
    add("max_num_load_retries", int, "how often to retry a version that failed to load (default: 5)")
    add("load_retry_interval_micros", float, "pause before that (default: 60000000)")
    add("enable_model_warmup", _truth, "run recorded requests before serving (default: true)", "BOOL")
    add("tensorflow_session_parallelism", int, "threads inside an operation, and for operations side by side")
    add("tensorflow_intra_op_parallelism", int, "threads inside an operation; 0: by the cores")
    add("tensorflow_inter_op_parallelism", int, "threads for operations side by side; 0: none but the call's own")
    add("saved_model_tags", str, "serve, the only tag that is served", "TAGS")
    for name, why in _NO_EFFECT.items():
        add(name, str, f"no effect: {why}", "VALUE")


def translate(given: dict[str, Any]) -> Translation:
    """Return what flags mean here.

    Args:
        given: the flags that were given, by name.

    Raises:
        ConfigError: They name no model or no port, or a file or value of theirs will not do.
    """
    result = Translation({"host": given.get("host", "0.0.0.0")})  # as TensorFlow Serving does
    result.remarks += [f"--{name} has no effect: {why}" for name, why in _NO_EFFECT.items() if name in given]
    _ports(given, result)
    _models(given, result)
    _batching(given, result)
    _monitoring(given, result)
    _sessions(given, result)
    for name, setting in (
        ("model_config_file_poll_wait_seconds", "model_config_poll_s"),
        ("file_system_poll_wait_seconds", "file_system_poll_s"),
    ):
        if name in given:
            result.flags[setting] = max(0.0, given[name])
    if "max_num_load_retries" in given:
        result.flags["max_load_retries"] = max(0, given["max_num_load_retries"])
    result.flags["load_retry_interval_s"] = max(1e-3, given.get("load_retry_interval_micros", 60e6) / 1e6)
    result.flags["allow_unavailable_labels"] = given.get("allow_version_labels_for_unavailable_models", False)
    result.flags["warmup"] = given.get("enable_model_warmup", True)
    if "rest_api_timeout_in_ms" in given:
        seconds = given["rest_api_timeout_in_ms"] / 1000
        result.environ["THRIFTSERVE_GATEWAY_REQUEST_TIMEOUT_S"] = f"{seconds:g}"
        result.environ["THRIFTSERVE_GATEWAY_MAX_TIMEOUT_S"] = f"{max(seconds, 600):g}"
    if given.get("rest_api_enable_cors_support"):
        result.environ["THRIFTSERVE_GATEWAY_CORS_ORIGIN"] = "*"
    return result


def _ports(given: dict[str, Any], result: Translation) -> None:
    rest, thrift = given.get("rest_api_port", 0), given.get("thrift_port")
    if "port" in given and given["port"] != 0:
        result.remarks.append(f"--port={given['port']}: {_GRPC}; use --rest_api_port, or --thrift_port for Thrift")
    if rest:
        result.flags["rest_port"] = rest
    if thrift is not None:
        result.flags["port"] = thrift
    if not rest and thrift is None:
        raise ConfigError("there is no port to answer on: give --rest_api_port=8501 (there is no gRPC yet)")


def _models(given: dict[str, Any], result: Translation) -> None:
    if given.get("model_config_file"):
        result.flags["model_config_file"] = given["model_config_file"]
        names = [f"--{name}" for name in ("model_name", "model_base_path") if name in given]
        if names:
            result.remarks.append(f"{' and '.join(names)} ignored: --model_config_file lists the models")
    elif given.get("model_base_path"):
        result.flags["model"] = (f"{given.get('model_name', 'default')}={given['model_base_path']}",)
    else:
        raise ConfigError("there is no model to serve: give --model_base_path=PATH or --model_config_file=FILE")
    tags = given.get("saved_model_tags", "serve")
    if tags != "serve":
        raise ConfigError(f"saved_model_tags is {tags!r}: only what is saved under the tag serve can be served")


def _batching(given: dict[str, Any], result: Translation) -> None:
    file = given.get("batching_parameters_file")
    if not file:
        return
    if not given.get("enable_batching"):
        raise ConfigError("--batching_parameters_file is set without --enable_batching: give both, or none")
    result.flags["batching_parameters_file"] = file


def _monitoring(given: dict[str, Any], result: Translation) -> None:
    file = given.get("monitoring_config_file")
    if not file:
        return
    try:
        text = re.sub(r"#.*", "", Path(file).expanduser().read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"monitoring_config_file {file}: can't be read: {error}; give a readable file") from None
    block = _MONITORING.fullmatch(text)
    if block is None or _MONITORING_KEY.sub("", block["body"]).strip():
        why = 'write prometheus_config { enable: true, path: "/monitoring/prometheus/metrics" }'
        raise ConfigError(f"monitoring_config_file {file}: can't be read: {why}")
    values = {
        match[1] or match[3]: match[2] or match[4] or match[5] for match in _MONITORING_KEY.finditer(block["body"])
    }
    if values.get("enable") != "true":
        result.remarks.append(f"{file}: prometheus_config is not enabled; {METRICS_PATH} answers all the same")
    elif values.get("path"):
        result.environ["THRIFTSERVE_GATEWAY_METRICS_PATH"] = values["path"]


def _sessions(given: dict[str, Any], result: Translation) -> None:
    both = given.get("tensorflow_session_parallelism", 0)
    for kind in ("intra", "inter"):
        threads = given.get(f"tensorflow_{kind}_op_parallelism", 0) or both
        if threads > 0:
            result.flags[f"{kind}_op_threads"] = threads


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text!r}: write true or false")
    return text.lower() in ("true", "1")
