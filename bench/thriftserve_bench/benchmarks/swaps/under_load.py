"""One server type under load: with swaps and without, in turns, while the clients continue.

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
from thriftserve_bench.benchmarks.swaps.swapper import SwappedServer, SwapStuck, start_server, wait
from thriftserve_bench.load.version_clients import VersionClients, version_clients
from thriftserve_bench.records.swaps import WITH, WITHOUT, Load, Phase, Swap

#: Before the first phase, once every client has had an answer.
_WARM_UP_S = 1.0
_BEGIN_TIMEOUT_S = 60.0
#: A server's start and end, and that of its clients, about.
_AROUND_S = 14.0
#: It serves one connection at a time.
ONE_CLIENT = ("TSimpleServer",)

#: Called with what is being done, and how many seconds of it are over.
Reach = Callable[[str, float], None]


@dataclass(frozen=True)
class LoadSettings:
    """How much load, for how long."""

    clients: int = 16
    #: Of load with swaps, and as much without.
    seconds: float = 60.0
    #: From the beginning of a swap to the next.
    every_s: float = 2.0
    #: Parts of each of the two.
    rounds: int = 3
    workers: int | None = None
    #: --file-system-poll-s of the servers.
    poll_s: float = 0.2

    def clients_of(self, server_type: str) -> int:
        """Return the number of clients of a server type."""
        return 1 if server_type in ONE_CLIENT else self.clients

    @property
    def swaps(self) -> int:
        """Most swaps that there can be."""
        return int(self.seconds / self.every_s) + self.rounds + 1

    @property
    def total_s(self) -> float:
        """About how long a server type takes."""
        return 2 * self.seconds + _AROUND_S


class LoadPhases:
    """The parts of a load, one after the other, each recorded as a Phase."""

    def __init__(self, serving: SwappedServer, clients: VersionClients, load: Load, tick: Callable[[], None]) -> None:
        self._serving = serving
        self._clients = clients
        self._load = load
        self._tick = tick

    def warm_up(self) -> None:
        """Wait until every client calls, and a moment longer."""
        give_up_at = time.monotonic() + _BEGIN_TIMEOUT_S
        while not self._clients.all_calling and time.monotonic() < give_up_at:
            self._wait(0.1)
        self._wait(_WARM_UP_S)

    def without(self, seconds: float) -> None:
        """Measure load alone."""
        self._phase(WITHOUT, lambda: self._wait(seconds))

    def with_swaps(self, seconds: float, every_s: float) -> None:
        """Measure load while versions change.

        Raises:
            SwapStuck: a version was not served.
        """
        self._phase(WITH, lambda: self._serving.swapper.swap_for(seconds, every_s, self._tick))

    def _wait(self, seconds: float) -> list[Swap]:
        wait(time.monotonic() + seconds, self._tick)
        return []

    def _phase(self, name: str, measure: Callable[[], list[Swap]]) -> None:
        pid = self._serving.server.pid
        load_1m = os.getloadavg()[0]
        from_s, cpu_before = time.time(), process_tree.cpu_s(pid)
        before = self._serving.versions.newest
        swaps = measure()
        cpu_s, landed = process_tree.cpu_s(pid) - cpu_before, self._serving.versions.newest - before
        self._load.phases.append(Phase(name, from_s, time.time(), cpu_s, load_1m, landed, swaps))


def measure_load(server_type: str, settings: LoadSettings, store: Path, logs: Path, reach: Reach) -> Load:
    """Measure one server type.

    Args:
        server_type: which.
        settings: how much.
        store: the versions, built.
        logs: a directory for the server's log.
        reach: see `Reach`.

    Raises:
        ServerFailed: the server does not start.
        ChildEnded: a client's process has ended.
    """
    load = Load(server_type, settings.clients_of(server_type))
    began = time.monotonic()

    def tick() -> None:
        phase = load.phases[-1].name if load.phases else "warming up"
        reach(f"{server_type} after {len(load.phases)} parts, last {phase}", time.monotonic() - began)

    with tempfile.TemporaryDirectory(prefix="thriftserve-swaps-") as scratch:
        place = Path(scratch)
        reach(f"{server_type} starts", 0.0)
        with start_server(
            server_type, store, place, workers=settings.workers, poll_s=settings.poll_s, logs=logs
        ) as serving:
            with version_clients(load.clients, serving.server.host, serving.server.port, place) as clients:
                phases = LoadPhases(serving, clients, load, tick)
                try:
                    _measure_phases(phases, settings, tick)
                except SwapStuck as error:
                    load.failure = str(error)
                calls = clients.stop()
            serving.log.read()
            judge(load, calls, serving.log.entered)
    return load


def _measure_phases(phases: LoadPhases, settings: LoadSettings, tick: Callable[[], None]) -> None:
    phases.warm_up()
    part_s = settings.seconds / settings.rounds
    for _ in range(settings.rounds):
        phases.without(part_s)
        phases.with_swaps(part_s, settings.every_s)
