"""One server type under load: with swaps and without, in turns, while the clients go on calling.

server, N clients  -->  without | with | without | with …  -->  what each client saw  --judge-->  Load
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thriftserve_bench import process_tree
from thriftserve_bench.benchmarks.swaps.judge import judge
from thriftserve_bench.benchmarks.swaps.serving import Serving, serving
from thriftserve_bench.benchmarks.swaps.swapper import SwapStuck, wait
from thriftserve_bench.load.version_clients import Crowd, crowd
from thriftserve_bench.records.swaps import WITH, WITHOUT, Load, Phase, Swap

#: Before anything is counted, once every client has had an answer.
_WARM_UP_S = 1.0
_BEGIN_TIMEOUT_S = 60.0
#: A server's start and end, and that of its clients, about.
_AROUND_S = 14.0
#: It serves one connection at a time: the others would wait for it to end.
ONE_CLIENT = ("TSimpleServer",)

Tick = Callable[[str, float], None]


@dataclass(frozen=True)
class LoadSettings:
    """How much load, for how long."""

    clients: int = 16
    #: Of load with swaps, and as much without.
    seconds: float = 60.0
    #: From the beginning of a swap to the next.
    every_s: float = 2.0
    #: Into so many parts each of the two is cut.
    rounds: int = 3
    workers: int | None = None
    #: --file-system-poll-s of the servers.
    poll_s: float = 0.2

    def clients_of(self, server_type: str) -> int:
        """How many clients a server type gets."""
        return 1 if server_type in ONE_CLIENT else self.clients

    @property
    def swaps(self) -> int:
        """The most swaps there can be."""
        return int(self.seconds / self.every_s) + self.rounds + 1

    @property
    def total_s(self) -> float:
        """How long a server type takes, about."""
        return 2 * self.seconds + _AROUND_S


class Stretches:
    """The load's parts, one after the other, each noted as a Phase."""

    def __init__(self, serves: Serving, clients: Crowd, load: Load, tick: Callable[[], None]) -> None:
        self._serves = serves
        self._clients = clients
        self._load = load
        self._tick = tick

    def warm_up(self) -> None:
        """Until every client calls, and a moment longer."""
        give_up_at = time.monotonic() + _BEGIN_TIMEOUT_S
        while not self._clients.begun and time.monotonic() < give_up_at:
            self._wait(0.1)
        self._wait(_WARM_UP_S)

    def without(self, seconds: float) -> None:
        """Load alone."""
        self._phase(WITHOUT, lambda: self._wait(seconds))

    def with_swaps(self, seconds: float, every_s: float) -> None:
        """Load while versions change.

        Raises:
            SwapStuck: one did not.
        """
        self._phase(WITH, lambda: self._serves.swapper.swap_for(seconds, every_s, self._tick))

    def _wait(self, seconds: float) -> list[Swap]:
        wait(time.monotonic() + seconds, self._tick)
        return []

    def _phase(self, name: str, go: Callable[[], list[Swap]]) -> None:
        pid = self._serves.server.pid
        load_1m = os.getloadavg()[0]
        from_s, cpu_s = time.time(), process_tree.cpu_s(pid)
        before = self._serves.versions.newest
        swaps = go()
        took, landed = process_tree.cpu_s(pid) - cpu_s, self._serves.versions.newest - before
        self._load.phases.append(Phase(name, from_s, time.time(), took, load_1m, landed, swaps))


def measure_load(server_type: str, settings: LoadSettings, store: Path, logs: Path, tick: Tick) -> Load:
    """Measures one server type.

    Args:
        server_type: which.
        settings: how much.
        store: the versions, built.
        logs: a directory for the server's log.
        tick: told what goes on and how many seconds of it are over.

    Raises:
        ServerFailed: the server does not start.
        ProcessEnded: a client's process is gone.
    """
    load = Load(server_type, settings.clients_of(server_type))
    began = time.monotonic()

    def ticked() -> None:
        told = load.phases[-1].name if load.phases else "warming up"
        tick(f"{server_type} after {len(load.phases)} parts, last {told}", time.monotonic() - began)

    with tempfile.TemporaryDirectory(prefix="thriftserve-swaps-") as scratch:
        place = Path(scratch)
        tick(f"{server_type} starts", 0.0)
        with serving(server_type, store, place, workers=settings.workers, poll_s=settings.poll_s, logs=logs) as serves:
            with crowd(load.clients, serves.server.host, serves.server.port, place) as clients:
                stretches = Stretches(serves, clients, load, ticked)
                try:
                    _go(stretches, settings, ticked)
                except SwapStuck as error:
                    load.failure = str(error)
                calls = clients.end()
            serves.log.read()
            judge(load, calls, serves.log.entered)
    return load


def _go(stretches: Stretches, settings: LoadSettings, ticked: Callable[[], None]) -> None:
    stretches.warm_up()
    part_s = settings.seconds / settings.rounds
    for _ in range(settings.rounds):
        stretches.without(part_s)
        stretches.with_swaps(part_s, settings.every_s)
