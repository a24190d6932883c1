"""`thriftserve tfs`: what each flag of TensorFlow Serving becomes, and what is said of those without an effect."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from thriftserve.controller.configuration import read_models
from thriftserve.errors import ConfigError
from thriftserve.settings import ServeSettings, gather, tfs
from thriftserve.settings.gateway import GatewaySettings

LEAST = ("--rest_api_port=8501", "--model_base_path=/models/digits")


def translate(*arguments: str) -> tfs.Translation:
    """What a command line becomes."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    tfs.add_flags(parser)
    return tfs.translate(vars(parser.parse_args(arguments)))


def effective(translation: tfs.Translation) -> tuple[ServeSettings, GatewaySettings]:
    """The settings of a translation; each of its flags and variables must exist."""
    serve = gather(ServeSettings, flags=translation.flags, environ={}).settings
    return serve, gather(GatewaySettings, environ=translation.environ).settings


def test_least_command_line() -> None:
    """A port and a base path serve the model `default` to all hosts, with TensorFlow Serving's defaults, silently."""
    translation = translate(*LEAST)
    serve, _ = effective(translation)
    assert (serve.model, serve.rest_port, serve.host) == (("default=/models/digits",), 8501, "0.0.0.0")
    assert (serve.load_retry_interval_s, serve.max_load_retries, serve.warmup) == (60.0, 5, True)
    assert translation.remarks == []


def test_flags_with_a_meaning() -> None:
    """Values follow "=" or a space; truth values need none."""
    translation = translate(
        *LEAST,
        "--model_name", "digits",
        "--thrift_port", "9090",
        "--host=127.0.0.1",
        "--model_config_file_poll_wait_seconds=5",
        "--file_system_poll_wait_seconds=-1",
        "--max_num_load_retries=2",
        "--load_retry_interval_micros=500000",
        "--allow_version_labels_for_unavailable_models",
        "--enable_model_warmup=false",
        "--tensorflow_session_parallelism=4",
        "--tensorflow_intra_op_parallelism=2",
        "--rest_api_timeout_in_ms=1500",
        "--rest_api_enable_cors_support=true",
    )  # fmt: skip
    serve, gateway = effective(translation)
    assert (serve.model, serve.port, serve.host) == (("digits=/models/digits",), 9090, "127.0.0.1")
    assert (serve.model_config_poll_s, serve.file_system_poll_s) == (5, 0)
    assert (serve.max_load_retries, serve.load_retry_interval_s) == (2, 0.5)
    assert (serve.allow_unavailable_labels, serve.warmup) == (True, False)
    assert (serve.intra_op_threads, serve.inter_op_threads) == (2, 4)
    assert (gateway.request_timeout_s, gateway.cors_origin) == (1.5, ("*",))
    assert translation.remarks == []


def test_what_has_no_effect_is_told() -> None:
    """gRPC's port and whatever else means nothing here has a line each; nothing of it stops the start."""
    names = ("grpc_channel_arguments", "ssl_config_file", "rest_api_num_threads", "prefer_tflite_model")
    translation = translate(*LEAST, "--port=8500", *(f"--{name}" for name in names), "--num_load_threads=4")
    effective(translation)
    assert [remark.split(" ")[0] for remark in translation.remarks if "has no effect" in remark] == [
        f"--{name}" for name in (*names[:3], "num_load_threads", names[3])
    ]
    assert "--port=8500: there is no gRPC yet" in translation.remarks[-1]


def test_a_list_of_models_goes_before_a_model() -> None:
    """With model_config_file the two flags of one model are ignored, and that is told."""
    translation = translate(*LEAST, "--model_config_file=/models.config", "--model_name=a")
    assert translation.flags["model_config_file"] == "/models.config"
    assert "model" not in translation.flags
    assert translation.remarks == ["--model_name and --model_base_path ignored: --model_config_file lists the models"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model_base_path=/m",), "no port to answer on: give --rest_api_port"),
        (("--port=8500", "--model_base_path=/m"), "no port to answer on"),
        (("--rest_api_port=8501",), "no model to serve: give --model_base_path"),
        ((*LEAST, "--batching_parameters_file=/b"), "without --enable_batching"),
        ((*LEAST, "--saved_model_tags=serve,gpu"), "saved_model_tags is 'serve,gpu'"),
        ((*LEAST, "--monitoring_config_file=/no/file"), "/no/file: can't be read"),
    ],
)
def test_command_lines_that_can_not_be_served(arguments: tuple[str, ...], said: str) -> None:
    """What is missing or contradicts itself is an error that names the flags."""
    with pytest.raises(ConfigError, match=said):
        translate(*arguments)


@pytest.mark.parametrize(
    ("text", "path", "remark"),
    [
        ('prometheus_config { enable: true, path: "/metrics-of-tfs" }', "/metrics-of-tfs", None),
        ("# comment\nprometheus_config: {\n  enable: true\n}", tfs.METRICS_PATH, None),
        ('prometheus_config { enable: false path: "/other" }', tfs.METRICS_PATH, "is not enabled"),
    ],
)
def test_monitoring_file(tmp_path: Path, text: str, path: str, remark: str | None) -> None:
    """Its path answers Prometheus; what is not enabled answers all the same, and that is told."""
    file = tmp_path / "monitoring.config"
    file.write_text(text, encoding="utf-8")
    translation = translate(*LEAST, f"--monitoring_config_file={file}")
    assert effective(translation)[1].metrics_path == path
    assert len(translation.remarks) == (0 if remark is None else 1)
    assert remark is None or remark in translation.remarks[0]


@pytest.mark.parametrize("text", ["", "prometheus_config", "prometheus_config { enabled: true }", "{}"])
def test_monitoring_file_of_no_known_form(tmp_path: Path, text: str) -> None:
    """It is refused with an example."""
    file = tmp_path / "monitoring.config"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="write prometheus_config"):
        translate(*LEAST, f"--monitoring_config_file={file}")


def batched(tmp_path: Path, text: str) -> ServeSettings:
    """Settings with a file of batching parameters."""
    file = tmp_path / "batching.config"
    file.write_text(text, encoding="utf-8")
    return effective(translate(*LEAST, "--enable_batching", f"--batching_parameters_file={file}"))[0]


def test_batching_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its values hold for every model; what has no effect is logged."""
    text = (
        "max_batch_size { value: 16 }\nbatch_timeout_micros { value: 500 }  # half\nallowed_batch_sizes: 8\n"
        "allowed_batch_sizes: 16\npad_variable_length_inputs: true\nmax_enqueued_batches { value: 10 }\n"
        'num_batch_threads { value: 4 }\nthread_pool_name { value: "x" }\n'
    )
    (config,) = read_models(batched(tmp_path, text))
    assert config.batching is not None
    assert (config.batching.max_batch_size, config.batching.batch_timeout_ms) == (16, 0.5)
    assert (config.batching.allowed_batch_sizes, config.batching.max_enqueued) == ((8, 16), 160)
    assert config.batching.pad_variable_length_inputs
    assert "num_batch_threads has no effect here" in caplog.text and "thread_pool_name has no effect" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_batch_size { value: -1 }", "max_batch_size"),
        ("max_batch_size: 32", r"batching.config:1:\d+: .*write max_batch_size \{ value: 32 \}"),
        ("\nno_such_key { value: 1 }", r"batching.config:2:\d+: .*no_such_key"),
    ],
)
def test_batching_file_with_a_mistake(tmp_path: Path, text: str, said: str) -> None:
    """File, line and remedy are named."""
    with pytest.raises(ConfigError, match=said):
        read_models(batched(tmp_path, text))
