"""Workers from a fork server: what they inherit, and what happens when it, they or the supervisor die."""

from __future__ import annotations

import contextlib
import doctest
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import pytest

from documents import SUPPORT
from hosting import eventually
from supervised_server import MODULE, WORKERS, ask
from thriftserve.errors import ExitCode
from thriftserve.supervisor import fork_server
from thriftserve_bench.process_tree import signal_process

TESTS = SUPPORT
#: Imports of TensorFlow take long on a busy machine.
TIMEOUT_S = 100.0


class Supervised:
    """A `supervised_server` in its own process; ready when the `with` block begins."""

    def __init__(self, folder: Path, preload: str = "light") -> None:
        self.folder = folder
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervised_server", str(folder), preload],
            env=os.environ | {"PYTHONPATH": str(TESTS)},
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> Supervised:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != "ready\n":
            self.process.wait(30)
            log = self.log()
            self.__exit__(None, None, None)
            raise AssertionError(log)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()  # not read to its end: a process that outlives the server would hold it open
        self._log.close()

    def log(self) -> str:
        """Return what it has written to stderr."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode()

    def stop(self) -> int:
        """Drain it; return its exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def children(self) -> set[int]:
        """Return the arbiter's own children, zombies too."""
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def pids(self, name: str) -> set[int]:
        """Return the running processes of a group that have loaded."""
        return {int(path.name.split("-")[2]) for path in self.folder.glob(f"{name}-*-*")} & self.children()

    def ask(self, pid: int, question: str) -> Any:
        """Return what one of its processes answers."""
        (path,) = self.folder.glob(f"*-*-{pid}")
        return ask(path, question)

    def fork_server(self) -> int:
        """Wait for a running fork server; return its pid."""
        wait_until(lambda: self.fork_servers()[-1] in self.children(), "a running fork server")
        return self.fork_servers()[-1]

    def fork_servers(self) -> list[int]:
        """Return the pids of all fork servers that there were."""
        return [int(line) for line in (self.folder / "preloads").read_text().split()]

    def full(self) -> bool:
        """Return whether every slot is filled, and no earlier process is left."""
        return len(self.pids("worker")) == WORKERS and len(self.pids("front")) == 1 and len(self.children()) == 4

    def kill(self, pid: int) -> None:
        """Kill a process, and wait until the arbiter has reaped it."""
        signal_process(pid, signal.SIGKILL)
        wait_until(lambda: pid not in self.children(), f"process {pid} is reaped")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition that has no event to wait for; fail if it does not come true."""
    eventually(condition, what, TIMEOUT_S)


def wait_until_full(server: Supervised) -> None:
    """Wait until every slot of the server is filled."""
    wait_until(server.full, "every slot filled")


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[Supervised]:
    """One server for the tests that leave it as they find it."""
    with tempfile.TemporaryDirectory() as folder, Supervised(Path(folder)) as server:
        yield server
        assert server.stop() == ExitCode.OK, server.log()


@pytest.fixture(autouse=True)
def _healed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        wait_until_full(request.getfixturevalue("server"))


def test_workers_inherit_the_imports(server: Supervised) -> None:
    """Workers have the module and are the arbiter's own children; the front has nothing of it."""
    wait_until_full(server)
    (front,) = server.pids("front")
    assert server.ask(front, "facts")["modules"] == []
    for pid in server.pids("worker"):
        facts = server.ask(pid, "facts")
        assert (facts["modules"], facts["ppid"]) == ([MODULE], server.process.pid)


def test_a_killed_worker_comes_from_the_same_fork_server(server: Supervised) -> None:
    """A killed worker is replaced without another import."""
    fork_servers = server.fork_servers()
    victim, other = server.pids("worker")
    server.kill(victim)
    wait_until_full(server)
    assert other in server.pids("worker")
    assert server.fork_servers() == fork_servers


def test_a_killed_fork_server_is_replaced(server: Supervised) -> None:
    """Workers don't notice that their fork server dies, and the next one forks their successors."""
    before, first = server.pids("worker"), server.fork_server()
    server.kill(first)
    wait_until(lambda: server.fork_servers()[-1] != first, "another fork server")
    assert server.pids("worker") == before
    server.kill(before.pop())
    wait_until_full(server)
    assert before < server.pids("worker")


def test_fork_server_and_workers_killed_at_once(server: Supervised) -> None:
    """A group of which no process is left comes back complete."""
    before = server.pids("worker") | {server.fork_server()}
    for pid in before:
        signal_process(pid, signal.SIGKILL)
    wait_until(lambda: server.full() and not before & server.children(), "another generation")


def test_a_reload_forks_from_the_same_fork_server(server: Supervised) -> None:
    """SIGHUP replaces every worker without another import."""
    before, fork_servers = server.children(), server.fork_servers()
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.full() and server.children() & before == {server.fork_server()}, "the reload")
    assert server.fork_servers() == fork_servers


def test_stacks_of_everybody(server: Supervised) -> None:
    """SIGUSR1 prints the stacks of arbiter, front, fork server and workers; all of them run on."""
    before = server.children()
    server.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: server.log().count("Current thread") == 5, "five stacks")
    assert "recv_fds" in server.log()
    assert server.children() == before


def test_a_stuck_worker_is_killed(server: Supervised) -> None:
    """A worker that a front reports as stuck is killed with the reason, and replaced."""
    (front,) = server.pids("front")
    victim, other = server.pids("worker")
    server.ask(front, f"report_stuck {victim}")
    wait_until(lambda: victim not in server.children() and server.full(), "another worker")
    assert other in server.pids("worker")
    assert f"(pid {victim}) has held its requests for 1.5 s and is killed" in server.log()


def test_nobody_else_is_killed_as_stuck(server: Supervised) -> None:
    """Processes that are not workers of this server are left alone, whatever a front reports."""
    (front,) = server.pids("front")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stranger:
        for pid in (stranger.pid, server.fork_server(), server.process.pid, 0, -1):
            server.ask(front, f"report_stuck {pid}")
            line = f"process {pid} was reported as stuck, but is not a worker"
            wait_until(lambda line=line: line in server.log(), line)  # type: ignore[misc]  # bound now
        assert stranger.poll() is None
        assert stranger.stdin is not None
        stranger.stdin.close()
    wait_until_full(server)


def test_orphans_are_reaped(server: Supervised) -> None:
    """An orphan of a worker comes to the arbiter, which reaps it and goes on."""
    worker = next(iter(server.pids("worker")))
    orphan = server.ask(worker, "orphan")
    wait_until(lambda: not psutil.pid_exists(orphan), "the orphan is reaped")
    assert worker in server.children()


def test_kills_without_end(server: Supervised) -> None:
    """Workers that are killed again and again are replaced at once, as long as each has answered a request.

    The last one has the descriptors that the first one had, and no others.
    """
    first = server.pids("worker").pop()
    descriptors = server.ask(first, "facts")["descriptors"]
    # Its output and its reports; its listening socket and the connection: nothing of the fork server or the arbiter.
    assert [sum(each.endswith(kind) for each in descriptors) for kind in ("pipe", "socket")] == [2, 2]
    seen = len(server.log())
    for _ in range(8):
        for pid in server.pids("worker"):
            server.ask(pid, "request")
            server.kill(pid)
        wait_until_full(server)
    assert server.log()[seen:].count("in 0.1 s") == 8 * WORKERS
    assert "in 0.2 s" not in server.log()[seen:]
    assert server.ask(server.pids("worker").pop(), "facts")["descriptors"] == descriptors


def test_killed_before_they_answer(tmp_path: Path) -> None:
    """Killed workers, ready or not, don't end a server that was ready; it waits longer each time."""
    with Supervised(tmp_path) as server:
        wait_until_full(server)
        (front,) = server.pids("front")
        while "in 1.6 s" not in server.log():
            for pid in server.children() - {front, server.fork_server()}:
                with contextlib.suppress(ProcessLookupError):  # it ended since it was listed
                    signal_process(pid, signal.SIGKILL)
            time.sleep(0.01)
        wait_until_full(server)
        assert server.pids("front") == {front}
        assert server.stop() == ExitCode.OK


def test_a_worker_that_never_loads(tmp_path: Path) -> None:
    """Workers that crash again and again before they are ready end the server, after a back-off."""
    (tmp_path / "crash-worker").touch()
    server = Supervised(tmp_path)
    with pytest.raises(AssertionError, match="keeps ending by SIGSEGV") as caught, server:
        pass
    assert server.process.returncode == ExitCode.WORKERS_FAILING
    assert "in 0.8 s" in str(caught.value)


@pytest.mark.parametrize(
    ("preload", "code", "reason"),
    [
        ("missing", ExitCode.INTERNAL, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("refused", ExitCode.MODEL_LOAD, "there is nothing to serve"),
    ],
)
def test_an_import_that_fails(preload: str, code: ExitCode, reason: str, tmp_path: Path) -> None:
    """A fork server whose import fails ends the server with the reason."""
    server = Supervised(tmp_path, preload)
    with pytest.raises(AssertionError, match=f"the server can't go on: {reason}"), server:
        pass
    assert server.process.returncode == code


def test_stopped_during_the_import(tmp_path: Path) -> None:
    """SIGTERM while the fork server imports ends the server at once, with 0."""
    os.mkfifo(tmp_path / "gate")
    server = Supervised(tmp_path, "gated")
    with (tmp_path / "gate").open("wb"):  # opened by the fork server as well: its import is in progress
        assert server.stop() == ExitCode.OK
    with pytest.raises(AssertionError, match="draining"), server:  # it ended without a word
        pass


def test_nobody_outlives_the_arbiter(tmp_path: Path) -> None:
    """When the arbiter is killed, front, fork server and workers end."""
    with Supervised(tmp_path) as server:
        wait_until_full(server)
        everybody = server.children()
        server.process.kill()
        wait_until(lambda: not any(_runs(pid) for pid in everybody), "every process ended")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_workers_drain_behind_fronts(tmp_path: Path) -> None:
    """While a front drains, its workers serve and are replaced; they end after it."""
    hold = tmp_path / "hold-front"
    hold.touch()
    with Supervised(tmp_path) as server:
        wait_until_full(server)
        server.process.terminate()
        (front,) = server.pids("front")
        wait_until(lambda: bool(server.ask(front, "facts")["draining"]), "the front drains")
        server.kill(server.pids("worker").pop())
        wait_until_full(server)
        assert not any(server.ask(pid, "facts")["draining"] for pid in server.pids("worker"))
        assert not (tmp_path / "ends").exists()
        hold.unlink()
        assert server.process.wait(30) == ExitCode.OK, server.log()
        assert (tmp_path / "ends").read_text().splitlines() == ["front True", "worker True", "worker True"]


def test_a_second_signal_ends_every_process(tmp_path: Path) -> None:
    """A second SIGTERM ends front, workers and fork server at once, whatever their order."""
    (tmp_path / "hold-front").touch()
    with Supervised(tmp_path) as server:
        wait_until_full(server)
        everybody = server.children()
        server.process.terminate()
        wait_until(lambda: "draining" in server.log(), "the drain")
        assert server.stop() == ExitCode.FORCED
        assert not any(_runs(pid) for pid in everybody)


def test_tensorflow_in_workers_alone(tmp_path: Path) -> None:
    """With TensorFlow in the fork server a worker computes with it, and no front has a page of it."""
    with Supervised(tmp_path, "tensorflow") as server:
        worker = server.pids("worker").pop()
        assert server.ask(worker, "compute") == 3.0
        server.kill(worker)
        wait_until_full(server)
        assert {server.ask(pid, "compute") for pid in server.pids("worker")} == {3.0}
        facts = [server.ask(server.pids(name).pop(), "facts") for name in ("front", "worker")]
        assert [(each["modules"], each["maps_tensorflow"]) for each in facts] == [([], False), (["tensorflow"], True)]
        assert server.stop() == ExitCode.OK


_RELEASE = """
import ctypes, sys
from thriftserve.supervisor.fork_server import release_clean_pages
import numpy as np
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Rss")) * 1024
numbers = np.random.default_rng(1).random(1_000_000)
before, total = resident(), numbers.sum()
released = release_clean_pages()
assert released > 1_000_000, released
assert resident() < before - released // 2, (before, resident(), released)
assert numbers.sum() == total
assert np.linalg.norm(numbers) > 0
import decimal, json, sqlite3
print("sound", ctypes.CDLL(None).getpid() > 0, json.dumps([1]))
"""


def test_the_example_in_the_text() -> None:
    """The docstring's example shows what happens."""
    assert doctest.testmod(fork_server).failed == 0


def test_pages_go_and_the_process_stays_sound() -> None:
    """A process that released its clean pages has less in memory, and goes on computing, importing and calling."""
    done = subprocess.run([sys.executable, "-c", _RELEASE], capture_output=True, text=True, check=False)
    assert done.stdout == "sound True [1]\n", done.stderr
