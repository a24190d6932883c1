"""kill -9 at each step of a swap: whatever dies, an old or the new version answers, and the state is a valid one."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from served import Served, command
from swapped_models import MODEL, STABLE, Caller, Versions, X
from thriftserve.errors import ExitCode
from thriftserve_bench.process_tree import signal_process
from thriftserve_client import Client, Prediction, ThriftServeClientError
from thriftserve_client.control import Control

QUICK = ("--file-system-poll-s", "0.1", "--load-retry-interval-s", "0.2", "--workers", "1", "--control-port", "0")
#: So many rounds of the slow signature's loop take about a second.
ROUNDS = 100_000
#: A warm-up takes so many times as long: it must be going on still when its worker is killed, on a busy machine too.
WARM_UP = 5


#: A step is over soon; what comes of it in the end may be asked of the server.
LOOK_EVERY_S, ASK_EVERY_S = 0.002, 0.02


def wait_for(found: Callable[[], object], every_s: float = LOOK_EVERY_S) -> None:
    """Waits for what has to happen; pytest's own time-out is the limit."""
    while not found():
        time.sleep(every_s)


class Node:
    """A server and what a test sees of it.

    Args:
        server: it is ready.
        state: its state directory.
    """

    def __init__(self, server: Served, state: Path) -> None:
        self.server = server
        self._state = state

    def states(self) -> dict[int, str]:
        """The state of each version."""
        with self.server.client() as client:
            return {one.version: one.state for one in client.status(MODEL).versions}

    def serves(self, newest: int) -> bool:
        """Whether every version up to `newest` is available, and no other is told of."""
        try:
            return self.states() == dict.fromkeys(range(1, newest + 1), "AVAILABLE")
        except ThriftServeClientError:  # the worker that was asked has just been killed
            return False

    def label(self) -> int:
        """Where the label points."""
        with self.server.client() as client:
            return next(one.version for one in client.status(MODEL).versions if STABLE in one.labels)

    def loading(self, version: int) -> int:
        """The worker that is at loading that version, once there is one: its pid."""
        found: list[int] = []

        def seen() -> bool:
            told = [path for path in (self._state / "attempts").glob("*.json") if path.stem.isdigit()]
            found.extend(int(path.stem) for path in told if _loading(path) == [MODEL, version])
            return bool(found)

        wait_for(seen)
        return found[0]

    def logged(self, pattern: str, *, times: int = 1) -> int:
        """The pid that the last line of a pattern names, once the log has it so often."""
        wait_for(lambda: len(re.findall(pattern, self.server.log())) >= times)
        return int(re.findall(pattern, self.server.log())[-1])

    def workers_ready(self) -> int:
        """How many workers have become ready so far."""
        return len(re.findall(WORKER_READY, self.server.log()))


WORKER_READY = r"worker 0 \(pid (\d+)\) is ready"
KEEPER_READY = r"controller 0 \(pid (\d+)\) is ready"


def _loading(path: Path) -> object:
    try:
        return json.loads(path.read_text())["loading"]
    except (OSError, ValueError):  # gone, or being replaced
        return None


def kill(pid: int) -> None:
    """kill -9."""
    signal_process(pid, signal.SIGKILL)


def arguments(versions: Versions, place: Path) -> tuple[str, ...]:
    """A server of every version that there is, with its state in a directory that outlives it."""
    config = place / "models.config"
    config.write_text(
        f"model_config_list {{ config {{ name: '{MODEL}' base_path: '{versions.base}' "
        "model_version_policy { all {} } } }"
    )
    return ("--model-config-file", str(config), "--state-dir", str(place / "state"), *QUICK)


@pytest.fixture(scope="module")
def slow_warmup(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of one recorded request that takes a while."""
    words = ["--signature", "slow", "--input", f"n={WARM_UP * ROUNDS}", "--input", "x=[1]"]
    version = Versions(tmp_path_factory.mktemp("recorded"), 1).base / "1"
    subprocess.run(command("model", "record", str(version), *words), check=True, capture_output=True, timeout=60)
    return (version / "assets.extra" / "tf_serving_warmup_requests").read_bytes()


class SlowCall(threading.Thread):
    """A request that takes a while; sent again where its worker dies."""

    def __init__(self, server: Served) -> None:
        super().__init__()
        self.answer: Prediction | None = None
        self._server = server

    def run(self) -> None:
        """Calls until there is an answer."""
        with Client("127.0.0.1", self._server.port, timeout_s=100) as client:
            while self.answer is None:
                try:
                    self.answer = client.predict(MODEL, {"n": np.int32(ROUNDS), "x": X}, signature="slow")
                except ThriftServeClientError:
                    time.sleep(0.01)


@pytest.mark.parametrize("server_type", ["TBatchingServer", "TProcessPoolServer"])
def test_whoever_dies_in_a_swap(server_type: str, tmp_path: Path, slow_warmup: bytes) -> None:
    """The keeper, a new worker that loads, warms up or has just taken over, an old one that drains: swaps go on."""
    versions = Versions(tmp_path, 6)
    flags = (*arguments(versions, tmp_path), "--server-type", server_type)
    with Served(*flags) as server:
        node = Node(server, tmp_path / "state")
        with Control("127.0.0.1", server.control_port) as operator:
            operator.set_label(MODEL, STABLE, 1)
        with Caller(server.port, stable=1) as caller:

            def swapped(newest: int) -> None:
                wait_for(lambda: node.serves(newest) and caller.newest == newest, ASK_EVERY_S)
                assert node.label() == 1

            versions.land(2)
            node.loading(2)
            kill(node.logged(KEEPER_READY))
            swapped(2)

            versions.land(3)
            kill(node.loading(3))
            wait_for(lambda: "half version 3 can't be loaded, it is tried again" in server.log())
            swapped(3)

            landed = versions.land(4, slow_warmup)
            warming = node.logged(r"models\.loader (\d+) loaded model half version 4 ")
            node.logged(rf"models\.loader ({warming}) loaded model half version 1 ")  # the last to be loaded
            kill(node.loading(4))  # by its warm-up now
            wait_for(lambda: "half version 4 can't be loaded, it is tried again" in server.log())
            (landed / "assets.extra" / "tf_serving_warmup_requests").unlink()
            swapped(4)

            ready = node.workers_ready()
            versions.land(5)
            kill(node.logged(WORKER_READY, times=ready + 1))
            swapped(5)

            ready, old = node.workers_ready(), node.logged(WORKER_READY)
            slow = SlowCall(server)
            slow.start()
            versions.land(6)
            node.logged(WORKER_READY, times=ready + 1)
            if psutil.pid_exists(old):  # it holds the slow request, unless that was quick
                kill(old)
            swapped(6)
            slow.join()
        assert not caller.wrong
        assert caller.versions == set(range(1, 7))
        assert slow.answer is not None
        assert slow.answer["y"].tolist() == [each / 2 + float(slow.answer.version or 0) for each in X.tolist()]
        assert server.stop() == (ExitCode.OK, ""), server.log()[-5000:]


def test_a_node_that_dies_in_a_swap(tmp_path: Path) -> None:
    """The parent killed while a version loads, and right after it took over: all is gone, and comes back as it was."""
    versions = Versions(tmp_path, 3)
    flags = arguments(versions, tmp_path)
    with Served(*flags) as server:
        port = server.port
        with Control("127.0.0.1", server.control_port) as operator:
            operator.set_label(MODEL, STABLE, 1)
        with Caller(port, stable=1) as caller:
            node = Node(server, tmp_path / "state")
            versions.land(2)
            node.loading(2)
            die(server)
            with Served(*flags, "--port", str(port)) as second:
                node = Node(second, tmp_path / "state")
                wait_for(lambda: node.serves(2) and caller.newest == 2, ASK_EVERY_S)
                assert node.label() == 1
                ready = node.workers_ready()
                versions.land(3)
                node.logged(WORKER_READY, times=ready + 1)
                die(second)
            with Served(*flags, "--port", str(port)) as third:
                node = Node(third, tmp_path / "state")
                wait_for(lambda: node.serves(3) and caller.newest == 3, ASK_EVERY_S)
                assert node.label() == 1
                plan = json.loads((tmp_path / "state" / "plan.json").read_text())
                assert [version for version, _ in plan["models"][0]["versions"]] == [3, 2, 1]
                before = caller.calls
                wait_for(lambda: caller.calls > before + 10)
                assert third.stop() == (ExitCode.OK, "")
        assert not caller.wrong
        assert caller.versions == {1, 2, 3}


def die(server: Served) -> None:
    """kill -9 of the parent; none of its processes outlives it."""
    parent = psutil.Process(server.pid)
    family = [parent, *parent.children(recursive=True)]
    kill(server.pid)
    server.process.wait()
    wait_for(lambda: not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE])
