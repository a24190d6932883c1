"""loadModel with a URL in a running server: progress, swaps, failures, one fetch at a time, restarts."""

from __future__ import annotations

import hashlib
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from control_served import Controlled, wait_until
from fetch_server import File, FileServer
from packed_models import files, holds_model, packed, tar_of
from small_models import small
from thriftserve.controller.overrides import OperatorOverrides
from thriftserve.errors import ExitCode
from thriftserve.remote.journal import Journal
from thriftserve.repository.state_store import StateDir
from thriftserve.repository.versions import parse_model_flags
from thriftserve_bench.process_tree import signal_process
from thriftserve_client import FailedPreconditionError, InvalidArgumentError

X = np.arange(3, dtype=np.float32)
PACKED = packed("tar.gz")
#: Some pieces of what a range asks for: slow enough to be seen on its way.
LARGE = tar_of({**files(), "assets.extra/large": random.Random(3).randbytes(3 << 20)}, gzipped=False)


@pytest.fixture(scope="module")
def web() -> Iterator[FileServer]:
    """A server of packed models, good and bad; each test has names of its own where it changes them."""
    with FileServer(
        {
            "/good": File(PACKED),
            "/zip": File(packed("zip", "half/7/")),
            "/slow": File(LARGE, pause_s=0.05),
            "/stuck": File(LARGE, stall_after=1 << 20),
            "/text": File(b"no archive"),
            "/empty": File(tar_of({"readme": b"x"})),
            "/half": File(tar_of({name: body for name, body in files().items() if "index" not in name})),
            "/python": File(tar_of({"model.py": b"class Model: ..."})),
        }
    ) as server:
        yield server


@pytest.fixture(scope="module")
def base() -> Path:
    """The base path with version 1."""
    return small("half_plus_two")


@pytest.fixture(scope="module")
def served(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlled]:
    with Controlled(
        base, tmp_path_factory.mktemp("state"), "--fetch-max-bytes", "8000000", "--fetch-timeout-s", "6"
    ) as server:
        yield server


def fetchers(served: Controlled) -> list[psutil.Process]:
    """The processes that fetch for a server."""
    found = []
    for each in psutil.Process(served.server.pid).children(recursive=True):
        try:
            if "thriftserve.remote.fetch_agent" in each.cmdline():
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


def begun(journal: Path) -> bool:
    """Whether a download has something that a later one goes on from."""
    found = Journal.load(journal)
    return found is not None and found.done > 0


def test_a_url_is_fetched_and_served(served: Controlled, web: FileServer) -> None:
    """It gets the number after the newest, is seen on its way, and takes over; clients are answered all the while."""
    url = web.url("/slow")
    begun = served.operator.load("half", url, sha256=hashlib.sha256(LARGE).hexdigest())
    assert [(one.version, one.state) for one in begun.versions] == [(2, "START"), (1, "AVAILABLE")]
    again = served.operator.load("half", url, sha256=hashlib.sha256(LARGE).hexdigest())
    assert [one.version for one in again.versions] == [2, 1]
    wait_until(lambda: "MiB (" in served.version(2).note)
    assert served.operator.status("half", version=2).versions[0].note.startswith("downloading ")
    assert len(fetchers(served)) == 1
    with served.server.client() as client:
        assert client.predict("half", {"x": X}).version == 1
        served.wait(2, "AVAILABLE")
        served.wait(1, "END")
        answer = client.predict("half", {"x": X})
    assert (answer.version, answer.outputs["y"].tolist()) == (2, [2.0, 2.5, 3.0])
    assert served.visible() == {"2"} and holds_model(served.fetched / "2")
    assert not fetchers(served)


def test_a_new_model_and_a_version_of_its_own(served: Controlled, web: FileServer) -> None:
    """A name that nobody serves becomes a model; a version that is named is kept, and not made of something else."""
    served.operator.load("other", web.url("/zip"), version=-7)
    served.wait(-7, "AVAILABLE", "other")
    served.operator.load("other", web.url("/zip"), version=-7)  # it is there
    with pytest.raises(FailedPreconditionError, match="was fetched from elsewhere"):
        served.operator.load("other", web.url("/good"), version=-7)
    assert served.version(-7, "other").state == "AVAILABLE"
    served.operator.unload("other")
    wait_until(lambda: not served.version(-7, "other").state)


@pytest.mark.parametrize(
    ("path", "sha256", "error", "why"),
    [
        ("/nothing", None, "NOT_FOUND", "404"),
        ("/good", "0" * 64, "INVALID_ARGUMENT", "SHA-256"),
        ("/text", None, "INVALID_ARGUMENT", "neither tar, tar.gz nor zip"),
        ("/empty", None, "INVALID_ARGUMENT", "no saved_model.pb"),
        ("/python", None, "INVALID_ARGUMENT", "no saved_model.pb"),
        ("/half", None, "INVALID_ARGUMENT", "variables.index is missing"),
        ("/huge", None, "RESOURCE_EXHAUSTED", "at most 8000000"),
    ],
)
def test_a_failed_fetch_changes_nothing(
    served: Controlled, web: FileServer, path: str, sha256: str | None, error: str, why: str
) -> None:
    """The old version serves on, the status has the reason, nothing of it is to be seen, the number is free again."""
    web.files["/huge"] = File(bytes(8_000_001))
    serving = max(one.version for one in served.operator.status("half").versions if one.state == "AVAILABLE")
    served.operator.load("half", web.url(path), sha256=sha256)
    failed = served.wait(serving + 1, "END")
    wait_until(lambda: served.version(serving + 1).error == error)
    failed = served.version(serving + 1)
    assert (failed.error, why in failed.error_message) == (error, True), failed
    assert served.version(serving).state == "AVAILABLE"
    assert str(serving + 1) not in served.visible()
    assert not list(served.fetched.glob(".fetching-*"))


@pytest.mark.parametrize(
    ("source", "sha256", "why"),
    [
        ("ftp://example.org/m", None, "http://, https:// or file:///"),
        ("https://", None, "absolute base path"),
        ("http://ho st/m", None, "no spaces"),
        ("http://host:99999/m", None, "is no URL"),
        ("http://host/m", "12", "64 hexadecimal digits"),
        ("/models/half", "0" * 64, "for what is fetched from a URL"),
    ],
)
def test_what_is_refused_at_once(served: Controlled, source: str, sha256: str | None, why: str) -> None:
    """What can't be fetched whatever happens is the answer to the call; nothing has begun."""
    before = served.operator.status("half")
    with pytest.raises(InvalidArgumentError, match=why):
        served.operator.load("half", source, sha256=sha256)
    assert [one.state for one in served.operator.status("half").versions] == [one.state for one in before.versions]


def test_what_is_given_up_leaves_nothing(served: Controlled, web: FileServer) -> None:
    """Unloading, another load and a reload of the configuration end a fetch, its process and its files."""
    fetched = served.state_dir / "fetched" / "slow"

    def begin() -> None:
        served.operator.load("slow", web.url("/stuck"))
        wait_until(lambda: "MiB" in served.version(1, "slow").note)
        assert (fetched / ".fetching-1").exists()

    def over() -> bool:
        return not fetchers(served) and not (fetched / ".fetching-1").exists()

    begin()
    served.operator.unload("slow", version=1)
    wait_until(over)
    begin()
    served.operator.load("slow", str(small("half_plus_two")))
    served.wait(1, "AVAILABLE", "slow")
    wait_until(over)
    served.operator.unload("slow")
    wait_until(lambda: not served.version(1, "slow").state)
    begin()
    served.operator.reload()
    wait_until(over)
    given_up = served.operator.status("slow").versions[0]
    assert (given_up.state, given_up.error, "read again" in given_up.error_message) == ("END", "ABORTED", True)
    served.wait(1, "AVAILABLE")  # of "half": the configuration holds


def test_a_fetch_that_dies_or_takes_too_long(served: Controlled, web: FileServer) -> None:
    """A process that dies is followed by another, which goes on; past the time limit what came stays for a next try."""
    web.files["/dies"] = File(LARGE, pause_s=0.05)
    served.operator.load("dies", web.url("/dies"))
    journal = served.state_dir / "fetched" / "dies" / ".fetching-1" / "download.json"
    wait_until(lambda: begun(journal))
    [process] = fetchers(served)
    process.kill()
    served.wait(1, "AVAILABLE", "dies")
    assert "ended by SIGKILL" in served.server.log() and "going on after" in served.server.log()

    served.operator.load("late", web.url("/stuck"))
    wait_until(lambda: served.version(1, "late").error == "DEADLINE_EXCEEDED")
    assert begun(served.state_dir / "fetched" / "late" / ".fetching-1" / "download.json")
    served.operator.unload("late")


def test_loads_come_back_after_a_restart(base: Path, tmp_path: Path, web: FileServer) -> None:
    """What was fetched and loaded by command is served after a restart, until the configuration says something new."""
    state = tmp_path / "state"
    with Controlled(base, state) as served:
        served.operator.load("half", web.url("/good"))
        served.operator.load("more", web.url("/good"))
        served.wait(2, "AVAILABLE")
        served.wait(1, "AVAILABLE", "more")
        served.operator.load("going", web.url("/stuck"))
        wait_until(lambda: begun(state / "fetched" / "going" / ".fetching-1" / "download.json"))
        assert served.server.stop() == (ExitCode.OK, "")
    assert (state / "wishes.json").stat().st_mode & 0o077 == 0
    web.files["/stuck"].stall_after = None
    with Controlled(base, state) as served:
        assert served.version(2).state == "AVAILABLE" and not served.version(1).state
        assert served.version(1, "more").state == "AVAILABLE"
        served.wait(1, "AVAILABLE", "going")
        assert "going on after" in served.server.log()
        signal_process(served.server.pid, signal.SIGHUP)
        served.wait(1, "AVAILABLE")
        wait_until(lambda: not served.version(1, "more").state)
        assert served.server.stop() == (ExitCode.OK, "")
    served_before = parse_model_flags([f"half={base}"])
    overrides = OperatorOverrides(StateDir(state), served_before)
    overrides.load("more", str(base), None)
    assert [one.name for one in OperatorOverrides(StateDir(state), served_before).configs(served_before)] == [
        "half",
        "more",
    ]
    says_something_new = parse_model_flags([f"half={base}", f"extra={base}"])
    assert OperatorOverrides(StateDir(state), says_something_new).configs(says_something_new) == says_something_new


def test_old_fetches_go(served: Controlled, web: FileServer) -> None:
    """Two versions stay for a rollback beside the one that is served; a rollback is one command."""
    for version in range(1, 6):
        served.operator.load("kept", web.url("/good"))
        served.wait(version, "AVAILABLE", "kept")
    fetched = served.state_dir / "fetched" / "kept"
    wait_until(lambda: {one.name for one in fetched.glob("[0-9]*")} == {"2", "3", "4", "5"})
    served.operator.load("kept", str(fetched), version=3)
    served.wait(3, "AVAILABLE", "kept")
