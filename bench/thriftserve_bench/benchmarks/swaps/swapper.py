"""Swaps of a server's model versions, as an operator makes them, and what the server's log says of them.

land versions at a pace  -->  the server's log: AVAILABLE, the predecessors ENDED  -->  Swap, predecessors removed
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from thriftserve_bench.processes import ServerProcess
from thriftserve_bench.records.swaps import Swap
from thriftserve_bench.servers import WITH_WORKERS
from thriftserve_bench.workloads.versions import MODEL, Versions

_MARK = '"event": "model_version_state"'
LOADING, AVAILABLE, UNLOADING, ENDED = "LOADING", "AVAILABLE", "UNLOADING", "ENDED"
_POLL_S = 0.02
#: The newest version takes over within this time, or never.
SWAP_TIMEOUT_S = 120.0

Tick = Callable[[], None]


class StateLog:
    """A server's log, read as it grows; unlike a call for the status, that costs the server nothing.

    Args:
        path: of the log, which exists.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open(encoding="utf-8", errors="replace")
        self._rest = ""
        #: By version, then state: when it was first entered, seconds since 1970.
        self.entered: defaultdict[int, dict[str, float]] = defaultdict(dict)
        #: Steps with an error: (version, message).
        self.errors: list[tuple[int, str]] = []

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> None:
        """Read what was written since the last call."""
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        for line in lines:
            if _MARK in line:
                self._record(json.loads(line[line.index("{") :]))

    def _record(self, step: dict[str, object]) -> None:
        version, state, at = int(str(step["version"])), str(step["state"]), float(str(step["at"]))
        self.entered[version].setdefault(state, at)
        if "error_message" in step:
            self.errors.append((version, str(step["error_message"])))

    def has(self, version: int, state: str) -> bool:
        """Return whether a version has entered a state."""
        return state in self.entered.get(version, {})


class SwapStuck(Exception):
    """A version was not served in time, or the server ended; the message has the reason from the server's log."""


class Swapper:
    """Changes the version that one server serves.

    Args:
        server: the server.
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
        """Add the next version."""
        before = time.time()
        self._landed_at[self._versions.land()] = before

    def poll(self) -> list[Swap]:
        """Return the swaps that were completed since the last call, and remove the old versions."""
        self._log.read()
        for version in sorted(version for version in self._landed_at if self._log.has(version, AVAILABLE)):
            at = self._log.entered[version][AVAILABLE]
            self._leaving[self._serving] = Swap(version, self._landed_at.pop(version), at, 0.0)
            self._serving = version
        completed = []
        for version in [version for version in self._leaving if self._log.has(version, ENDED)]:
            swap = self._leaving.pop(version)
            completed.append(Swap(swap.version, swap.landed_at, swap.available_at, self._log.entered[version][ENDED]))
            self._versions.remove(version)
        for version in [version for version in self._landed_at if self._overtaken(version)]:
            del self._landed_at[version]
            self._versions.remove(version)
        return completed

    def _overtaken(self, version: int) -> bool:
        """Return whether a newer version was served before it."""
        begun = version in self._log.entered
        return version < self._serving and (self._log.has(version, ENDED) or not begun)

    def swap(self) -> list[Swap]:
        """Add the next version; return once it serves alone.

        Raises:
            SwapStuck: that did not happen.
        """
        self.land()
        return self.settle(lambda: None)

    def swap_for(self, seconds: float, every_s: float, tick: Tick) -> list[Swap]:
        """Add versions at this pace, whether or not the previous one serves yet.

        Args:
            seconds: no version comes after this time; it returns when the last one serves alone.
            every_s: from one version to the next.
            tick: called from time to time.

        Raises:
            SwapStuck: the last one was not served.
        """
        swaps: list[Swap] = []
        began = time.monotonic()
        for number in range(max(1, round(seconds / every_s))):
            self.land()
            until = began + (number + 1) * every_s
            while time.monotonic() < until:
                swaps += self.poll()
                tick()
                time.sleep(_POLL_S)
        return swaps + self.settle(tick)

    def settle(self, tick: Tick) -> list[Swap]:
        """Wait until the newest version serves alone.

        Raises:
            SwapStuck: it does not.
        """
        swaps: list[Swap] = []
        give_up_at = time.monotonic() + SWAP_TIMEOUT_S
        while True:
            swaps += self.poll()
            if self._serving == self._versions.newest and not self._leaving:
                return swaps
            if time.monotonic() > give_up_at or not self._server.running:
                raise SwapStuck(f"version {self._versions.newest} did not take over{self._why()}")
            tick()
            time.sleep(_POLL_S)

    def _why(self) -> str:
        reason = next((message for failed, message in self._log.errors if failed == self._versions.newest), None)
        return f": {reason}" if reason else f" within {SWAP_TIMEOUT_S:g} s; the log ends in\n{self._server.log_tail()}"


def wait(until: float, tick: Tick) -> None:
    """Sleep until a monotonic time, and tick meanwhile."""
    while (left_s := until - time.monotonic()) > 0:
        tick()
        time.sleep(min(left_s, 0.2))


@dataclass(frozen=True)
class SwappedServer:
    """A server and what is needed to change its versions."""

    server: ServerProcess
    log: StateLog
    swapper: Swapper
    versions: Versions


@contextmanager
def start_server(
    server_type: str, store: Path, scratch: Path, *, workers: int | None = None, poll_s: float, logs: Path
) -> Iterator[SwappedServer]:
    """Yield a server of that type with version 1; it ends with the block, its log stays in `logs`.

    Raises:
        ServerFailed: it does not start.
    """
    versions = Versions(store, scratch / server_type / MODEL)
    flags = ["--model", f"{MODEL}={versions.base}", "--server-type", server_type, "--port", "0", "--devices", "cpu"]
    flags += ["--file-system-poll-s", str(poll_s)]
    if workers and server_type in WITH_WORKERS:
        flags += ["--workers", str(workers)]
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / f"{server_type}.log"
    with ServerProcess(flags, log=path) as server:
        log = StateLog(path)
        try:
            yield SwappedServer(server, log, Swapper(server, versions, log), versions)
        finally:
            log.close()
