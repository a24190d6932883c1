"""What the machine does without any RPC, in the best arrangement of processes, threads and batches.

job  --survey: every arrangement, shortly-->  the best few  --a window a round-->  LimitWindow
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from thriftserve_bench.processes import JsonLinesChild
from thriftserve_bench.records.peers import LimitWindow
from thriftserve_bench.workloads.jobs import Job

_PROCESSES, _CALLERS, _BATCHES = (1, 2), (1, 2), (1, 2, 4)
#: Short looks at each arrangement, one after the other and all once more: the machine's speed wanders.
_SURVEY_S, _SURVEY_PASSES = 0.3, 2
#: Frozen arrangements that every round measures, and those of the model as loaded.
_KEPT = {True: 2, False: 1}


@dataclass(frozen=True)
class Arrangement:
    """One way to use the machine."""

    processes: int
    callers: int
    batch: int
    frozen: bool

    def __str__(self) -> str:
        kind = "frozen" if self.frozen else "as loaded"
        return f"{self.processes} processes x {self.callers} callers, batch {self.batch}, {kind}"


def arrangements() -> list[Arrangement]:
    """All of them; one caller in one process uses one core, and is left out."""
    return [
        Arrangement(processes, callers, batch, frozen)
        for frozen in (True, False)
        for processes in _PROCESSES
        for callers in _CALLERS
        for batch in _BATCHES
        if processes * callers > 1
    ]


class Limits:
    """The processes that measure the limit of one job, from `with` to its end."""

    def __init__(self, job: Job, model: Path, pool: Path) -> None:
        self._arguments = [job.name, str(model / "1"), str(pool)]
        self._processes: list[JsonLinesChild] = []

    def __enter__(self) -> Limits:
        module = "thriftserve_bench.servers.local_work"
        self._processes = [JsonLinesChild(module, self._arguments) for _ in range(max(_PROCESSES))]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._processes:
            process.close()

    def measure(self, one: Arrangement, seconds: float) -> LimitWindow:
        """Has one window measured.

        Raises:
            ProcessEnded: a process could not do it.
        """
        asked = self._processes[: one.processes]
        order = {"frozen": one.frozen, "callers": one.callers, "batch": one.batch, "seconds": seconds}
        with ThreadPoolExecutor(len(asked)) as together:
            if seconds:
                list(together.map(lambda process: process.ask(order | {"seconds": 0}), asked))
            found = list(together.map(lambda process: process.ask(order), asked))
        return LimitWindow(sum(each["calls"] for each in found), max(each["elapsed_s"] for each in found))

    def survey(self, tick: Callable[[Arrangement, LimitWindow], None], seconds: float) -> list[Arrangement]:
        """The best arrangements, after short looks at each."""
        rates: dict[Arrangement, float] = dict.fromkeys(arrangements(), 0.0)
        for _ in range(_SURVEY_PASSES):
            for one in rates:
                window = self.measure(one, min(_SURVEY_S, seconds))
                rates[one] += window.calls / window.elapsed_s
                tick(one, window)
        return list(_best(rates))


def _best(rates: dict[Arrangement, float]) -> Iterator[Arrangement]:
    for frozen, count in _KEPT.items():
        ranked = sorted((one for one in rates if one.frozen == frozen), key=lambda one: -rates[one])
        yield from ranked[:count]
