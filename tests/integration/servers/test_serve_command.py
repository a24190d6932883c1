"""`thriftserve serve` from start to end: ready line, responses, reload, exit codes."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TFramedTransport

from served import Served, command, environment
from small_models import small
from thriftserve.errors import ExitCode
from thriftserve_bench.process_tree import signal_process
from thriftserve_idl import ModelControl

POLL_S = 0.02
MODELS = """
import sys

import numpy as np


class Doubler:
    def predict(self, inputs):
        return {"y": inputs["x"] * 2, "tensorflow": np.array("tensorflow" in sys.modules)}


class Broken:
    def load(self):
        raise RuntimeError("weights are missing")
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with the module `served_models`, for PYTHONPATH."""
    place = tmp_path_factory.mktemp("modules")
    (place / "served_models.py").write_text(MODELS, encoding="utf-8")
    return str(place)


@pytest.fixture(scope="module")
def half() -> Path:
    """Base path of a SavedModel: y = x / 2 + 2."""
    return small("half_plus_two")


def test_a_saved_model_is_served(half: Path) -> None:
    """A SavedModel given by flag is served by the worker, and on the device, that the status shows.

    The server type is the default, TBatchingServer, so the processes include a front. The controller's role is keeper.
    """
    with Served("--model", f"half={half}") as server, server.client() as client:
        answer = client.predict("half", {"x": np.array([1.0, 4.0], np.float32)})
        np.testing.assert_allclose(answer.outputs["y"], [2.5, 4.0])
        status = client.server_status()
        assert (list(status.models), status.pid) == (["half"], server.process.pid)
        roles = {(worker.role, worker.device) for worker in status.workers}
        assert roles == {("worker", "cpu"), ("front", ""), ("keeper", "")}
        assert answer.timing is not None
        assert answer.timing.worker_pid in {worker.pid for worker in status.workers if worker.role == "worker"}
        assert server.server_type == "TBatchingServer"


def test_a_python_model_needs_no_tensorflow(modules: str) -> None:
    """If every model is a Python class, the worker never imports TensorFlow."""
    with Served("--model", "twice=python:served_models:Doubler", PYTHONPATH=modules) as server:
        with server.client() as client:
            outputs = client.predict("twice", {"x": np.array([3.0], np.float32)}).outputs
        assert outputs["y"].tolist() == [6.0]
        assert not outputs["tensorflow"]
        assert server.pid == server.process.pid
        assert server.stop() == (ExitCode.OK, "")


def test_control_has_its_own_port(modules: str) -> None:
    """--control-port serves ModelControl on the port in the ready line. reloadConfig replaces the workers."""
    arguments = ("--model", "twice=python:served_models:Doubler", "--control-port", "0")
    with Served(*arguments, PYTHONPATH=modules) as server:
        before = _pids(server)[0]
        transport = TFramedTransport(TSocket("127.0.0.1", server.control_port))
        transport.open()
        ModelControl.Client(TBinaryProtocolAccelerated(transport)).reloadConfig(None)
        transport.close()
        while before in _pids(server):
            time.sleep(POLL_S)


def _pids(server: Served) -> list[int]:
    with server.client() as client:
        return [worker.pid for worker in client.server_status().workers if worker.role == "worker"]


def test_reload_reads_a_changed_file(modules: str, tmp_path: Path) -> None:
    """SIGHUP serves the models of a changed file. A file with a mistake changes nothing; the log says so."""
    config = tmp_path / "server.toml"
    config.write_text('[models]\none = "python:served_models:Doubler"\n', encoding="utf-8")
    with Served("--config", str(config), PYTHONPATH=modules) as server:
        config.write_text('[models]\ntwo = "python:served_models:Doubler"\n', encoding="utf-8")
        signal_process(server.pid, signal.SIGHUP)
        _wait_for_models(server, ["two"])

        config.write_text("[models\n", encoding="utf-8")
        signal_process(server.pid, signal.SIGHUP)
        while "not TOML" not in server.log():
            _wait_for_models(server, ["two"])
        assert server.stop()[0] == ExitCode.OK


def _wait_for_models(server: Served, names: list[str]) -> None:
    """Wait until these models are served, asking on new connections. pytest's time-out is the limit."""
    while True:
        with server.client() as client:
            if [model.name for model in client.models()] == names:
                return
        time.sleep(POLL_S)


def test_reload_serves_a_new_version(half: Path, tmp_path: Path) -> None:
    """SIGHUP serves the newest version directory."""
    base = tmp_path / "half"
    base.mkdir()
    (base / "1").symlink_to(half / "1")
    with Served("--model", f"half={base}", "--workers", "1") as server:
        (base / "2").symlink_to(half / "1")
        signal_process(server.pid, signal.SIGHUP)
        version: int | None = 1
        while version != 2:
            time.sleep(POLL_S)
            with server.client() as client:
                version = client.predict("half", {"x": np.zeros(1, np.float32)}).version


def start(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a server that should not start to its end."""
    return subprocess.run(
        command("serve", "--port", "0", *arguments),
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], ExitCode.CONFIG, "no model to serve: give one or more as --model NAME=BASE_PATH"),
        (["--model", "a"], ExitCode.CONFIG, "model is 'a': write NAME=BASE_PATH"),
        (["--model", "a=/x", "--model", "a=/y"], ExitCode.CONFIG, "model 'a' is given twice"),
        (["--model", "a=/none"], ExitCode.MODEL_LOAD, "model 'a': /none: there is no such directory"),
        (["--model", "a=python:served_models:Doubler", "--devices", "gpu:77"], ExitCode.DEVICE, "no gpu:77 here"),
        (["--model", "a=python:served_models:Doubler", "--tls-cert", "/none.pem"], ExitCode.CONFIG, "/none.pem"),
    ],
)
def test_what_prevents_the_start(modules: str, arguments: list[str], code: ExitCode, said: str) -> None:
    """A mistake known before the start is the last line of stderr, and has its own exit code."""
    done = start(*arguments, PYTHONPATH=modules)
    assert done.returncode == code, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_model_that_fails_to_load(modules: str) -> None:
    """If a model can't be loaded, the server ends with the reason and its exit code, and never becomes ready."""
    done = start("--model", "a=python:served_models:Broken", "--devices", "cpu", PYTHONPATH=modules)
    assert done.returncode == ExitCode.MODEL_LOAD, done.stderr
    assert "weights are missing" in done.stderr
    assert done.stdout == ""


def test_a_port_in_use(modules: str) -> None:
    """If the port is in use, the server ends with its exit code and the remedy."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = start("--model", "a=python:served_models:Doubler", "--port", port, PYTHONPATH=modules)
    assert done.returncode == ExitCode.BIND, done.stderr
    assert f"127.0.0.1:{port} is in use" in done.stderr.splitlines()[-1]
