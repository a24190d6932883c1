"""Whether a slot waits for more requests: told to, or because clients that were answered ask again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from thriftserve.rpc import BatchHint
from thriftserve.servers.batching.request_queue import BatchWait


class Front:
    """As much of a front as the wait for a batch looks at: what waits, a slot with room, and a clock."""

    def __init__(self, *, take: int = 4, fixed_us: int = 5000, wait_us: int | None = None) -> None:
        self.now = 100.0
        self.arrivals: list[float] = []
        self.waiting: Any
        self.waiting = SimpleNamespace(count=0)
        self.waiting.oldest = lambda: self.arrivals[0] if self.arrivals else None
        self.waiting.half_time = lambda expiry: 100.5
        self.hint = BatchHint(take, fixed_us, 0.0, wait_us)
        self.free_since = 0.0
        self.batch_wait = BatchWait(self.waiting, lambda request: 0.0)

    def asks(self, *clients: object) -> None:
        """Requests of these clients come."""
        for client in clients:
            self.arrivals.append(self.now)
            self.batch_wait.arrived(client, self.now)
        self.waiting.count = len(self.arrivals)

    def answered(self, *clients: object) -> None:
        """These clients are answered; the slot is free from now on."""
        self.free_since = self.now
        for client in clients:
            self.batch_wait.answered(client, self.now)

    def held_s(self, *, last: bool = True) -> float | None:
        """Seconds that the slot goes on waiting, and takes what waits where it does not."""
        until = self.batch_wait.hold_until(self.hint, self.free_since, self.now, last=last)
        if until is None:
            self.arrivals.clear()
            self.waiting.count = 0
            return None
        return until - self.now

    def round_trips(self, clients: list[object], times: int, after_s: float) -> None:
        """So many times the clients are answered and ask again, one after the other."""
        for _ in range(times):
            self.held_s()
            self.answered(*clients)
            self.now += after_s
            for client in clients:
                self.asks(client)
                self.held_s()
            self.now += 0.05


CLIENTS: list[object] = ["first", "second", "third", "fourth"]


def just_answered() -> Front:
    """One whose four clients ask again at once, and have been answered just now."""
    front = Front()
    front.round_trips(CLIENTS, 5, 0.001)
    front.answered(*CLIENTS)
    return front


def test_clients_that_ask_again_at_once_are_waited_for() -> None:
    """Of four that were answered together, the first is held until the last is there, or for what a run costs."""
    front = just_answered()
    front.now += 0.001
    front.asks(*CLIENTS[:1])
    assert front.held_s() == pytest.approx(0.005)
    front.now += 0.001
    front.asks(*CLIENTS[1:3])
    assert front.held_s() == pytest.approx(0.004)
    front.asks(CLIENTS[3])
    assert front.held_s() is None


def test_the_wait_has_an_end() -> None:
    """Clients that stay away after all are waited for no longer than a run of their own would cost."""
    front = just_answered()
    front.asks(CLIENTS[0])
    assert front.held_s() is not None
    front.now += 0.0051
    assert front.held_s() is None


def test_what_waited_longer_waits_no_longer() -> None:
    """The time counts from when the slot was free: what waited while it ran does not end the wait before it began."""
    front = Front()
    front.round_trips(CLIENTS, 5, 0.001)
    front.asks("another")
    front.now += 0.03
    front.answered(*CLIENTS)
    assert front.held_s() == pytest.approx(0.005)


@pytest.mark.parametrize("clients", [["lone"], []])
def test_a_lone_client_never_waits(clients: list[object]) -> None:
    """Nobody else is expected: the request goes at once, however often it was answered before."""
    front = Front()
    front.round_trips(["lone"], 20, 0.001)
    front.answered(*clients)
    front.now += 0.001
    front.asks("lone")
    assert front.held_s() is None


def test_clients_that_take_their_time_are_not_waited_for() -> None:
    """Where clients ask again after a while only, waiting for them is soon given up."""
    front = Front()
    front.round_trips(CLIENTS, 60, 0.02)
    front.answered(*CLIENTS)
    front.asks("another")
    assert front.held_s() is None
    front.round_trips(CLIENTS, 60, 0.001)  # and taken up again
    front.answered(*CLIENTS)
    front.asks("another")
    assert front.held_s() is not None


@pytest.mark.parametrize("change", [{"fixed_us": 900}, {"take": 1}, {"wait_us": 0}])
def test_nothing_is_waited_for_that_is_not_worth_it(change: dict[str, int]) -> None:
    """A run that costs next to nothing, a batch of one, an operator who forbids it."""
    front = Front(**change)
    front.round_trips(CLIENTS, 5, 0.0005)
    front.answered(*CLIENTS)
    front.asks(CLIENTS[0])
    assert front.held_s() is None


def test_while_another_slot_is_free_nothing_waits() -> None:
    """Who comes later gets a run beside this one."""
    front = just_answered()
    front.asks(CLIENTS[0])
    assert front.held_s(last=False) is None


def test_an_operators_wait_is_kept_to() -> None:
    """Told to wait, it does so without expecting anybody; never beyond half of what a request has left."""
    front = Front(wait_us=20_000)
    front.asks("lone")
    assert front.held_s() == pytest.approx(0.02)
    front.now += 0.01
    assert front.held_s() == pytest.approx(0.01)
    front.now += 0.011
    assert front.held_s() is None
    front = Front(wait_us=2_000_000)
    front.asks("lone")
    assert front.held_s() == pytest.approx(0.5)


def test_clients_that_are_gone_are_forgotten() -> None:
    """What is kept of a client goes soon after it."""
    front = Front()
    for number in range(1000):
        front.asks(number)
        front.held_s()
        front.answered(number)
        front.now += 0.01
    assert front.batch_wait.expected <= 1
