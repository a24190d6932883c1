"""Lanes that measure cells: each has a process of clients, and measures one server's cells after another's.

groups of cells  -->  lane: clients called up for one cell, then the next  -->  (cell, Outcome), as they end
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

from thriftserve_bench.benchmarks.experiments.hosts import Host, HostPlan
from thriftserve_bench.benchmarks.experiments.schedule import Cell
from thriftserve_bench.load.pattern_clients import EMPTY, IMAGES, PatternOrder
from thriftserve_bench.processes import ChildEnded, JsonLinesChild
from thriftserve_bench.records.experiments import REAL_MODEL, Call, Outcome

_CLIENTS = "thriftserve_bench.load.pattern_clients"
_TICK_S = 0.25

Ended = tuple[Cell, Outcome]


class Lanes:
    """So many processes of clients, from their construction until `close`.

    Args:
        number: how many cells may run at the same time.
        hosts: the servers, by their plans.
        begins: called with each cell when it begins, in the lane's thread.
        tick: called a few times a second while cells run.
    """

    def __init__(
        self, number: int, hosts: Mapping[HostPlan, Host], begins: Callable[[Cell], None], tick: Callable[[], None]
    ) -> None:
        self._processes = [JsonLinesChild(_CLIENTS) for _ in range(number)]
        self._hosts = hosts
        self._begins = begins
        self._tick = tick

    def close(self) -> None:
        """End the clients at once."""
        for process in self._processes:
            process.close()

    def run(self, groups: Sequence[Sequence[Cell]]) -> Iterator[Ended]:
        """Measure cells: those of a group one after another, groups side by side."""
        waiting: queue.SimpleQueue[Sequence[Cell]] = queue.SimpleQueue()
        ended: queue.SimpleQueue[Ended | BaseException] = queue.SimpleQueue()
        for group in groups:
            waiting.put(group)
        for process in self._processes:
            threading.Thread(target=self._lane, args=(process, waiting, ended), daemon=True).start()
        left = sum(map(len, groups))
        while left:
            self._tick()
            try:
                result = ended.get(timeout=_TICK_S)
            except queue.Empty:
                continue
            if isinstance(result, BaseException):
                raise result
            left -= 1
            yield result

    def _lane(
        self,
        process: JsonLinesChild,
        waiting: queue.SimpleQueue[Sequence[Cell]],
        ended: queue.SimpleQueue[Ended | BaseException],
    ) -> None:
        try:
            while True:
                for cell in waiting.get_nowait():
                    self._begins(cell)
                    ended.put((cell, self._measure(cell, process)))
        except queue.Empty:
            return
        except BaseException as error:
            ended.put(error)

    def _measure(self, cell: Cell, process: JsonLinesChild) -> Outcome:
        plan, host = cell.plan, self._hosts[cell.plan]
        outcome = Outcome(
            pattern=cell.pattern.name,
            server_type=plan.server_type,
            side=plan.side,
            workload=plan.workload,
            service_ms=plan.service_ms,
            workers=plan.workers,
            threads=plan.threads,
            elapsed_s=0.0,
            failure=host.failed,
        )
        if not outcome.failure:
            try:
                outcome.calls = [Call(**call) for call in process.ask(asdict(_order(cell, host)))]
                outcome.elapsed_s = max(call.end_s for call in outcome.calls)
            except ChildEnded as error:
                outcome.failure = str(error)
        return outcome


def _order(cell: Cell, host: Host) -> PatternOrder:
    return PatternOrder(
        host=host.process.host,
        port=host.process.port,
        threads=cell.pattern.threads,
        calls_per_thread=cell.pattern.calls_per_thread,
        shared_client=cell.pattern.shared_client,
        inputs=IMAGES if cell.plan.workload == REAL_MODEL else EMPTY,
        bound_s=cell.bound_s,
    )
