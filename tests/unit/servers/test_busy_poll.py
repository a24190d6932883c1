"""Busy-waiting: when it starts, when it stops, and that a server with nothing to do sleeps."""

import time

import numpy as np
import psutil
import pytest

from documents import SUPPORT
from served import Served
from thriftserve.servers.busy_poll import BusyPoll, CoreBudget
from thriftserve.supervisor.scoreboard import Peer
from thriftserve_client import Client

_ROUNDS = 64
_HERE = str(SUPPORT)


class Probe:
    """A probe that counts its calls."""

    def __init__(self, arrived: bytes | None = None) -> None:
        self.arrived = arrived
        self.calls = 0

    def __call__(self) -> bytes | None:
        self.calls += 1
        return self.arrived


def _short_waits(busy_poll: BusyPoll) -> None:
    for _ in range(_ROUNDS):
        busy_poll.poll(lambda: b"here")
        busy_poll.woke_up()


def test_it_starts_once_waits_are_short() -> None:
    """A new waiting place sleeps. After some short waits it polls, and returns what arrives, an end of stream, too."""
    busy_poll, probe = BusyPoll(100_000), Probe(b"")
    assert busy_poll.poll(probe) is None
    assert probe.calls == 0
    _short_waits(busy_poll)
    assert busy_poll.poll(probe) == b""
    assert probe.calls == 1


def test_it_stops_if_nothing_arrives() -> None:
    """A few waits in vain end the polling."""
    busy_poll = BusyPoll(1000)
    _short_waits(busy_poll)
    probe = Probe()
    polled = 0
    for _ in range(_ROUNDS):
        before = probe.calls
        assert busy_poll.poll(probe) is None
        busy_poll.woke_up()
        polled += probe.calls > before
        if probe.calls == before:
            break
    assert 0 < polled < 10


def test_it_rests_after_polling_in_vain_and_tries_again() -> None:
    """Waits a little longer than the polling: it stops after some, and tries again later."""
    busy_poll, probe, polled = BusyPoll(1000), Probe(), []
    _short_waits(busy_poll)
    for _ in range(4 * _ROUNDS):
        before = probe.calls
        assert busy_poll.poll(probe) is None
        busy_poll.woke_up()  # at once: 1.0 to 1.1 ms in all
        polled.append(probe.calls > before)
    first_rest = polled.index(False)
    assert 0 < first_rest < 10
    assert True in polled[first_rest:]
    assert sum(polled) < _ROUNDS


def test_zero_microseconds_never_poll() -> None:
    """With spin_us 0 nothing polls, however short the waits are."""
    busy_poll, probe = BusyPoll(0), Probe(b"x")
    for _ in range(_ROUNDS):
        assert busy_poll.poll(probe) is None
        busy_poll.woke_up()
    assert probe.calls == 0


class Board:
    """The workers of a server, by their numbers of connections."""

    def __init__(self, *connections: int) -> None:
        self._connections = connections

    def peers(self) -> list[Peer]:
        return [Peer(pid, 0, connections) for pid, connections in enumerate(self._connections, 1)]


@pytest.mark.parametrize(("busy", "available"), [(1, True), (0, True), (1000, False)])
def test_processes_share_no_core(busy: int, available: bool) -> None:
    """There is room while each process with a client has a core. Processes without a client don't count."""
    assert CoreBudget(Board(*[1] * busy, 0, 0)).available() is available


def _cpu_s(pid: int) -> float:
    process = psutil.Process(pid)
    return sum(sum(member.cpu_times()[:2]) for member in [process, *process.children(recursive=True)])


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
