"""The load generators of the sweep together: several processes that act as one.

Setting  --divided-->  one order for each generator  -->  Parts, the server's CPU and memory  -->  SweepWindow
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import psutil

from thriftserve_bench import process_tree, stats
from thriftserve_bench.load.generator import OpenOrder, Part, WindowOrder
from thriftserve_bench.processes import JsonLinesChild
from thriftserve_bench.records.sweep import CLOSED, Setting, SweepWindow


class GeneratorFailed(Exception):
    """The load generators could not open their connections, or the server ended."""


class Generators:
    """Load generators, each a process that may have a core to itself; a `with` block ends them.

    Args:
        cores: one for each generator; an empty text leaves the choice to the kernel.
        timeout_s: for a call.
    """

    def __init__(self, cores: Sequence[str], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._frame = tempfile.NamedTemporaryFile(prefix="thriftserve-bench-")  # noqa: SIM115
        module = "thriftserve_bench.load.generator"
        self._children = [JsonLinesChild(module, [core] if core else []) for core in cores]
        self._used: list[JsonLinesChild] = []

    def __enter__(self) -> Generators:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._frame.close()

    def end(self) -> None:
        """End the processes at once, whatever they are doing."""
        for child in self._children:
            child.close()

    def open(self, port: int, frame: bytes, connections: int) -> None:
        """Open connections, divided among the generators, and call once on each.

        Raises:
            GeneratorFailed: no call of a generator was answered.
            ChildEnded: a generator has ended.
        """
        self._frame.seek(0)
        self._frame.truncate()
        self._frame.write(frame)
        self._frame.flush()
        shares = divide(connections, len(self._children))
        self._used = self._children[: len(shares)]
        for child, share in zip(self._used, shares, strict=True):
            child.send(["open", asdict(OpenOrder(port, self._frame.name, share, self._timeout_s))])
        failures = [child.receive()["failure"] for child in self._used]
        if any(failures):
            raise GeneratorFailed(next(filter(None, failures)))

    def window(self, setting: Setting, seconds: float, seed: int, server_pid: int) -> SweepWindow:
        """Measure a window.

        Raises:
            GeneratorFailed: the server has ended.
            ChildEnded: a generator has ended.
        """
        load_1m = os.getloadavg()[0]
        cpu_before, _ = _cpu_and_memory(server_pid)
        for child, order in zip(self._used, self._orders(setting, seconds, seed), strict=True):
            child.send(["window", asdict(order)])
        for child in self._used:
            child.receive()  # its last answer is there
        try:
            cpu_s, memory = _cpu_and_memory(server_pid)
        finally:
            # Read in any case: the next answer would be mixed up with what is left in the pipe.
            parts = [Part(**child.receive()) for child in self._used]
        return _join(parts, cpu_s - cpu_before, memory, load_1m, seed)

    def _orders(self, setting: Setting, seconds: float, seed: int) -> list[WindowOrder]:
        closed = setting.mode == CLOSED
        rate = 0.0 if closed else setting.load / len(self._used)
        drain_s = self._timeout_s if closed else min(self._timeout_s, max(1.0, seconds))
        # Seeds of different generators and windows must not meet.
        seeds = (seed * 1000 + place for place in range(len(self._used)))
        return [WindowOrder(setting.mode, seconds, drain_s, rate, own_seed) for own_seed in seeds]

    def close_connections(self) -> None:
        """Close the connections; the generators stay."""
        for child in self._used:
            child.send(["close", {}])
            child.receive()
        self._used = []


def _cpu_and_memory(pid: int) -> tuple[float, process_tree.Memory]:
    try:
        return process_tree.cpu_s(pid), process_tree.memory(pid)
    except psutil.NoSuchProcess:
        raise GeneratorFailed("the server ended while it was measured") from None


def divide(count: int, among: int) -> list[int]:
    """Divide `count` into so many parts, as evenly as possible; parts of nothing are left out."""
    parts = [count // among + (place < count % among) for place in range(among)]
    return [part for part in parts if part]


def _join(
    parts: Sequence[Part], server_cpu_s: float, memory: process_tree.Memory, load_1m: float, seed: int
) -> SweepWindow:
    failures: Counter[str] = Counter()
    for part in parts:
        failures.update(part.failures)
    timed = sum(part.timed for part in parts)
    return SweepWindow(
        calls=sum(part.calls for part in parts),
        failures=dict(failures),
        reason=next((part.reason for part in parts if part.reason), ""),
        unanswered=sum(part.unanswered for part in parts),
        elapsed_s=max(part.elapsed_s for part in parts),
        latency=_add(part.latency for part in parts),
        from_send=_add(part.from_send for part in parts),
        lag=_add(part.lag for part in parts),
        waited=sum(part.waited for part in parts),
        queue=_add(part.queue for part in parts),
        compute=_add(part.compute for part in parts),
        mean_batch_rows=sum(part.batch_rows for part in parts) / timed if timed else 0.0,
        server_cpu_s=server_cpu_s,
        client_cpu_s=[part.cpu_s for part in parts],
        client_starved_s=[part.starved_s for part in parts],
        rss_bytes=memory.rss,
        pss_bytes=memory.pss,
        uss_bytes=memory.uss,
        load_1m=load_1m,
        seed=seed,
    )


def _add(texts: Iterable[str]) -> str:
    filled = [text for text in texts if text]
    return filled[0] if len(filled) == 1 else stats.encode_histogram(stats.merge_histograms(filled))
