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
from thriftserve_bench.benchmarks.swaps.swapper import SwappedServer, SwapStuck, start_server
from thriftserve_bench.records.swaps import MemorySample, SwapMemory
from thriftserve_bench.workloads.versions import MODEL, expected
from thriftserve_client import Client, ThriftServeClientError

_POLL_S = 0.3
_IN_A_ROW = 4
_AGREE = 0.003
_SETTLE_TIMEOUT_S = 20.0
_X = np.array([0.0, 4.0], dtype=np.float32)
#: Requests after each swap, so that every worker runs its new version.
_CALLS = 8


@dataclass(frozen=True)
class MemorySettings:
    """How many swaps, and after which of them memory is measured."""

    samples: tuple[int, ...] = (5, 25, 50, 75, 100)
    workers: int | None = None
    poll_s: float = 0.05

    @property
    def swaps(self) -> int:
        """Number of swaps."""
        return max(self.samples)


def measure_memory(
    server_type: str, settings: MemorySettings, store: Path, logs: Path, reach: Callable[[str, float], None]
) -> SwapMemory:
    """Swap one server type's model again and again.

    Args:
        server_type: which.
        settings: how often.
        store: the versions, built: one more than there are swaps.
        logs: a directory for the server's log.
        reach: called after each swap with a line and their number.

    Raises:
        ServerFailed: the server does not start.
    """
    memory = SwapMemory(server_type)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="thriftserve-swaps-") as scratch,
        start_server(
            server_type, store, Path(scratch), workers=settings.workers, poll_s=settings.poll_s, logs=logs
        ) as serving,
    ):
        try:
            for number in range(1, settings.swaps + 1):
                serving.swapper.swap()
                _call(serving, memory)
                if number in settings.samples:
                    memory.samples.append(_settled_sample(serving.server.pid, number))
                reach(f"{server_type}: {number} swaps", number)
        except SwapStuck as error:
            memory.failure = str(error)
    memory.elapsed_s = time.monotonic() - began
    return memory


def _call(serving: SwappedServer, memory: SwapMemory) -> None:
    newest = serving.versions.newest
    with Client(serving.server.host, serving.server.port) as client:
        for _ in range(_CALLS):
            try:
                answer = client.predict(MODEL, {"x": _X})
            except (ThriftServeClientError, OSError) as error:
                reason = f"{type(error).__name__}: {error}"
                memory.failures[reason] = memory.failures.get(reason, 0) + 1
                continue
            memory.wrong += answer.version != newest or not np.array_equal(answer["y"], expected(_X, newest))


def _settled_sample(pid: int, swaps: int) -> MemorySample:
    """Return a process tree's memory once it has stopped changing, or after a time-out."""
    give_up_at = time.monotonic() + _SETTLE_TIMEOUT_S
    last: deque[tuple[int, int]] = deque(maxlen=_IN_A_ROW)
    while True:
        memory, processes = process_tree.memory(pid), 1 + len(psutil.Process(pid).children(recursive=True))
        last.append((memory.uss, processes))
        still = len(last) == _IN_A_ROW and _agree(last)
        if still or time.monotonic() > give_up_at:
            return MemorySample(swaps, process_tree.standalone_bytes(pid), memory.pss, memory.rss, processes, still)
        time.sleep(_POLL_S)


def _agree(samples: Sequence[tuple[int, int]]) -> bool:
    sizes = [size for size, _ in samples]
    return max(sizes) - min(sizes) <= _AGREE * max(sizes) and len({processes for _, processes in samples}) == 1
