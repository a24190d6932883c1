"""`thriftserve tfs` and the image's entry point, called by HTTP as TensorFlow Serving is."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deployed import DEPLOY
from served import command, environment
from small_models import small

READY = re.compile(r"thriftserve ready .*rest_port=(\d+)\n")


@contextmanager
def started(arguments: list[str], log: Path, **variables: str) -> Iterator[int]:
    """A server that listens on a port of HTTP that the kernel picked: the port."""
    binaries = str(Path(command()[0]).parent)
    path = {"PATH": f"{binaries}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "-1"}
    with log.open("w") as stderr:
        process = subprocess.Popen(
            arguments, env=environment(**path, **variables), stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        assert process.stdout is not None
        try:
            ready = READY.fullmatch(process.stdout.readline())
            assert ready is not None, log.read_text()
            yield int(ready[1])
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            process.stdout.close()


def free_port() -> str:
    """A port that the kernel picked; 0 means none to TensorFlow Serving's flags."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def ask(port: int, path: str, body: Any = None, method: str | None = None) -> tuple[int, str]:
    """Status and text of an answer."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_command_line_of_tensorflow_serving(tmp_path: Path) -> None:
    """Batching and monitoring files included, it answers HTTP; gRPC's port is told, and the Thrift port is nobody's."""
    batching, monitoring = tmp_path / "batching.config", tmp_path / "monitoring.config"
    batching.write_text("max_batch_size { value: 8 }\nbatch_timeout_micros { value: 0 }\n")
    monitoring.write_text('prometheus_config { enable: true, path: "/monitor" }\n')
    arguments = command(
        "tfs", "--port=8500", "--rest_api_port", free_port(), "--host=127.0.0.1", "--model_name=half",
        f"--model_base_path={small('half_plus_two')}", "--enable_batching",
        f"--batching_parameters_file={batching}", f"--monitoring_config_file={monitoring}", "--num_load_threads=2",
    )  # fmt: skip
    with started(arguments, tmp_path / "log") as port:
        instances = {"instances": [1.0, 2.0, 5.0]}
        status, text = ask(port, "/v1/models/half:predict", instances)
        assert (status, json.loads(text)) == (200, {"predictions": [2.5, 3.0, 4.5]})
        status, text = ask(port, "/v1/models/half/metadata")
        signature = json.loads(text)["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert re.fullmatch(r"\w+:\d+", signature["inputs"]["x"]["name"])
        assert re.fullmatch(r"\w+:\d+", signature["outputs"]["y"]["name"])
        assert ask(port, "/v1/models/half", method="HEAD") == (400, "")
        assert "thriftserve" in ask(port, "/monitor")[1]
        assert ask(port, "/monitoring/prometheus/metrics")[0] == 404
    log = (tmp_path / "log").read_text()
    assert "--port=8500: there is no gRPC yet, so nothing listens there" in log
    assert "--num_load_threads has no effect" in log


def test_the_entry_point_of_the_image(tmp_path: Path) -> None:
    """MODEL_NAME and MODEL_BASE_PATH name the model; further flags follow, and go before those of the entry point."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "half").symlink_to(small("half_plus_two"))
    variables = {"MODEL_NAME": "half", "MODEL_BASE_PATH": str(tmp_path / "models")}
    arguments = [str(DEPLOY / "tfs-entrypoint.sh"), "--host=127.0.0.1", f"--rest_api_port={free_port()}"]
    with started(arguments, tmp_path / "log", **variables) as port:
        status, text = ask(port, "/v1/models/half:predict", {"instances": [1.0]})
        assert (status, json.loads(text)) == (200, {"predictions": [2.5]})
    assert "there is no gRPC yet" in (tmp_path / "log").read_text()


def test_mistakes_end_with_exit_code_2() -> None:
    """An unknown flag, a port that is missing: one line, exit code 2."""
    for arguments, said in (
        (("--rest_api_prot=8501",), "unknown option --rest_api_prot"),
        (("--model_base_path=/m",), "there is no port to answer on"),
    ):
        done = subprocess.run(command("tfs", *arguments), capture_output=True, text=True, check=False, timeout=30)
        assert (done.returncode, said in done.stderr, done.stderr.count("\n")) == (2, True, 1)
