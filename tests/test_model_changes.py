"""Models that change while the server serves: versions that come, go and fail, labels, operators' commands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TFramedTransport

from served import Served
from thriftserve.errors import ExitCode
from thriftserve_client import Client, ThriftServeClientError
from thriftserve_idl import ModelControl
from thriftserve_idl.ttypes import LoadModelRequest, ModelSpec, PredictError, SetVersionLabelRequest

HERE = str(Path(__file__).parent)
X = np.arange(3, dtype=np.float32)
QUICK = ("--file-system-poll-s", "0.1", "--load-retry-interval-s", "0.2", "--workers", "1")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version's directory: y = x / 2 + 2."""
    place = tmp_path_factory.mktemp("saved")
    builder = [sys.executable, "-m", "thriftserve_bench.builders", "half_plus_two", str(place)]
    subprocess.run(builder, capture_output=True, timeout=110, check=True)
    return next(each for each in (place / "half_plus_two").iterdir() if each.is_dir())


@pytest.fixture
def base(tmp_path: Path, half: Path) -> Path:
    """A base path with version 1."""
    place = tmp_path / "half"
    put(half, place, 1)
    return place


def put(half: Path, base: Path, version: int) -> Path:
    """A new version, whole at once."""
    shutil.copytree(half, base / f"{version}.tmp")
    return (base / f"{version}.tmp").rename(base / str(version))


def wait_until(true: Callable[[], bool]) -> None:
    """Waits for something that has to happen; pytest's own time-out is the limit."""
    while not true():
        time.sleep(0.02)


def states(server: Served, model: str = "half") -> dict[int, tuple[str, str]]:
    """State and error of each version of a model."""
    with server.client() as client:
        found = {each.name: each.versions for each in client.models()}
    return {one.version: (one.state, one.error_message) for one in found.get(model, ())}


def state(server: Served, version: int, model: str = "half") -> str:
    """State of a version; empty where nothing is known of it."""
    return states(server, model).get(version, ("", ""))[0]


@contextmanager
def control(server: Served) -> Iterator[ModelControl.Client]:
    """A client of the server's ModelControl."""
    transport = TFramedTransport(TSocket("127.0.0.1", server.control_port))
    transport.open()
    try:
        yield ModelControl.Client(TBinaryProtocolAccelerated(transport))
    finally:
        transport.close()


def refused(call: Callable[[], object]) -> str:
    """Why a control call is refused."""
    try:
        call()
    except PredictError as error:
        return str(error.message)
    raise AssertionError("it was not refused")


class Callers:
    """Clients that call without a pause; what they were answered, and what went wrong."""

    def __init__(self, server: Served, count: int) -> None:
        self.versions: set[int | None] = set()
        self.failures: list[Exception] = []
        self.calls = 0
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        try:
            with Client("127.0.0.1", self._server.port, timeout_s=30) as client:
                while not self._stop.is_set():
                    self.versions.add(client.predict("half", {"x": X}).version)
                    self.calls += 1
        except ThriftServeClientError as error:
            self.failures.append(error)


@pytest.mark.parametrize("server_type", ["TBatchingServer", "TProcessPoolServer", "TThreadPoolServer"])
def test_versions_come_and_go_under_load(server_type: str, half: Path, base: Path) -> None:
    """A new version is picked up by itself, the old one ends, a removed one too; no request of anybody fails."""
    with Served("--model", f"half={base}", "--server-type", server_type, *QUICK) as server:
        with Callers(server, 3) as callers:
            put(half, base, 2)
            wait_until(lambda: state(server, 2) == "AVAILABLE" and state(server, 1) == "END")
            shutil.rmtree(base / "2")
            wait_until(lambda: state(server, 1) == "AVAILABLE" and state(server, 2) == "END")
            before = callers.calls
            wait_until(lambda: callers.calls > before + 20 or bool(callers.failures))
        with server.client() as client:
            told = client.models()[0]
        # Version 1 came twice, version 2 once and both left once.
        assert told.transitions == {"START": 3, "LOADING": 3, "AVAILABLE": 3, "UNLOADING": 2, "END": 2}
        assert all(one.load_time_ms is not None and one.load_time_ms > 0 for one in told.versions)
        assert not callers.failures
        assert callers.versions == {1, 2}
        log = server.log()
        assert '"version": 2, "before": "LOADING", "state": "AVAILABLE"' in log
        assert server.stop() == (ExitCode.OK, "")


def test_failed_and_half_copied_versions(half: Path, base: Path) -> None:
    """A copy that is not done is never loaded; a version that fails leaves the old one and is retried."""
    with Served("--model", f"half={base}", *QUICK, "--max-load-retries", "1") as server:
        version = base / "2"
        (version / "variables").mkdir(parents=True)
        shutil.copy(half / "saved_model.pb", version)
        wait_until(lambda: "half/2: is not whole" in server.log())
        assert list(states(server)) == [1]

        broken = shutil.copytree(half, base / "3.tmp")
        (broken / "assets.extra").mkdir(exist_ok=True)
        (broken / "assets.extra" / "image.toml").write_text("height = 'tall'\n")
        broken = broken.rename(base / "3")
        wait_until(lambda: "is not tried again by itself" in server.log() and state(server, 3) == "END")
        assert "height" in states(server)[3][1]
        assert state(server, 1) == "AVAILABLE"
        with server.client() as client:
            assert client.predict("half", {"x": X}).version == 1

        (broken / "assets.extra" / "image.toml").unlink()
        os.kill(server.pid, signal.SIGHUP)  # everything is tried anew
        wait_until(lambda: state(server, 3) == "AVAILABLE" and state(server, 1) == "END")
        assert server.stop() == (ExitCode.OK, "")


def test_labels_move_at_once_and_stay(half: Path, base: Path, tmp_path: Path) -> None:
    """A label answers from the version that it was moved to last, in every worker, and after a restart."""
    put(half, base, 2)
    listed = tmp_path / "models.config"
    listed.write_text(
        f"model_config_list {{ config {{ name: 'half' base_path: '{base}' model_version_policy {{ all {{}} }}\n"
        "version_labels { key: 'stable' value: 1 } } }"
    )
    arguments = ("--model-config-file", str(listed), *QUICK[:-1], "2", "--state-dir", str(tmp_path / "state"))
    with Served(*arguments, "--control-port", "0") as server:
        with server.client() as client, control(server) as operator:
            assert {client.predict("half", {"x": X}, label="stable").version for _ in range(4)} == {1}
            answer = operator.setVersionLabel(SetVersionLabelRequest("half", "stable", 2), None)
            assert [(one.version, one.labels) for one in answer.versions] == [(2, ["stable"]), (1, [])]
            assert {client.predict("half", {"x": X}, label="stable").version for _ in range(8)} == {2}
            assert "not available" in refused(
                lambda: operator.setVersionLabel(SetVersionLabelRequest("half", "stable", 9), None)
            )
        assert server.stop() == (ExitCode.OK, "")
    with Served(*arguments) as server, server.client() as client:
        assert client.predict("half", {"x": X}, label="stable").version == 2


def test_operators_load_and_unload(half: Path, base: Path) -> None:
    """Models come and go by command, one version of several for a rollback; reloadConfig has the configuration hold."""
    put(half, base, 2)
    with Served("--model", f"half={base}", "--control-port", "0", *QUICK) as server, control(server) as operator:
        operator.loadModel(LoadModelRequest("other", str(base), 1), None)
        wait_until(lambda: state(server, 1, "other") == "AVAILABLE")
        operator.loadModel(LoadModelRequest("half", str(base), 1), None)  # a rollback
        wait_until(lambda: state(server, 1) == "AVAILABLE" and state(server, 2) == "END")
        operator.unloadModel(ModelSpec("other"), None)
        wait_until(lambda: not states(server, "other"))
        for call, why in (
            (lambda: operator.loadModel(LoadModelRequest("x", "/nowhere"), None), "no such directory"),
            (lambda: operator.loadModel(LoadModelRequest("x", str(base), 9), None), "it has 1, 2"),
            (lambda: operator.loadModel(LoadModelRequest("x", "python:os:X"), None), "configuration"),
            (lambda: operator.unloadModel(ModelSpec("other"), None), "no model named 'other'"),
        ):
            assert why in refused(call)
        operator.reloadConfig(None)
        wait_until(lambda: state(server, 2) == "AVAILABLE" and state(server, 1) == "END")

        def command(*words: str) -> str:
            line = [str(Path(sys.executable).with_name("thriftserve-client")), "--port", str(server.control_port)]
            return subprocess.run([*line, *words], capture_output=True, text=True, check=True, timeout=60).stdout

        assert "START" in command("load", "more", str(base), "--version", "1")
        wait_until(lambda: state(server, 1, "more") == "AVAILABLE")
        assert "canary" in command("label", "more", "canary", "1")
        assert "canary" not in command("label", "more", "canary")
        assert command("unload", "more").splitlines()[0].split()[:3] == ["model", "version", "state"]
        wait_until(lambda: not states(server, "more"))
        assert command("reload") == "begun\n"


def test_a_configuration_file_is_read_again(half: Path, base: Path, tmp_path: Path) -> None:
    """A changed file adds and removes models by itself where it is polled; a bad one changes nothing."""
    listed = tmp_path / "models.toml"
    entry = '[[model]]\nname = "{}"\nbase_path = "' + str(base) + '"\n'
    listed.write_text(entry.format("half"))
    with Served("--model-config-file", str(listed), "--model-config-poll-s", "0.1", *QUICK) as server:
        listed.write_text(entry.format("half") + "base_pat = 1\n")
        wait_until(lambda: "the old one stays" in server.log() and "base_pat" in server.log())
        assert state(server, 1) == "AVAILABLE"
        listed.write_text(entry.format("two"))
        wait_until(lambda: state(server, 1, "two") == "AVAILABLE" and not states(server))


def test_a_worker_frees_first_where_told(half: Path, base: Path) -> None:
    """--swap-policy resource ends the old worker before the new one loads, and serves the new version then."""
    with Served("--model", f"half={base}", *QUICK, "--swap-policy", "resource") as server:
        put(half, base, 2)
        wait_until(lambda: state(server, 2) == "AVAILABLE")
        log = server.log().split('"before": "START", "state": "LOADING"')[-1]
        assert log.index("ran ") < log.index("loaded model half version 2") if "ran " in log else "version 2" in log


def test_memory_returns_and_a_keeper_is_replaceable(half: Path, base: Path) -> None:
    """After ten swaps the process tree is no larger than after three; kill -9 of the keeper costs nothing but time."""
    with Served("--model", f"half={base}", *QUICK) as server:
        tree = psutil.Process(server.pid)

        def size() -> int:
            return sum(each.memory_full_info().pss for each in [tree, *tree.children(recursive=True)])

        sizes = []
        for version in range(2, 12):
            put(half, base, version)
            wait_until(lambda new=version: state(server, new) == "AVAILABLE" and state(server, new - 1) == "END")  # type: ignore[misc]  # bound now
            sizes.append(size())
        wait_until(lambda: size() < 1.05 * sizes[2])
        keeper = int(server.log().split("keeper 0 (pid ")[1].split(")")[0])
        os.kill(keeper, signal.SIGKILL)
        put(half, base, 12)
        wait_until(lambda: state(server, 12) == "AVAILABLE" and state(server, 11) == "END")
        with server.client() as client:
            assert (client.models()[0].transitions or {})["AVAILABLE"] == 12
        assert server.stop() == (ExitCode.OK, "")
