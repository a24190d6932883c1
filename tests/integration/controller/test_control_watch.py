"""`thriftserve-client status --watch` and `load --watch` on a terminal and in a pipe, through swaps and to Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control_served import Controlled
from fetch_server import File, FileServer
from packed_models import files, tar_of
from served import environment
from small_models import small
from thriftserve_bench.process_tree import signal_group, signal_process

CLIENT = str(Path(sys.executable).with_name("thriftserve-client"))
PACKED = tar_of(files(), gzipped=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlled]:
    with Controlled(small("half_plus_two"), tmp_path_factory.mktemp("state")) as server:
        yield server


@pytest.fixture(scope="module")
def web() -> Iterator[FileServer]:
    with FileServer({"/m": File(PACKED, pause_s=0.1)}) as server:
        yield server


class Terminal:
    """A command on a terminal of its own, and what it has written there."""

    def __init__(self, *words: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [CLIENT, *words], stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment()
        )
        os.close(slave)
        self.text = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def read_until(self, true: Callable[[str], object]) -> None:
        """Reads until that holds of everything that was written."""
        while not true(self.text):
            self._read()

    def end(self) -> int:
        """Reads to the end; the exit code."""
        while self._read():
            pass
        return self.process.wait()

    def _read(self) -> bool:
        select.select([self._master], [], [])
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how a terminal tells that nobody writes to it any more
            return False
        self.text += data.decode()
        return bool(data)


def steps(text: str, version: int) -> list[str]:
    """The states of a version, in the order in which a table showed them."""
    found = re.findall(rf"^half +{version} +([A-Z]+)", text.replace("\r", ""), re.MULTILINE)
    return list(dict.fromkeys(found))


@contextmanager
def loading_held(served: Controlled) -> Iterator[None]:
    """No worker begins to load: the process that forks them stands still."""
    fork_server = int(served.server.log().rsplit("worker fork server (pid ", 1)[1].split(")")[0])
    signal_process(fork_server, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_process(fork_server, signal.SIGCONT)


def test_status_is_watched_through_a_swap(served: Controlled, web: FileServer) -> None:
    """Each change is shown as it comes, how far a fetch is too; Ctrl-C ends it at once, with 130 and no traceback."""
    with Terminal("--port", str(served.server.port), "status", "--watch") as watching:
        watching.read_until(lambda text: steps(text, 1) == ["AVAILABLE"])
        with loading_held(served):
            served.operator.load("half", web.url("/m"), version=2)
            watching.read_until(lambda text: steps(text, 2)[-1:] == ["LOADING"])
        watching.read_until(lambda text: steps(text, 1)[-1] == "END" and steps(text, 2)[-1] == "AVAILABLE")
        assert steps(watching.text, 2) == ["START", "LOADING", "AVAILABLE"]
        assert "downloading" in watching.text
        signal_group(watching.process.pid, signal.SIGINT)
        assert watching.end() == 130
        assert "Traceback" not in watching.text and "Interrupt" not in watching.text


def test_status_is_watched_by_a_program(served: Controlled) -> None:
    """In a pipe, with --json, a line each time; where the server ends, the command says so and ends."""
    line = [CLIENT, "--port", str(served.server.port), "status", "--watch", "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment()) as watching:
        assert watching.stdout is not None
        told = [json.loads(each) for each in (watching.stdout.readline() for _ in range(3)) if each.strip()]
        assert told[0]["state"] == "SERVING"
        assert told[1][0]["name"] == "half"
        watching.stdout.close()  # its reader goes, like `head`
        served.operator.set_label("half", "seen", served.operator.status("half").versions[0].version)
        assert watching.wait() == 0


def test_a_load_is_watched(served: Controlled, web: FileServer) -> None:
    """A terminal has one line for a step; the exit code says whether it serves; Ctrl-C leaves it to the server."""
    port = ("--port", str(served.server.control_port))
    with Terminal(*port, "load", "half", web.url("/m"), "--version", "7", "--watch") as loading:
        with loading_held(served):
            loading.read_until(lambda text: "LOADING" in text)
        assert loading.end() == 0
        lines = [each.rsplit("\r\x1b[K", 1)[-1].split()[:3] for each in loading.text.replace("\r\n", "\n").split("\n")]
        assert [each for each in lines if each] == [["half", "7", each] for each in ("START", "LOADING", "AVAILABLE")]
    line = [CLIENT, *port, "--json", "load", "half", web.url("/nothing"), "--watch"]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60, env=environment())
    assert done.returncode == 1
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["name"], last["version"], last["state"], last["error"]) == ("half", 8, "END", "NOT_FOUND")
    with Terminal(*port, "load", "half", web.url("/m"), "--version", "9", "--watch") as loading:
        loading.read_until(lambda text: "downloading" in text)
        signal_group(loading.process.pid, signal.SIGINT)
        assert loading.end() == 130
        assert "Traceback" not in loading.text
    served.wait(9, "AVAILABLE")
