"""Load generators as the sweep sees them: several processes that do one thing together.

Setting  --shared out-->  one order for each generator  -->  Parts, the server's CPU and memory  -->  SweepWindow
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import IO, Any

import psutil

from thriftserve_bench import process_tree, stats
from thriftserve_bench.load.generator import OpenOrder, Part, WindowOrder
from thriftserve_bench.records.sweep import CLOSED, Setting, SweepWindow


class GeneratorFailed(Exception):
    """A load generator ended, or could not open its connections."""


class _Process:
    """One generator."""

    def __init__(self, core: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "thriftserve_bench.load.generator", *([core] if core else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the command alone
        )

    def order(self, kind: str, order: dict[str, Any]) -> None:
        try:
            print(json.dumps([kind, order]), file=self._pipe(self._process.stdin), flush=True)
        except BrokenPipeError:
            raise GeneratorFailed(f"a load generator ended with {self._process.wait()}") from None

    def answer(self) -> Any:
        line = self._pipe(self._process.stdout).readline()
        if not line:
            raise GeneratorFailed(f"a load generator ended with {self._process.wait()}")
        return json.loads(line)

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def close(self) -> None:
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()


class Generators:
    """Load generators, each a process that may have a core to itself; a `with` block ends them.

    Args:
        cores: one for each generator; an empty text leaves the choice to the kernel.
        timeout_s: for a call.
    """

    def __init__(self, cores: Sequence[str], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._frame = tempfile.NamedTemporaryFile(prefix="thriftserve-bench-")  # noqa: SIM115
        self._processes = [_Process(one) for one in cores]
        self._used: list[_Process] = []

    def __enter__(self) -> Generators:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()
        self._frame.close()

    def end(self) -> None:
        """Ends the processes at once, whatever they are doing."""
        for one in self._processes:
            one.close()

    def open(self, port: int, frame: bytes, connections: int) -> None:
        """Opens connections, shared out over the generators, and calls once on each.

        Raises:
            GeneratorFailed: no call of a generator was answered.
        """
        self._frame.seek(0)
        self._frame.truncate()
        self._frame.write(frame)
        self._frame.flush()
        shares = shared_out(connections, len(self._processes))
        self._used = self._processes[: len(shares)]
        for one, share in zip(self._used, shares, strict=True):
            one.order("open", asdict(OpenOrder(port, self._frame.name, share, self._timeout_s)))
        failures = [one.answer()["failure"] for one in self._used]
        if any(failures):
            raise GeneratorFailed(next(filter(None, failures)))

    def window(self, setting: Setting, seconds: float, seed: int, server_pid: int) -> SweepWindow:
        """Measures one window.

        Raises:
            GeneratorFailed: a generator, or the server, has ended.
        """
        load_before = os.getloadavg()[0]
        cpu_before, _ = _spent(server_pid)
        for at, order in enumerate(self._orders(setting, seconds, seed)):
            self._used[at].order("window", asdict(order))
        for one in self._used:
            one.answer()  # it has ended
        try:
            cpu_s, memory = _spent(server_pid)
        finally:
            # Read in any case: what is left in the pipe would be taken for the next answer.
            parts = [Part(**one.answer()) for one in self._used]
        return _joined(parts, cpu_s - cpu_before, memory, load_before, seed)

    def _orders(self, setting: Setting, seconds: float, seed: int) -> list[WindowOrder]:
        closed = setting.mode == CLOSED
        rate = 0.0 if closed else setting.load / len(self._used)
        drain_s = self._timeout_s if closed else min(self._timeout_s, max(1.0, seconds))
        # Seeds of different generators and windows must not meet.
        seeds = (seed * 1000 + at for at in range(len(self._used)))
        return [WindowOrder(setting.mode, seconds, drain_s, rate, one) for one in seeds]

    def close_connections(self) -> None:
        """Closes them; the generators stay."""
        for one in self._used:
            one.order("close", {})
            one.answer()
        self._used = []


def _spent(pid: int) -> tuple[float, process_tree.Memory]:
    """CPU seconds and memory of a server."""
    try:
        return process_tree.cpu_s(pid), process_tree.memory(pid)
    except psutil.NoSuchProcess:
        raise GeneratorFailed("the server ended while it was measured") from None


def shared_out(count: int, among: int) -> list[int]:
    """`count` in so many parts, as even as can be; parts of nothing are left out."""
    parts = [count // among + (at < count % among) for at in range(among)]
    return [one for one in parts if one]


def _joined(
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
        latency=_sum(part.latency for part in parts),
        from_send=_sum(part.from_send for part in parts),
        lag=_sum(part.lag for part in parts),
        waited=sum(part.waited for part in parts),
        queue=_sum(part.queue for part in parts),
        compute=_sum(part.compute for part in parts),
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


def _sum(texts: Any) -> str:
    every = [one for one in texts if one]
    return every[0] if len(every) == 1 else stats.encode_histogram(stats.merge_histograms(every))
