"""Workers that come from a nursery: where they are forked, what happens when it, they or their parent die."""

from __future__ import annotations

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

from nursery_server import MODULE, WORKERS, ask
from thriftserve.errors import ExitCode
from thriftserve_bench.process_tree import signal_process

TESTS = Path(__file__).parent


class Nursed:
    """A `nursery_server` in a process of its own; ready when the `with` block begins."""

    def __init__(self, folder: Path, preload: str = "light") -> None:
        self.folder = folder
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nursery_server", str(folder), preload],
            env=os.environ | {"PYTHONPATH": str(TESTS)},
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> Nursed:
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
        self.process.stdout.close()  # not read to its end: who outlives the server would hold it open
        self._log.close()

    def log(self) -> str:
        """What it wrote to stderr so far."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode()

    def stop(self) -> int:
        """Has it drain; its exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def children(self) -> set[int]:
        """The arbiter's own children; a zombie is one as well."""
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def pids(self, name: str) -> set[int]:
        """Processes of a group that have loaded, and live."""
        return {int(path.name.split("-")[2]) for path in self.folder.glob(f"{name}-*-*")} & self.children()

    def ask(self, pid: int, question: str) -> Any:
        """What one of its processes says."""
        (path,) = self.folder.glob(f"*-*-{pid}")
        return ask(path, question)

    def nursery(self) -> int:
        """The nursery that lives; the last one that has imported what it should."""
        wait_until(lambda: self.nurseries()[-1] in self.children())
        return self.nurseries()[-1]

    def nurseries(self) -> list[int]:
        """Every nursery that there was."""
        return [int(line) for line in (self.folder / "preloads").read_text().split()]

    def full(self) -> bool:
        """Whether every place is filled, and nobody is left of those that were there before."""
        return len(self.pids("worker")) == WORKERS and len(self.pids("front")) == 1 and len(self.children()) == 4

    def kill(self, pid: int) -> None:
        """Kill -9, and the arbiter has noticed."""
        signal_process(pid, signal.SIGKILL)
        wait_until(lambda: pid not in self.children())


def wait_until(true: Callable[[], bool]) -> None:
    """Waits for something that has to happen; pytest's own time-out is the limit."""
    while not true():
        time.sleep(0.01)


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[Nursed]:
    """One server for the tests that leave it as they found it."""
    with tempfile.TemporaryDirectory() as folder, Nursed(Path(folder)) as server:
        yield server
        assert server.stop() == ExitCode.OK, server.log()


@pytest.fixture(autouse=True)
def _healed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        wait_until(request.getfixturevalue("server").full)


def test_workers_have_what_the_nursery_imported(server: Nursed) -> None:
    """Workers find the module imported and are the arbiter's own children; the front has nothing of it."""
    wait_until(server.full)
    (front,) = server.pids("front")
    assert server.ask(front, "facts")["modules"] == []
    for pid in server.pids("worker"):
        facts = server.ask(pid, "facts")
        assert (facts["modules"], facts["ppid"]) == ([MODULE], server.process.pid)


def test_a_killed_worker_comes_from_the_same_nursery(server: Nursed) -> None:
    """After kill -9 of a worker another one is there, and nothing was imported again."""
    nurseries = server.nurseries()
    victim, other = server.pids("worker")
    server.kill(victim)
    wait_until(server.full)
    assert other in server.pids("worker")
    assert server.nurseries() == nurseries


def test_a_killed_nursery_is_replaced(server: Nursed) -> None:
    """Workers don't notice their nursery's death, and the next one forks their successors."""
    before, first = server.pids("worker"), server.nursery()
    server.kill(first)
    wait_until(lambda: server.nurseries()[-1] != first)
    assert server.pids("worker") == before
    server.kill(before.pop())
    wait_until(server.full)
    assert before < server.pids("worker")


def test_nursery_and_workers_killed_at_once(server: Nursed) -> None:
    """Where nobody is left of the group, it comes back whole."""
    before = server.pids("worker") | {server.nursery()}
    for pid in before:
        signal_process(pid, signal.SIGKILL)
    wait_until(lambda: server.full() and not before & server.children())


def test_reload_takes_from_the_nursery(server: Nursed) -> None:
    """SIGHUP replaces every worker by one of the same nursery."""
    before, nurseries = server.children(), server.nurseries()
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.full() and server.children() & before == {server.nursery()})
    assert server.nurseries() == nurseries


def test_stacks_of_everybody(server: Nursed) -> None:
    """SIGUSR1 prints the stacks of arbiter, front, nursery and workers; all of them live on."""
    before = server.children()
    server.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: server.log().count("most recent call first") == 5)
    assert "recv_fds" in server.log()
    assert server.children() == before


def test_a_stuck_worker_is_killed(server: Nursed) -> None:
    """A worker that a front reports as stuck is killed with the reason, and its place is filled."""
    (front,) = server.pids("front")
    victim, other = server.pids("worker")
    server.ask(front, f"accuse {victim}")
    wait_until(lambda: victim not in server.children() and server.full())
    assert other in server.pids("worker")
    assert f"(pid {victim}) has held its requests for 1.5 s and is killed" in server.log()


def test_nobody_else_is_killed_as_stuck(server: Nursed) -> None:
    """Processes that are no workers of this server are left alone, whatever a front says of them."""
    (front,) = server.pids("front")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stranger:
        for pid in (stranger.pid, server.nursery(), server.process.pid, 0, -1):
            server.ask(front, f"accuse {pid}")
            wait_until(lambda pid=pid: f"process {pid} is said" in server.log())  # type: ignore[misc]  # bound now
        assert stranger.poll() is None
        assert stranger.stdin is not None
        stranger.stdin.close()
    wait_until(server.full)


def test_orphans_are_reaped(server: Nursed) -> None:
    """What a worker leaves behind comes to the arbiter, which reaps it and goes on."""
    worker = next(iter(server.pids("worker")))
    orphan = server.ask(worker, "orphan")
    wait_until(lambda: not psutil.pid_exists(orphan))
    assert worker in server.children()


def test_kills_without_end(server: Nursed) -> None:
    """Workers that are killed again and again are replaced at once, as long as each had answered a request.

    Whoever comes last has the descriptors that the first one had, and nothing else is left of the others.
    """
    first = server.pids("worker").pop()
    descriptors = server.ask(first, "facts")["descriptors"]
    # Its output and its reports; what it listens on and who asks: nothing of the nursery's or the arbiter's.
    assert [sum(each.endswith(kind) for each in descriptors) for kind in ("pipe", "socket")] == [2, 2]
    seen = len(server.log())
    for _ in range(8):
        for pid in server.pids("worker"):
            server.ask(pid, "request")
            signal_process(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: pid not in server.children())  # type: ignore[misc]  # bound now
        wait_until(server.full)
    assert server.log()[seen:].count("again in 0.1 s") == 8 * WORKERS
    assert "again in 0.2 s" not in server.log()[seen:]
    assert server.ask(server.pids("worker").pop(), "facts")["descriptors"] == descriptors


def test_killed_before_they_answer(tmp_path: Path) -> None:
    """Kills of whoever is there, ready or not, don't end a server that had been ready; it waits longer each time."""
    with Nursed(tmp_path) as server:
        wait_until(server.full)
        (front,) = server.pids("front")
        while "again in 1.6 s" not in server.log():
            for pid in server.children() - {front, server.nursery()}:
                signal_process(pid, signal.SIGKILL)
            time.sleep(0.01)
        wait_until(server.full)
        assert server.pids("front") == {front}
        assert server.stop() == ExitCode.OK


def test_a_worker_that_never_loads(tmp_path: Path) -> None:
    """Workers of a nursery that crash again and again before they are ready end the server, with back-off before."""
    (tmp_path / "crash-worker").touch()
    server = Nursed(tmp_path)
    with pytest.raises(AssertionError, match="keeps ending by SIGSEGV") as caught, server:
        pass
    assert server.process.returncode == ExitCode.WORKERS_FAILING
    assert "again in 0.8 s" in str(caught.value)


@pytest.mark.parametrize(
    ("preload", "code", "reason"),
    [
        ("missing", ExitCode.INTERNAL, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("refused", ExitCode.MODEL_LOAD, "there is nothing to serve"),
    ],
)
def test_an_import_that_fails(preload: str, code: ExitCode, reason: str, tmp_path: Path) -> None:
    """A nursery that can't import what it should ends the server with the reason."""
    server = Nursed(tmp_path, preload)
    with pytest.raises(AssertionError, match=f"the server can't go on: {reason}"), server:
        pass
    assert server.process.returncode == code


def test_stopped_during_the_import(tmp_path: Path) -> None:
    """SIGTERM while the nursery imports ends the server at once, and with 0."""
    os.mkfifo(tmp_path / "gate")
    server = Nursed(tmp_path, "gated")
    with (tmp_path / "gate").open("wb"):  # opened by the nursery as well: its import is under way
        assert server.stop() == ExitCode.OK
    with pytest.raises(AssertionError, match="draining"), server:  # it ended without a word
        pass


def test_nobody_outlives_the_arbiter(tmp_path: Path) -> None:
    """After kill -9 of the arbiter nobody is left: no front, no nursery, no worker."""
    with Nursed(tmp_path) as server:
        wait_until(server.full)
        everybody = server.children()
        server.process.kill()
        wait_until(lambda: not any(_runs(pid) for pid in everybody))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_workers_drain_behind_fronts(tmp_path: Path) -> None:
    """While a front still drains its workers serve, and are replaced; they end after it."""
    hold = tmp_path / "hold-front"
    hold.touch()
    with Nursed(tmp_path) as server:
        wait_until(server.full)
        server.process.terminate()
        (front,) = server.pids("front")
        wait_until(lambda: bool(server.ask(front, "facts")["draining"]))
        server.kill(server.pids("worker").pop())
        wait_until(server.full)
        assert not any(server.ask(pid, "facts")["draining"] for pid in server.pids("worker"))
        assert not (tmp_path / "ends").exists()
        hold.unlink()
        assert server.process.wait(30) == ExitCode.OK, server.log()
        assert (tmp_path / "ends").read_text().splitlines() == ["front True", "worker True", "worker True"]


def test_told_twice_nobody_is_left(tmp_path: Path) -> None:
    """A second SIGTERM ends front, workers and nursery at once, whatever the order."""
    (tmp_path / "hold-front").touch()
    with Nursed(tmp_path) as server:
        wait_until(server.full)
        everybody = server.children()
        server.process.terminate()
        wait_until(lambda: "draining" in server.log())
        assert server.stop() == ExitCode.FORCED
        assert not any(_runs(pid) for pid in everybody)


def test_tensorflow_in_workers_alone(tmp_path: Path) -> None:
    """With TensorFlow in the nursery a worker computes with it, and no front has a page of it."""
    with Nursed(tmp_path, "tensorflow") as server:
        worker = server.pids("worker").pop()
        assert server.ask(worker, "compute") == 3.0
        server.kill(worker)
        wait_until(server.full)
        assert {server.ask(pid, "compute") for pid in server.pids("worker")} == {3.0}
        facts = [server.ask(server.pids(name).pop(), "facts") for name in ("front", "worker")]
        assert [(each["modules"], each["maps_tensorflow"]) for each in facts] == [([], False), (["tensorflow"], True)]
        assert server.stop() == ExitCode.OK
