"""The search for the size of runs that is worth it, on made-up machines: what runs take there, and how it varies."""

from __future__ import annotations

import doctest
import random
from collections.abc import Callable

import pytest

from thriftserve.batching import size_search
from thriftserve.batching.size_search import SizeSearch, ladder

#: Microseconds of a run, by its rows.
Machine = Callable[[int], float]
SEEDS = 10


def flat(rows: int) -> float:
    return 1000.0 * rows


def fixed(rows: int) -> float:
    return 5000.0 + 50 * rows


def bent(rows: int) -> float:
    """As MobileNetV2 on two cores: best at 4, worse with what no longer fits into caches."""
    return rows * {1: 15_500.0, 2: 13_400.0, 4: 12_300.0}.get(rows, 12_000.0 + 150 * rows)


class Server:
    """Runs what is asked for, as far as so many wait; two runs at a time, and three batches under way."""

    def __init__(self, search: SizeSearch, machine: Machine, spread: float = 0.0, seed: int = 0) -> None:
        self.search = search
        self.machine = machine
        self.now = 0.0
        self.largest = 0
        self._spread = spread
        self._dice = random.Random(seed)
        self._under_way = [search.ask() for _ in range(3)]

    def serve(self, runs: int, wait: int = 10**6, least: int = 1) -> int:
        """The size found after so many runs, where no more than `wait` requests of `least` rows ever wait."""
        for _ in range(runs):
            rows = min(self._under_way.pop(0), wait)
            self.largest = max(self.largest, rows)
            us = self.machine(rows) * max(0.5, self._dice.lognormvariate(0, self._spread))
            self.now += us / 2e6
            self.search.add(rows, us, self.now)
            self._under_way.append(self.search.ask(least))
        return self.search.rows


def found(machine: Machine, runs: int, spread: float = 0.0, start: int = 1, most: int = 64) -> list[int]:
    """The sizes that it finds on so many machines of one kind."""
    sizes = []
    for seed in range(SEEDS):
        search = SizeSearch(ladder(most))
        search.start(start)
        sizes.append(Server(search, machine, spread, seed).serve(runs))
    return sorted(sizes)


def test_the_examples_in_the_text() -> None:
    """What the module's docstring shows is what happens."""
    result = doctest.testmod(size_search)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("spread", [0.0, 0.15])
@pytest.mark.parametrize("start", [1, 8, 64])
@pytest.mark.parametrize(("machine", "expected"), [(flat, {1}), (fixed, {64}), (bent, {4})])
def test_finds_what_is_worth_it(machine: Machine, expected: set[int], start: int, spread: float) -> None:
    """From wherever it begins, also where each run takes 15 % more or less."""
    sizes = found(machine, 3000, spread, start)
    most_of_them = sizes[1:-1] if spread else sizes
    assert set(most_of_them) == expected


def test_a_noisy_machine_misleads_it_little() -> None:
    """Where runs vary by 30 % it stays near: no more than a step beside for most."""
    sizes = found(bent, 3000, 0.3, start=8)
    assert sum(2 <= size <= 8 for size in sizes) >= SEEDS - 1


def test_what_is_plain_is_seen_at_once() -> None:
    """64 times the rate is found after some 150 runs."""
    assert found(fixed, 250, 0.15) == [64] * SEEDS


def test_memory_is_not_asked_for_at_once() -> None:
    """Each size is at most twice one that was run before."""
    server = Server(SizeSearch(ladder(64)), fixed)
    before = 1
    for _ in range(300):
        server.serve(1)
        assert server.largest <= 2 * before
        before = server.largest


def test_what_is_known_is_seldom_tried_again() -> None:
    """After a while nearly all runs have the size found: others cost time, and make their requests wait longer."""
    server = Server(SizeSearch(ladder(64)), bent, 0.1)
    server.serve(6000)
    others = 0
    for _ in range(3000):
        server.serve(1)
        others += server.search.ask() != server.search.rows
    assert 0 < others < 150


@pytest.mark.parametrize("measured", [(1, 2, 4, 8), (1, 2, 4)])
def test_what_was_measured_before_need_not_be_found_out(measured: tuple[int, ...]) -> None:
    """It begins where made-up load took the least, and real requests are in larger runs one time in 200 at most."""
    search = SizeSearch(ladder(64))
    search.begin({size: {1: 13.0, 2: 12.4, 4: 12.0, 8: 12.2}[size] for size in measured})
    assert search.rows == 4
    server = Server(search, lambda rows: rows * {1: 20.0, 2: 15.0, 4: 11.0}.get(rows, 10.8) * 1e3, 0.1)
    rows = [server.serve(1) and search.ask() for _ in range(8000)]
    larger = sum(size for size in rows if size > 4)
    assert 0 < larger <= sum(rows) / 200
    assert set(rows[:1500]) <= {2, 4}
    assert search.rows == 4


def test_what_was_measured_wrong_is_mended() -> None:
    """Real requests tell when the size to begin with is not the one that is worth it."""
    for machine, measured in ((fixed, {1: 1.0, 2: 1.1}), (flat, {1: 2.0, 2: 1.5, 4: 1.2, 8: 1.0})):
        search = SizeSearch(ladder(64))
        search.begin(measured)
        assert search.rows == (1 if machine is fixed else 8)
        assert Server(search, machine, 0.1).serve(40_000) == (64 if machine is fixed else 1)


@pytest.mark.parametrize(("machine", "largest"), [(flat, 2), (bent, 8)])
def test_what_can_save_nothing_is_not_tried(machine: Machine, largest: int) -> None:
    """Beyond what is worth it one larger size is tried at most: it takes memory, and its requests wait longer."""
    server = Server(SizeSearch(ladder(64)), machine)
    server.serve(3000)
    assert server.largest <= largest


def test_another_machine_another_size() -> None:
    """When what runs take changes for good, so does the size."""
    server = Server(SizeSearch(ladder(64)), fixed, 0.15)
    assert server.serve(500) == 64
    server.machine = flat
    assert server.serve(6000) <= 2
    server.machine = fixed
    assert server.serve(2000) == 64


@pytest.mark.parametrize("machine", [flat, fixed, bent])
def test_where_few_wait_nothing_is_learned(machine: Machine) -> None:
    """Runs that are smaller than asked for tell nothing of the size asked for: it stays for when more come."""
    search = SizeSearch(ladder(64))
    search.start(16)
    assert Server(search, machine, 0.1).serve(2000, wait=3) == 16


def test_a_pause_tells_nothing() -> None:
    """Time in which nobody asked for anything is not a run's."""
    server = Server(SizeSearch(ladder(64)), flat, 0.1)
    for _ in range(200):
        server.serve(7)
        server.now += 60
    assert server.serve(9) == 1
    server = Server(SizeSearch(ladder(64)), fixed, 0.1)
    for _ in range(30):
        server.serve(40)
        server.now += 60
    assert server.search.rows == 64


def test_runs_that_are_held_up_tell_nothing() -> None:
    """One run in thirty that takes twenty times as long, by chance, does not move it."""
    dice = random.Random(7)
    server = Server(SizeSearch(ladder(64)), lambda rows: bent(rows) * (20 if dice.random() < 1 / 30 else 1), 0.1)
    assert server.serve(3000) in (2, 4, 8)


def test_no_run_is_smaller_than_a_request() -> None:
    """Requests of 20 rows are run in 32, or more: nothing smaller is tried."""
    server = Server(SizeSearch(ladder(64)), flat)
    server.serve(4, least=20)
    asked = {server.search.ask(20)}
    for _ in range(500):
        server.serve(1, least=20)
        asked.add(server.search.ask(20))
    assert asked == {32, 64}


@pytest.mark.parametrize(
    ("most", "allowed", "expected"),
    [(1, (), (1,)), (2, (), (1, 2)), (64, (), (1, 2, 4, 8, 16, 32, 64)), (4, (2, 8), (2,)), (1, (2,), (1,))],
)
def test_the_sizes_to_choose_from(most: int, allowed: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Powers of two, or the sizes that the operator allows; a single one is asked for always."""
    assert ladder(most, allowed) == expected
    assert Server(SizeSearch(ladder(most, allowed)), fixed).serve(300) == expected[-1]


def test_what_a_run_takes_whatever_its_size() -> None:
    """The fixed part of runs is known once a neighbour was run."""
    server = Server(SizeSearch(ladder(64)), lambda rows: 6000.0 + 12_000 * rows)
    assert server.search.fixed_us() is None
    server.serve(500)
    assert server.search.fixed_us() == pytest.approx(6000, rel=0.02)
