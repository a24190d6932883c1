"""kill -9 of a running server and of its keeper at steps of a fetch: what is there is whole, and it goes on."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from control_served import Controlled, wait_until
from fetch_server import File, FileServer
from packed_models import files, holds_model, tar_of
from small_models import small
from thriftserve.remote.journal import Journal
from thriftserve_bench.process_tree import signal_process

X = np.arange(3, dtype=np.float32)
#: Enough entries for the unpacking to take a while, and enough bytes for the download to.
ARCHIVE = tar_of(
    {
        **files(),
        **{f"assets/{one}": bytes(64) for one in range(300)},
        "assets/large": random.Random(7).randbytes(2 << 20),
    },
    gzipped=False,
)
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()

#: A step is over soon.
LOOK_EVERY_S = 0.0005

Step = Callable[[Path], bool]


def staging(target: Path) -> Path:
    return target.parent / f".fetching-{target.name}"


def unpacked(target: Path) -> int:
    """Files unpacked so far."""
    return sum(len(names) for _, _, names in os.walk(staging(target) / "unpacked"))


def saved(target: Path) -> bool:
    journal = Journal.load(staging(target) / "download.json")
    return journal is not None and journal.done > 0


STEPS: dict[str, Step] = {
    "asked": lambda target: (target.parent / f".origin-{target.name}").exists(),
    "saved": saved,
    "unpacking": lambda target: unpacked(target) > 0,
    "half-unpacked": lambda target: unpacked(target) > 150,
    "landing": lambda target: (staging(target) / "landing.json").exists(),
    "landed": lambda target: target.exists(),
}
#: Each takes another start of the server, or a longer pause before the keeper's.
OF_THE_SERVER = ("saved", "half-unpacked", "landed")
OF_THE_KEEPER = ("asked", "saved", "unpacking", "landing")


@pytest.fixture
def web() -> FileServer:
    return FileServer({"/m": File(ARCHIVE, pause_s=0.03)})


def reach(served: Controlled, web: FileServer, version: int, step: str) -> Path:
    """Has a version fetched until that step is seen."""
    target = served.fetched / str(version)
    served.operator.load("half", web.url("/m"), sha256=DIGEST)
    while not STEPS[step](target) and not target.exists():
        time.sleep(LOOK_EVERY_S)
    return target


def all_whole(served: Controlled) -> bool:
    """Whether every version that anybody could see is the whole model."""
    return all(holds_model(served.fetched / name) for name in served.visible())


def is_served(served: Controlled, version: int) -> bool:
    """Whether a version answers, once what was begun is done."""
    served.wait(version, "AVAILABLE")
    wait_until(lambda: not list(served.fetched.glob(".fetching-*")))
    with served.server.client() as client:
        return client.predict("half", {"x": X}).version == version


def keeper(served: Controlled) -> int:
    """The keeper's pid."""
    return int(served.server.log().rsplit("controller 0 (pid ", 1)[1].split(")")[0])


@pytest.mark.timeout(300)
def test_the_keeper_is_killed(tmp_path: Path, web: FileServer) -> None:
    """Another one goes on with the fetch; the old version answers until the new one does."""
    with web, Controlled(small("half_plus_two"), tmp_path) as served:
        for version, step in enumerate(OF_THE_KEEPER, start=2):
            wait_until(lambda: psutil.pid_exists(keeper(served)))
            reach(served, web, version, step)
            signal_process(keeper(served), signal.SIGKILL)
            assert all_whole(served)
            assert is_served(served, version), step
            assert all_whole(served)


@pytest.mark.timeout(300)
def test_the_server_is_killed(tmp_path: Path, web: FileServer) -> None:
    """After a restart the version before or the new one serves, the download is gone on with, and the new one comes."""
    with web:
        for version, step in enumerate(OF_THE_SERVER, start=2):
            with Controlled(small("half_plus_two"), tmp_path) as served:
                if version > 2:
                    assert is_served(served, version - 1), step
                    assert all_whole(served)
                    assert web.sent < len(ARCHIVE), "it went on with what had come"
                reach(served, web, version, step)
                tree = [psutil.Process(served.server.pid), *psutil.Process(served.server.pid).children(recursive=True)]
                signal_process(served.server.pid, signal.SIGKILL)
                psutil.wait_procs(tree)
                assert all_whole(served)
                web.sent = 0
        with Controlled(small("half_plus_two"), tmp_path) as served:
            assert is_served(served, version)
            assert web.sent == 0, "it had landed"
