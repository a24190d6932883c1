"""Models that change under a server's hands, and how a test sees it.

half_version()  -->  put(BASE, 2)  -->  wait_until(lambda: state(server, 2) == "AVAILABLE")
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TFramedTransport

from served import Served
from small_models import small
from thriftserve_client import Client, ThriftServeClientError
from thriftserve_idl import ModelControl
from thriftserve_idl.ttypes import PredictError

X = np.arange(3, dtype=np.float32)
#: Between two calls of a client that has only to be there.
PAUSE_S = 0.003
QUICK = ("--file-system-poll-s", "0.1", "--load-retry-interval-s", "0.2", "--workers", "1")


def half_version() -> Path:
    """A version's directory, made once: y = x / 2 + 2."""
    return small("half_plus_two") / "1"


def put(base: Path, version: int) -> Path:
    """A new version, whole at once."""
    shutil.copytree(half_version(), base / f"{version}.tmp")
    return (base / f"{version}.tmp").rename(base / str(version))


def spoiled(version: Path) -> Path:
    """A version that looks whole, and can't be loaded."""
    (version / "assets.extra").mkdir(exist_ok=True)
    (version / "assets.extra" / "image.toml").write_text("height = 'tall'\n")
    return version


def steps(server: Served) -> list[dict[str, Any]]:
    """Every step of a version from one state into another that the log tells of."""
    lines = [line.partition("{")[2] for line in server.log().splitlines() if '"model_version_state"' in line]
    return [json.loads("{" + line) for line in lines]


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


def keeper(server: Served) -> int:
    """Process id of the keeper that there was at the start."""
    return int(server.log().split("controller 0 (pid ")[1].split(")")[0])


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
    """Clients that call all the time; what they were answered, and what went wrong."""

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
                    time.sleep(PAUSE_S)
        except ThriftServeClientError as error:
            self.failures.append(error)
