"""Fetch jobs: one agent a model, replaced, cancelled, resumed; and what is known of versions meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fetch_server import File, FileServer
from packed_models import packed
from thriftserve.controller.fetch_jobs import FetchJobs, FetchLimits, FetchRequest
from thriftserve.controller.fetched_models import FetchedModelStore
from thriftserve.controller.lifecycle import RetryPolicy
from thriftserve.controller.overrides import OperatorOverrides
from thriftserve.errors import Code, FailedPrecondition
from thriftserve.repository.state_store import StateDir

SLOW = File(b"x" * (1 << 20), ranges=False, pause_s=0.05)


class Server:
    """Fetch jobs with everything that they need, and what they load."""

    def __init__(self, tmp_path: Path) -> None:
        self.state = StateDir(tmp_path / "state")
        self.state.prepare()
        self.store = FetchedModelStore(tmp_path / "fetched")
        self.lock = threading.RLock()
        self.loaded: list[tuple[str, int]] = []
        self.jobs = self.start()

    def start(self) -> FetchJobs:
        """The jobs of a controller that takes over."""
        self.overrides = OperatorOverrides(self.state, ())
        limits = FetchLimits(1 << 24, 60.0, RetryPolicy(retries=1, retry_s=0.01))
        return FetchJobs(self.overrides, self.store, lambda: limits, self.lock, self._load, lambda: None)

    def _load(self, request: FetchRequest) -> set[Path]:
        self.loaded.append((request.name, request.version))
        return set()

    def begin(self, version: int, url: str) -> None:
        with self.lock:
            self.jobs.begin(FetchRequest("m", version, url))

    def wait(self, condition: Callable[[], bool]) -> None:
        while True:
            with self.lock:
                if condition():
                    return
            time.sleep(0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    with server.lock:
        server.jobs.cancel_all("the test is over")
    server.wait(lambda: not agents())


@pytest.fixture
def web() -> Iterator[FileServer]:
    with FileServer({"/m": File(packed("tar.gz")), "/slow": SLOW}) as web:
        yield web


def agents() -> list[psutil.Process]:
    running = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # or about to be reaped
            running += [child] if "thriftserve.remote.fetch_agent" in child.cmdline() else []
    return running


def test_version_that_lands_is_loaded(server: Server, web: FileServer) -> None:
    """It is written down while it is on its way, and loaded once; the same request then finds it there."""
    server.begin(3, web.url("/m"))
    assert set(server.jobs.progress()) == {("m", 3)}
    assert server.jobs.model_names == {"m"}
    (written,) = OperatorOverrides(server.state, ()).fetches
    assert (written["name"], written["version"], written["url"]) == ("m", 3, web.url("/m"))
    server.wait(lambda: not server.jobs.progress())
    assert (server.loaded, server.jobs.failures(), server.overrides.fetches) == ([("m", 3)], {}, [])
    assert server.store.newest("m") == 3
    server.begin(3, web.url("/m"))
    assert (server.loaded, server.jobs.progress()) == ([("m", 3)] * 2, {})
    with pytest.raises(FailedPrecondition, match="was fetched from elsewhere"):
        server.begin(3, web.url("/slow"))


def test_file_that_is_not_there_fails_until_it_is_requested_again(server: Server, web: FileServer) -> None:
    """The status of that version says why, until it is requested again or cancelled."""
    server.begin(3, web.url("/nowhere"))
    server.wait(lambda: not server.jobs.progress())
    failure = server.jobs.failures()["m", 3]
    assert (failure.code, "answered 404" in failure.message) == (Code.NOT_FOUND, True)
    assert [request.path for request in web.asked] == ["/nowhere"]  # nothing to be tried again
    server.begin(3, web.url("/slow"))
    assert server.jobs.failures() == {}
    with server.lock:
        server.jobs.cancel("m")
    assert (server.jobs.failures(), server.jobs.progress(), server.jobs.model_names) == ({}, {}, frozenset())
    assert server.loaded == []


def test_another_request_takes_the_place_of_the_first(server: Server, web: FileServer) -> None:
    """The first is aborted and its agent killed, before the second uses the base path. The same again is no other."""
    server.begin(3, web.url("/slow"))
    server.wait(lambda: "downloading" in server.jobs.progress()["m", 3])
    (first,) = agents()
    server.begin(3, web.url("/slow"))
    assert agents() == [first]
    server.begin(4, web.url("/m"))
    failure = server.jobs.failures()["m", 3]
    assert (failure.code, failure.message) == (Code.ABORTED, "not fetched: another load of the model took its place")
    server.wait(lambda: not server.jobs.progress())
    assert (server.loaded, first.is_running()) == ([("m", 4)], False)
    assert server.jobs.running("m", web.url("/m"), None) is None


def test_cancel_of_another_version_changes_nothing(server: Server, web: FileServer) -> None:
    """Unloading version 2 does not end the fetch of version 3."""
    server.begin(3, web.url("/slow"))
    with server.lock:
        server.jobs.cancel("m", 2)
        server.jobs.cancel("other")
    assert server.jobs.running("m", web.url("/slow"), None) == FetchRequest("m", 3, web.url("/slow"))
    assert server.jobs.running("m", web.url("/m"), None) is None


def test_agent_that_is_killed_is_tried_again(server: Server, web: FileServer) -> None:
    """As often as the policy says; then the signal is the reason."""
    server.begin(3, web.url("/slow"))
    killed: set[int] = set()
    for _ in range(2):
        server.wait(lambda: any(agent.pid not in killed for agent in agents()))
        agent = next(agent for agent in agents() if agent.pid not in killed)
        killed.add(agent.pid)
        agent.kill()
    server.wait(lambda: not server.jobs.progress())
    failure = server.jobs.failures()["m", 3]
    assert (failure.code, "ended by SIGKILL" in failure.message) == (Code.UNAVAILABLE, True)


def test_next_controller_resumes(server: Server, web: FileServer) -> None:
    """What was under way when a controller ended is fetched by the next one, and what has landed is loaded."""
    server.begin(3, web.url("/slow"))
    with server.lock:
        server.jobs.stop()
    server.wait(lambda: all(thread.name != "fetch m 3" for thread in threading.enumerate()))
    assert server.jobs.failures() == {}  # it is not over
    web.files["/slow"] = File(packed("tar.gz"))
    server.jobs = server.start()
    with server.lock:
        server.jobs.resume()
    assert set(server.jobs.progress()) == {("m", 3)}
    server.wait(lambda: not server.jobs.progress())
    assert server.loaded == [("m", 3)]
    # Killed between landing and writing that down: it is loaded at once.
    server.overrides.set_fetches([{"name": "m", "version": 3, "url": web.url("/slow"), "sha256": None}])
    server.jobs = server.start()
    with server.lock:
        server.jobs.resume()
    assert (server.loaded, server.jobs.progress()) == ([("m", 3)] * 2, {})
    assert server.overrides.fetches == []
