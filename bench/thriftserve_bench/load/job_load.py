"""The load generator of `peers` for Thrift and HTTP: closed loops of a job's samples, in a process of its own.

    python -m thriftserve_bench.load.job_load

    stdin: a JobOrder, one line of JSON  -->  warm up | window opens … closes | last replies  -->  stdout: a PeerWindow

The clients call without a pause from the first connection to the last reply; between the window's opening and its
closing, right answers count and the server's CPU is measured.
"""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from thriftserve_bench import process_tree
from thriftserve_bench.load.connection import Connection, Connections
from thriftserve_bench.load.loops import GivenUp, Tally, closed_loop, open_connection
from thriftserve_bench.load.protocols import PROTOCOLS
from thriftserve_bench.processes import answer_json_lines
from thriftserve_bench.records.peers import PeerWindow
from thriftserve_bench.stats import three_digits
from thriftserve_bench.workloads.jobs import JOBS, Sample, load_samples

#: Before the window: connections, caches and batches get going.
WARM_UP_S = 0.25
#: The nets' queues take longer to fill: 32 requests are a quarter of a second's work.
NET_WARM_UP_S = 0.6
#: How long the last replies may take after the window; a client without one by then was starved.
DRAIN_S = 4.0
#: Neighbouring clients send different samples: rows that are mixed up are wrong then.
_CLIENT_STEP = 5


@dataclass(frozen=True)
class JobOrder:
    """One window of a job's calls."""

    #: A name of PROTOCOLS, and of JOBS.
    protocol: str
    job: str
    #: File of the job's samples.
    samples: str
    port: int
    #: The server's process, for its CPU and memory.
    pid: int
    clients: int
    seconds: float


@cache
def encoded_samples(path: str, job: str, protocol: str) -> list[tuple[Sample, bytes]]:
    """Return the samples of a file and their requests in a protocol."""
    encode = PROTOCOLS[protocol].request
    return [(sample, encode(JOBS[job], sample)) for sample in load_samples(Path(path))]


class JobCalls:
    """The samples of a job in turns; every reply is checked."""

    def __init__(self, order: JobOrder) -> None:
        self._job, self._check = JOBS[order.job], PROTOCOLS[order.protocol].check
        self._samples = encoded_samples(order.samples, order.job, order.protocol)

    def frame(self, connection: Connection) -> bytes:
        """Return the request of a client's next sample."""
        if not connection.replies and not connection.sample:
            connection.sample = connection.client * _CLIENT_STEP
        connection.sample = (connection.sample + 1) % len(self._samples)
        return self._samples[connection.sample][1]

    def check(self, connection: Connection, reply: memoryview) -> None:
        """Compare a reply with the sample's answer.

        Raises:
            Exception: it is another answer, or none at all.
        """
        self._check(self._job, bytes(reply), self._samples[connection.sample][0])


class MarkedTally(Tally):
    """Counts the calls of a window that opens and closes while they go on; times are `time.perf_counter_ns`."""

    def __init__(self, order: JobOrder) -> None:
        super().__init__()
        self._order = order
        self.per_client = [0] * order.clients
        self._opened_ns = self._closed_ns = 0
        self._is_open = False
        #: What the opening itself took: no reply could be read meanwhile, which is not the server's doing.
        self._opening_ns = 0
        warm_up_s = NET_WARM_UP_S if JOBS[order.job].net else WARM_UP_S
        self._open_at_ns = time.perf_counter_ns() + int(warm_up_s * 1e9)
        self._server_cpu_s = self._client_cpu_s = 0.0
        self._load_1m = os.getloadavg()[0]

    def running(self, now_ns: int) -> bool:
        """Open and close the window in time; return False once it is closed."""
        if not self._opened_ns:
            if now_ns >= self._open_at_ns:
                self._open()
        elif self._is_open and now_ns >= self._closed_ns:
            self._close()
        return not self._opened_ns or self._is_open

    def _open(self) -> None:
        before_ns = time.perf_counter_ns()
        self._server_cpu_s, self._client_cpu_s = -process_tree.cpu_s(self._order.pid), -time.process_time()
        self._opened_ns = time.perf_counter_ns()
        self._opening_ns = self._opened_ns - before_ns
        self._closed_ns = self._opened_ns + int(self._order.seconds * 1e9)
        self._is_open = True

    def _close(self) -> None:
        self._is_open = False
        self._client_cpu_s += time.process_time()
        self._closed_ns = time.perf_counter_ns()
        self._server_cpu_s += process_tree.cpu_s(self._order.pid)

    def answered(self, connection: Connection, now_ns: int) -> None:
        """Count a right answer within the window, whenever it was requested."""
        self.answered_at(connection.client, connection.sent_ns, now_ns)

    def answered_at(self, client: int, sent_ns: int, now_ns: int) -> None:
        """Count a client's right answer within the window."""
        self.in_row = 0
        if self._is_open:
            self.per_client[client] += 1
            self.calls += 1
            self.latencies.append(now_ns - sent_ns - (self._opening_ns if sent_ns < self._opened_ns else 0))

    def starved(self, clients: int) -> None:
        """Count clients without a reply at the very end."""
        if clients:
            self.failures["starved"] += clients
            self.reason = f"{clients} clients had no reply within {DRAIN_S:g} s after the window"

    def window(self) -> PeerWindow:
        """Return what was measured."""
        if self._is_open:  # given up before its end
            self._close()
        memory = process_tree.memory(self._order.pid)
        counted = Counter(three_digits(latency_ns // 1000) for latency_ns in self.latencies)
        return PeerWindow(
            calls=self.calls,
            failures=sum(self.failures.values()),
            reason=self.reason,
            elapsed_s=(self._closed_ns - self._opened_ns) / 1e9,
            latencies_us=sorted(counted.items()),
            server_cpu_s=self._server_cpu_s,
            client_cpu_s=self._client_cpu_s,
            rss_bytes=memory.rss,
            pss_bytes=memory.pss,
            load_1m=self._load_1m,
            per_client=self.per_client,
            alone_bytes=process_tree.standalone_bytes(self._order.pid),
        )


def measure(order: JobOrder) -> PeerWindow:
    """Measure a window."""
    tally = MarkedTally(order)
    connections = Connections(order.port, PROTOCOLS[order.protocol].length)
    try:
        for client in range(order.clients):
            connections.idle.append(open_connection(connections, tally, client))
        closed_loop(connections, JobCalls(order), tally, tally.running, DRAIN_S)
        tally.starved(connections.busy)
    except GivenUp as error:
        tally.reason = str(error)
    finally:
        connections.close()
    return tally.window()


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    window = measure(JobOrder(**order))
    gc.collect()
    return asdict(window)


if __name__ == "__main__":
    gc.disable()  # nothing here makes cycles while it measures
    answer_json_lines(_answer)
