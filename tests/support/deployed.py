"""The files of deploy/ as a machine has them: their ports and paths replaced, programs of Debian's packages started.

deploy/NAME --rendered()--> a directory of this test --started()--> a process that is stopped by its own pid
"""

from __future__ import annotations

import getpass
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from documents import ROOT, SUPPORT
from thriftserve_bench.processes import clean_environment

DEPLOY = ROOT / "deploy"
TESTS = str(SUPPORT)
#: Debian keeps servers where only root's PATH looks.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
MODEL = {'digits = "/srv/models/digits"': 'any = "python:served_models:Doubler"', "workers = 2": "workers = 1"}
BODY = {"inputs": {"x": [1, 2]}}
PREDICT = "/v1/models/any:predict"


def needs(*programs: str) -> None:
    """Skips where a program is missing; `deploy/programs.sh` installs them."""
    missing = [one for one in programs if shutil.which(one, path=PATH) is None]
    if missing:
        pytest.skip(f"not here: {', '.join(missing)}: deploy/programs.sh installs them")


def ports(count: int) -> list[int]:
    """Ports that nobody has now. What is started again and again must keep its own, so 0 won't do."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in held]


def ports_in_a_row() -> int:
    """All but the last digit of two such ports, which end in 1 and 2."""
    while True:
        start = ports(1)[0] // 10
        with ExitStack() as stack:
            try:
                for digit in (1, 2):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", start * 10 + digit))
            except OSError:
                continue
            return start


def rendered(name: str, place: Path, words: Mapping[str, str]) -> Path:
    """A copy of a file of deploy/ with other words in it; each must be there to be replaced.

    Paths of the documents become those of this environment and of `place`, users become the current one.
    """
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for old, new in words.items():
        assert old in text, f"deploy/{name} has no {old!r}"
        text = text.replace(old, new)
    for old, new in {
        "/opt/thriftserve/bin": str(Path(sys.executable).parent),
        "/etc/thriftserve": str(place),
        "/run/thriftserve": str(place),
        "user=thriftserve": f"user={getpass.getuser()}",
        "User=thriftserve": f"User={getpass.getuser()}",
        "user www-data;": f"user {getpass.getuser()};",
    }.items():
        text = text.replace(old, new)
    made = place / Path(name).name
    made.write_text(text, encoding="utf-8")
    made.chmod((DEPLOY / name).stat().st_mode)
    return made


@contextmanager
def started(command: Sequence[str], place: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the foreground, its output in a file of `place`, ended by SIGTERM to its pid."""
    env = clean_environment(PATH=PATH, PYTHONPATH=TESTS, **variables)
    with (place / f"{Path(command[0]).name}.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=place, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(port: int, path: str, body: Any = None) -> tuple[int, bytes]:
    """One HTTP request on a connection of its own: status and body.

    Raises:
        OSError, http.client.HTTPException: there was no answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wait_until(true: Callable[[], Any], what: str, patience_s: float = 30.0) -> Any:
    """Asks until the answer is true, an exception counting as false; returns the answer."""
    deadline = time.monotonic() + patience_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = true()
        except (OSError, http.client.HTTPException) as error:
            last = error
        if last and not isinstance(last, Exception):
            return last
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {patience_s:g} s; last {last!r}")


class Load:
    """Clients that call on and on, each call again after a failure.

    Args:
        call: raises where it fails.
        tries: how often a call may be tried.
        pause_s: between two tries.

    Attributes:
        done: calls that succeeded.
        repeated: failures that were tried again.
        lost: calls that failed every time, in words.
    """

    def __init__(self, call: Callable[[], object], *, clients: int = 2, tries: int = 2, pause_s: float = 0.0) -> None:
        self.done, self.repeated = 0, 0
        self.lost: list[str] = []
        self._call, self._tries, self._pause_s = call, tries, pause_s
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._threads:
            one.join()

    def goes_on(self, calls: int = 20) -> None:
        """Waits for so many more answers."""
        least = self.done + calls
        wait_until(lambda: self.done >= least or self.lost, f"{calls} more answers")

    def _run(self) -> None:
        while not self._over.is_set():
            self._one()

    def _one(self) -> None:
        failure = ""
        for _ in range(self._tries):
            try:
                self._call()
            except Exception as error:
                failure = repr(error)
                self.repeated += 1
                time.sleep(self._pause_s)
            else:
                self.done += 1
                return
        self.lost.append(failure)
