"""The beginning and the end of a window: between them calls count, and the server's CPU is taken.

warming up | begin  --answered, failed-->  end | what is still under way  -->  PeerWindow
"""

from __future__ import annotations

import os
import time

from thriftserve_bench import process_tree
from thriftserve_bench.load.calls_loops import Tally
from thriftserve_bench.process_tree import standalone_bytes
from thriftserve_bench.records.peers import PeerOrder, PeerWindow
from thriftserve_bench.workloads.jobs import JOBS

#: Before the window, calls of the same kind: connections, caches and batches come into their stride.
WARM_UP_S = 0.25
#: The nets' queues take longer to fill: 32 requests are a quarter of a second's work.
NET_WARM_UP_S = 0.6
#: After the window, for the replies that are under way; a client that has none by then was starved.
PATIENCE_S = 4.0


class Marks:
    """One window of a load generator; times are `time.perf_counter_ns`."""

    def __init__(self, order: PeerOrder) -> None:
        self._order = order
        self.tally = Tally()
        self.per_client = [0] * order.clients
        self.begin_ns = 0
        self.end_ns = 0
        self.open = False
        self._look_ns = 0
        self._warm_ns = time.perf_counter_ns() + int((NET_WARM_UP_S if JOBS[order.job].net else WARM_UP_S) * 1e9)
        self._cpu_s = self._own_s = 0.0
        self._load_1m = os.getloadavg()[0]

    def step(self, now_ns: int) -> bool:
        """Opens and closes the window when it is time; false once it is closed."""
        if not self.begin_ns:
            if now_ns >= self._warm_ns:
                self._begin()
        elif self.open and now_ns >= self.end_ns:
            self._end()
        return not self.begin_ns or self.open

    def _begin(self) -> None:
        before_ns = time.perf_counter_ns()
        self._cpu_s, self._own_s = -process_tree.cpu_s(self._order.pid), -time.process_time()
        self.begin_ns = time.perf_counter_ns()
        # Some milliseconds in which no reply could be taken: none of the server's doing.
        self._look_ns = self.begin_ns - before_ns
        self.end_ns = self.begin_ns + int(self._order.seconds * 1e9)
        self.open = True

    def _end(self) -> None:
        self.open = False
        self._own_s += time.process_time()
        self.end_ns = time.perf_counter_ns()
        self._cpu_s += process_tree.cpu_s(self._order.pid)

    def answered(self, client: int, began_ns: int, now_ns: int) -> None:
        """A client has its right answer; it counts within the window, whenever it was asked for."""
        if self.open:
            self.per_client[client] += 1
            self.tally.answered(now_ns - began_ns - (self._look_ns if began_ns < self.begin_ns else 0))

    def starved(self, clients: int) -> None:
        """So many clients still wait for an answer at the very end."""
        if clients:
            self.tally.failures += clients
            self.tally.reason = f"{clients} clients had no reply within {PATIENCE_S:g} s after the window"

    def window(self) -> PeerWindow:
        """What was measured."""
        if self.open:  # given up before its end
            self._end()
        tally, memory = self.tally, process_tree.memory(self._order.pid)
        return PeerWindow(
            calls=tally.calls,
            failures=tally.failures,
            reason=tally.reason,
            elapsed_s=(self.end_ns - self.begin_ns) / 1e9 if self.begin_ns else 0.0,
            latencies_us=sorted(tally.latencies_us.items()),
            server_cpu_s=self._cpu_s if self.begin_ns else 0.0,
            client_cpu_s=self._own_s if self.begin_ns else 0.0,
            rss_bytes=memory.rss,
            pss_bytes=memory.pss,
            load_1m=self._load_1m,
            per_client=self.per_client,
            alone_bytes=standalone_bytes(self._order.pid),
        )
