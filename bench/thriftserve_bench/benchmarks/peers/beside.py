"""What is left of the machine for the work itself while clients send their requests: the most that a server could do.

load generator  --frames-->  sink  --right answers, as many a second as the work would give-->  load generator
                            beside it: Limits.measure(arrangement)  -->  Limit.windows
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from thriftserve_bench.benchmarks.peers.ceilings import Arrangement, Limits
from thriftserve_bench.load.marks import NET_WARM_UP_S
from thriftserve_bench.processes import ChildEnded, JsonLinesChild
from thriftserve_bench.records.peers import Limit, PeerOrder, PeerWindow
from thriftserve_bench.workloads.jobs import Job

#: The clients go on for so much longer than the work.
_MARGIN_S = 0.5


class Beside:
    """An arrangement, a sink, and the load generator that asks it.

    Args:
        limits: measures the arrangement.
        one: the arrangement.
        alone: its windows without the clients, one at least before the first `measure`.
        job: what is asked.
        pool: file of its questions.
        load: the load generator for Thrift.
        clients: that ask side by side.
    """

    def __init__(
        self, limits: Limits, one: Arrangement, alone: Limit, job: Job, pool: Path, load: JsonLinesChild, clients: int
    ) -> None:
        self._limits, self._one, self._alone = limits, one, alone
        self._job, self._pool, self._load, self._clients = job, pool, load, clients
        self._sink = JsonLinesChild("thriftserve_bench.servers.paced_server", [job.name, str(pool)])
        #: What was measured.
        self.limit = Limit(job.name, f"{one}, beside {clients} clients", one.frozen, beside_clients=clients)

    def measure(self, seconds: float) -> None:
        """Has a window of the arrangement measured while the clients have as many answers as it gives.

        Args:
            seconds: length of the window.

        Raises:
            ProcessEnded: one of the processes could not do it, or the clients had wrong answers.
        """
        last = (self.limit.windows or self._alone.windows)[-1]
        rate = last.calls / last.elapsed_s
        port = self._sink.ask({"rate": rate})["port"]
        order = PeerOrder(
            "thrift", self._job.name, str(self._pool), port, self._sink.pid, self._clients, seconds + _MARGIN_S
        )
        with ThreadPoolExecutor(1) as asking:
            asked = asking.submit(self._load.ask, asdict(order))
            time.sleep(NET_WARM_UP_S)
            window = self._limits.measure(self._one, seconds)
            answered = PeerWindow(**asked.result())
        if answered.failures:
            raise ChildEnded(f"the sink's clients: {answered.reason}")
        self.limit.windows.append(window)

    def close(self) -> None:
        """Ends the sink."""
        self._sink.close()
