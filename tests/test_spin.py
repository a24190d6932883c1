"""Waiting awake: when it is done, when it stops, and that a server with nothing to do sleeps."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from served import Served
from thriftserve.servers.busy_poll import BusyPoll, CoreBudget
from thriftserve_client import Client

_ROUNDS = 64
_HERE = str(Path(__file__).parent)


class Looks:
    """Counts how often it was looked, and finds what it is told to."""

    def __init__(self, found: bytes | None = None) -> None:
        self.found = found
        self.times = 0

    def __call__(self) -> bytes | None:
        self.times += 1
        return self.found


def _short_waits(spin: BusyPoll) -> None:
    for _ in range(_ROUNDS):
        spin.soon(lambda: b"here")
        spin.slept()


def test_it_begins_once_waits_are_short() -> None:
    """A new place sleeps; after some short waits it looks, and gives what it finds, an end of stream, too."""
    spin, looks = BusyPoll(100_000), Looks(b"")
    assert spin.soon(looks) is None
    assert looks.times == 0
    _short_waits(spin)
    assert spin.soon(looks) == b""
    assert looks.times == 1


def test_it_ends_where_nothing_comes() -> None:
    """Waits that were in vain end the looking after a few."""
    spin = BusyPoll(1000)
    _short_waits(spin)
    looks = Looks()
    spinning = 0
    for _ in range(_ROUNDS):
        before = looks.times
        assert spin.soon(looks) is None
        spin.slept()
        spinning += looks.times > before
        if looks.times == before:
            break
    assert 0 < spinning < 10


def test_who_looked_in_vain_rests_and_tries_again() -> None:
    """Waits a little longer than the looking: it is left after some, and tried again later."""
    spin, looks, tried = BusyPoll(1000), Looks(), []
    _short_waits(spin)
    for _ in range(4 * _ROUNDS):
        before = looks.times
        assert spin.soon(looks) is None
        spin.slept()  # at once: 1.0 to 1.1 ms in all
        tried.append(looks.times > before)
    vain = tried.index(False)
    assert 0 < vain < 10
    assert True in tried[vain:]
    assert sum(tried) < _ROUNDS


def test_it_is_never_done_for_no_time() -> None:
    """0 microseconds: nobody looks, however short the waits are."""
    spin, looks = BusyPoll(0), Looks(b"x")
    for _ in range(_ROUNDS):
        assert spin.soon(looks) is None
        spin.slept()
    assert looks.times == 0


class Board:
    """The workers of a server: pid, requests in flight, connections."""

    def __init__(self, *connections: int) -> None:
        self._connections = connections

    def peers(self) -> list[tuple[int, int, int]]:
        return [(pid, 0, connections) for pid, connections in enumerate(self._connections, 1)]


@pytest.mark.parametrize(("busy", "is_there"), [(1, True), (0, True), (1000, False)])
def test_processes_share_no_core(busy: int, is_there: bool) -> None:
    """There is room while each process with a client has a core; those without one do not count."""
    board: Any = Board(*[1] * busy, 0, 0)
    assert CoreBudget(board).is_there() is is_there


def _cpu_s(pid: int) -> float:
    process = psutil.Process(pid)
    return sum(sum(each.cpu_times()[:2]) for each in [process, *process.children(recursive=True)])


@pytest.mark.parametrize("server_type", ["TBatchingServer", "TThreadedServer", "TProcessPoolServer"])
def test_a_server_with_nothing_to_do_sleeps(server_type: str) -> None:
    """After calls in quick succession the processes are idle again, though the client is still there."""
    with (
        Served(
            "--model",
            "double=python:served_models:Doubler",
            "--server-type",
            server_type,
            "--workers",
            "1",
            PYTHONPATH=_HERE,
        ) as served,
        Client("127.0.0.1", served.port) as client,
    ):
        for _ in range(300):
            client.predict("double", {"x": np.array([1.0], np.float32)})
        before = _cpu_s(served.pid)
        time.sleep(1.0)
        assert _cpu_s(served.pid) - before < 0.3
