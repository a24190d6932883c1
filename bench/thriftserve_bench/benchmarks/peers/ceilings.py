"""What the machine does without any RPC: the most that a server could do.

job  --LocalWork.survey: every arrangement, briefly-->  the best few  --a window a round-->  CeilingWindow

load generator  --frames-->  paced server  --right answers, as many a second as the work gives-->  load generator
beside it: LocalWork.measure(arrangement)  -->  what is left of the machine
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from thriftserve_bench.load.job_load import NET_WARM_UP_S, JobOrder
from thriftserve_bench.processes import ChildEnded, JsonLinesChild
from thriftserve_bench.records.peers import Ceiling, CeilingWindow
from thriftserve_bench.workloads.jobs import Job

_PROCESSES, _CALLERS, _BATCHES = (1, 2), (1, 2), (1, 2, 4)
#: Length of the survey's windows, and how often it goes through all arrangements: the machine's speed drifts.
_SURVEY_S, _SURVEY_PASSES = 0.3, 2
#: How many frozen arrangements every round measures, and how many of the model as loaded.
_MEASURED = {True: 2, False: 1}
#: The clients continue for so much longer than the work.
_MARGIN_S = 0.5


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


def _arrangements() -> list[Arrangement]:
    """Return all arrangements that can use more than one core."""
    choices = product((True, False), _PROCESSES, _CALLERS, _BATCHES)
    return [
        Arrangement(processes, callers, batch, frozen)
        for frozen, processes, callers, batch in choices
        if processes * callers > 1
    ]


class LocalWork:
    """The processes that do a job's work without RPC, until `close`.

    Args:
        job: the job.
        model: base path of its model.
        samples: file of its samples.
    """

    def __init__(self, job: Job, model: Path, samples: Path) -> None:
        arguments = [job.name, str(model / "1"), str(samples)]
        module = "thriftserve_bench.servers.local_work"
        self._children = [JsonLinesChild(module, arguments) for _ in range(max(_PROCESSES))]

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            child.close()

    def measure(self, arrangement: Arrangement, seconds: float) -> CeilingWindow:
        """Measure a window.

        Raises:
            ChildEnded: a process has ended.
        """
        children = self._children[: arrangement.processes]
        order = {"frozen": arrangement.frozen, "callers": arrangement.callers, "batch": arrangement.batch}
        with ThreadPoolExecutor(len(children)) as pool:
            if seconds:
                list(pool.map(lambda child: child.ask(order | {"seconds": 0}), children))
            parts = list(pool.map(lambda child: child.ask(order | {"seconds": seconds}), children))
        return CeilingWindow(sum(part["calls"] for part in parts), max(part["elapsed_s"] for part in parts))

    def survey(self, say: Callable[[str], None], seconds: float) -> list[Arrangement]:
        """Return the best arrangements, after short windows of each."""
        rates: dict[Arrangement, float] = dict.fromkeys(_arrangements(), 0.0)
        for _ in range(_SURVEY_PASSES):
            for arrangement in rates:
                window = self.measure(arrangement, min(_SURVEY_S, seconds))
                rates[arrangement] += window.calls_per_s
                say(f"{arrangement} {window.calls_per_s:,.0f}/s")
        return list(_best(rates))


def _best(rates: dict[Arrangement, float]) -> Iterator[Arrangement]:
    for frozen, count in _MEASURED.items():
        ranked = sorted((each for each in rates if each.frozen == frozen), key=lambda each: -rates[each])
        yield from ranked[:count]


class CeilingWithClients:
    """An arrangement, a paced server, and the load generator that calls it.

    Args:
        work: does the arrangement's work.
        arrangement: which one.
        alone: its windows without clients; at least one before the first `measure`.
        job: the job.
        samples: file of its samples.
        load: the load generator for Thrift.
        clients: clients side by side.

    Attributes:
        ceiling: what was measured.
    """

    def __init__(
        self,
        work: LocalWork,
        arrangement: Arrangement,
        alone: Ceiling,
        job: Job,
        samples: Path,
        load: JsonLinesChild,
        clients: int,
    ) -> None:
        self._work, self._arrangement, self._alone = work, arrangement, alone
        self._job, self._samples, self._load, self._clients = job, samples, load, clients
        self._server = JsonLinesChild("thriftserve_bench.servers.paced_server", [job.name, str(samples)])
        title = f"{arrangement}, beside {clients} clients"
        self.ceiling = Ceiling(job.name, title, arrangement.frozen, with_clients=clients)

    def measure(self, seconds: float) -> None:
        """Measure a window of the arrangement while the clients get as many answers as it gives.

        Raises:
            ChildEnded: one of the processes has ended, or the clients had wrong answers.
        """
        rate = (self.ceiling.windows or self._alone.windows)[-1].calls_per_s
        port = self._server.ask({"rate": rate})["port"]
        samples, pid = str(self._samples), self._server.pid
        order = JobOrder("thrift", self._job.name, samples, port, pid, self._clients, seconds + _MARGIN_S)
        with ThreadPoolExecutor(1) as pool:
            calling = pool.submit(self._load.ask, asdict(order))
            time.sleep(NET_WARM_UP_S)
            window = self._work.measure(self._arrangement, seconds)
            answered = calling.result()
        if answered["failures"]:
            raise ChildEnded(f"the paced server's clients: {answered['reason']}")
        self.ceiling.windows.append(window)

    def close(self) -> None:
        """End the paced server."""
        self._server.close()
