"""Whether the memory of a version comes back: the process tree after a few swaps and after many.

swap, ask, swap, ask, …  --after 5, after 100: wait until it changes no more-->  MemorySamples
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from thriftserve_bench import process_tree
from thriftserve_bench.benchmarks.swaps.serving import Serving, serving
from thriftserve_bench.benchmarks.swaps.swapper import SwapStuck
from thriftserve_bench.process_tree import standalone_bytes
from thriftserve_bench.records.swaps import MemorySample, SwapMemory
from thriftserve_bench.workloads.versions import MODEL
from thriftserve_client import Client, ThriftServeClientError

_LOOK_S = 0.3
_IN_A_ROW = 4
_AGREE = 0.003
_SETTLE_TIMEOUT_S = 20.0
_X = np.array([0.0, 4.0], dtype=np.float32)
#: Requests after each swap: every worker is to have run its new version.
_CALLS = 8


@dataclass(frozen=True)
class MemorySettings:
    """How many swaps, and after which of them it is looked."""

    samples: tuple[int, ...] = (5, 25, 50, 75, 100)
    workers: int | None = None
    poll_s: float = 0.05

    @property
    def swaps(self) -> int:
        """How many there are."""
        return max(self.samples)


def measure_memory(
    server_type: str, settings: MemorySettings, store: Path, logs: Path, tick: Callable[[int], None]
) -> SwapMemory:
    """Swaps one server type's model over and over.

    Args:
        server_type: which.
        settings: how often.
        store: the versions, built: one more than there are swaps.
        logs: a directory for the server's log.
        tick: told after each swap how many there have been.

    Raises:
        ServerFailed: the server does not start.
    """
    found = SwapMemory(server_type)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="thriftserve-swaps-") as scratch,
        serving(
            server_type, store, Path(scratch), workers=settings.workers, poll_s=settings.poll_s, logs=logs
        ) as serves,
    ):
        try:
            for number in range(1, settings.swaps + 1):
                serves.swapper.swap()
                _ask(serves, found)
                if number in settings.samples:
                    found.samples.append(settled(serves.server.pid, number))
                tick(number)
        except SwapStuck as error:
            found.failure = str(error)
    found.elapsed_s = time.monotonic() - began
    return found


def _ask(serves: Serving, found: SwapMemory) -> None:
    newest = serves.versions.newest
    with Client(serves.server.host, serves.server.port) as client:
        for _ in range(_CALLS):
            try:
                answer = client.predict(MODEL, {"x": _X})
            except (ThriftServeClientError, OSError) as error:
                reason = f"{type(error).__name__}: {error}"
                found.failures[reason] = found.failures.get(reason, 0) + 1
                continue
            right = answer.version == newest and np.array_equal(answer["y"], _X * 0.5 + newest)
            found.wrong += not right


def settled(pid: int, swaps: int) -> MemorySample:
    """A process tree's memory once it changes no more, or as it is after a while of changes."""
    give_up_at = time.monotonic() + _SETTLE_TIMEOUT_S
    last: deque[tuple[int, int]] = deque(maxlen=_IN_A_ROW)
    while True:
        memory, processes = process_tree.memory(pid), 1 + len(psutil.Process(pid).children(recursive=True))
        last.append((memory.uss, processes))
        still = len(last) == _IN_A_ROW and _agree(last)
        if still or time.monotonic() > give_up_at:
            return MemorySample(swaps, standalone_bytes(pid), memory.pss, memory.rss, processes, still)
        time.sleep(_LOOK_S)


def _agree(looks: Sequence[tuple[int, int]]) -> bool:
    sizes = [size for size, _ in looks]
    return max(sizes) - min(sizes) <= _AGREE * max(sizes) and len({processes for _, processes in looks}) == 1
