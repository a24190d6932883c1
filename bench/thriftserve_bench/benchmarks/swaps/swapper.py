"""Swaps as an operator makes them: a new directory now and then, and old ones go when they are done with.

land versions at a pace  -->  the log: AVAILABLE, its predecessors ENDED  -->  Swap, predecessors removed
"""

from __future__ import annotations

import time
from collections.abc import Callable

from thriftserve_bench.benchmarks.swaps.state_log import AVAILABLE, ENDED, StateLog
from thriftserve_bench.processes import ServerProcess
from thriftserve_bench.records.swaps import Swap
from thriftserve_bench.workloads.versions import Versions

_LOOK_S = 0.02
#: The newest version takes over within this time, or never.
SWAP_TIMEOUT_S = 120.0

Tick = Callable[[], None]


class SwapStuck(Exception):
    """A version was not served in time, or the server ended; the message says what the server's log has of it."""


class Swapper:
    """Changes the version that one server serves.

    Args:
        server: who serves it.
        versions: the base path it serves.
        log: follows the server's log.
    """

    def __init__(self, server: ServerProcess, versions: Versions, log: StateLog) -> None:
        self._server = server
        self._versions = versions
        self._log = log
        #: When each version that is not served yet appeared.
        self._landed_at: dict[int, float] = {}
        #: The version that serves, and those before it that have not ended.
        self._serving = versions.newest
        self._leaving: dict[int, Swap] = {}

    def land(self) -> None:
        """Puts the next version there."""
        before = time.time()
        self._landed_at[self._versions.land()] = before

    def look(self) -> list[Swap]:
        """Swaps that are over since the last look; what they have left is removed."""
        self._log.read()
        for version in sorted(one for one in self._landed_at if self._log.has(one, AVAILABLE)):
            at = self._log.entered[version][AVAILABLE]
            self._leaving[self._serving] = Swap(version, self._landed_at.pop(version), at, 0.0)
            self._serving = version
        over = []
        for version in [one for one in self._leaving if self._log.has(one, ENDED)]:
            swap = self._leaving.pop(version)
            over.append(Swap(swap.version, swap.landed_at, swap.available_at, self._log.entered[version][ENDED]))
            self._versions.remove(version)
        for version in [one for one in self._landed_at if self._passed_over(one)]:
            del self._landed_at[version]
            self._versions.remove(version)
        return over

    def _passed_over(self, version: int) -> bool:
        """Whether a newer version came before it was served."""
        begun = version in self._log.entered
        return version < self._serving and (self._log.has(version, ENDED) or not begun)

    def swap(self) -> list[Swap]:
        """Lands the next version; returns once it serves alone.

        Raises:
            SwapStuck: that did not happen.
        """
        self.land()
        return self.settle(lambda: None)

    def swap_for(self, seconds: float, every_s: float, tick: Tick) -> list[Swap]:
        """Lands versions at this pace, whether or not the one before serves yet.

        Args:
            seconds: after this time no version comes any more; it returns when the last one serves alone.
            every_s: from one version to the next.
            tick: called now and then.

        Raises:
            SwapStuck: the last one did not come to serve.
        """
        swaps: list[Swap] = []
        began = time.monotonic()
        for number in range(max(1, round(seconds / every_s))):
            self.land()
            until = began + (number + 1) * every_s
            while time.monotonic() < until:
                swaps += self.look()
                tick()
                time.sleep(_LOOK_S)
        return swaps + self.settle(tick)

    def settle(self, tick: Tick) -> list[Swap]:
        """Waits until the newest version serves alone.

        Raises:
            SwapStuck: it does not come to that.
        """
        swaps: list[Swap] = []
        give_up_at = time.monotonic() + SWAP_TIMEOUT_S
        while True:
            swaps += self.look()
            if self._serving == self._versions.newest and not self._leaving:
                return swaps
            if time.monotonic() > give_up_at or not self._server.running:
                raise SwapStuck(f"version {self._versions.newest} did not take over{self._why()}")
            tick()
            time.sleep(_LOOK_S)

    def _why(self) -> str:
        told = next((message for failed, message in self._log.errors if failed == self._versions.newest), None)
        return f": {told}" if told else f" within {SWAP_TIMEOUT_S:g} s; the log ends in\n{self._server.log_tail()}"


def wait(until: float, tick: Tick) -> None:
    """Sleeps until a monotonic time, and ticks meanwhile."""
    while (left_s := until - time.monotonic()) > 0:
        tick()
        time.sleep(min(left_s, 0.2))
